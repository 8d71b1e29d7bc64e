"""A saved verification is judged again as it was, and otherwise under another tolerance."""

import json
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from bnfold.equivalence import Limits, Tolerance, Verdict, VerifyOptions, judge_again, verify
from bnfold.errors import UsageError

BROKEN = {"proofs": [{"standing": "broken"}], "proof_rule": "always", "verdict": "not-equivalent"}


def linear(factor: float = 1.0, *, head: str = "y = Identity(z)", out: str = "float[N,5]") -> bytes:
    proto = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> agraph (float[N,4] x) => ({out} y) {{ z = MatMul(x, w) {head} }}'
    )
    w = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32) * np.float32(factor)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return proto.SerializeToString()


def saved(reference: bytes, candidate: bytes) -> dict[str, Any]:
    return json.loads(json.dumps(verify(reference, candidate, VerifyOptions(proof="never")).to_dict()))


@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-6, 1.001])
def test_with_the_same_tolerance_the_verdict_stands(factor: float) -> None:
    found = saved(linear(), linear(factor))
    again = judge_again(found, Tolerance())
    assert again.verdict.value == found["verdict"]
    assert [judged.agrees for judged in again.judgements] == [m["judgement"]["agrees"] for m in found["measurements"]]
    assert again.feeds == tuple(found["feeds"])


def test_another_tolerance_changes_it_either_way() -> None:
    found = saved(linear(), linear(1.001))
    assert judge_again(found, Tolerance(rtol=0.01)).verdict is Verdict.EQUIVALENT
    assert judge_again(found, Tolerance(outputs={"y": Limits(rtol=0.01)})).verdict is Verdict.EQUIVALENT
    strict = judge_again(saved(linear(), linear(1 + 1e-6)), Tolerance(rtol=1e-9))
    assert strict.verdict is Verdict.NOT_EQUIVALENT
    assert "measurements do not agree" in strict.explanation


def test_what_no_tolerance_speaks_about_stands() -> None:
    generous = Tolerance(rtol=10.0, atol=10.0)
    contract = saved(linear(), linear(out="double[N,5]", head="y = Cast<to=11>(z)"))
    assert judge_again(contract, generous).verdict is Verdict.NOT_EQUIVALENT
    infinite = saved(linear(), linear(np.inf))
    assert judge_again(infinite, generous).verdict is Verdict.NOT_EQUIVALENT
    broken = saved(linear(), linear()) | BROKEN
    assert judge_again(broken, generous).verdict is Verdict.NOT_EQUIVALENT
    unverified = saved(linear(), linear()) | {"verdict": "not-verified"}
    assert judge_again(unverified, generous).verdict is Verdict.NOT_VERIFIED


def test_something_else_than_a_verification_is_a_usage_error() -> None:
    for other in ({}, {"measurements": [{}]}, {"measurements": 3}):
        with pytest.raises(UsageError, match="judged again"):
            judge_again(other, Tolerance())
