"""The node cases of the ONNX backend suite, which take eight seconds to make: once for all tests of a run."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto
from onnx.backend.test.loader import load_model_tests

from tests.shared import shared


@dataclass(frozen=True)
class BackendCase:
    """`data_sets`: pairs of inputs and outputs in the order of the graph: arrays, sequences, or None."""

    name: str
    model_bytes: bytes
    data_sets: list[Any]
    rtol: float

    @property
    def model(self) -> ModelProto:
        """A copy of its own."""
        return ModelProto.FromString(self.model_bytes)


@shared
def backend_cases() -> list[BackendCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases overflow and divide by zero on purpose while they are made
        found = load_model_tests(kind="node")
    return [
        BackendCase(
            case.name,
            case.model.SerializeToString() if case.model else Path(case.model_dir, "model.onnx").read_bytes(),
            case.data_sets or [],
            case.rtol,
        )
        for case in found
    ]
