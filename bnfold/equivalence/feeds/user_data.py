"""The caller's own data, checked against what the model asks for."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bnfold.batches import ImageOptions, data_source
from bnfold.equivalence.feeds.batches import as_array, as_feed
from bnfold.equivalence.numbers.element_types import Array, Feed, numpy_type
from bnfold.equivalence.structure.signature import Port, Signature
from bnfold.errors import UsageError

Inputs = Mapping[str, Array] | Iterable[Any] | Callable[[], Iterable[Any]] | str | os.PathLike[str]
"""One feed (input name -> array), or several: a list, a DataLoader, a function that returns an iterable, or the path
of an .npz file, of a folder of .npy and .npz files, or `script.py:function`."""


def checked(inputs: Inputs, signature: Signature) -> Iterator[tuple[str, Feed]]:
    """Named feeds with the model's element types. Raises UsageError where data and model do not fit.

    Numbers are cast where only precision can be lost (float64 from numpy to float32), never from float to integer.
    An array that holds several batches of a model with a fixed batch is cut into them. Where a feed is not a mapping
    but one array or a sequence of arrays, they are for the inputs in order.
    """
    number = -1
    for number, given in enumerate(_given(inputs, signature)):
        feed = {name: as_array(value) for name, value in as_feed(given, signature, number).items()}
        ports = {port.name: port for port in (*signature.inputs, *signature.overridable)}
        constant = {port.name for port in signature.constant}
        for name in feed:
            if name in constant:
                raise UsageError(
                    f"inputs: {name!r} replaces an initializer, and --assume-constant-initializers says that no caller "
                    "does: leave out one of the two."
                )
            if name not in ports:
                raise UsageError(f"inputs: the model has no input {name!r}; it has {', '.join(ports) or 'none'}.")
        for port in signature.inputs:
            if port.name not in feed:
                raise UsageError(f"inputs: nothing is given for input {port.name!r} ({port.type_name}).")
        feed = {name: _cast(array, ports[name]) for name, array in feed.items()}
        parts = _parts(feed, ports)
        for part in range(parts):
            name = f"user-{number}" if parts == 1 else f"user-{number}.{part}"
            yield name, _part(feed, ports, part)
    if number < 0:
        raise UsageError("inputs: there is not a single feed in them.")


def _given(inputs: Inputs, signature: Signature) -> Iterator[Any]:
    if isinstance(inputs, str | os.PathLike):
        shapes = {port.name: port.dims or () for port in signature.inputs}
        inputs = data_source(inputs, shapes, None, ImageOptions())
    if isinstance(inputs, Mapping | np.ndarray):
        yield inputs
    else:
        yield from inputs() if callable(inputs) else inputs


def _cast(array: Array, port: Port) -> Array:
    if not port.elem_type:
        raise UsageError(f"inputs: input {port.name!r} is not a tensor, which bnfold cannot feed.")
    wanted = numpy_type(port.elem_type)
    if array.dtype == wanted:
        return array
    if wanted.kind == "O" and array.dtype.kind in "US":
        return array.astype(object)
    same_kind = array.dtype.kind == wanted.kind or (array.dtype.kind in "iu" and wanted.kind in "iu")
    to_narrow_float = array.dtype.kind == "f" and wanted.name in {"bfloat16", "float16", "float32"}
    if not (same_kind or to_narrow_float):
        raise UsageError(f"inputs: {port.name!r} is {array.dtype.name}, but the model asks for {port.type_name}.")
    cast = array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(cast.astype(array.dtype), array):
        raise UsageError(f"inputs: {port.name!r} holds numbers that do not fit into {wanted.name}.")
    return cast


def _parts(feed: Feed, ports: Mapping[str, Port]) -> int:
    """The number of runs that it takes to see all rows; 1 where the arrays fit as they are."""
    parts = set()
    for name, array in feed.items():
        dims = ports[name].dims
        if dims is None:
            parts.add(1)
            continue
        wrong = len(dims) != array.ndim or any(
            isinstance(dim, int) and dim != size for dim, size in zip(dims[1:], array.shape[1:], strict=False)
        )
        fixed = dims[0] if dims and isinstance(dims[0], int) else 0
        if wrong or (fixed and (array.shape[0] == 0 or array.shape[0] % fixed)):
            raise UsageError(
                f"inputs: {name!r} has shape {array.shape}, but the model asks for {ports[name].type_name}."
            )
        parts.add(array.shape[0] // fixed if fixed else 1)
    if len(parts - {1}) > 1:
        raise UsageError("inputs: the arrays do not hold the same number of batches.")
    return max(parts, default=1)


def _part(feed: Feed, ports: Mapping[str, Port], part: int) -> Feed:
    cut: Feed = {}
    for name, array in feed.items():
        dims = ports[name].dims
        fixed = dims[0] if dims and isinstance(dims[0], int) else 0
        whole = not fixed or array.shape[0] == fixed
        cut[name] = array if whole else np.ascontiguousarray(array[part * fixed : (part + 1) * fixed])
    return cut
