"""Order and spelling change nothing: the decisions are the same, the verdict too, and the file keeps its own order."""

from collections import Counter
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

import bnfold
from bnfold.errors import BnfoldError, StatisticsError, VerificationError
from bnfold.onnxfile import read
from bnfold.passes import FoldBatchNorm
from bnfold.pipeline import run_on
from tests.fold_models import Row, numbers
from tests.random_graphs import seeded_case
from tests.spellings import SPELLINGS, backwards, graphs_of, shuffled

TABLES = [path.stem for path in sorted((Path(__file__).parent / "passes").glob("test_*.py"))]
# What onnx's converter makes of these is another model: below 7 it forgets who trains.
OLDEST_CONVERTED = 7


def rows_of(table: str) -> dict[str, Row]:
    """Every row of the tables in a test file; of what is left alone both sides."""
    found: dict[str, Row] = {}
    for name, rows in vars(import_module(f"tests.passes.{table}")).items():
        for key, value in rows.items() if isinstance(rows, dict) else ():
            row = value[0] if isinstance(value, tuple) and value else value
            sides = {"good": row.good(), "bad": row.bad()} if isinstance(row, Row) else {}
            for side, one in sides.items():
                with suppress(KeyError):  # a part of a model, which its test completes
                    one.model()
                    found[f"{name}: {key}, {side}"] = one
    return found


def spelled(model: ModelProto, spelling: str) -> ModelProto | None:
    """None where it cannot be spelled so, or where that is another model."""
    results = [value.name for value in model.graph.output]
    if len(results) != len(set(results)):
        return None
    if spelling.startswith("IR 3") and any(body.initializer for body in list(graphs_of(model.graph))[1:]):
        return None  # what was listed there
    if not spelling.startswith("opset"):
        return SPELLINGS[spelling](model)
    if min(entry.version for entry in model.opset_import if not entry.domain) < OLDEST_CONVERTED:
        return None
    try:
        made = SPELLINGS[spelling](model)
        onnx.checker.check_model(made, full_check=True)
    except Exception:  # noqa: BLE001 - what onnx cannot convert
        return None
    return made


def decided(model: ModelProto, row: Row) -> Counter[tuple[str, str]] | str:
    file = read(model.SerializeToString())
    try:
        _, decisions = run_on(file, [FoldBatchNorm(row.options)], assume_constant_initializers=row.assume)
    except BnfoldError as error:
        return f"{type(error).__name__}: {error}"
    return Counter((each.action.value, each.reason.name if each.reason else "") for each in decisions)


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_of_folds_do_not_depend_on_spelling(table: str) -> None:
    differ = []
    for name, row in rows_of(table).items():
        model = row.model()
        expected = decided(model, row)
        for spelling in SPELLINGS:
            other = None if isinstance(expected, str) else spelled(model, spelling)
            if other is not None and (found := decided(other, row)) != expected:
                differ.append(f"{spelling}: {name}: {expected} -> {found}")
    assert not differ


def test_there_are_rows_and_spellings_to_compare() -> None:
    rows = [row for table in TABLES for row in rows_of(table).values()]
    assert len(rows) > 200
    for spelling in SPELLINGS:
        made = [spelled(row.model(), spelling) for row in islice(rows, 0, None, 10)]
        assert sum(model is not None for model in made) > (1 if spelling.startswith("opset") else len(made) / 3)


# ---------------------------------------------------------------------- random models, with their verdict


def answer(model: ModelProto) -> tuple[str, Counter[tuple[str, str]]]:
    """The verdict, and what became of the normalizations."""
    try:
        report = bnfold.optimize(model).report
    except (StatisticsError, VerificationError) as failure:
        report = failure.report
    return report.verdict, Counter((each.action.value, each.reason.name if each.reason else "")
                                   for each in report.decisions)  # fmt: skip


# In another order another of several folds may come first, and in a body inference knows less of shapes: of these the
# tables alone are compared.
RANDOM = [each for each in SPELLINGS if each not in ("shuffled", "backwards", "in a branch", "in a function")]


def differing(seeds: range, spellings: int) -> list[str]:
    """What is answered otherwise; each model in `spellings` of the spellings."""
    found = []
    for seed in seeds:
        model = seeded_case(seed).model
        expected = None
        for at in range(spellings):
            spelling = RANDOM[(seed + at) % len(RANDOM)]
            other = spelled(model, spelling)
            if other is None:
                continue
            expected = expected or answer(model)
            if (now := answer(other)) != expected:
                found.append(f"{seed}, {spelling}: {expected} -> {now}")
    return found


@pytest.mark.filterwarnings("ignore::bnfold.errors.ModelWarning")
@pytest.mark.parametrize("first", range(0, 30, 10))
def test_random_models_do_not_depend_on_spelling(first: int) -> None:
    assert differing(range(first, first + 10), 1) == []


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore::bnfold.errors.ModelWarning")
@pytest.mark.parametrize("part", range(8))
def test_hundreds_of_random_models_do_not_depend_on_spelling(part: int) -> None:
    assert differing(range(1000 + 50 * part, 1050 + 50 * part), len(RANDOM)) == []


# ---------------------------------------------------------------------- the order of the file


@pytest.mark.parametrize("order", [shuffled, backwards])
def test_the_file_keeps_its_own_order(order: object) -> None:
    text = (
        "c = Conv(x, w, b) d = BatchNormalization(c, g, h, m, v) e = Relu(d) f = Conv(e, k, b) n = Sigmoid(f)"
        " y = BatchNormalization(n, g, h, m, v)"
    )
    model = order(Row(text, None, {"k": numbers(4, 4, 1, 1)}).model())  # type: ignore[operator]
    made = bnfold.optimize(model).model.graph
    assert len(made.node) < len(model.graph.node)
    left = [node.op_type for node in model.graph.node if node.op_type != "BatchNormalization"]
    assert [node.op_type for node in made.node if node.op_type != "BatchNormalization"] == left
