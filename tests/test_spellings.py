"""Order and spelling change nothing: the decisions are the same, the verdict too, and the file keeps its own order."""

from collections import Counter
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path

import onnx
import onnxruntime
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
# What onnx's converter makes of these is another model: below 7 it forgets who trains; of functions it keeps none.
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
    ports = {value.name for value in model.graph.input}
    overridable = model.ir_version >= 4 and any(tensor.name in ports for tensor in model.graph.initializer)
    if overridable and (spelling.startswith("IR 3") or spelling == "in a function"):
        return None  # constant in the one; for the other an argument like any
    made_by_nodes = {name for node in model.graph.node for name in node.output}
    if spelling == "in a branch" and not made_by_nodes.issuperset(results):
        return None  # a branch gives out what its nodes make
    if not spelling.startswith("opset"):
        return SPELLINGS[spelling](model)
    if model.functions or min(each.version for each in model.opset_import if not each.domain) < OLDEST_CONVERTED:
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
    for number, (name, row) in enumerate(rows_of(table).items()):
        model = row.model()
        expected = decided(model, row)
        for spelling in list(SPELLINGS)[number % 2 :: 2]:  # each row in half of them
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
    """What is said of the result, and what became of the normalizations.

    Proved and run, or proved alone: which sizes the runtime takes is not in the spelling alone, since a branch has an
    input more, and another message where something fails in it.
    """
    try:
        report = bnfold.optimize(model).report
    except (StatisticsError, VerificationError) as failure:
        report = failure.report
    verdict = "equivalent" if report.verdict == "proved" else report.verdict
    return verdict, Counter((each.action.value, each.reason.name if each.reason else "")
                            for each in report.decisions)  # fmt: skip


def runs(model: ModelProto) -> bool:
    """Whether onnxruntime loads it: it wants the nodes of a body in order, and has no kernel for some types."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions share no other base class
        return False
    return True


def differs(model: ModelProto, expected: tuple[str, Counter[tuple[str, str]]]) -> str:
    """How what is answered of `model` is another answer than `expected`, "" where it is the same.

    Where the runtime does not take a spelling, less can be said of it, but nothing else.
    """
    verdict, decisions = answer(model)
    same = verdict == expected[0] or (verdict == "not-verified" and not runs(model))
    return "" if same and decisions == expected[1] else f"{expected} -> {verdict, decisions}"


def differing(seeds: range, spellings: int) -> list[str]:
    """What is answered otherwise; each model in `spellings` of the spellings."""
    found = []
    names = list(SPELLINGS)
    for seed in seeds:
        model = seeded_case(seed).model
        expected = None
        for at in range(spellings):
            spelling = names[(seed + at) % len(names)]
            other = spelled(model, spelling)
            if other is None:
                continue
            expected = expected or answer(model)
            if told := differs(other, expected):
                found.append(f"{seed}, {spelling}: {told}")
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
    assert differing(range(1000 + 50 * part, 1050 + 50 * part), len(SPELLINGS)) == []


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
