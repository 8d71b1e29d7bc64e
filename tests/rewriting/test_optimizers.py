"""Random graphs through other optimizers: what they make wrong is found, and what they make right is not accused.

Whether a result is right is told by an interpreter in float64 that shares nothing with bnfold, and by onnxruntime. The
default run takes a few graphs; `pytest -m soak tests/rewriting/test_optimizers.py` as many as BNFOLD_OPTIMIZED_GRAPHS
says, from BNFOLD_OPTIMIZED_GRAPHS_SEED on, through every optimizer that is installed.
"""

import os
import warnings
from collections import Counter
from functools import partial

import pytest
from onnx import ModelProto

import bnfold
from bnfold.errors import UsageError, VerificationError
from bnfold.onnxfile import read, to_proto
from bnfold.rewriting.optimizers import OPTIMIZERS, Optimizer, missing
from tests.random_graph_judge import _equivalent, _equivalent_at_run_time
from tests.random_graphs import Case, seeded_case

SOAKED = int(os.environ.get("BNFOLD_OPTIMIZED_GRAPHS", "500"))
FIRST_SEED = int(os.environ.get("BNFOLD_OPTIMIZED_GRAPHS_SEED", "0"))
INSTALLED = [name for name, kind in OPTIMIZERS.items() if not missing(kind)]


def wrong_by(case: Case, made: ModelProto) -> str | None:
    """What is wrong with a result, "" for nothing; None where neither the interpreter nor onnxruntime can tell."""
    told = False
    for feed in case.feeds:
        for look in (partial(_equivalent, shapes=None), _equivalent_at_run_time):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    told = look(case.model, made, feed) is not False or told
            except AssertionError as error:
                return str(error).splitlines()[0]
            except Exception:  # noqa: BLE001 - an operator that it does not know
                continue
    return "" if told else None


def verdict_on(case: Case, optimizer: Optimizer) -> tuple[str, str]:
    """What became of a model: "right" or "untold" where all is well, else what is not, with the facts."""
    try:
        made = bnfold.optimize(case.model, passes=[optimizer]).model
    except VerificationError as error:
        if error.report.verdict != "not-equivalent":
            return "not verified", error.report.explanation
        if error.report.passes[0]["detail"]:
            return "found", error.report.passes[0]["detail"]
        wrong = wrong_by(case, to_proto(optimizer.rewrite(read(case.model))))
        return ("found", wrong) if wrong or wrong is None else ("ACCUSED", error.report.explanation)
    except UsageError as error:
        return "raised", str(error)
    wrong = wrong_by(case, made)
    return ("untold", "") if wrong is None else ("MISSED", wrong) if wrong else ("right", "")


def soaked(name: str, seeds: range) -> tuple[Counter[str], dict[int, tuple[str, str]]]:
    counts: Counter[str] = Counter()
    bad = {}
    for seed in seeds:
        found = verdict_on(seeded_case(seed), OPTIMIZERS[name]())
        counts[found[0]] += 1
        if found[0].isupper():
            bad[seed] = found
    return counts, bad


@pytest.mark.parametrize("name", INSTALLED)
def test_random_graphs_through_an_optimizer(name: str) -> None:
    counts, bad = soaked(name, range(12))
    assert not bad
    assert counts["right"] + counts["found"] >= 6, counts


@pytest.mark.soak
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("name", INSTALLED)
def test_hundreds_of_random_graphs_through_an_optimizer(name: str) -> None:
    counts, bad = soaked(name, range(FIRST_SEED, FIRST_SEED + SOAKED))
    print(name, dict(counts))
    assert not bad
