"""Data for a model: the data itself, or what its path names, as the options say."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnfold.batches import Data, ImageOptions, data_source
from bnfold.equivalence import signature_of
from bnfold.graph import Model
from bnfold.options import CalibrationOptions
from bnfold.recalibration.accuracy import DEFAULT_LABELS, labels_of


def opened(data: Any, model: Model, options: CalibrationOptions, only: Sequence[Path] | None = None) -> Data:
    """The data itself, or what its path names, of that `only` some files where they are given.

    That it has the labels that were asked for is seen before any work. Raises UsageError.
    """
    labels = DEFAULT_LABELS if options.labels is None else options.labels
    if isinstance(data, str | os.PathLike):
        images = ImageOptions(tuple(options.mean), tuple(options.std), options.image_layout)
        data = data_source(data, input_shapes(model), options.batch_size, images, labels, only=only)
    found: Data = data
    if options.labels:
        labels_of(found, signature_of(model.proto), options.labels)
    return found


def input_shapes(model: Model) -> dict[str, tuple[int | str | None, ...]]:
    """The shapes of the inputs that data is for, as far as they are known."""
    graph = model.main
    names = [value.name for value in model.proto.graph.input if graph.constant(value.name) is None]
    names = [name for name in names if not graph.is_overridable(name)]
    return {name: graph.shape(name) or () for name in names}
