"""Networks with parallel linear branches, as PyTorch exports them: each block comes out as one operator."""

from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
from onnx import ModelProto
from torch import nn, zeros

import bnfold
from tests.architectures import Exporter, export_by_dynamo, export_module
from tests.branch_modules import acnet, as_if_trained, dbb, mobileone, repvgg

# What is left of each.
BLOCKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "RepVGG": (
        lambda: repvgg([4, 6], [2, 3], 5),
        3,
        "Conv Relu Conv Relu Conv Relu Conv Relu Conv Relu GlobalAveragePool Flatten Gemm",
    ),
    "MobileOne": (mobileone, 6, "Conv Relu Conv Relu Conv Relu"),
    "ACNet": (acnet, 5, "Conv Relu Conv Relu"),
    "DBB without padding": (lambda: dbb(padded=False), 5, "Conv Relu Conv Relu"),
}


def of_torch(build: Callable[[], nn.Module], channels: int, exporter: Exporter = "torchscript") -> ModelProto:
    return ModelProto.FromString(export_module(as_if_trained(build()), (zeros(2, channels, 14, 11),), exporter, 18))


@cache
def by_dynamo(name: str) -> dict[Exporter, bytes]:
    build, channels, _ = BLOCKS[name]
    return export_by_dynamo(as_if_trained(build()), (zeros(2, channels, 14, 11),), 18)


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        *((name, "torchscript") for name in BLOCKS),
        *product(("RepVGG", "DBB without padding"), ("dynamo", "dynamo-optimized")),
    ],
)
def test_a_block_comes_out_as_one_operator(name: str, exporter: Exporter) -> None:
    build, channels, left = BLOCKS[name]
    torchscript = exporter == "torchscript"
    model = of_torch(build, channels) if torchscript else ModelProto.FromString(by_dynamo(name)[exporter])
    result = bnfold.optimize(model, proof="always")
    assert result.report.verdict == "equivalent"
    operators = [node.op_type for node in result.model.graph.node]
    linear = [each for each in left.split() if each in ("Conv", "Gemm")]
    assert [each for each in operators if each in ("Conv", "Gemm")] == linear
    assert not {"Add", "Sum", "BatchNormalization", "AveragePool"}.intersection(operators)
    if exporter == "torchscript":
        assert operators == left.split()


def test_a_padded_sequence_is_not_exact_and_stays() -> None:
    result = bnfold.optimize(of_torch(lambda: dbb(padded=True), 5))
    assert result.report.verdict == "equivalent"
    kept = {decision.reason.code for decision in result.report.decisions if decision.reason is not None}
    assert kept == {"PADDED_BORDER"}
    assert [node.op_type for node in result.model.graph.node].count("Conv") == 8


def test_branches_stay_where_that_is_asked_for() -> None:
    original = of_torch(acnet, 5)
    result = bnfold.optimize(original, merge_branches=False)
    assert [node.op_type for node in result.model.graph.node].count("Conv") == 6
