"""`--timeout` and `--max-memory`: the command runs in a child process, which can be stopped whatever it is doing.

A hostile model can make shape inference or onnxruntime compute or allocate without end, deep inside native code where
no exception reaches. Without a limit there is no child.
"""

import ctypes
import math
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, wraps
from types import FrameType
from typing import Any, NoReturn

import click

from bnfold.cli.parameters import seconds, size
from bnfold.errors import BnfoldError, ModelError, ResourceLimitError
from bnfold.signals import Terminated

_LIMITS = "bnfold.limits"
_GRACE = 2.0  # seconds to clean up in, after being asked to stop and before being killed
_LOOK_EVERY = 0.2  # seconds: how soon a signal can shorten the wait
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass
class Limits:
    """`timeout` in seconds, `max_memory` in bytes of private writable memory (RLIMIT_DATA); None: no limit."""

    timeout: float | None = None
    max_memory: int | None = None


def with_limits(command: click.Command, answered: Callable[[click.Context, Callable[[], Any]], Any]) -> click.Command:
    """The command with both options added; `answered` turns what the work raises into a message and `Exit`."""
    if any(option.name == "max_memory" for option in command.params):
        return command
    callback = command.callback
    assert callback is not None

    @wraps(callback)
    def limited(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        limits: Limits | None = ctx.meta.get(_LIMITS)
        if limits is None:
            return callback(*args, **kwargs)

        def work() -> None:
            try:
                callback(*args, **kwargs)
            except _OutOfTime:
                raise click.exceptions.Exit(ResourceLimitError.exit_code) from None  # the parent tells
            except MemoryError as error:
                if limits.max_memory is None:
                    raise
                raise ResourceLimitError(
                    f"{_model_of(ctx)}: needs more memory than --max-memory allows; allow more if you trust the model"
                ) from error

        return _Child(ctx, limits, partial(answered, ctx, work)).run()

    command.params += [
        click.Option(
            ["--timeout"],
            type=seconds,
            metavar="SECONDS",
            expose_value=False,
            callback=_remember,
            help="Stop after this time, with exit code 6, whatever is going on.",
        ),
        click.Option(
            ["--max-memory"],
            type=size,
            metavar="SIZE",
            expose_value=False,
            callback=_remember,
            help="Stop, with exit code 6, where more memory than this is needed, like 2G.",
        ),
    ]
    command.callback = limited
    return command


def _model_of(ctx: click.Context) -> str:
    """The model that the command line names, for a message."""
    given = ctx.params
    return str(given.get("model") or given.get("reference") or next(iter(given.get("models") or ()), "the model"))


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        limits = ctx.meta.setdefault(_LIMITS, Limits())
        assert param.name is not None
        setattr(limits, param.name, value)


class _OutOfTime(KeyboardInterrupt):
    """Raised in the child: unwind, and leave nothing behind."""


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _OutOfTime


class _Child:
    """The process that does the work, as its parent sees it."""

    def __init__(self, ctx: click.Context, limits: Limits, work: Callable[[], Any]) -> None:
        self._ctx = ctx
        self._limits = limits
        self._work = work
        self._pid = 0
        self._deadline = math.inf if limits.timeout is None else time.monotonic() + limits.timeout
        self._interrupted = 0  # the signal that was passed on

    def run(self) -> NoReturn:
        """Do the work in a child, and leave as it left. Raises ResourceLimitError, ModelError where it crashed."""
        folder = tempfile.mkdtemp(prefix="bnfold-")
        done, alive = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(done)
            self._live(folder, parent)
        os.close(alive)
        handlers = {number: signal.signal(number, self._pass_on) for number in _PASSED_ON}
        try:
            in_time = self._wait(done)
            if not in_time:
                self._kill(signal.SIGTERM if self._interrupted else signal.SIGUSR1)
                self._deadline = time.monotonic() + _GRACE
                if not self._wait(done):
                    self._kill(signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(done)
            shutil.rmtree(folder, ignore_errors=True)
        if status >= 0 and (in_time or self._interrupted):
            self._ctx.exit(status)
        self._sweep()
        if self._interrupted:
            raise KeyboardInterrupt if self._interrupted == signal.SIGINT else Terminated(self._interrupted)
        if in_time:
            self._crashed(-status)
        raise ResourceLimitError(
            f"{_model_of(self._ctx)}: took longer than --timeout {self._limits.timeout:g} seconds and was stopped; "
            "allow more time if you trust the model"
        )

    def _wait(self, pipe: int) -> bool:
        """Until the other end of the pipe is gone with the child; False where that takes longer than it may."""
        while (left := self._deadline - time.monotonic()) > 0:
            if select.select([pipe], [], [], min(left, _LOOK_EVERY))[0]:
                return True
        return False

    def _live(self, folder: str, parent: int) -> NoReturn:
        """In the child: work under the limits, and end without going back to whoever called."""
        code = 70
        try:
            signal.signal(signal.SIGUSR1, _give_up)
            os.setpgid(0, 0)  # the terminal's Ctrl-C reaches the parent, who passes it on once
            tempfile.tempdir = folder
            with suppress(OSError, AttributeError):  # where it exists: do not outlive the parent
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if self._limits.max_memory is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_DATA)
                most = self._limits.max_memory if hard == resource.RLIM_INFINITY else min(hard, self._limits.max_memory)
                resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
            if os.getppid() == parent:
                self._work()
                code = 0
        except click.exceptions.Exit as end:
            code = end.exit_code
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except BrokenPipeError:
            code = 0
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._interrupted = number
        self._deadline = min(self._deadline, time.monotonic() + _GRACE)
        self._kill(number)

    def _kill(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _crashed(self, number: int) -> NoReturn:
        name = signal.Signals(number).name
        if number == signal.SIGKILL or self._limits.max_memory is not None:
            raise ResourceLimitError(
                f"{_model_of(self._ctx)}: was stopped by {name}, most likely for lack of memory; allow more"
            )
        raise ModelError(
            f"{_model_of(self._ctx)}: makes onnx or onnxruntime crash ({name}); do not use it if you do not trust it"
        )

    def _sweep(self) -> None:
        """Remove what the child could not: it was killed while it wrote."""
        from bnfold.onnxfile import Publication

        output = self._ctx.params.get("output")
        if output is not None:
            with suppress(BnfoldError), Publication(output):
                pass
        from bnfold.cli.delivery import reserve_reports

        with suppress(BnfoldError):
            reserve_reports(self._ctx)
