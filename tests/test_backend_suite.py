"""An eighth of the node cases of the ONNX backend suite through `optimize`: unchanged or equivalent, never a crash.

None of them was made with batch normalization folding in mind: every operator, type and odd shape there is. `-m soak`
verifies every one.
"""

import time
from functools import cache

import pytest
from onnx import ModelProto

import bnfold
from bnfold.errors import VerificationError
from tests.backend_cases import backend_cases

SHARDS = 8
AT_MOST = 10  # seconds


@cache
def cases() -> dict[str, bytes]:
    return {case.name: case.model_bytes for case in backend_cases()}


def check(name: str, *, verify: bool) -> bool:
    """Whether the case was changed."""
    data = cases()[name]
    try:
        result = bnfold.optimize(data, verify=verify)
    except VerificationError as failure:  # the reference cannot be run, or is random
        operators = {node.op_type for node in ModelProto.FromString(data).graph.node}
        if failure.report.verdict != "not-verified" or not any(each in str(failure) for each in operators):
            raise AssertionError(name) from failure
        return False
    changed: bool = ModelProto.FromString(result.model) != ModelProto.FromString(data)
    if verify:
        assert result.report.verdict in ("equivalent", "proved"), name
    return changed


def test_the_suite_is_there() -> None:
    assert len(cases()) > 1800


@pytest.mark.parametrize("shard", range(0, SHARDS, 8))
def test_no_case_crashes_and_what_changes_is_equivalent(shard: int) -> None:
    changed = [name for name in list(cases())[shard::SHARDS] if check(name, verify=False)]
    for name in changed:
        check(name, verify=True)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # numpy's, about the random feeds of operators such as Sqrt
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_case_is_verified(shard: int) -> None:
    slowest = (0.0, "")
    for name in list(cases())[shard::SHARDS]:
        before = time.monotonic()
        check(name, verify=True)
        slowest = max(slowest, (time.monotonic() - before, name))
    assert slowest[0] < AT_MOST, slowest
