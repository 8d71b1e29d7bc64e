"""verify: what is called equivalent, what is not, and what is admitted not to be known."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper, parser

from bnfold import process
from bnfold.equivalence import Tolerance, Verdict, VerifyOptions, verify
from bnfold.errors import ModelError, UsageError


def model(body: str, *, opset: int = 17, ir: int = 9, **weights: np.ndarray) -> ModelProto:
    """A model from the text of its graph; `weights` become initializers."""
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}, "custom": 1]> {body}')
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def conv(
    *, bias: float = 0.0, scale: float = 1.0, signature: str = "(float[N,3,H,W] x) => (float[N,4,H,W] y)"
) -> bytes:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32) * np.float32(scale)
    b = rng.standard_normal(4).astype(np.float32) + np.float32(bias)
    text = f"agraph {signature} {{ c = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(c) }}"
    return model(text, w=w, b=b).SerializeToString()


def text_model(body: str, **options: object) -> bytes:
    return model(body, **options).SerializeToString()  # type: ignore[arg-type]


def test_a_model_is_equivalent_to_itself_and_says_on_what_it_was_compared() -> None:
    found = verify(conv(), conv())
    assert found.verdict is Verdict.EQUIVALENT
    assert found.explanation == ""
    assert {m.where.optimization for m in found.measurements} == {"off", "on"}
    assert {"batch1-normal", "batch1-impulses", "batch1-zero", "batch5-mixed"} <= {
        m.where.feed for m in found.measurements
    }
    assert found.largest is not None
    assert {feed["shapes"]["x"][0] for feed in found.feeds} == {1, 2, 5, 64}


def test_rounding_is_excused_and_a_relative_error_of_one_in_ten_thousand_is_not() -> None:
    w = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    body = "agraph (float[N,64] x) => (float[N,32] y) { y = MatMul(x, w) }"
    halves = "agraph (float[N,64] x) => (float[N,32] y) { h = MatMul(x, w) k = Add(h, h) y = Mul(k, half) }"
    assert verify(text_model(body, w=w), text_model(halves, w=w, half=np.float32(0.5))).verdict is Verdict.EQUIVALENT
    summed = (
        "agraph (float[N,64] x) => (float[N,32] y) "
        "{ a, b = Split<axis=1>(x) c = MatMul(a, u) d = MatMul(b, v) y = Add(c, d) }"
    )
    assert (
        verify(text_model(body, w=w), text_model(summed, w=w, u=w[:32], v=w[32:], opset=13)).verdict
        is Verdict.EQUIVALENT
    )
    found = verify(text_model(body, w=w), text_model(body, w=w * np.float32(1.0001)))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "'y'" in found.explanation
    assert "float64" in found.explanation


def test_a_bias_of_one_channel_that_is_off_by_one_percent_is_found() -> None:
    reference, candidate = onnx.load_from_string(conv()), onnx.load_from_string(conv())
    bias = numpy_helper.to_array(candidate.graph.initializer[1]).copy()
    bias[2] *= 1.01
    candidate.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b"))
    found = verify(reference.SerializeToString(), candidate.SerializeToString())
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.largest is not None
    assert found.largest.worst_at[1] == 2


def test_an_error_on_one_spatial_border_is_found() -> None:
    body = "agraph (float[1,3,H,W] x) => (float[1,4,H,W] y) {{ p = Pad(x, pads, v) y = Conv(p, w) }}".replace(
        "{{", "{"
    ).replace("}}", "}")
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    right = text_model(body, w=w, pads=pads, v=np.float32(0))
    wrong = text_model(body, w=w, pads=pads, v=np.float32(0.001))
    found = verify(right, wrong)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert verify(right, right).verdict is Verdict.EQUIVALENT


def test_an_error_only_at_batch_sizes_above_one_is_found() -> None:
    right = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Identity(x) }")
    wrong = text_model(
        "agraph (float[N,4] x) => (float[N,4] y) { m = ReduceMean<axes=[0], keepdims=1>(x) d = Sub(x, m) e = Sub(m, m) "
        "f = Mul(d, tiny) y = Add(x, f) }",
        tiny=np.float32(1e-3),
    )
    single = VerifyOptions(input_shapes={"x": (1, 4)}, proof="never")
    assert verify(right, wrong, single).verdict is Verdict.EQUIVALENT
    assert verify(right, wrong).verdict is Verdict.NOT_EQUIVALENT


def test_a_new_nan_fails_whatever_the_tolerance() -> None:
    right = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    wrong = text_model(
        "agraph (float[N,4] x) => (float[N,4] y) { r = Relu(x) z = Div(r, r) s = Mul(z, r) y = Identity(s) }"
    )
    found = verify(right, wrong, VerifyOptions(rtol=1e9, atol=1e9))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "NaN or infinite" in found.explanation


def test_a_nan_that_the_reference_has_too_agrees_but_nothing_finite_at_all_is_not_verified() -> None:
    some = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Log(x) }")
    assert verify(some, some).verdict is Verdict.EQUIVALENT
    none = text_model("agraph (float[N,4] x) => (float[N,4] y) { s = Sub(x, x) y = Div(s, s) }")
    other = text_model("agraph (float[N,4] x) => (float[N,4] y) { s = Sub(x, x) t = Relu(s) y = Div(s, t) }")
    found = verify(none, other, VerifyOptions(proof="never"))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "'y'" in found.explanation
    assert verify(none, none).verdict is Verdict.EQUIVALENT


def test_an_empty_output_is_not_agreement_unless_nothing_was_changed() -> None:
    body = "agraph (float[0,4] x) => (float[0,4] y) { y = %s(x) }"
    relu, other = text_model(body % "Relu"), text_model(body % "custom.Magic")
    assert verify(relu, relu).verdict is Verdict.EQUIVALENT
    assert verify(relu, text_model(body % "Neg"), VerifyOptions(proof="never")).verdict is Verdict.NOT_VERIFIED
    assert verify(relu, other).verdict is Verdict.NOT_EQUIVALENT, "it cannot be run"


OTHER_CONTRACTS = {
    "input renamed": "agraph (float[N,4] z) => (float[N,4] y, float[N,4] k) { y = Relu(z) k = Neg(z) }",
    "output renamed": "agraph (float[N,4] x) => (float[N,4] z, float[N,4] k) { z = Relu(x) k = Neg(x) }",
    "outputs swapped": "agraph (float[N,4] x) => (float[N,4] k, float[N,4] y) { y = Relu(x) k = Neg(x) }",
    "output missing": "agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
    "element type": "agraph (double[N,4] x) => (double[N,4] y, double[N,4] k) { y = Relu(x) k = Neg(x) }",
    "size": "agraph (float[N,5] x) => (float[N,5] y, float[N,5] k) { y = Relu(x) k = Neg(x) }",
    "rank": "agraph (float[N,4,1] x) => (float[N,4,1] y, float[N,4,1] k) { y = Relu(x) k = Neg(x) }",
    "no longer dynamic": "agraph (float[1,4] x) => (float[1,4] y, float[1,4] k) { y = Relu(x) k = Neg(x) }",
}


@pytest.mark.parametrize("other", OTHER_CONTRACTS.values(), ids=OTHER_CONTRACTS)
def test_another_contract_is_not_equivalent(other: str) -> None:
    right = text_model("agraph (float[N,4] x) => (float[N,4] y, float[N,4] k) { y = Relu(x) k = Neg(x) }")
    found = verify(right, text_model(other))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "differ" in found.explanation
    assert not found.measurements


def test_another_name_for_a_symbolic_size_is_the_same_contract() -> None:
    right = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    renamed = text_model("agraph (float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }")
    assert verify(right, renamed).verdict is Verdict.EQUIVALENT


def test_an_output_that_turns_out_smaller_than_the_reference_is_not_broadcast() -> None:
    right = text_model("agraph (float[N,4] x) => (float[A,B] y) { s = Sub(x, x) y = Exp(s) }")
    wrong = text_model(
        "agraph (float[N,4] x) => (float[A,B] y) { m = ReduceMax<axes=[1]>(x) s = Sub(m, m) y = Exp(s) }"
    )
    found = verify(right, wrong)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "shape" in found.explanation


def test_an_overridable_weight_that_was_folded_away_is_found() -> None:
    text = "agraph (float[N,4] x, float[4] w) => (float[N,4] y) { y = Mul(x, w) }"
    w = np.full(4, 2, np.float32)
    right, wrong = model(text, w=w), model(text.replace("Mul(x, w)", "Add(x, x)"), w=w)
    found = verify(right.SerializeToString(), wrong.SerializeToString())
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.largest is not None
    assert found.largest.where.feed == "overrides"


def test_what_the_candidate_alone_lets_callers_override_is_constant_for_those_of_the_reference() -> None:
    text = "agraph (float[N,4] x, float[4] w) => (float[N,4] y) { y = Mul(x, w) }"
    w = np.full(4, 2, np.float32)
    fixed = model(text, w=w)
    del fixed.graph.input[1]
    found = verify(fixed.SerializeToString(), model(text, w=w).SerializeToString())
    assert found.verdict is Verdict.EQUIVALENT
    assert "differ in nothing" in found.shown
    wrong = verify(fixed.SerializeToString(), model(text, w=w + 1).SerializeToString())
    assert wrong.verdict is Verdict.NOT_EQUIVALENT


def test_what_callers_may_override_stays_so() -> None:
    text = "agraph (float[N,4] x, float[4] w) => (float[N,4] y) { y = Mul(x, w) }"
    open_, fixed = (model(text, w=np.full(4, 2, np.float32)) for _ in range(2))
    del fixed.graph.input[1]
    found = verify(open_.SerializeToString(), fixed.SerializeToString())
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "overridable inputs differ" in found.explanation


def test_both_branches_of_an_if_are_run() -> None:
    body = (
        "agraph (bool cond, float[N,4] x) => (float[N,4] y) {{ y = If (cond) <then_branch = t () => (float[N,4] a) "
        "{{ a = Relu(x) }}, else_branch = e () => (float[N,4] b) {{ b = {op}(x) }}> }}"
    )
    right = text_model(body.format(op="Neg"))
    assert verify(right, right).verdict is Verdict.EQUIVALENT
    assert verify(right, text_model(body.format(op="Abs"))).verdict is Verdict.NOT_EQUIVALENT


UNLOADABLE = {
    "custom operator": (model("agraph (float[N,4] x) => (float[N,4] y) { y = custom.Magic(x) }"), "custom:Magic"),
    "opset 6": (
        model(
            "agraph (float[1,2,3,3] x, float[2] g) => (float[1,2,3,3] y) "
            "{ y = BatchNormalization<is_test=1>(x, g, g, g, g) }",
            opset=6,
            ir=3,
        ),
        "BatchNormalization(6)",
    ),
    "float64 Conv": (
        model("agraph (double[1,3,4,4] x, double[3,3,1,1] w) => (double[1,3,4,4] y) { y = Conv(x, w) }"),
        "Conv(11)",
    ),
}


@pytest.mark.parametrize(("proto", "what"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_a_model_onnxruntime_cannot_load_is_not_verified_with_its_reason(
    proto: ModelProto, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = verify(proto.SerializeToString(), proto.SerializeToString(), VerifyOptions(proof="never"))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert what in found.explanation
    proved = verify(proto.SerializeToString(), proto.SerializeToString())
    assert (proved.verdict, proved.proofs) == (Verdict.PROVED, ())
    assert "differ in nothing" in proved.explanation
    assert "\n" not in found.explanation
    assert "ONNXRuntimeError" not in found.explanation
    assert capfd.readouterr().err == ""


def test_a_candidate_that_does_not_run_where_the_reference_does_is_not_equivalent() -> None:
    right = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    wrong = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = custom.Magic(x) }")
    found = verify(right, wrong)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "candidate" in found.explanation


def test_a_size_the_reference_refuses_is_tried_again_and_at_last_reported() -> None:
    body = "agraph (float[N,3,H,W] x) => (float[A,B] y) { t = Cast<to=7>(s) y = Reshape(x, t) }"
    one_batch = text_model(body, s=np.array([1, 3 * 224 * 224], np.float32))
    found = verify(one_batch, one_batch)
    assert found.verdict is Verdict.EQUIVALENT
    assert {tuple(feed["shapes"]["x"]) for feed in found.feeds} == {(1, 3, 224, 224)}
    assert any("batch 2" in note or "batch 3" in note for note in found.notes)


def test_a_model_that_runs_on_no_feed_is_not_verified_and_says_what_to_pass() -> None:
    body = "agraph (float[A,2,B] x) => (float[C] y) { s = Cast<to=7>(w) y = Reshape(x, s) }"
    stubborn = text_model(body, w=np.array([202], np.float32))
    found = verify(stubborn, stubborn, VerifyOptions(proof="never"))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "--input-shape" in found.explanation
    shaped = VerifyOptions(input_shapes={"x": (1, 2, 101)})
    assert verify(stubborn, stubborn, shaped).verdict is Verdict.EQUIVALENT


def test_the_same_symbol_gets_the_same_size_and_a_given_size_reaches_it() -> None:
    body = "agraph (float[N,L] a, float[N,L] b) => (float[N,L] y) { y = Add(a, b) }"
    found = verify(text_model(body), text_model(body), VerifyOptions(input_shapes={"a": (2, 9)}))
    assert found.verdict is Verdict.EQUIVALENT
    assert all(feed["shapes"]["b"] == [2, 9] for feed in found.feeds)


def test_integers_stay_inside_the_table_they_index_and_strings_and_pixels_are_fed() -> None:
    body = (
        "agraph (int64[N,L] ids, uint8[N,L] pixels) => (float[N,L,3] y, uint8[N,L] p) "
        "{ y = Gather(t, ids) p = Identity(pixels) }"
    )
    table = np.arange(21, dtype=np.float32).reshape(7, 3)
    found = verify(text_model(body, t=table), text_model(body, t=table))
    assert found.verdict is Verdict.EQUIVALENT
    wrong = table.copy()
    wrong[6, 1] += 1
    assert verify(text_model(body, t=table), text_model(body, t=wrong)).verdict is Verdict.NOT_EQUIVALENT
    words = (
        "agraph (string[N] x) => (int64[N] y) "
        '{ y = ai.onnx.ml.LabelEncoder<keys_strings=["text 1"], values_int64s=[5]>(x) }'
    )
    proto = model(words)
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 2))
    assert verify(proto.SerializeToString(), proto.SerializeToString()).verdict is Verdict.EQUIVALENT


def test_bfloat16_and_float16_go_in_and_come_out() -> None:
    for kind, code in (("bfloat16", TensorProto.BFLOAT16), ("float16", TensorProto.FLOAT16)):
        body = f"agraph ({kind}[N,4] x) => ({kind}[N,4] y) {{ f = Cast<to=1>(x) m = Mul(f, w) y = Cast<to={code}>(m) }}"
        right = text_model(body, w=np.float32(2))
        assert verify(right, right).verdict is Verdict.EQUIVALENT
        assert verify(right, right).measurements[0].dtype == kind
        assert verify(right, text_model(body, w=np.float32(2.2))).verdict is Verdict.NOT_EQUIVALENT


def test_a_sequence_is_compared_item_by_item() -> None:
    body = "agraph (float[N,4] x) => (seq(float[N,4]) y) {{ r = Relu(x) y = SequenceConstruct({items}) }}"
    right = text_model(body.format(items="x, r"))
    assert verify(right, right).verdict is Verdict.EQUIVALENT
    found = verify(right, text_model(body.format(items="x, x")))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "y[1]" in found.explanation
    assert verify(right, text_model(body.format(items="x, r, r"))).verdict is Verdict.NOT_EQUIVALENT


def test_the_users_own_data_is_used_and_only_that() -> None:
    body = "agraph (float[2,4] x) => (float[2,4] y) { y = Relu(x) }"
    data = {"x": np.arange(24, dtype=np.float64).reshape(6, 4)}
    found = verify(text_model(body), text_model(body), VerifyOptions(inputs=data))
    assert found.verdict is Verdict.EQUIVALENT
    assert {m.where.feed for m in found.measurements} == {"user-0.0", "user-0.1", "user-0.2"}
    harmless = text_model(body.replace("Relu(x)", "Identity(x)"))
    assert verify(text_model(body), harmless, VerifyOptions(inputs=[data])).verdict is Verdict.EQUIVALENT
    assert verify(text_model(body), harmless).verdict is Verdict.NOT_EQUIVALENT


BAD_DATA = {
    "unknown name": ({"z": np.zeros((1, 4), np.float32)}, "'z'"),
    "nothing given": ({}, "'x'"),
    "wrong size": ({"x": np.zeros((1, 5), np.float32)}, "[N,4]"),
    "wrong rank": ({"x": np.zeros(4, np.float32)}, "[N,4]"),
    "wrong kind": ({"x": np.array([["a", "b", "c", "d"]])}, "float32"),
}


@pytest.mark.parametrize(("data", "what"), BAD_DATA.values(), ids=BAD_DATA)
def test_data_that_does_not_fit_is_a_usage_error(data: dict[str, np.ndarray], what: str) -> None:
    body = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(UsageError) as caught:
        verify(body, body, VerifyOptions(inputs=data))
    assert what in str(caught.value)


@pytest.mark.parametrize("shapes", [{"z": (1, 4)}, {"x": (1, 5)}, {"x": (1,)}, {"x": (-1, 4)}], ids=str)
def test_a_shape_that_does_not_fit_is_a_usage_error(shapes: dict[str, tuple[int, ...]]) -> None:
    body = text_model("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(UsageError):
        verify(body, body, VerifyOptions(input_shapes=shapes))


def test_an_unknown_provider_and_a_file_that_is_no_model_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"abacus.*cpu, cuda"):
        verify(conv(), conv(), VerifyOptions(providers=("abacus",)))
    with pytest.raises(UsageError, match="no provider"):
        verify(conv(), conv(), VerifyOptions(providers=()))
    with pytest.raises(ModelError):
        verify(b"this is no model", conv())
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        verify(tmp_path / "missing.onnx", conv())


def test_external_data_resolves_beside_the_model(tmp_path: Path) -> None:
    for name, scale in (("right", 1.0), ("wrong", 1.01)):
        (tmp_path / name).mkdir()
        proto = onnx.load_from_string(conv(scale=scale))
        onnx.save(proto, tmp_path / name / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    right, wrong = tmp_path / "right" / "m.onnx", tmp_path / "wrong" / "m.onnx"
    assert verify(right, right).verdict is Verdict.EQUIVALENT
    assert verify(right, wrong).verdict is Verdict.NOT_EQUIVALENT


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    reference, candidate = conv(), conv(bias=1e-6)
    first, second = verify(reference, candidate), verify(reference, candidate)
    assert first.measurements == second.measurements
    third = verify(reference, candidate, VerifyOptions(seed=1))
    assert first.measurements != third.measurements


def test_without_onnxruntime_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from bnfold.equivalence import verify\n"
        "try: verify(b'', b'')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("BnfoldError")
    assert "pip install 'bnfold[cpu]'" in out
    assert "--no-verify" in out


@pytest.mark.parametrize("owned", [True, False])
def test_only_the_command_silences_what_onnxruntime_warns_of_for_the_process(
    monkeypatch: pytest.MonkeyPatch, owned: bool
) -> None:
    import onnxruntime

    levels: list[int] = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", levels.append)
    monkeypatch.setattr(process, "_owned", owned)
    verify(conv(), conv())
    assert set(levels) == ({3} if owned else set())


def test_importing_the_room_does_not_import_onnxruntime_or_torch() -> None:
    code = "import bnfold.equivalence, sys; print({'onnxruntime', 'torch'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )


def test_a_saved_measurement_can_be_judged_again() -> None:
    import json

    from bnfold.equivalence import Measurement

    found = verify(conv(), conv(bias=1e-3))
    saved = json.loads(json.dumps(found.to_dict()))
    again = [Measurement.from_dict(entry) for entry in saved["measurements"]]
    assert again == list(found.measurements)
    assert saved["verdict"] == "not-equivalent"
    assert all(Tolerance(atol=0.1).judge(entry).agrees for entry in again)


def test_an_input_that_is_no_tensor_is_not_verified_and_not_a_crash() -> None:
    body = text_model("agraph (seq(float[N]) x, int64 i) => (float[N] y) { y = SequenceAt(x, i) }")
    found = verify(body, body, VerifyOptions(proof="never"))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "'x' is not a tensor" in found.explanation
    with pytest.raises(UsageError, match="not a tensor"):
        verify(body, body, VerifyOptions(inputs={"x": np.zeros(1), "i": np.zeros((), np.int64)}))


def test_a_model_without_inputs_is_compared() -> None:
    body = "agraph () => (float[4] y) { r = Relu(w) y = Neg(r) }"
    w = np.arange(4, dtype=np.float32)
    assert verify(text_model(body, w=w), text_model(body, w=w)).verdict is Verdict.EQUIVALENT
    assert verify(text_model(body, w=w), text_model(body, w=w + 1)).verdict is Verdict.NOT_EQUIVALENT


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(conv())
    assert verify(str(path), str(path)).verdict is Verdict.EQUIVALENT  # type: ignore[arg-type]


def test_external_data_is_found_also_where_values_behind_an_output_are_looked_at(tmp_path: Path) -> None:
    body = "agraph (float[N,4] x) => (int64[N,1] y) { z = MatMul(x, w) y = ArgMax<axis=1>(z) }"
    paths = []
    for name, factor in (("right", 1.0), ("wrong", 1.0002)):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "m.onnx")
        w = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32) * np.float32(factor)
        onnx.save(model(body, w=w), paths[-1], save_as_external_data=True, size_threshold=0, location="m.data")
    assert verify(paths[0], paths[0]).verdict is Verdict.EQUIVALENT
    found = verify(*paths)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "'z'" in found.explanation
