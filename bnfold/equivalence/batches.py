"""What a person calls a batch: inputs, perhaps with labels.

Inputs are a mapping of names to arrays, one array, or a sequence of arrays for the inputs in order. Labels are an entry
of the mapping, what stands in the sequence behind the inputs, or the second of two where the first is a mapping.
"""

from collections.abc import Mapping
from typing import Any

from bnfold.equivalence.feeds import Feed
from bnfold.equivalence.signature import Signature
from bnfold.errors import UsageError


def as_feed(batch: Any, signature: Signature, number: int) -> Feed:
    """The inputs in `batch`, the `number`th, as arrays by name. Raises UsageError where there are too few."""
    names = [port.name for port in signature.inputs]
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Mapping):
        batch = batch[0]
    if isinstance(batch, Mapping):
        return {name: _array(value) for name, value in batch.items() if name in names} or dict(batch)
    items = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(items) < len(names):
        raise UsageError(f"batch {number} holds {len(items)} arrays, but the model has {len(names)} inputs: {names}")
    return {name: _array(item) for name, item in zip(names, items, strict=False)}


def labels_in(batch: Any, signature: Signature, name: str) -> Any:
    """The labels in `batch`, in a mapping those called `name`; None where it has none."""
    inputs = [port.name for port in signature.inputs]
    if isinstance(batch, tuple | list):
        if batch and isinstance(batch[0], Mapping):
            own = labels_in(batch[0], signature, name)
            return _array(batch[1]) if own is None and len(batch) > 1 else own
        return _array(batch[len(inputs)]) if len(batch) > len(inputs) else None
    if isinstance(batch, Mapping) and name not in inputs:
        return _array(batch.get(name))
    return None


def _array(value: Any) -> Any:
    """A tensor of PyTorch without its graph and on the CPU; anything else as it is."""
    for method in ("detach", "cpu", "numpy"):
        if hasattr(value, method):
            value = getattr(value, method)()
    return value
