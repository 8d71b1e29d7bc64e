"""An option is one field: keywords, flags, the report and the command that makes a run again follow from it."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import bnfold
from bnfold.cli import COMMANDS as CLI_COMMANDS
from bnfold.cli import main
from bnfold.cli.options import flags_of, values_of
from bnfold.errors import UsageError
from bnfold.onnxfile import Layout, Weights
from bnfold.options import (
    COMMANDS,
    CalibrationOptions,
    DataOptions,
    FreezeOptions,
    InspectOptions,
    OptimizeOptions,
    Options,
    RecalibrateOptions,
    VerifyOptions,
    keywords,
    kinds,
    option,
    options_of,
)
from bnfold.options.kinds import Address, DataSet, Flag, Folder, Group, Kind, Names, Size, Whole
from bnfold.options.kinds import Weights as WeightsKind
from bnfold.passes import PassOptions


class More(OptimizeOptions):
    """The options of `optimize` and three more, each added in one line."""

    careful: bool = option(Flag(), False, "Look twice.")
    tidy: bool = option(Flag(), True, "Leave a mess.")
    hands: int = option(Whole(1), 4, "At most so many at a time.", metavar="COUNT")


# --- one place


def test_a_new_field_is_a_keyword_of_the_library() -> None:
    def optimize(model: str, output: str | None, options: More) -> tuple[str, str | None, More]:
        return model, output, options

    door = keywords(More, optimize, output=None)
    assert door("m") == ("m", None, More())
    assert door("m", output="o", hands=8, careful=True) == ("m", "o", More(hands=8, careful=True))
    assert list(inspect.signature(door).parameters) == ["model", "output", *(each.name for each in fields(More))]
    with pytest.raises(TypeError, match="unexpected keyword argument 'thraeds'"):
        door("m", thraeds=8)
    with pytest.raises(UsageError, match="hands is a whole number from 1 up, not 0"):
        door("m", hands=0)


def test_a_new_field_is_a_flag_of_the_command() -> None:
    @click.command()
    @flags_of(More)
    def command(**given: Any) -> None:
        click.echo(repr(values_of(More, given)))

    def read(*words: str) -> str:
        return CliRunner().invoke(command, words).output.strip()

    assert read() == repr(More(calibration=CalibrationOptions()))
    changed = More(careful=True, tidy=False, hands=8, calibration=CalibrationOptions())
    assert read("--careful", "--no-tidy", "--hands", "8") == repr(changed)
    described = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "--hands COUNT At most so many at a time. [default: 4; x>=1]" in described
    assert "--no-tidy Leave a mess." in described


def test_a_new_field_is_reported_and_spelled_again() -> None:
    asked = More(careful=True, tidy=False, hands=8).to_dict()
    assert {name: asked[name] for name in ("careful", "tidy", "hands")} == {
        "careful": True, "tidy": False, "hands": 8
    }  # fmt: skip
    assert list(More.words(asked)) == ["--careful", "--no-tidy", "--hands", "8"]
    assert list(More.words(More().to_dict())) == []
    assert More.from_dict(asked) == More(careful=True, tidy=False, hands=8)


# --- the commands there are


DOORS = {
    bnfold.optimize: OptimizeOptions,
    bnfold.freeze: FreezeOptions,
    bnfold.recalibrate: DataOptions,
    bnfold.inspect: InspectOptions,
    bnfold.verify: VerifyOptions,
}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_the_signature_of_the_library_holds_every_option(door: Any) -> None:
    signature = inspect.signature(door).parameters
    for each in fields(DOORS[door]):
        assert signature[each.name].default == each.default
        assert signature[each.name].kind is inspect.Parameter.KEYWORD_ONLY
    others = set(signature) - {each.name for each in fields(DOORS[door])}
    assert others <= {"model", "output", "batches", "reference", "candidate"}


ONLY_FROM_PYTHON = {"fold", "checksums", "distributions", "isolate", "progress"}
OF_ITS_OWN_FLAGS = {"layout": {"external_data", "inline", "size_threshold"}}


def flat(options: type[Options]) -> set[str]:
    found = set()
    for each in options_of(options):
        if isinstance(each.kind, Group):
            found |= flat(each.kind.options)
        else:
            found |= OF_ITS_OWN_FLAGS.get(each.name, {each.name})
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_has_every_option(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    given = [each for each in command.params if isinstance(each, click.Option)]
    flags = {each.name for each in given}
    assert flat(COMMANDS[name]) - flags <= ONLY_FROM_PYTHON
    assert not ONLY_FROM_PYTHON & {each.name for each in given if each.expose_value}
    assert len(flags) == len(given)


def test_every_command_that_works_on_models_has_options() -> None:
    assert set(CLI_COMMANDS) - set(COMMANDS) == {"export", "passes", "report", "schema", "serve", "batch", "config"}


def test_the_defaults_of_the_passes_are_not_said_twice_otherwise() -> None:
    asked = {each.name: each.default for each in options_of(InspectOptions)}
    for each in fields(PassOptions):
        if each.name in asked and each.name != "freeze":
            assert asked[each.name] == each.default, each.name


# --- values


WRONG: dict[str, list[Any]] = {
    "verify": [1, "yes", None],
    "seed": [-1, 1.5, "7", True, None],
    "keep": ["bn*", [1], 3],
    "providers": ["cpu", None],
    "input_shapes": [[1, 3], {"x": 3}, {"x": [1.5]}, {1: [1]}],
    "rtol": ["1e-3", -1, float("nan"), {"y": -1}, {"y": "1"}, True],
    "proof": ["yes", True, None],
    "on_mismatch": ["shrug"],
    "layout": ["inline", {"weights": "nowhere"}, {"where": "inline"}, {"size_threshold": -1}],
    "calibration": ["fast", {"mode": "slow"}, {"speed": 1}, {"batch_size": 0}, {"mean": "0"}, {"std": [float("inf")]}],
    "statistics_from": [3],
    "known_sha256": ["abc", "G" * 64, 3],
    "substitute": [3],
    "data": [True, 7],
    "progress": [3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_a_usage_error_that_names_the_option(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        OptimizeOptions(**{name: value})
    named = next(iter(value)) if name == "calibration" and isinstance(value, dict) else name
    assert str(named) in str(caught.value)


def test_values_are_kept_in_one_form() -> None:
    options = OptimizeOptions(
        seed=np.int64(3),  # type: ignore[arg-type]  # numpy's integers are no int for the type checker
        keep=(name for name in ("a", "b")),  # type: ignore[arg-type]  # any iterable works
        input_shapes={"x": [1, np.int32(2)]},  # type: ignore[list-item]
        rtol=1,
    )
    assert (options.seed, options.keep, options.input_shapes) == (3, ("a", "b"), {"x": (1, 2)})
    assert isinstance(options.rtol, float)


FULL: dict[str, dict[str, Any]] = {
    "optimize": {
        "seed": 3, "input_shapes": {"x": (1, 2)}, "inputs": "f.npz", "rtol": {"y": 0.5, "": 1.0},
        "providers": ["cpu", "cuda"], "proof": "never", "keep": ["a"], "recalibrate": "d.npz",
        "layout": Layout(Weights.EXTERNAL, "w.bin", 7),
        "calibration": CalibrationOptions(mode="fast", mean=(0.25, 0.5), labels=""), "freeze": False, "fold": False,
    },
    "freeze": {"verify": False, "dry_run": True},
    "recalibrate": {
        "data": "d.npz", "mode": "fast", "std": [0.5], "statistics": "torch", "spill": ".", "spill_limit": 0,
        "spill_budget": 5 << 30,
    },
    "inspect": {"explain": "bn", "lower": True},
    "verify": {"layers": True, "atol": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_the_plain_form_says_everything(name: str) -> None:
    options = COMMANDS[name](**FULL[name])
    plain = json.loads(json.dumps(options.to_dict()))
    assert COMMANDS[name].from_dict(plain) == options
    assert COMMANDS[name].from_dict({}) == COMMANDS[name]()


@pytest.mark.parametrize("name", ["inspect", "verify", "freeze", "recalibrate"])
def test_what_is_spelled_is_read_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = COMMANDS[name](**FULL[name])

    @click.command()
    @flags_of(type(options))
    def command(**given: Any) -> None:
        click.echo(repr(values_of(type(options), given)))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.npz").touch()
    read = CliRunner().invoke(command, list(type(options).words(options.to_dict())))
    assert read.output.strip() == repr(options)


def test_a_name_that_is_no_option_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no option 'provider'; did you mean providers"):
        OptimizeOptions.from_dict({"provider": ["cpu"]})
    with pytest.raises(UsageError, match="there is no option 'progress'"):
        OptimizeOptions.from_dict({"progress": None})


@pytest.mark.parametrize("name", COMMANDS)
def test_what_names_files_here_cannot_come_from_elsewhere(name: str) -> None:
    local = {each.name for each in options_of(COMMANDS[name]) if not each.remote}
    room = {each.name for each in options_of(COMMANDS[name]) if isinstance(each.kind, Folder | Size | Address)}
    assert local == room | {each.name for each in options_of(COMMANDS[name]) if each.is_read}
    for each in local:
        with pytest.raises(UsageError, match=f"{each} is about files, code or room of the machine"):
            COMMANDS[name].from_dict({each: "/etc/passwd"}, remote=True)
    assert COMMANDS[name].from_dict(COMMANDS[name]().to_dict(), remote=True) == COMMANDS[name]()


def test_data_of_python_has_no_plain_form() -> None:
    plain = OptimizeOptions(inputs=[{"x": 1}]).to_dict()
    assert plain["inputs"] is True
    with pytest.raises(UsageError, match="inputs is data"):
        OptimizeOptions.from_dict(plain)


def test_the_paths_that_are_read_are_known() -> None:
    options = OptimizeOptions(inputs="f.npz", recalibrate=[1], statistics_from="w.safetensors", data="s.py:f")
    assert sorted((each.name, path) for each, path in options.paths_read()) == [
        ("data", "s.py:f"),
        ("inputs", "f.npz"),
        ("statistics_from", "w.safetensors"),
    ]


def test_freeze_and_recalibrate_are_optimize_without_folds() -> None:
    assert OptimizeOptions.of(FreezeOptions(seed=3)) == OptimizeOptions(fold=False, seed=3)
    made = OptimizeOptions.of(RecalibrateOptions(data="d.npz", mode="fast", keep=("a",)))
    how = CalibrationOptions(mode="fast")
    assert made == OptimizeOptions(fold=False, recalibrate="d.npz", calibration=how, keep=("a",))
    made = OptimizeOptions.of(RecalibrateOptions(statistics_from="w.safetensors"))
    assert made == OptimizeOptions(fold=False, statistics_from="w.safetensors")


OF_A_COMPARISON = {
    "seed": 3, "input_shapes": {"x": (1, 3)}, "inputs": "feeds.npz", "rtol": 0.1, "atol": {"y": 0.2},
    "providers": ("cuda",), "strict_placement": True, "proof": "always", "thorough": True, "threads": 2,
    "distributions": False, "assume_constant_initializers": True, "isolate": True,
}  # fmt: skip


def test_an_option_of_the_comparison_reaches_it_from_every_command() -> None:
    assert {each.name for each in options_of(VerifyOptions)} == {*OF_A_COMPARISON, "layers"}
    expected = VerifyOptions(**OF_A_COMPARISON)
    assert all(getattr(expected, name) != getattr(VerifyOptions(), name) for name in OF_A_COMPARISON)
    for options in (OptimizeOptions, FreezeOptions, DataOptions):
        assert VerifyOptions.of(options(**OF_A_COMPARISON)) == expected


def test_what_an_iterator_gives_is_kept_where_it_is_read_more_than_once() -> None:
    assert VerifyOptions(inputs=iter([{"x": 1}])).inputs == [{"x": 1}]
    assert isinstance(OptimizeOptions(recalibrate=iter([])).recalibrate, Iterator)


def test_every_kind_is_known_to_the_command_line() -> None:
    used = {type(each.kind) for options in COMMANDS.values() for each in options_of(options)}
    assert used <= {each for kind in (Kind, DataSet, kinds.Path, kinds.Text, Whole) for each in kind.__subclasses__()}
    assert {Names, WeightsKind} <= used
