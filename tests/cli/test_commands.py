"""The skin alone: what reaches the api, what comes back out, with a stand-in for the api."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bnfold
from bnfold.cli import COMMANDS, main
from bnfold.decisions import Action, Decision, Reason
from bnfold.documentation import page_of_exit_code, page_of_reason
from bnfold.errors import (
    BnfoldError,
    ModelError,
    OutputError,
    ProviderError,
    ResourceLimitError,
    UsageError,
    VerificationError,
)
from bnfold.onnxfile import Layout, Weights
from bnfold.options import (
    FreezeOptions,
    InspectOptions,
    OptimizeOptions,
    Options,
    RecalibrateOptions,
    VerifyOptions,
)
from bnfold.report import Inspection, ModelSummary, NormalizationInfo, Report

SUMMARY = ModelSummary("in.onnx", "a" * 64, 41_234, 17, 3, 18, 9)
KEPT = Decision("bn", "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER)
EQUIVALENT = Report("equivalent", 0, (KEPT,), SUMMARY, SUMMARY, "out.onnx", {"measurements": [], "largest": None})
DIFFERENT = Report("not-equivalent", 1, (), SUMMARY, SUMMARY, None, {"largest": None}, "Output y is off by 1.")


def see(exit_code: int) -> str:
    """The end of the line that tells of a failure."""
    return f" (see {page_of_exit_code(exit_code)})"


class FakeApi(ModuleType):
    """Records what it is called with, and does as told."""

    def __init__(self) -> None:
        super().__init__("bnfold.api")
        self.calls: list[tuple[Any, ...]] = []
        self.outcome: Any = EQUIVALENT
        self.verdict = "equivalent"

    def _do(self, args: tuple[Any, ...]) -> None:
        self.calls.append(args)
        if isinstance(self.outcome, BaseException):
            raise self.outcome

    def optimize_with(self, *args: Any) -> Any:
        self._do(args)
        return SimpleNamespace(model=None, report=self.outcome)

    def inspect_with(self, *args: Any) -> Any:
        self._do(args)
        info = NormalizationInfo("bn", "BatchNormalization", "", "inference", 8, 1e-5, 0.9, "Relu r", KEPT)
        return Inspection(SUMMARY, (info,))

    def verify_with(self, *args: Any) -> Any:
        self._do(args)
        return SimpleNamespace(verdict=self.verdict, explanation="They differ.", to_dict=lambda: {"largest": None})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "bnfold.api", fake)
    monkeypatch.setattr(bnfold, "api", fake, raising=False)
    return fake


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.onnx").write_bytes(b"a model")
    (tmp_path / "in.py").write_text("")
    (tmp_path / "data.npz").write_bytes(b"data")
    yield
    assert (tmp_path / "in.onnx").read_bytes() == b"a model"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


DEFAULTS: dict[str, Options] = {
    "optimize": OptimizeOptions(checksums=False, distributions=False),
    "freeze": FreezeOptions(checksums=False, distributions=False),
    "recalibrate": RecalibrateOptions(checksums=False, distributions=False, data="data.npz"),
    "inspect": InspectOptions(),
    "verify": VerifyOptions(distributions=False),
}
ARGUMENTS = {
    "optimize": ["in.onnx", "out.onnx"],
    "freeze": ["in.onnx", "out.onnx"],
    "recalibrate": ["in.onnx", "out.onnx", "--data", "data.npz"],
    "inspect": ["in.onnx"],
    "verify": ["in.onnx", "out.onnx"],
}
MODELS = {command: [word for word in words if word.endswith(".onnx")] for command, words in ARGUMENTS.items()}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_the_defaults(api: FakeApi, command: str) -> None:
    assert run(command, *ARGUMENTS[command]).exit_code == 0
    assert api.calls == [(*MODELS[command], DEFAULTS[command])]


FEED_OPTIONS = [
    (["--seed", "7"], {"seed": 7}),
    (["--input-shape", "x:1,3,8,8"], {"input_shapes": {"x": (1, 3, 8, 8)}}),
    (["--input-shape", "x:[1, 3]", "--input-shape", "y:0:5"], {"input_shapes": {"x": (1, 3), "y:0": (5,)}}),
    (["--input-shape", "x:[]"], {"input_shapes": {"x": ()}}),
    (["--inputs", "in.onnx"], {"inputs": "in.onnx"}),
    (["--inputs", "in.py:feeds"], {"inputs": "in.py:feeds"}),
    (["--inputs", "."], {"inputs": "."}),
    (["--rtol", "1e-3", "--atol", "0"], {"rtol": 1e-3, "atol": 0.0}),
    (["--rtol", "y:0:1e-3", "--rtol", "z:0"], {"rtol": {"y:0": 1e-3, "z": 0.0}}),
    (["--atol", "y:1e-3", "--atol", "1e-6"], {"atol": {"y": 1e-3, "": 1e-6}}),
    (["--strict-placement"], {"strict_placement": True}),
    (["--provider", "cpu", "--provider", "cuda"], {"providers": ("cpu", "cuda")}),
    (["--proof"], {"proof": "always"}),
    (["--no-proof"], {"proof": "never"}),
]
REWRITE_OPTIONS = [
    (["--keep", "bn*", "--keep", "x"], {"keep": ("bn*", "x")}),
    (["--assume-constant-initializers"], {"assume_constant_initializers": True}),
    (["--lower"], {"lower": True}),
    (["--assume-spatial"], {"assume_spatial": True}),
    (["--strict-external-data"], {"strict_external_data": True}),
]
FREEZE_OPTIONS = [
    (["--keep-dropout"], {"keep_dropout": True}),
    (["--accept-initial-statistics"], {"accept_initial_statistics": True}),
]
CALIBRATION_OPTIONS = [
    (["--mode", "fast"], {"mode": "fast"}),
    (["--statistics", "torch"], {"statistics": "torch"}),
    (["--batch-size", "7"], {"batch_size": 7}),
    (["--mean", "0.485,0.456,0.406", "--std", "0.229"], {"mean": (0.485, 0.456, 0.406), "std": (0.229,)}),
    (["--image-layout", "NHWC"], {"image_layout": "NHWC"}),
    (["--labels", "answers"], {"labels": "answers"}),
    (
        ["--spill", ".", "--spill-limit", "0", "--spill-budget", "1.5G"],
        {"spill": ".", "spill_limit": 0, "spill_budget": 3 << 29},
    ),
    (["--labels", ""], {"labels": ""}),
]
LAYOUT_OPTIONS = [
    (["--inline"], {"layout": Layout(Weights.INLINE)}),
    (["--external-data=w.bin"], {"layout": Layout(Weights.EXTERNAL, "w.bin")}),
    (["--external-data", "--size-threshold", "7"], {"layout": Layout(Weights.EXTERNAL, None, 7)}),
]
OPTIMIZE_OPTIONS = [
    (["--dry-run"], {"dry_run": True}),
    (["--no-verify"], {"verify": False}),
    (["--allow-unverified"], {"allow_unverified": True}),
    (["--keep-failed"], {"keep_failed": True}),
    (["--report", "report.json"], {"checksums": True, "distributions": True}),
]


@pytest.mark.parametrize(
    ("command", "options", "changes"),
    [("optimize", *row) for row in FEED_OPTIONS + REWRITE_OPTIONS + FREEZE_OPTIONS + OPTIMIZE_OPTIONS]
    + [(command, *row) for command in ("optimize", "freeze", "recalibrate") for row in LAYOUT_OPTIONS]
    + [("optimize", ["--no-freeze"], {"freeze": False})]
    + [("optimize", ["--on-mismatch", "rollback"], {"on_mismatch": "rollback"})]
    + [("optimize", ["--statistics-from", "w.safetensors"], {"statistics_from": "w.safetensors"})]
    + [("optimize", ["--substitute", "layer-norm"], {"substitute": "layer-norm"})]
    + [("recalibrate", *row) for row in FEED_OPTIONS + FREEZE_OPTIONS + OPTIMIZE_OPTIONS + CALIBRATION_OPTIONS]
    + [("freeze", *row) for row in FEED_OPTIONS + FREEZE_OPTIONS + OPTIMIZE_OPTIONS]
    + [("inspect", *row) for row in REWRITE_OPTIONS + FREEZE_OPTIONS]
    + [("inspect", ["--explain", "bn"], {"explain": "bn"})]
    + [("verify", *row) for row in FEED_OPTIONS]
    + [("verify", ["--layers"], {"layers": True})]
    + [("verify", ["--assume-constant-initializers"], {"assume_constant_initializers": True})],
)
def test_an_option_reaches_the_api(api: FakeApi, command: str, options: list[str], changes: dict[str, Any]) -> None:
    result = run(command, *options, *ARGUMENTS[command])
    assert result.exit_code == 0, result.stderr
    assert api.calls == [(*MODELS[command], replace(DEFAULTS[command], **changes))]


@pytest.mark.parametrize(
    "arguments",
    [
        ["in.onnx"],
        [],
        ["in.onnx", "out.onnx", "third"],
        ["in.onnx", "out.onnx", "--input-shape", "1,3"],
        ["in.onnx", "out.onnx", "--input-shape", ":1,3"],
        ["in.onnx", "out.onnx", "--input-shape", "x:"],
        ["in.onnx", "out.onnx", "--input-shape", "x:1,N"],
        ["in.onnx", "out.onnx", "--input-shape", "x:1,0"],
        ["in.onnx", "out.onnx", "--input-shape", "x:1,-1"],
        ["in.onnx", "out.onnx", "--input-shape", "x:1,"],
        ["in.onnx", "out.onnx", "--input-shape", "x:1", "--input-shape", "x:2"],
        ["in.onnx", "out.onnx", "--inputs", "missing.npz"],
        ["in.onnx", "out.onnx", "--inputs", "missing.py:feeds"],
        ["in.onnx", "out.onnx", "--rtol", ":1e-3"],
        ["in.onnx", "out.onnx", "--rtol", "y:"],
        ["in.onnx", "out.onnx", "--rtol", "y:-1"],
        ["in.onnx", "out.onnx", "--rtol", "y:1", "--rtol", "y:2"],
        ["in.onnx", "out.onnx", "--rtol", "1", "--rtol", "2"],
        ["in.onnx", "out.onnx", "--rtol", "-1"],
        ["in.onnx", "out.onnx", "--rtol", "nan"],
        ["in.onnx", "out.onnx", "--atol", "much"],
        ["in.onnx", "out.onnx", "--seed", "-1"],
        ["in.onnx", "out.onnx", "-q", "-v"],
        ["in.onnx", "out.onnx", "--report", "in.onnx"],
        ["in.onnx", "out.onnx", "--report", "out.onnx"],
        ["in.onnx", "out.onnx", "--nosuch"],
        ["in.onnx", "out.onnx", "--data", "data.npz"],
        ["in.onnx", "out.onnx", "--substitute-only", "bn"],
        ["in.onnx", "out.onnx", "--on-mismatch", "shrug"],
        ["in.onnx", "out.onnx", "--mode", "fast"],
        ["in.onnx", "out.onnx", "--substitute", "group-norm", "--labels", "y"],
        ["in.onnx", "out.onnx", "--statistics-from", "w.safetensors", "--batch-size", "64"],
    ],
)
def test_a_wrong_request_is_refused_before_any_work(api: FakeApi, arguments: list[str]) -> None:
    result = run("optimize", *arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert result.stdout == ""
    assert api.calls == []


def test_a_dry_run_needs_no_output(api: FakeApi) -> None:
    assert run("optimize", "in.onnx", "--dry-run").exit_code == 0
    assert api.calls[0][:2] == ("in.onnx", None)


FAILURES = [
    (BnfoldError("went wrong"), 1, "went wrong"),
    (UsageError("no such input"), 2, "no such input"),
    (ModelError("in.onnx is empty"), 3, "in.onnx is empty"),
    (OutputError("disk full"), 4, "disk full"),
    (ProviderError("no cuda"), 5, "no cuda"),
    (ResourceLimitError("too slow"), 6, "too slow"),
    (MemoryError(), 6, "out of memory"),
    (PermissionError(13, "Permission denied", "x.data"), 4, "x.data: Permission denied"),
    (ValueError("odd\nvalue"), 70, "ValueError: odd value"),
    (RuntimeError(), 70, "RuntimeError"),
    (RecursionError("too deep"), 70, "RecursionError: too deep"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ModelError("name \x1b[2J\r\n twice"), 3, r"name \x1b[2J twice"),
]
IDS = [f"{type(error).__name__}-{code}" for error, code, _ in FAILURES]


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize(("error", "code", "message"), FAILURES, ids=IDS)
def test_a_failure_is_one_line_and_its_exit_code(
    api: FakeApi, command: str, error: BaseException, code: int, message: str
) -> None:
    api.outcome = error
    result = run(command, *ARGUMENTS[command])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("bnfold: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_failure_gives_no_orders_to_a_ci_service(api: FakeApi) -> None:
    api.outcome = ModelError("node 'n##[stop-commands]x' is odd")
    assert run("inspect", "in.onnx").stderr == f"bnfold: node 'n##\\[stop-commands]x' is odd{see(3)}\n"


@pytest.mark.parametrize(("error", "code", "message"), FAILURES, ids=IDS)
def test_the_traceback_is_there_for_who_asks(api: FakeApi, error: BaseException, code: int, message: str) -> None:
    api.outcome = error
    result = run("optimize", "in.onnx", "out.onnx", "-vv")
    assert result.exit_code == code
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in run("optimize", "in.onnx", "out.onnx", "-v").stderr


@pytest.mark.parametrize(("error", "code", "message"), FAILURES, ids=IDS)
def test_a_failing_run_replaces_the_report_of_the_last_one(
    api: FakeApi, error: BaseException, code: int, message: str
) -> None:
    report = Path("report.json")
    assert run("optimize", "in.onnx", "out.onnx", "--report", "report.json").exit_code == 0
    assert json.loads(report.read_text())["verdict"] == "equivalent"
    api.outcome = error
    run("optimize", "in.onnx", "out.onnx", "--report", "report.json")
    content = json.loads(report.read_text())
    assert (content["verdict"], content["exit_code"]) == ("not-verified", code)
    assert content["error"] == type(error).__name__
    assert message in content["explanation"]


def test_a_failed_verification_is_reported_like_a_good_one(api: FakeApi) -> None:
    api.outcome = VerificationError("out.onnx was not written: output y is off by 1", DIFFERENT)
    result = run("optimize", "in.onnx", "out.onnx", "--report", "report.json")
    assert result.exit_code == 1
    assert "not-equivalent" in result.stdout
    assert result.stderr == f"bnfold: out.onnx was not written: output y is off by 1{see(1)}\n"
    assert json.loads(Path("report.json").read_text())["kind"] == "optimize"
    assert json.loads(Path("report.json").read_text())["verdict"] == "not-equivalent"


def test_a_report_that_is_not_good_decides_the_exit_code(api: FakeApi) -> None:
    api.outcome = DIFFERENT
    result = run("optimize", "in.onnx", "--dry-run")
    assert result.exit_code == 1
    assert result.stderr == f"bnfold: Output y is off by 1.{see(1)}\n"


@pytest.mark.parametrize("command", ARGUMENTS)
def test_quiet_says_nothing_of_success(api: FakeApi, command: str) -> None:
    result = run(command, *ARGUMENTS[command], "-q")
    assert (result.exit_code, result.output) == (0, "")
    assert len(api.calls) == 1


def test_quiet_says_what_failed(api: FakeApi) -> None:
    api.outcome = VerificationError("output y is off by 1", DIFFERENT)
    result = run("optimize", "in.onnx", "out.onnx", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"bnfold: output y is off by 1{see(1)}\n")


@pytest.mark.parametrize(
    ("verdict", "found"), [("not-equivalent", "is not equivalent to"), ("not-verified", "was not verified against")]
)
def test_verify_exits_1_unless_equivalent(api: FakeApi, verdict: str, found: str) -> None:
    api.verdict = verdict
    result = run("verify", "in.onnx", "out.onnx", "--report", "report.json")
    assert result.exit_code == 1
    assert result.stdout.startswith(verdict)
    assert result.stderr == f"bnfold: out.onnx {found} in.onnx: They differ.{see(1)}\n"
    content = json.loads(Path("report.json").read_text())
    assert (content["kind"], content["verdict"], content["exit_code"]) == ("verify", verdict, 1)


@pytest.mark.parametrize("path", ["missing/report.json", ".", "in.onnx/report.json"])
@pytest.mark.parametrize("command", ["optimize", "verify"])
def test_a_report_that_cannot_be_written_stops_the_run_before_the_work(api: FakeApi, command: str, path: str) -> None:
    result = run(command, *ARGUMENTS[command], "--report", path)
    assert result.exit_code == 4
    assert result.stderr.startswith(f"bnfold: the report cannot be written to {path}: ")
    assert api.calls == []


def test_a_report_lost_at_the_end_is_said_after_what_was_done(api: FakeApi) -> None:
    result = run("optimize", "in.onnx", "out.onnx", "--report", "/dev/full")
    assert result.exit_code == 4
    assert "written: out.onnx" in result.stdout
    assert result.stderr == f"bnfold: the report cannot be written to /dev/full: No space left on device{see(4)}\n"
    assert len(api.calls) == 1


@pytest.mark.parametrize("command", ["optimize", "verify"])
def test_a_dash_gives_the_report_alone_on_standard_output(api: FakeApi, command: str) -> None:
    result = run(command, *ARGUMENTS[command], "--report", "-")
    assert json.loads(result.stdout)["verdict"] == "equivalent"
    assert not Path("-").exists()
    api.outcome = ModelError("in.onnx is empty")
    assert json.loads(run(command, *ARGUMENTS[command], "--report", "-").stdout)["exit_code"] == 3


def test_inspect_fails_on_what_it_is_asked_to(api: FakeApi) -> None:
    result = run("inspect", "in.onnx", "in.onnx", "--fail-on", "BARRIER", "--fail-on", "TINY_VARIANCE")
    assert (result.exit_code, len(api.calls)) == (1, 2)
    assert result.stderr == f"bnfold: in.onnx: BARRIER; in.onnx: BARRIER (see {page_of_reason('BARRIER')})\n"
    assert run("inspect", "in.onnx", "--fail-on", "TINY_VARIANCE").exit_code == 0


def test_inspect_knows_the_codes(api: FakeApi) -> None:
    result = run("inspect", "in.onnx", "--fail-on", "NO_SUCH_CODE")
    assert (result.exit_code, api.calls) == (2, [])
    assert "EXPORTED_IN_TRAINING_MODE" in result.stderr


def test_inspect_prints_json_of_one_model(api: FakeApi) -> None:
    result = run("inspect", "in.onnx", "in.onnx", "--json")
    assert (result.exit_code, result.stdout, api.calls) == (2, "", [])


def test_inspect_prints_text_or_json(api: FakeApi) -> None:
    assert "would be kept" in run("inspect", "in.onnx").stdout
    content = json.loads(run("inspect", "in.onnx", "--json").stdout)
    assert content["normalizations"][0]["node"] == "bn"
    assert len(api.calls) == 2


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], *([*name.split(), "--help"] for name in [*COMMANDS, "report render", "report judge"])],
)
def test_help_fits_an_80_column_terminal(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_command_is_introduced() -> None:
    text = run("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in text


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("optimise")
    assert result.exit_code == 2
    assert result.stderr == "bnfold: bnfold has no command 'optimise'; did you mean optimize?\n"
