"""The frame of every command: found by name when needed, and every way to fail has one line and an exit code."""

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

import click

from bnfold import supervision
from bnfold.cli.configuration import with_configuration, words_of
from bnfold.cli.limits import with_limits
from bnfold.cli.mistakes import Group, in_one_line, say, say_as_it_is
from bnfold.documentation import page_of_exit_code, page_of_reason
from bnfold.errors import BnfoldError, ModelWarning, OutputError, ResourceLimitError, StatisticsError
from bnfold.signals import behind, farewell, raised

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
_NO = 1  # click's exit code where somebody aborts


class Shell(Group):
    """A group whose commands are imported on first use, and which turns exceptions into exit codes.

    `commands_in` maps a command's name to the module that holds it as `command`.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, usual="optimize", suffix=".onnx", **kwargs)
        self._commands_in = commands_in
        self._commands: dict[str, click.Command] = {}

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a process of its own, and exit.

        A full disk under standard output can be met before any command. A signal that comes between what is ours is a
        person's no to click, with an exit code that means something else here.
        """
        try:
            return super().main(*args, **kwargs)
        except SystemExit as end:
            interrupt = raised()
            if end.code != _NO or interrupt is None:
                raise
            sys.exit(_told(interrupt))
        except OSError as error:
            from bnfold.cli.delivery import discard_standard_output

            discard_standard_output()
            page = page_of_exit_code(OutputError.exit_code)
            say_as_it_is(f"bnfold: cannot write to standard output: {error.strerror or error} (see {page})")
            sys.exit(OutputError.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order they are introduced."""
        return list(self._commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of that name, imported now."""
        if cmd_name not in self._commands_in:
            return None
        command = self._imported(cmd_name)
        if isinstance(command, click.Group) and supervision.aftermath is not None:
            raise supervision.what_killed(supervision.aftermath, f"bnfold {cmd_name}")
        return command

    def _imported(self, name: str) -> click.Command:
        """The command, with the options that every command has, which are added once."""
        if name not in self._commands:
            command: click.Command = import_module(self._commands_in[name]).command
            if not isinstance(command, click.Group):
                command = with_configuration(with_limits(command, answered), self.known)
            self._commands[name] = command
        return self._commands[name]

    def known(self) -> dict[str, frozenset[str]]:
        """The words of each command that can be configured."""
        commands = {name: self._imported(name) for name in self._commands_in}
        return {
            name: frozenset(words_of(command))
            for name, command in commands.items()
            if not isinstance(command, click.Group)
        }

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with the exit code of whatever it raises."""
        with _interrupts_told(), _warnings_said(), in_one_line():
            _escape_what_cannot_be_encoded()
            return answered(ctx, partial(super().invoke, ctx))

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """The context of the whole command line, with its errors in one line."""
        with _interrupts_told(), in_one_line():
            return super().make_context(*args, **kwargs)


def answered(ctx: click.Context, work: Callable[[], Any]) -> Any:
    """Do `work`; whatever it raises becomes one line on standard error and an exit code."""
    try:
        return _interrupted_as_such(work)
    except BnfoldError as error:
        page = page_of_reason("INITIAL_STATISTICS") if isinstance(error, StatisticsError) else None
        fail(ctx, str(error), error.exit_code, page)
    except KeyboardInterrupt as interrupt:
        fail(ctx, *farewell(interrupt))
    except MemoryError:
        fail(ctx, "out of memory: allow more, or use a machine that has more", ResourceLimitError.exit_code)
    except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
        raise
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        fail(ctx, f"{where}{error.strerror or error}", OutputError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last resort: no traceback reaches a user who did not ask for it
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        fail(ctx, f"this is a bug in bnfold, please report it with the output of -vv: {what}", INTERNAL_ERROR)


def _interrupted_as_such(work: Callable[[], Any]) -> Any:
    """Do `work`; where an interrupt is behind what it raises, raise that."""
    try:
        return work()
    except (click.exceptions.Exit, click.Abort, click.ClickException):
        raise
    except Exception as error:
        if (interrupt := behind(error)) is not None:
            raise interrupt from error
        raise


def fail(ctx: click.Context, message: str, exit_code: int, page: str | None = None) -> NoReturn:
    """Say what went wrong in one line on standard error, and leave; a report that is still owed tells of it too.

    The line ends with the address of `page`, by default that of the exit code.
    """
    from bnfold.cli.delivery import owed_report, write_report
    from bnfold.cli.options import verbosity_of
    from bnfold.report.text import one_line

    error = sys.exception()
    if verbosity_of(ctx) > 1 and error is not None:
        say_as_it_is("".join(traceback.format_exception(error)).rstrip())
    page = page or page_of_exit_code(exit_code)
    say(message if page is None else f"{message} (see {page})")
    if owed_report(ctx):
        from bnfold.report import FailureReport

        kind = "Failure" if error is None else type(error).__name__
        try:
            write_report(ctx, FailureReport(error=kind, message=one_line(message), exit_code=exit_code))
        except BnfoldError as second:
            say(str(second))
    ctx.exit(exit_code)


@contextlib.contextmanager
def _interrupts_told() -> Iterator[None]:
    """Leave as `answered` does where a signal comes before or behind its work: click takes it for a person's no."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise click.exceptions.Exit(_told(interrupt)) from interrupt


def _told(interrupt: KeyboardInterrupt) -> int:
    """Say the last words; the exit code."""
    message, exit_code = farewell(interrupt)
    say(message)
    return exit_code


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    """Say what bnfold warns of in one line, once, whatever Python makes of other warnings."""
    said: set[str] = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, ModelWarning):
                others(message, category, *where, **more)
            elif (text := str(message)) not in said:
                said.add(text)
                say(text)

        warnings.simplefilter("always", ModelWarning)
        warnings.showwarning = show
        yield


def _escape_what_cannot_be_encoded() -> None:
    """A name with an accent is no reason to fail on a terminal that knows only ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
