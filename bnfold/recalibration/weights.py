"""Statistics from a file of PyTorch weights (safetensors), for a model whose export lost them.

A normalization is found by the name of its stored mean, by that of its scale, or by its own name; and where names were
lost, by the values of its scale and bias, if exactly one layer of the file has them. The format is 8 bytes of length,
a JSON header and the tensors: https://huggingface.co/docs/safetensors, "Format".
"""

import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.decisions import NodeKey, Reason, Refused
from bnfold.errors import ModelError, UsageError
from bnfold.graph import Graph, Model
from bnfold.passes.normalization import is_batch_norm
from bnfold.paths import require_regular
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.run import Calibration
from bnfold.recalibration.targets import Target, targets_of
from bnfold.statistics import Statistics

_MEAN, _VARIANCE = ".running_mean", ".running_var"
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_LARGEST_HEADER = 100 << 20


def statistics_from(path: str | os.PathLike[str], model: Model, keep: Iterable[str] = ()) -> Calibration:
    """The statistics that `path` holds for the normalizations of `model`.

    Raises UsageError for a file that is not safetensors or has none, ModelError where no normalization is found in it.
    """
    arrays = read_safetensors(path)
    layers = [name.removesuffix(_MEAN) for name in arrays if name.endswith(_MEAN)]
    layers = [layer for layer in layers if layer + _VARIANCE in arrays]
    if not layers:
        raise UsageError(f"{os.fspath(path)}: holds no *{_MEAN} with its *{_VARIANCE}")
    targets, left_out = targets_of(model, keep)
    graph = model.main
    nodes = {(graph.scope, graph.label(node)): node for node in graph.nodes() if is_batch_norm(node)}
    known: dict[NodeKey, Statistics] = {}
    drifts: list[Drift] = []
    for target in targets:
        parameters = [nodes[target.place].input[index] for index in (3, 4, 1, 2)]
        layer = _by_name(parameters, target, layers) or _by_values(target, graph, layers, arrays)
        if layer is None:
            left_out[target.place] = Refused(Reason.STATISTICS_NOT_FOUND)
            continue
        found = Statistics(arrays[layer + _MEAN], arrays[layer + _VARIANCE])
        scale = graph.constant(nodes[target.place].input[1])
        if found.mean.shape != found.variance.shape or (scale is not None and scale.shape != found.mean.shape):
            left_out[target.place] = Refused(Reason.PARAMETER_SHAPE, f"{layer} has shape {list(found.mean.shape)}")
            continue
        known[target.place] = found
        drifts.append(Drift.of(target, found, 0))
    if not known:
        raise ModelError(f"no BatchNormalization of the model is found in {os.fspath(path)}, by name or by its values")
    return Calibration(known, tuple(drifts), "weights", os.fspath(path), left_out=left_out)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """The vectors of floats in the file by name, as float64; what has more dims is not read. Raises UsageError."""
    where = os.fspath(path)
    require_regular(path, "the file of statistics")
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            length = int.from_bytes(data[:8], "little")
            if length > min(len(data) - 8, _LARGEST_HEADER):
                raise UsageError(f"{where}: is not a safetensors file")
            header = json.loads(data[8 : 8 + length])
            return {
                name: _vector(
                    data[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]], entry
                )
                for name, entry in header.items()
                if name != "__metadata__" and entry["dtype"] in _DTYPES and len(entry["shape"]) == 1
            }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(f"{where}: cannot be read as safetensors: {error}") from error


def _vector(data: bytes, entry: dict[str, Any]) -> NDArray[np.float64]:
    values = np.frombuffer(data, np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<"))
    if entry["dtype"] == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(entry["shape"]).astype(np.float64)


def _by_name(parameters: Iterable[str], target: Target, layers: list[str]) -> str | None:
    """The layer whose name is that of a parameter (or of the node) up to its last part.

    One of the two may have parts in front that the other lacks, as where the weights are those of a larger model.
    """
    names = [value.rpartition(".")[0] for value in parameters if "." in value]
    own = target.place[1].strip("/").replace("/", ".")
    names += [own.removesuffix(".BatchNormalization"), own]
    for name in names:
        if name in layers:
            return name
        shorter = [layer for layer in layers if name.endswith(f".{layer}")]
        longer = [layer for layer in layers if layer.endswith(f".{name}")]
        if len(longer) == 1 and not shorter:
            return longer[0]
        if shorter and not longer:
            return max(shorter, key=len)
    return None


def _by_values(target: Target, graph: Graph, layers: list[str], arrays: dict[str, NDArray[np.float64]]) -> str | None:
    node = next(node for node in graph.nodes() if graph.label(node) == target.place[1])
    own = [graph.constant(value) for value in node.input[1:3]]
    fitting = [
        layer
        for layer in layers
        if all(
            tensor is not None
            and (stored := arrays.get(f"{layer}.{name}")) is not None
            and np.array_equal(stored.astype(tensor.dtype), tensor.numpy())
            for tensor, name in zip(own, ("weight", "bias"), strict=True)
        )
    ]
    return fitting[0] if len(fitting) == 1 else None
