"""CUDA for real. Skipped where onnxruntime cannot start a device; the options and refusals are tested everywhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import bnfold
from bnfold.equivalence import Verdict, Verification, VerifyOptions, verify
from bnfold.equivalence.runtime.providers import CUDA
from tests.equivalence.test_providers import conv, startable
from tests.planted import half

pytestmark = pytest.mark.cuda

REPOSITORY = Path(__file__).parents[2]
MODELS = ("digits_cnn", "digits_autoencoder", "digits_preact", "digits_cnn_train")
ON_CUDA = VerifyOptions(providers=("cuda",))


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    why = startable(CUDA)
    if why:
        pytest.skip(why)


def assert_ran_there(found: Verification) -> None:
    assert [(place.optimization, place.precision) for place in found.placements] == [
        ("off", "strict"),
        ("on", "strict"),
        ("on", "deploy"),
    ]
    for place in found.placements:
        assert CUDA.ep_name in place.effective
        elsewhere = {op for name, operators in place.nodes.items() if name != CUDA.ep_name for op in operators}
        assert not elsewhere & {"Conv", "FusedConv", "Gemm", "MatMul", "BatchNormalization"}


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_folded_and_equivalent(name: str, tmp_path: Path) -> None:
    source, output = REPOSITORY / f"models/{name}.onnx", tmp_path / "folded.onnx"
    report = bnfold.optimize(source, output, providers=("cuda",)).report
    assert report.verdict == "equivalent"
    assert report.output is not None
    assert report.output.batch_normalizations == 0
    assert report.verification is not None
    assert {place["provider"] for place in report.verification["placements"]} == {"cuda"}
    if name != "digits_cnn_train":  # its output is compared with evaluation semantics, not with the file
        found = verify(source, output, ON_CUDA)
        assert found.verdict is Verdict.EQUIVALENT, found.explanation
        assert_ran_there(found)


def test_float16_is_folded_and_equivalent() -> None:
    model = half(onnx.load(REPOSITORY / "models/digits_cnn.onnx"))
    folded = bnfold.optimize(model, providers=("cuda",)).model
    found = verify(model.SerializeToString(), folded.SerializeToString(), ON_CUDA)
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    assert_ran_there(found)


def test_a_wrong_model_is_found_out() -> None:
    assert verify(conv(), conv(), ON_CUDA).verdict is Verdict.EQUIVALENT
    assert verify(conv(), conv(1.001), ON_CUDA).verdict is Verdict.NOT_EQUIVALENT


def test_a_model_in_training_mode_is_refused_and_never_equivalent() -> None:
    """The CPU runs it with the statistics of the batch; CUDA throws at opset 14 and newer."""
    text = (
        '<ir_version: 8, opset_import: ["" : 15]> agraph (float[2,3,4,4] x) => (float[2,3,4,4] y) '
        "<float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] m = {3, 2, 1}, float[3] v = {2, 4, 8}> "
        "{ y, rm, rv = BatchNormalization<training_mode=1>(x, s, b, m, v) }"
    )
    model = parser.parse_model(text).SerializeToString()
    found = verify(model, model, ON_CUDA)
    assert found.verdict in (Verdict.NOT_VERIFIED, Verdict.NOT_EQUIVALENT)
    assert "cuda" in found.explanation


def products(size: int) -> ModelProto:
    """A MatMul deep enough that a product rounded to 10 bits shows in the sum."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> agraph (float[{size},{size}] x) => (float[{size},{size}] y) '
        "{ y = MatMul(x, w) }"
    )
    w = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return model


def test_tf32_shows_beside_the_verdict_and_not_in_it() -> None:
    query = shutil.which("nvidia-smi")
    if query is None:
        pytest.skip("no nvidia-smi to ask for the compute capability")
    told = subprocess.run(
        [query, "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True, check=True
    )
    capabilities = [float(each) for each in told.stdout.split()]
    if not capabilities or capabilities[0] < 8:
        pytest.skip("TF32 needs compute capability 8.0")
    model = products(512).SerializeToString()
    compared = verify(model, model, ON_CUDA)
    assert compared.verdict is Verdict.EQUIVALENT, compared.explanation
    largest = {
        precision: max(each.relative for each in compared.measurements if each.where.precision == precision)
        for precision in ("strict", "deploy")
    }
    assert largest["strict"] < 1e-5
    assert largest["deploy"] > 10 * largest["strict"]


def test_two_sessions_answer_alike_to_the_bit() -> None:
    from bnfold.equivalence.runtime.opening import Setting, running
    from bnfold.equivalence.runtime.sessions import Optimization

    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    answers = []
    for _ in range(2):
        with running(conv(), Setting(CUDA, Optimization.ON)) as session:
            answers.append(session.run(feed)["y"])
    np.testing.assert_array_equal(*answers)


def test_the_command_says_nothing_that_onnxruntime_warns_of_for_the_process() -> None:
    """It warns of each Conv that runs by the plain algorithm, which is what bnfold asks for."""
    model = REPOSITORY / "models/digits_cnn.onnx"
    command = [sys.executable, "-m", "bnfold", "verify", str(model), str(model), "--provider", "cuda"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "onnxruntime" not in found.stderr
