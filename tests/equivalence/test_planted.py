"""The planted-bug suite: hundreds of wrong models, all detected, and hundreds of right ones, none accused.

Each candidate is folded by a folder of the tests' own (`planted`). The default run covers every network in float32 and
float16, every second to fifth kind of bug at the first site that has room for it. What a proof breaks on is wrong
without being run: two in three of these are not. `-m soak` runs every kind at every site, and the real graphs of the
onnx wheel.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import pytest
from onnx import ModelProto

from bnfold.equivalence import Proof, Standing, Verdict, Verification, VerifyOptions, prove, verify
from tests import light_graphs, planted

RIGHT_PER_MODEL = 9
WRONG_AT_LEAST, RIGHT_AT_LEAST = 240, 200
counted: Counter[str] = Counter()


def check(reference: ModelProto, candidate: ModelProto) -> Verification:
    options = VerifyOptions(proof="always")
    return verify(reference.SerializeToString(), candidate.SerializeToString(), options)


def wrong_models(base: ModelProto, sites: int) -> Iterator[tuple[str, ModelProto, str]]:
    """(what is wrong, the model, the value that comes out wrong where a fold is)."""
    folds = planted.Folds(base)
    for bug, site, candidate in folds.wrong_ones(sites):
        output = folds.sites[site].normalization.output[0]
        yield f"{bug} at {output}", candidate, output
    right = folds.right(range(len(folds.sites)))
    for bug, candidate in planted.structural(folds, right).items():
        yield bug, candidate, ""


def assert_detected(base: ModelProto, sites: int, first: int = 0, step: int = 1, *, run_every: int = 1) -> int:
    """Each is detected; what a proof calls wrong where a fold was planted is that fold.

    Of those that a proof detects, one in `run_every` is run as well.
    """
    number = 0
    for what, candidate, output in islice(wrong_models(base, sites), first, None, step):
        number += 1
        proofs = prove(base, candidate) if number % run_every else []
        if not _broken(proofs):
            found = check(base, candidate)
            assert found.verdict is Verdict.NOT_EQUIVALENT, (what, found.verdict, found.explanation, found.largest)
            proofs = found.proofs
        accused = _broken(proofs)
        assert not output or accused <= {output}, (what, accused)
        counted["broken" if accused else "not broken"] += 1
    return number


def _broken(proofs: Iterable[Proof]) -> set[str]:
    """The values behind the changes that are shown to be wrong."""
    return {proof.output for proof in proofs if proof.standing is Standing.BROKEN}


def assert_no_alarm(base: ModelProto, subsets: int) -> int:
    folds = planted.Folds(base)
    number = 0
    for chosen in planted.subsets(len(folds.sites), subsets):
        number += 1
        found = check(base, folds.right(chosen))
        assert found.verdict is Verdict.EQUIVALENT, (chosen, found.explanation, found.notes)
        assert {proof.standing.value for proof in found.proofs} == {"holds"}, [proof.reason for proof in found.proofs]
    return number


NAMES = [
    *planted.NETWORKS,
    "digits_autoencoder",
    "digits_cnn",
    "digits_preact",
    "mlp with alpha and beta",
    "two outputs",
]
NAMES = sorted(name for name in NAMES if name != "super_resolution")
BOTH = [*NAMES, *(f"{name} in float16" for name in NAMES)]


# To verify these takes several times as long as the others.
DEAR = ("conformer", "digits_autoencoder", "digits_cnn", "digits_preact", "gan_generator", "mobilenet_v2", "unet")


@pytest.mark.parametrize("name", BOTH)
def test_planted_bugs_are_detected(name: str) -> None:
    """Of every second to fifth kind, from another one on in each network: together these are all kinds."""
    dear = name.removesuffix(" in float16") in DEAR
    step = (5 if dear else 3) if name.endswith("in float16") else 3 if dear else 2
    counted["wrong"] += assert_detected(planted.bases()[name], 1, BOTH.index(name) % step, step, run_every=3)


@pytest.mark.parametrize("name", BOTH)
def test_no_right_model_is_accused(name: str) -> None:
    counted["right"] += assert_no_alarm(planted.bases()[name], RIGHT_PER_MODEL)


# By running alone, and not all kinds: `-m soak` has the rest.
ON_A_REAL_GRAPH = ("bias of one channel off by 1 %", "two channels swapped in the scale")


def test_bugs_in_a_real_graph_are_detected_and_a_right_fold_is_not_accused() -> None:
    base = light_graphs.light("shufflenet")
    folds = planted.Folds(base)
    for bug in ON_A_REAL_GRAPH:
        candidate = folds.wrong(0, bug)
        assert candidate is not None
        counted["wrong"] += 1
        assert check(base, candidate).verdict is Verdict.NOT_EQUIVALENT, bug
    assert check(base, folds.right(range(len(folds.sites)))).verdict is Verdict.EQUIVALENT
    counted["right"] += 1


@pytest.mark.parametrize("bug", ["epsilon forgotten", "epsilon outside the root"])
def test_an_epsilon_is_more_than_rounding_in_float16(bug: str) -> None:
    """The bias that comes of it lies within the rounding of the terms that it was computed from, not within its own."""
    base = planted.bases()["mobilenet_v2 in float16"]
    candidate = next(candidate for kind, _, candidate in planted.Folds(base).wrong_ones(1) if kind == bug)
    assert Standing.BROKEN in {proof.standing for proof in prove(base, candidate)}


def test_every_kind_of_bug_is_planted() -> None:
    """None of the kinds is there in name only, because no network has a place for it."""
    kinds: Counter[str] = Counter()
    for name in BOTH:
        folds = planted.Folds(planted.bases()[name])
        kinds.update(bug for bug, _, _ in folds.wrong_ones(1))
        kinds.update(list(planted.structural(folds, folds.right(range(len(folds.sites))))))
    assert set(kinds) == {*planted.BUGS, *planted.STRUCTURAL}


def test_the_suite_is_as_large_as_it_says(request: pytest.FixtureRequest) -> None:
    """Counts what the tests above have checked; a run of a part of them has nothing to count."""
    ran = [item.name for item in request.session.items if "equivalence/test_planted.py" in item.nodeid]
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
    base = light_graphs.light(name)
    assert assert_detected(base, 1) > 10
    assert assert_no_alarm(base, 2) == 2
