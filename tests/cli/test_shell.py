"""The frame of every command: what is raised becomes one line and an exit code."""

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bnfold import api
from bnfold.cli import main
from bnfold.errors import ModelError
from bnfold.signals import Terminated

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models" / "digits_cnn.onnx"


def _raised(*errors: BaseException) -> None:
    """Raise the last of the errors, each made of the one before it."""
    for before, after in pairwise(errors):
        after.__context__ = before
    raise errors[-1]


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ([KeyboardInterrupt()], 130, "interrupted"),
        ([KeyboardInterrupt(), ImportError("initialization failed")], 130, "interrupted"),
        ([Terminated(signal.SIGTERM), SystemError("a result with an exception set")], 143, "stopped by SIGTERM"),
        ([KeyboardInterrupt(), ImportError("x"), ModelError("the model makes onnx fail")], 130, "interrupted"),
        ([ValueError("x"), ModelError("no good")], 3, "no good"),
        ([ValueError("x"), RuntimeError("y")], 70, "this is a bug in bnfold"),
    ],
    ids=str,
)
def test_an_interrupt_is_one_whatever_was_made_of_it(
    errors: list[BaseException], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "inspect_with", lambda *_: _raised(*errors))
    result = CliRunner().invoke(main, ["inspect", str(MODEL)])
    assert (result.exit_code, said in result.stderr, result.stderr.count("\n")) == (code, True, 1), result.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(signal.SIGTERM), 143)], ids=str)
@pytest.mark.parametrize("where", ["cli.mistakes.Group.make_context", "cli.shell.answered"])
def test_an_interrupt_around_the_work_is_no_refusal(
    where: str, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """click alone says "Aborted!" and ends with 1, as where somebody says no."""
    monkeypatch.setattr(f"bnfold.{where}", lambda *_, **__: _raised(error))
    result = CliRunner().invoke(main, ["inspect", str(MODEL)])
    assert (result.exit_code, result.stderr.count("\n"), result.stderr[:8]) == (code, 1, "bnfold: "), result.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(signal.SIGTERM), 143)], ids=str)
def test_an_interrupt_that_click_takes_for_a_no_is_none(
    error: KeyboardInterrupt, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what is ours, where click enters and leaves contexts."""
    monkeypatch.setattr("bnfold.signals._raised", error)
    monkeypatch.setattr("bnfold.cli.shell.Shell.invoke", lambda *_: _raised(error))
    result = CliRunner().invoke(main, ["inspect", str(MODEL)])
    assert (result.exit_code, result.stderr.splitlines()[-1][:8]) == (code, "bnfold: "), result.stderr


def test_a_person_who_says_no_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.cli.shell.Shell.invoke", lambda *_: _raised(click.Abort()))
    assert CliRunner().invoke(main, ["inspect", str(MODEL)]).exit_code == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_signal_raised_is_remembered(number: signal.Signals) -> None:
    code = (
        "import os, signal\nfrom bnfold import signals\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"signals.listen()\nassert signals.raised() is None\ntry: os.kill(os.getpid(), {number.value})\n"
        "except KeyboardInterrupt as interrupt: assert signals.raised() is interrupt\n"
        "else: raise SystemExit('nothing was raised')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=60)
