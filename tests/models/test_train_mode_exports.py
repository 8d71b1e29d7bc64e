"""What PyTorch exports in training mode is told for what it is, and becomes what `.eval()` computes."""

import numpy as np
import pytest

from bnfold.decisions import Diagnosis
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.passes.classification import Kind, classify, dropout_mode
from bnfold.passes.diagnosis import diagnose
from bnfold.passes.normalization import Mode
from tests.architectures import TRAIN_MODE_OPSETS, exported, exported_in_train_mode
from tests.oracle import evaluate
from tests.passes.test_classification import BN, find
from tests.passes.test_freeze import freeze

WRITTEN = [(exporter, opset) for exporter, opsets in TRAIN_MODE_OPSETS.items() for opset in opsets]


@pytest.mark.parametrize(("exporter", "opset"), [*WRITTEN, ("dynamo", 13)])
def test_train_mode_exports_of_pytorch(exporter: str, opset: int) -> None:
    """Whatever opset is asked for: the dynamo exporter writes 18 for those it does not know."""
    model = exported_in_train_mode(exporter, opset).proto
    written = model.opset_import[0].version
    assert written == (opset if opset in TRAIN_MODE_OPSETS[exporter] else 18)
    graph = Model(read(model)).main
    kinds = [classify(node, graph) for node in graph.nodes() if node.op_type == BN]
    dropouts = [dropout_mode(node, graph) for node in graph.nodes() if node.op_type == "Dropout"]
    # The dynamo exporter writes inference BatchNormalization also in train(), and keeps training Dropout.
    assert kinds == [Kind.TRAIN if exporter == "torchscript" else Kind.INFERENCE] * 3
    assert dropouts == ([Mode.TRAIN] if written > 11 else [Mode.INFERENCE])


def test_an_export_without_running_statistics() -> None:
    node, graph = find(exported("batch_statistics", "dynamo", 18).proto, BN)
    assert classify(node, graph) is Kind.BATCH_STATISTICS
    assert set(diagnose(node, graph)) == {Diagnosis.BATCH_STATISTICS}


@pytest.mark.parametrize(("exporter", "opset"), WRITTEN)
def test_exports_of_pytorch_become_what_eval_computes(exporter: str, opset: int) -> None:
    case = exported_in_train_mode(exporter, opset)
    result = freeze(case.proto, fold=True)
    assert result.operators.count(BN) == 0
    assert result.operators.count("Dropout") == (opset <= 11)
    computed = evaluate(result.model, case.feeds)
    np.testing.assert_allclose(next(iter(computed.values())), case.expected[0], rtol=0, atol=2e-5)
