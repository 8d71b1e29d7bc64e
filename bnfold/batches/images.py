"""Images of a folder as batches, by Pillow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.batches.arrays import Batch
from bnfold.batches.sources import ImageOptions, Shape
from bnfold.errors import BnfoldError, UsageError

Size = tuple[int, int, int]
"""Channels, height, width."""


def image_size(name: str, shape: Shape, options: ImageOptions) -> Size:
    """The size of an image (height, width) for the model's input. Raises UsageError where its shape means no image."""
    if len(shape) != 4:
        raise UsageError(f"input {name!r} of shape {list(shape)} takes no images")
    channels, height, width = shape[1:] if options.layout == "NCHW" else (shape[3], shape[1], shape[2])
    if not all(isinstance(dim, int) for dim in (channels, height, width)):
        raise UsageError(f"input {name!r} has no fixed image size {list(shape)}: use .npz files of the right size")
    if channels not in (1, 3):
        raise UsageError(f"input {name!r} has {channels} channels in layout {options.layout}: images have 1 or 3")
    for what, values in (("--mean", options.mean), ("--std", options.std)):
        if len(values) not in (1, channels):
            raise UsageError(f"{what} has {len(values)} numbers, but images have {channels} channels")
    if 0 in options.std:
        raise UsageError("--std holds a 0, and nothing can be divided by it")
    assert isinstance(channels, int)
    assert isinstance(height, int)
    assert isinstance(width, int)
    return channels, height, width


def image_batches(
    files: list[Path], name: str, size: Size, batch: Batch, options: ImageOptions
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """A batch of images at a time, float32, resized (bilinear) to the size of the input."""
    for start in batch.starts(files[0].parent, len(files)):
        images = [_image(file, size, options) for file in files[start : start + batch.rows]]
        yield {name: np.stack(images)}


def _image(file: Path, size: Size, options: ImageOptions) -> NDArray[np.float32]:
    channels, height, width = size
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise BnfoldError("reading images needs Pillow: pip install 'bnfold[images]', or use .npz files") from error
    try:
        with Image.open(file) as opened:
            image: Any = opened.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            values = np.asarray(image, np.float32).reshape(height, width, channels) / np.float32(255)
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{file}: cannot be read as an image: {error}") from error
    mean, std = (np.array(numbers, np.float32) for numbers in (options.mean, options.std))
    normalized: NDArray[np.float32] = (values - mean) / std
    return normalized if options.layout == "NHWC" else np.moveaxis(normalized, 2, 0)
