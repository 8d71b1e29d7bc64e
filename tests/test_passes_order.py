"""Which passes run, and in which order: statistics first, then their meaning, then what can be folded of it."""

import numpy as np
import pytest

from bnfold.passes import PassOptions, SubstituteBatchNormOptions, default_passes
from bnfold.statistics import Statistics

STATISTICS = {("", "bn"): Statistics(np.zeros(1), np.ones(1))}
ASKED = {
    "nothing": (None, ["fold-batch-norm", "merge-branches"]),
    "defaults": (PassOptions(), ["fold-batch-norm", "merge-branches"]),
    "no merge": (PassOptions(merge_branches=False), ["fold-batch-norm"]),
    "no fold": (PassOptions(fold=False), []),
    "freeze": (PassOptions(freeze=True), ["freeze-batch-norm", "fold-batch-norm", "merge-branches"]),
    "freeze alone": (PassOptions(freeze=True, fold=False), ["freeze-batch-norm"]),
    "statistics": (PassOptions(statistics=STATISTICS), ["recalibrate-batch-norm", "fold-batch-norm", "merge-branches"]),
    "no statistics": (PassOptions(statistics={}), ["fold-batch-norm", "merge-branches"]),
    "substitutes": (
        PassOptions(substitute=SubstituteBatchNormOptions()),
        ["substitute-batch-norm", "fold-batch-norm", "merge-branches"],
    ),
    "everything": (
        PassOptions(freeze=True, statistics=STATISTICS, substitute=SubstituteBatchNormOptions()),
        ["recalibrate-batch-norm", "freeze-batch-norm", "substitute-batch-norm", "fold-batch-norm", "merge-branches"],
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_passes_that_are_asked_for_in_order(name: str) -> None:
    options, expected = ASKED[name]
    assert [each.name for each in default_passes(options)] == expected
