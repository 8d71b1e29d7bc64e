"""Which passes run, and in which order: statistics first, then their meaning, then what can be folded of it."""

from pathlib import Path

import numpy as np
import pytest

import bnfold
from bnfold import equivalence
from bnfold.passes import FreezeBatchNorm, PassOptions, Preserves, SubstituteBatchNormOptions, default_passes
from bnfold.statistics import Statistics

STATISTICS = {("", "bn"): Statistics(np.zeros(1), np.ones(1))}
FOLDING = ["unpack-sequences", "fold-batch-norm", "merge-branches", "fold-constants"]
ASKED = {
    "nothing": (None, FOLDING),
    "defaults": (PassOptions(), FOLDING),
    "no merge": (PassOptions(merge_branches=False), ["unpack-sequences", "fold-batch-norm", "fold-constants"]),
    "no constants": (PassOptions(fold_constants=False), ["fold-batch-norm", "merge-branches"]),
    "no fold": (PassOptions(fold=False), []),
    "freeze": (PassOptions(freeze=True), ["freeze-batch-norm", *FOLDING]),
    "freeze alone": (PassOptions(freeze=True, fold=False), ["freeze-batch-norm"]),
    "statistics": (PassOptions(statistics=STATISTICS), ["recalibrate-batch-norm", *FOLDING]),
    "no statistics": (PassOptions(statistics={}), FOLDING),
    "substitutes": (PassOptions(substitute=SubstituteBatchNormOptions()), ["substitute-batch-norm", *FOLDING]),
    "everything": (
        PassOptions(freeze=True, statistics=STATISTICS, substitute=SubstituteBatchNormOptions(), assume_spatial=True),
        ["assume-spatial", "recalibrate-batch-norm", "freeze-batch-norm", "substitute-batch-norm", *FOLDING],
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_passes_that_are_asked_for_in_order(name: str) -> None:
    options, expected = ASKED[name]
    assert [each.name for each in default_passes(options)] == expected


PRESERVES = {
    "assume-spatial": "evaluation",
    "freeze-batch-norm": "evaluation",
    "recalibrate-batch-norm": "evaluation",
    "substitute-batch-norm": "nothing",
    "unpack-sequences": "exact",
    "fold-batch-norm": "algebraic",
    "merge-branches": "algebraic",
    "fold-constants": "exact",
}


def test_every_pass_says_what_it_preserves() -> None:
    everything, _ = ASKED["everything"]
    assert {each.name: each.preserves for each in default_passes(everything)} == PRESERVES


@pytest.mark.parametrize(("preserves", "compared"), [("evaluation", "evaluation"), ("algebraic", "as it runs")])
def test_what_the_passes_preserve_decides_what_the_result_is_compared_with(
    preserves: str, compared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    for name, word in {"verify": "as it runs", "verify_frozen": "evaluation"}.items():

        def stand_in(*_args: object, word: str = word, **_options: object) -> None:
            used.append(word)
            raise KeyboardInterrupt

        monkeypatch.setattr(equivalence, name, stand_in)
    monkeypatch.setattr(FreezeBatchNorm, "preserves", Preserves(preserves))
    with pytest.raises(KeyboardInterrupt):
        bnfold.optimize(Path(__file__).parents[2] / "models/digits_cnn.onnx")
    assert used == [compared]
