"""The planted-bug suite: hundreds of wrong models, all detected, and hundreds of right ones, none accused.

Each candidate is folded by a folder of the tests' own (`planted`). The default run covers every network in float32 and
float16 at its first site; `-m soak` covers every site, and the real graphs of the onnx wheel.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from onnx import ModelProto

from bnfold.equivalence import Standing, Verdict, Verification, VerifyOptions, verify
from tests import architectures, planted

RIGHT_PER_MODEL = 20
WRONG_AT_LEAST, RIGHT_AT_LEAST = 300, 300
counted: Counter[str] = Counter()


def check(reference: ModelProto, candidate: ModelProto) -> Verification:
    options = VerifyOptions(proof="always")
    return verify(reference.SerializeToString(), candidate.SerializeToString(), options)


def wrong_models(base: ModelProto, sites: int) -> Iterator[tuple[str, ModelProto, str]]:
    """(what is wrong, the model, the value that comes out wrong where a fold is)."""
    folds = planted.Folds(base)
    for site in range(min(sites, len(folds.sites))):
        for bug in planted.BUGS:
            candidate = folds.wrong(site, bug)
            if candidate is not None:
                output = folds.sites[site].normalization.output[0]
                yield f"{bug} at {output}", candidate, output
    right = folds.right(range(len(folds.sites)))
    for bug, candidate in (
        ("coupled batch", planted.batch_coupled(right)),
        ("one border", planted.border_ignored(right)),
        ("across Relu", planted.relu_crossed(folds)),
        ("zero padding ignored", planted.padding_ignored(folds)),
    ):
        if candidate is not None:
            yield bug, candidate, ""


def assert_detected(base: ModelProto, sites: int) -> int:
    """Each is detected; what a proof calls wrong where a fold was planted is that fold."""
    number = 0
    for what, candidate, output in wrong_models(base, sites):
        number += 1
        found = check(base, candidate)
        assert found.verdict is Verdict.NOT_EQUIVALENT, (what, found.verdict, found.explanation, found.largest)
        accused = {proof.output for proof in found.proofs if proof.standing is Standing.BROKEN}
        assert not output or accused <= {output}, (what, accused)
        counted["broken" if accused else "not broken"] += 1
    return number


def assert_no_alarm(base: ModelProto, subsets: int) -> int:
    folds = planted.Folds(base)
    number = 0
    for chosen in planted.subsets(len(folds.sites), subsets):
        number += 1
        found = check(base, folds.right(chosen))
        assert found.verdict is Verdict.EQUIVALENT, (chosen, found.explanation, found.notes)
        assert {proof.standing.value for proof in found.proofs} == {"holds"}, [proof.reason for proof in found.proofs]
    return number


NAMES = [*planted.NETWORKS, "digits_autoencoder", "digits_cnn", "digits_preact"]
NAMES = sorted(name for name in NAMES if name != "super_resolution")
BOTH = [*NAMES, *(f"{name} in float16" for name in NAMES)]


@pytest.mark.parametrize("name", BOTH)
def test_every_planted_bug_is_detected(name: str) -> None:
    counted["wrong"] += assert_detected(planted.bases()[name], 1)


@pytest.mark.parametrize("name", BOTH)
def test_no_right_model_is_accused(name: str) -> None:
    counted["right"] += assert_no_alarm(planted.bases()[name], RIGHT_PER_MODEL)


def test_the_suite_is_as_large_as_it_says(request: pytest.FixtureRequest) -> None:
    """Counts what the tests above have checked; a run of a part of them has nothing to count."""
    ran = [item.name for item in request.session.items if "test_equivalence_planted" in item.nodeid]
    if not all(any(f"[{name}]" in test for test in ran) for name in BOTH):
        pytest.skip("only a part of the suite was selected")
    assert counted["wrong"] >= WRONG_AT_LEAST, counted
    assert counted["right"] >= RIGHT_AT_LEAST, counted


@pytest.mark.soak
@pytest.mark.parametrize("name", BOTH)
def test_every_site_of_every_network(name: str) -> None:
    base = planted.bases()[name]
    assert assert_detected(base, 100) > 0
    assert assert_no_alarm(base, 60) > 0


@pytest.mark.soak
@pytest.mark.parametrize("name", ["resnet50", "inception_v2", "shufflenet", "densenet121"])
def test_real_graphs(name: str) -> None:
    base = architectures.light(name)
    assert assert_detected(base, 1) > 10
    assert assert_no_alarm(base, 2) == 2
