"""The committed schema: true of everything bnfold writes and wrote, and not of what is nearly that."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from onnx import numpy_helper, parser

from bnfold.cli import main
from bnfold.decisions import Action
from bnfold.equivalence import Placement, Rule, Standing, Verdict
from bnfold.report import FORMAT_VERSION, read_report
from bnfold.report.schema import schema
from tests.report_samples import OLD, everything

OPEN, STRICT = Draft202012Validator(schema()), Draft202012Validator(schema(strict=True))
# Objects whose keys are names or options, which nobody can list.
FREE = {
    "options",
    "shapes",
    "nodes",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
    "packages",
    "right",
    "outputs",
    "spent",
}


def problems(validator: Draft202012Validator, report: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(report)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())
    Draft202012Validator.check_schema(schema(strict=True))
    assert schema()["properties"]["format"] == {"const": FORMAT_VERSION}


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_reports_that_were_written_before_stay_valid(path: Path) -> None:
    assert problems(STRICT, read_report(path)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((3, 2, 3, 3)), "v": random.uniform(0.5, 2, 3)}
    weights |= {name: random.standard_normal(3) for name in "ghm"}

    def save(name: str, nodes: str, **changed: Any) -> None:
        text = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,2,5,7] x) => (float[N,3,5,7] y) { '
        proto = parser.parse_model(f"{text} c = Conv<pads=[1,1,1,1]>(x, w) {nodes} }}")
        for key, value in (weights | changed).items():
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), key))
        onnx.save(proto, folder / f"{name}.onnx")

    norm = "BatchNormalization(c, g, h, m, v)"
    save("fold", f"y = {norm}")
    save("other", f"y = {norm}", h=weights["h"] + 0.5)
    save("kept", "s = Sigmoid(c) n = BatchNormalization(s, g, h, m, v) y = Relu(n)")
    save("train", "y, a, b = BatchNormalization<training_mode=1>(c, g, h, m, v)")
    save("renamed", "z = BatchNormalization(c, g, h, m, v) y = Abs(z)")
    np.savez(folder / "x.npz", x=random.standard_normal((4, 2, 5, 7)).astype(np.float32))
    return folder


RUNS = {
    "folded": ["optimize", "fold.onnx", "out.onnx"],
    "kept": ["optimize", "kept.onnx", "out.onnx"],
    "lowered": ["optimize", "kept.onnx", "out.onnx", "--lower"],
    "dry run": ["optimize", "fold.onnx", "--dry-run"],
    "switched off": ["optimize", "fold.onnx", "out.onnx", "--no-verify"],
    "tolerance": ["optimize", "fold.onnx", "out.onnx", "--rtol", "1e-12"],
    "layout": ["optimize", "fold.onnx", "out.onnx", "--external-data=weights", "--size-threshold", "10"],
    "training mode": ["optimize", "train.onnx", "out.onnx"],
    "freeze": ["freeze", "train.onnx", "out.onnx"],
    "recalibrate": ["recalibrate", "fold.onnx", "out.onnx", "--data", "x.npz"],
    "and fold": ["optimize", "fold.onnx", "out.onnx", "--recalibrate", "x.npz", "--mode", "fast"],
    "substitute": ["optimize", "fold.onnx", "out.onnx", "--substitute", "group-norm:1", "--data", "x.npz"],
    "failure": ["optimize", "missing.onnx", "out.onnx"],
    "same": ["verify", "fold.onnx", "fold.onnx"],
    "different": ["verify", "fold.onnx", "other.onnx", "--input-shape", "x:2,2,5,7"],
    "layers": ["verify", "fold.onnx", "other.onnx", "--layers"],
    "layers that agree": ["verify", "fold.onnx", "fold.onnx", "--layers"],
    "one output": ["verify", "fold.onnx", "other.onnx", "--rtol", "y:9", "--atol", "1e-6", "--inputs", "x.npz"],
    "no statistics": ["optimize", "train.onnx", "out.onnx", "--statistics-from", "missing.safetensors"],
}


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_every_kind_of_run_writes_a_valid_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, [*arguments, "--report", "report.json", "-q"])
    assert result.exit_code in (0, 1, 2, 3)
    report = read_report("report.json")
    Path("report.json").unlink()
    assert report["exit_code"] == result.exit_code
    assert problems(STRICT, report) == []
    assert report["environment"]["packages"]["onnx"] == onnx.__version__


@pytest.mark.parametrize("model", ["fold.onnx", "train.onnx", "kept.onnx"])
def test_inspections_are_valid(folder: Path, model: str) -> None:
    result = CliRunner().invoke(main, ["inspect", str(folder / model), "--json"])
    assert problems(STRICT, json.loads(result.stdout)) == []


def test_the_report_of_a_judgement_is_valid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = CliRunner().invoke
    assert run(main, ["verify", "fold.onnx", "other.onnx", "--report", "first.json"]).exit_code == 1
    assert run(main, ["report", "judge", "first.json", "--rtol", "9", "--report", "again.json"]).exit_code == 0
    assert problems(STRICT, read_report("again.json")) == []


def test_what_has_everything_is_valid() -> None:
    assert problems(STRICT, everything()) == []


def test_the_words_are_those_of_the_code() -> None:
    definitions = schema()["$defs"]
    assert definitions["decision"]["properties"]["action"]["enum"] == [each.value for each in Action]
    assert definitions["judgement"]["properties"]["rule"]["enum"] == [each.value for each in Rule]
    assert set(definitions["verdict"]["enum"]) == {each.value for each in Verdict} | {"substituted"}
    assert set(definitions["verification"]["properties"]["verdict"]["enum"]) == {each.value for each in Verdict}
    assert definitions["proof"]["properties"]["standing"]["enum"] == [each.value for each in Standing]


def test_placements_are_valid_as_the_code_writes_them() -> None:
    report = everything()
    placement = Placement("cpu", "on", "strict", ("CPUExecutionProvider",), {"CPUExecutionProvider": {"Conv": 1}})
    report["verification"]["placements"] = [placement.to_dict()]
    assert problems(STRICT, report) == []


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all objects whose keys the schema lists."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            if key not in FREE:
                yield from objects(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from objects(item, (*path, index))


def at(report: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        report = report[step]
    return report


@pytest.mark.parametrize("path", list(objects(everything())), ids=lambda path: ".".join(map(str, path)) or "report")
def test_a_misspelt_key_is_found_and_a_new_one_is_welcome(path: tuple[Any, ...]) -> None:
    report = everything()
    for key in list(at(report, path)):
        wrong = copy.deepcopy(report)
        spelled = at(wrong, path)
        spelled[f"{key}s"] = spelled.pop(key)
        assert not STRICT.is_valid(wrong), key
    later = copy.deepcopy(report)
    at(later, path)["added_by_a_later_version"] = 1
    assert problems(OPEN, later) == []
    assert not STRICT.is_valid(later)


@pytest.mark.parametrize(
    "key", ["format", "verdict", "exit_code", "explanation", "input", "decisions", "verification", "options"]
)
def test_what_a_reader_relies_on_is_missed_by_the_open_schema_as_well(key: str) -> None:
    report = everything()
    del report[key]
    assert problems(OPEN, report) != []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kind",), "optimise"),
        (("format",), 2),
        (("verdict",), "equal"),
        (("exit_code",), "0"),
        (("input", "nodes"), -1),
        (("input", "sha256"), "0" * 63),
        (("decisions", 0, "action"), "fold"),
        (("verification", "measurements", 0, "max_abs"), "inf"),
        (("verification", "measurements", 0, "judgement", "rule"), "guess"),
    ],
)
def test_a_wrong_value_is_found(path: tuple[Any, ...], value: Any) -> None:
    report = everything()
    at(report, path[:-1])[path[-1]] = value
    assert problems(OPEN, report) != []
