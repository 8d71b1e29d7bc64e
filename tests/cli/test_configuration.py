"""Configuration: flags over variables over the nearest file, and a key that means nothing is an error."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnfold.cli import main

MODEL = Path(__file__).parents[2] / "models/digits_cnn.onnx"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder in it, which is the working directory."""
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    return tmp_path


def run(*arguments: object, **variables: str) -> Result:
    return CliRunner(env=variables).invoke(main, [*map(str, arguments)])


def shown(*arguments: object, **variables: str) -> dict[str, tuple[str, str]]:
    """By flag: the value that `bnfold config show` prints, and the origin."""
    found = {}
    for line in run("config", "show", *arguments, **variables).stdout.splitlines()[1:]:
        flag, _, rest = line.partition(": ")
        value, _, origin = rest.rpartition(" (")
        found[flag.rpartition("--")[2]] = (value, origin.removesuffix(")"))
    return found


def test_flags_go_before_variables_before_the_file(folder: Path) -> None:
    (folder / "bnfold.toml").write_text('seed = 3\n[optimize]\nno-verify = true\nkeep = ["head/*"]\n')

    def asked(*flags: str, **variables: str) -> object:
        options = ["--report", "r.json", "--overwrite", *flags]
        assert run("optimize", MODEL, "o.onnx", *options, **variables).exit_code == 0
        return json.loads(Path("r.json").read_text())["options"]["seed"]

    assert asked() == 3
    assert asked(BNFOLD_SEED="4") == 4
    assert asked("--seed", "5", BNFOLD_SEED="4") == 5
    assert asked("--isolated", BNFOLD_SEED="4") == 0
    report = run("optimize", MODEL, "o.onnx", "--overwrite")
    assert "Verification was switched off." in report.stdout
    assert "--keep head/* matches no normalization" in report.stdout


def test_the_nearest_file_counts(folder: Path) -> None:
    (folder / "bnfold.toml").write_text("seed = 3\n")
    (folder / "inner/pyproject.toml").write_text("[project]\nname = 'bnfold-user'\n")
    assert shown("verify")["seed"] == ("3", str(folder / "bnfold.toml"))
    (folder / "inner/pyproject.toml").write_text("[tool.bnfold]\nseed = 8\n")
    assert shown("verify")["seed"] == ("8", str(folder / "inner/pyproject.toml"))
    assert shown("verify", "--config", folder / "bnfold.toml")["seed"][0] == "3"
    assert shown("verify", BNFOLD_SEED="9")["seed"] == ("9", "BNFOLD_SEED")


def test_everything_that_a_command_takes_is_shown(folder: Path) -> None:
    assert folder
    found = shown("optimize")
    assert found["seed"] == ("0", "default")
    assert found["keep"] == ("not given", "default")
    assert {"report", "timeout", "provider", "external-data"} <= found.keys()
    for flag in ("report", "max-memory", "server", "external-data"):
        assert found[flag] == ("not given", "default")


def test_paths_are_those_of_the_file(folder: Path) -> None:
    (folder / "bnfold.toml").write_text('[recalibrate]\ndata = "train.npz"\n')
    (folder / "train.npz").write_bytes(MODEL.with_name("digits_train.npz").read_bytes())
    result = run("recalibrate", MODEL.with_name("digits_cnn.onnx"), "o.onnx")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sede = 3", "no command has an option 'sede'; did you mean seed?"),
        ("[optimise]\nseed = 3", "there is no command 'optimise'; did you mean optimize?"),
        ("[inspect]\nseed = 3", "inspect has no option 'seed'"),
        ("seed = 'x'", "invalid value for '--seed'"),
        ("seed = [1, 2]", "seed is a text or a number, not [1, 2]"),
        ("no-verify = 'yes'", "no-verify is true or false, not 'yes'"),
        ("keep = [true]", "keep is a list of texts or numbers, not [True]"),
        ("seed = ", "is not TOML"),
    ],
)
def test_what_means_nothing_is_an_error(folder: Path, text: str, told: str) -> None:
    (folder / "bnfold.toml").write_text(text + "\n")
    result = run("optimize", MODEL, "o.onnx")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert told in result.stderr
    assert str(folder / "bnfold.toml") in result.stderr
    assert not Path("o.onnx").exists()


def test_a_variable_with_a_bad_value_is_named(folder: Path) -> None:
    assert folder
    result = run("verify", MODEL, MODEL, BNFOLD_SEED="x")
    assert (result.exit_code, result.stderr.startswith("bnfold: BNFOLD_SEED: ")) == (2, True)


@pytest.mark.usefixtures("folder")
def test_a_variable_that_nearly_means_something_is_an_error() -> None:
    for words in (("optimize", MODEL, "o.onnx"), ("config", "show")):
        result = run(*words, BNFOLD_KEP="head/*")
        assert result.exit_code == 2
        assert result.stderr.endswith(
            "no command has an option for the variable BNFOLD_KEP; did you mean BNFOLD_KEEP?\n"
        )
    for name in ("BNFOLD_TOKEN", "BNFOLD_RANDOM_GRAPHS", "BNFOLD_SPILL"):  # another command's, or none's
        assert run("inspect", MODEL, **{name: "1"}).exit_code == 0
    assert run("inspect", MODEL, "--isolated", BNFOLD_KEP="1").exit_code == 0


@pytest.mark.parametrize("flags", [["--config", "c.toml", "--isolated"], ["--isolated", "--config", "c.toml"]])
def test_a_file_and_none_contradict(folder: Path, flags: list[str]) -> None:
    assert folder
    Path("c.toml").write_text("seed = 3\n")
    result = run("verify", MODEL, MODEL, *flags)
    assert (result.exit_code, "contradict" in result.stderr) == (2, True)


def test_a_file_that_is_named_must_be_there(folder: Path) -> None:
    assert folder
    result = run("verify", MODEL, MODEL, "--config", "none.toml")
    assert (result.exit_code, "none.toml: cannot read the configuration" in result.stderr) == (2, True)


def test_a_batch_takes_what_is_said_of_its_command(folder: Path) -> None:
    (folder / "bnfold.toml").write_text("[optimize]\nno-verify = true\n")
    (folder / "inner/m.onnx").write_bytes(MODEL.read_bytes())
    result = run("batch", "optimize", "m.onnx", "--output", "out", "--jobs", "1", "--progress", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[0])["verdict"] == "not-verified"
