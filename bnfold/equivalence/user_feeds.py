"""The caller's own data, checked against what the model asks for."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bnfold.equivalence.element_types import Array, numpy_type
from bnfold.equivalence.feeds import Feed
from bnfold.equivalence.signature import Port, Signature
from bnfold.errors import UsageError

Inputs = Mapping[str, Array] | Sequence[Mapping[str, Array]]
"""One feed, or several: input name -> array."""


def checked(inputs: Inputs, signature: Signature) -> Iterator[tuple[str, Feed]]:
    """Named feeds with the model's element types. Raises UsageError where data and model do not fit.

    Numbers are cast where only precision can be lost (float64 from numpy to float32), never from float to integer.
    An array that holds several batches of a model with a fixed batch is cut into them.
    """
    for number, given in enumerate([inputs] if isinstance(inputs, Mapping) else inputs):
        feed = {name: np.asarray(array) for name, array in given.items()}
        ports = {port.name: port for port in (*signature.inputs, *signature.overridable)}
        for name in feed:
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
    """How many times the model must run to see all rows; 1 where the arrays fit as they are."""
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
