"""Usage errors: one line, exit code 2, and what was probably meant."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnfold.cli import COMMANDS, main
from bnfold.cli.mistakes import COMMANDS_MEANT, OPTIONS_MEANT
from bnfold.documentation import page_of_exit_code
from bnfold.options.fields import SECTIONS

TIMEOUT = (
    "invalid value for '--timeout': '5x' is not a number of seconds, like 60, or 5m or 2h; "
    "bnfold optimize --help tells more"
)
MODEL = Path(__file__).parents[2] / "models/digits_cnn.onnx"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("optimise a b", "bnfold has no command 'optimise'; did you mean optimize?"),
        ("compare a b", "bnfold has no command 'compare'; did you mean verify?"),
        ("frobnicate", "bnfold has no command 'frobnicate'; bnfold --help tells more"),
        ("m.onnx", "a command comes before m.onnx: bnfold optimize m.onnx OUTPUT"),
        ("report r.json", "a command comes before r.json: bnfold report render r.json OUTPUT"),
        ("--frobnicate", "bnfold has no option --frobnicate; bnfold --help tells more"),
        ("optimize a b --force", "optimize has no option --force; did you mean --overwrite?"),
        ("optimize a b --no-verfy", "optimize has no option --no-verfy; did you mean --no-verify?"),
        ("optimize a b --frobnicate", "optimize has no option --frobnicate; bnfold optimize --help tells more"),
        ("inspect a --force", "inspect has no option --force; bnfold inspect --help tells more"),
        ("optimize", "missing argument 'MODEL': bnfold optimize MODEL [OUTPUT]"),
        ("optimize a b c", "got unexpected extra argument (c); bnfold optimize --help tells more"),
        ("optimize a b --timeout 5x", TIMEOUT),
    ],
)
def test_a_usage_error_is_one_line(line: str, told: str) -> None:
    result = run(*line.split())
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"bnfold: {told}\n", "")


@pytest.mark.parametrize("program", ["bnfold", "python -m bnfold"])
def test_an_error_names_the_command_however_it_is_called(program: str) -> None:
    result = CliRunner().invoke(main, ["inspect", "a", "--force"], prog_name=program)
    assert result.stderr == f"bnfold: inspect has no option --force; {program} inspect --help tells more\n"


def test_what_is_suggested_exists() -> None:
    assert set(COMMANDS_MEANT.values()) <= COMMANDS.keys()
    flags = {name for command in COMMANDS for name in _options(command)}
    assert {meant.split()[0] for meant in OPTIONS_MEANT.values()} <= flags
    assert not flags & (OPTIONS_MEANT.keys() - {"--json"})


def _options(command: str) -> set[str]:
    found = main.get_command(None, command)  # type: ignore[arg-type]
    assert found is not None
    return {name for param in found.params if not getattr(param, "hidden", False) for name in param.opts}


def test_help_is_a_command_too() -> None:
    assert run("help").stdout == run("--help").stdout
    assert run("help", "verify").stdout == run("verify", "--help").stdout


@pytest.mark.parametrize("command", ["optimize", "freeze", "inspect"])
def test_a_folder_points_to_batch(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path, *(["out.onnx"] if command != "inspect" else []))
    assert (result.exit_code, f"bnfold batch {command} {tmp_path} --output FOLDER" in result.stderr) == (3, True)


def test_inspect_goes_on_after_a_bad_model(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    result = run("inspect", tmp_path / "bad.onnx", MODEL)
    assert result.exit_code == 3
    assert "5 normalizations" in result.stdout
    assert result.stderr.splitlines()[-1] == f"bnfold: 1 of 2 models could not be read (see {page_of_exit_code(3)})"


def test_an_error_ends_with_the_page_that_says_more(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "none.onnx")
    assert result.stderr.endswith(f" (see {page_of_exit_code(3)})\n")
    result = run("inspect", MODEL, "--fail-on", "INITIAL_STATISTICS")
    assert (result.exit_code, result.stderr) == (0, "")


def test_wrong_usage_names_no_page(tmp_path: Path) -> None:
    assert "(see " not in run("optimize", MODEL, tmp_path / "o.onnx", "--size-threshold", 3).stderr


@pytest.mark.parametrize("command", ["optimize", "export", "freeze", "recalibrate", "verify", "inspect"])
def test_help_lists_every_option_once_in_sections(command: str) -> None:
    text = run(command, "--help").stdout
    headings = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith((" ", "Usage"))]
    assert [each for each in ("Options", *SECTIONS) if each in headings] == headings
    assert len(headings) > 2
    listed = re.findall(r"^  (?:-[a-z], )?(--[a-z-]+)", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {name for name in _options(command) if name.startswith("--")} <= set(listed)


# ---------------------------------------------------------------------- where the result goes


def test_output_as_an_option_and_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert run("optimize", MODEL, "-o", tmp_path / "o.onnx").exit_code == 0
    assert run("optimize", MODEL, tmp_path / "folder").exit_code == 0
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "folder/digits_cnn.onnx").read_bytes()


def test_the_folder_of_the_model_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(MODEL.read_bytes())
    result = run("optimize", tmp_path / "m.onnx", "--output", tmp_path)
    assert (result.exit_code, "name the file in it" in result.stderr) == (2, True)
    assert (tmp_path / "m.onnx").read_bytes() == MODEL.read_bytes()


def test_output_is_given_once() -> None:
    result = run("optimize", MODEL, "a.onnx", "-o", "b.onnx")
    assert (result.exit_code, "given twice" in result.stderr) == (2, True)


def test_a_model_comes_and_goes_through_standard_streams(tmp_path: Path) -> None:
    run("optimize", MODEL, tmp_path / "o.onnx")
    result = CliRunner().invoke(main, ["optimize", "-", "-"], input=MODEL.read_bytes())
    assert result.exit_code == 0
    assert result.stdout_bytes == (tmp_path / "o.onnx").read_bytes()
    assert "written: standard output" in result.stderr


def test_nothing_goes_to_standard_output_where_there_is_no_result() -> None:
    result = CliRunner().invoke(main, ["optimize", "-", "-"], input=b"no model")
    assert (result.exit_code, result.stdout_bytes) == (3, b"")


def test_one_of_two_models_may_be_standard_input() -> None:
    result = CliRunner().invoke(main, ["verify", "-", str(MODEL)], input=MODEL.read_bytes())
    assert result.exit_code == 0
    assert run("verify", "-", "-").exit_code == 2


@pytest.mark.parametrize(
    "more", [["--report", "-"], ["--keep-failed"], ["--external-data", "w.bin"], ["--server", "http://127.0.0.1:1"]]
)
def test_what_does_not_go_with_standard_output(more: list[str]) -> None:
    result = run("optimize", MODEL, "-", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["cpu", "CPUExecutionProvider"])
def test_a_provider_by_either_name(name: str) -> None:
    assert run("verify", MODEL, MODEL, "--provider", name, "--timeout", "5m").exit_code == 0
