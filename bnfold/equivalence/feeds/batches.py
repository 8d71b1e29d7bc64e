"""Batches as people write them: inputs, perhaps with labels.

Inputs are a mapping of names to arrays, one array, or a sequence of arrays for the inputs in order. Labels are an entry
of the mapping, what stands in the sequence behind the inputs, or the second of two where the first is a mapping.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnfold.equivalence.numbers.element_types import Array
from bnfold.equivalence.structure.signature import Signature
from bnfold.errors import UsageError


def as_feed(batch: Any, signature: Signature, number: int) -> Mapping[str, Any]:
    """The arrays of `batch`, the `number`th, by name; what stands behind the inputs in a sequence is left out.

    Raises UsageError where a sequence holds fewer arrays than the model has inputs.
    """
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Mapping):
        batch = batch[0]
    if isinstance(batch, Mapping):
        return batch
    names = [port.name for port in signature.inputs]
    items = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(items) < len(names):
        raise UsageError(f"batch {number} holds {len(items)} arrays, but the model has {len(names)} inputs: {names}")
    return dict(zip(names, items, strict=False))


def inputs_of(batch: Any, signature: Signature, number: int) -> Mapping[str, Any]:
    """`as_feed`, and of what a mapping names only the inputs, where it names one: data sets name labels too."""
    feed = as_feed(batch, signature, number)
    return {port.name: feed[port.name] for port in signature.inputs if port.name in feed} or feed


def labels_in(batch: Any, signature: Signature, name: str) -> Array | None:
    """The labels in `batch`, in a mapping those called `name`; None where it has none."""
    labels = None
    inputs = [port.name for port in signature.inputs]
    if isinstance(batch, tuple | list):
        if batch and isinstance(batch[0], Mapping):
            own = labels_in(batch[0], signature, name)
            labels = batch[1] if own is None and len(batch) > 1 else own
        elif len(batch) > len(inputs):
            labels = batch[len(inputs)]
    elif isinstance(batch, Mapping) and name not in inputs:
        labels = batch.get(name)
    return None if labels is None else as_array(labels)


def as_array(value: Any) -> Array:
    """A tensor of PyTorch without its graph and on the CPU; anything else as numpy takes it."""
    for method in ("detach", "cpu", "numpy"):
        if hasattr(value, method):
            value = getattr(value, method)()
    return np.asarray(value)
