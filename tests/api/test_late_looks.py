"""Large weights are looked at while they are written: the result is what a look before folding would have given."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.graph import Tensor
from tests.fold_models import Row, batch_norm, numbers

B = "y = BatchNormalization(d, g, h, m, v)"
_INPUTS = {"x": "float[N,60,6,7]", "f": "float[N,600]", "z": "float[N,4,6,7]"}


def _but(array: np.ndarray, channel: int, value: float, axis: int = 0) -> np.ndarray:
    changed = array.copy()
    np.moveaxis(changed, axis, 0)[channel] = value
    return changed


_CONSTANTS = {
    **batch_norm(32, ""),
    **batch_norm(60, "60"),
    "w": numbers(32, 60, 3, 3),
    "w_nan": _but(numbers(32, 60, 3, 3), 3, np.nan),
    "w_infinite": _but(numbers(32, 60, 3, 3), 3, -np.inf),
    "w_dead": _but(numbers(32, 60, 3, 3), 3, 1e-44),
    "w_huge": _but(numbers(32, 60, 3, 3), 31, 3e38),
    "w_tiny": _but(numbers(32, 60, 3, 3), 31, 2e-38),
    "t": numbers(4, 8, 6, 6),
    "k": numbers(600, 32),
    "k_huge": _but(numbers(600, 32), 31, 3e38, axis=1),
    "k_turned": numbers(32, 600),
    "g_large": np.full(32, 50.0, np.float32),
    "g_small": np.full(32, 1e-3, np.float32),
    "g_mixed": _but(np.ones(32, np.float32), 0, 1e-39),
}
FOLDED = {
    "Conv": f"d = Conv(x, w) {B}",
    "Conv, bias of its own": f"d = Conv(x, w, h) {B}",
    "two after another": f"c = Conv(x, w) d = BatchNormalization(c, g, h, m, v) {B}",
    "in front and behind": f"n = BatchNormalization(x, g60, h60, m60, v60) d = Conv(n, w) {B}",
    "groups, two axes": f"d = ConvTranspose<group=4>(z, t) {B}",
    "MatMul": f"d = MatMul(f, k) {B}",
    "Gemm": f"d = Gemm<transB=1>(f, k_turned) {B}",
    "a channel that was dead before": f"d = Conv(x, w_dead) {B}",
    "the same weight twice": f"d = Conv(x, w) {B} e = Conv(x, w) o = BatchNormalization(e, g_small, h, m, v)",
}
KEPT = {
    "WEIGHT_OVERFLOW: one channel": "d = Conv(x, w_huge) y = BatchNormalization(d, g_large, h, m, v)",
    "WEIGHT_OVERFLOW: one column": "d = MatMul(f, k_huge) y = BatchNormalization(d, g_large, h, m, v)",
    "WEIGHT_OVERFLOW: not a number": f"d = Conv(x, w_nan) {B}",
    "WEIGHT_OVERFLOW: infinite": f"d = Conv(x, w_infinite) {B}",
    "WEIGHT_UNDERFLOW: one channel": "d = Conv(x, w_tiny) y = BatchNormalization(d, g_small, h, m, v)",
    "WEIGHT_UNDERFLOW: where another is fine": "d = Conv(x, w) y = BatchNormalization(d, g_mixed, h, m, v)",
}


@pytest.fixture(params=["inline", "external"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def save(text: str) -> Path:
        outputs = ["y", "o"] if "o = " in text else ["y"]
        proto = Row(text, _INPUTS, _CONSTANTS, outputs=outputs).model()
        path = tmp_path / "in.onnx"
        onnx.save(proto, path, save_as_external_data=request.param == "external", size_threshold=0)
        return path

    return save


def optimized(path: Path, monkeypatch: pytest.MonkeyPatch, streamed: int) -> tuple[bytes, list[Any]]:
    monkeypatch.setattr("bnfold.graph.tensor._STREAMED_BYTES", streamed)
    output = path.with_name("out.onnx")
    report = bnfold.optimize(path, output, verify=False).report
    data = b"".join(each.read_bytes() for each in sorted(path.parent.glob("out.onnx*")))
    return data, [(each.node, each.action, each.reason, each.detail) for each in report.decisions]


@pytest.mark.parametrize("name", [*FOLDED, *KEPT])
def test_a_late_look_changes_nothing(name: str, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source((FOLDED | KEPT)[name])
    early = optimized(path, monkeypatch, 1 << 60)
    late = optimized(path, monkeypatch, 0)
    assert late == early
    monkeypatch.setattr("bnfold.graph.tensor._BLOCK_BYTES", 5_000)
    for size in ("PART", "PIECE_FROM", "THREAD_FROM"):
        monkeypatch.setattr(f"bnfold.onnxfile.stream.{size}", 12_000)
    assert optimized(path, monkeypatch, 0) == early, "in parts that two threads make"
    reasons = {each[2].code if each[2] else "" for each in late[1]}
    assert reasons == ({name.split(":")[0]} if name in KEPT else {""})


def test_the_elements_are_read_once(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(FOLDED["two after another"])
    monkeypatch.setattr(Tensor, "magnitude", None)  # a look before writing would raise
    optimized(path, monkeypatch, 0)
    with pytest.raises(TypeError):
        optimized(path, monkeypatch, 1 << 60)


def test_inspect_looks_at_once(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes nothing, so nobody would look later."""
    monkeypatch.setattr("bnfold.graph.tensor._STREAMED_BYTES", 0)
    for text, codes in ((KEPT["WEIGHT_OVERFLOW: one channel"], {"WEIGHT_OVERFLOW"}), (FOLDED["Conv"], set())):
        assert bnfold.inspect(source(text)).codes == codes


def test_a_model_that_is_handed_over_is_looked_at_too(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.graph.tensor._STREAMED_BYTES", 0)
    path = source(KEPT["WEIGHT_OVERFLOW: one channel"])
    for given in (path, onnx.load(path)):
        made = bnfold.optimize(given, verify=False)
        assert [node.op_type for node in made.model.graph.node] == ["Conv", "BatchNormalization"]
