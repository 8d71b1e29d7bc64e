"""CONTRIBUTING's "Adding an operator to a table", held against what there is, with Tile as the operator added."""

import re
from pathlib import Path

import numpy as np
import pytest

import bnfold
from bnfold.decisions import Action, Reason
from bnfold.equivalence.operators import OPERATORS
from bnfold.passes import carriers, fold
from tests.fold_models import Row

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT[TEXT.index("## Adding an operator to a table") : TEXT.index("## Adding an option")]
REPEATS = np.array([1, 2, 1, 1], np.int64)
PARAMETERS = {name: np.tile(np.linspace(low, high, 4, dtype=np.float32), 2) for name, low, high in
              (("g8", -1, 1.5), ("h8", -0.5, 0.25), ("m8", -1, 2), ("v8", 0.5, 2))}  # fmt: skip
KERNELS = {"k": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 3, 1, 2),
           "u8": np.linspace(-0.5, 1, 16, dtype=np.float32).reshape(2, 8, 1, 1)}  # fmt: skip
MODELS = {
    "TOWARD_PRODUCER": "d = Conv(x, k) c = Tile(d, repeats) y = BatchNormalization(c, g8, h8, m8, v8)",
    "TOWARD_CONSUMERS": "n = BatchNormalization(c4, g, h, m, v) t = Tile(n, repeats) y = Conv(t, u8)",
}


def model(text: str) -> bytes:
    row = Row(text, {"x": "float[N,3,6,7]", "c4": "float[N,4,6,7]"}, {"repeats": REPEATS, **PARAMETERS, **KERNELS})
    return row.model().SerializeToString()


def test_every_file_and_name_of_the_text_is_there() -> None:
    quoted = set(re.findall(r"`([^`\n]+)`", SECTION))
    files = {name for name in quoted if re.fullmatch(r"[\w/]+\.(py|md)", name)}
    assert {"passes/carriers.py", "bnfold/equivalence/operators.py", "CHANGELOG.md"} <= files
    assert not [name for name in files if not (REPOSITORY / name).exists()]
    source = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "passes").glob("*.py"))
    names = {name for name in quoted if re.fullmatch(r"[A-Z]+_[A-Z_]+|BARRIERS|REARRANGING|both_ways|known_dim", name)}
    assert {"AFFINE_OPS", "ABSORB_INPUT", "TOWARD_PRODUCER", "REARRANGING", "both_ways"} <= names
    assert not [name for name in names if not re.search(rf"^(def )?{name}\b", source, re.MULTILINE)]


def test_the_steps_were_taken_for_tile() -> None:
    assert "Tile" in carriers.REARRANGING
    assert "Tile" in carriers.TOWARD_PRODUCER.keys() & carriers.TOWARD_CONSUMERS.keys()
    assert "Tile" not in carriers.BARRIERS
    assert OPERATORS["Tile"].crossed
    assert "Tile" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", MODELS)
def test_its_entry_is_what_folds_across_it_and_the_fold_is_proved(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = bnfold.optimize(model(MODELS[table]), proof="always")
    (decision,) = result.report.decisions
    assert decision.action is Action.FOLDED
    assert result.report.verdict == "equivalent"
    assert result.report.verification is not None
    assert {proof["standing"] for proof in result.report.verification["proofs"]} == {"holds"}
    monkeypatch.delitem(getattr(fold, table), "Tile")
    (found,) = bnfold.inspect(model(MODELS[table])).normalizations
    assert (found.decision.action, found.decision.reason) == (Action.KEPT, Reason.UNKNOWN_OPERATOR)
