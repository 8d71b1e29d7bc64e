"""Every BatchNormalization of exported architectures folds, or stays for a reason that was checked by hand and pinned.

* densenet, preact_resnet: what they normalize is read by a Concat or an Add as well, and their scales, of both signs,
  do not pass the Relu behind them. With positive scales they fold: see the shipped light_densenet121.
* siamese: behind the difference of two branches that end in a Relu, in front of the output.
* batch_statistics: it has none of its own to fold.
"""

from collections import Counter

import pytest

import bnfold
from bnfold.decisions import Action
from tests import architectures

EXPORTERS = ("torchscript", "torchscript-unfolded", "dynamo", "dynamo-optimized")
KEPT = {
    "densenet": {exporter: {"OTHER_CONSUMER": 5} for exporter in EXPORTERS},
    "preact_resnet": {exporter: {"OTHER_CONSUMER": 2} for exporter in EXPORTERS},
    "siamese": {exporter: {"NEGATIVE_SCALE": 1} for exporter in EXPORTERS},
    "batch_statistics": {"dynamo": {"BATCH_STATISTICS": 1}, "dynamo-optimized": {"BATCH_STATISTICS": 1}},
}
CASES = [
    (name, exporter)
    for name in architectures.ARCHITECTURES
    for exporter in EXPORTERS
    if (name, exporter) not in architectures.UNSUPPORTED
    and not (name == "batch_statistics" and exporter.startswith("torchscript"))
]


# Chains of what the others have as well; the exporter of each takes two seconds.
PLAIN = {"frozen_batch_norm", "gan_generator", "sequence_mlp", "small_cnn"}


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        pytest.param(*case, marks=pytest.mark.soak if case[0] in PLAIN and case[1].startswith("dynamo") else ())
        for case in CASES
    ],
)
def test_what_stays_and_why(name: str, exporter: str) -> None:
    model = architectures.exported(name, exporter).proto
    result = bnfold.optimize(model)
    assert result.report.verdict == "equivalent"
    kept = [decision for decision in result.report.decisions if decision.action is Action.KEPT]
    assert Counter(d.reason.code for d in kept if d.reason) == KEPT.get(name, {}).get(exporter, {})
    assert architectures.neighbourhoods(result.model).total() == len(kept)
