"""The end of a command that does not end by itself: `--timeout`, `--max-memory`, and native code that dies.

The work is done in a child process, see `bnfold.supervision`: a hostile model can make shape inference or onnxruntime
compute or allocate without end, or crash, deep inside native code where no exception reaches. What has to be said of
that, and removed after it, is said and removed here, in the parent.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, wraps
from types import FrameType
from typing import Any, NoReturn

import click

from bnfold import supervision
from bnfold.cli.parameters import seconds, size
from bnfold.cli.sections import PROCESS, SectionedOption
from bnfold.errors import BnfoldError, ResourceLimitError

_LIMITS = "bnfold.limits"


@dataclass
class CommandLimits:
    """`timeout` in seconds, `max_memory` in bytes of private writable memory (RLIMIT_DATA); None: no limit."""

    timeout: float | None = None
    max_memory: int | None = None


def with_limits(command: click.Command, answered: Callable[[click.Context, Callable[[], Any]], Any]) -> click.Command:
    """The command with both options added; `answered` turns what the work raises into a message and `Exit`."""
    if any(option.name == "max_memory" for option in command.params):
        return command  # as batch, which has limits of its own: for each model
    callback = command.callback
    assert callback is not None

    @wraps(callback)
    def limited(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        limits: CommandLimits = ctx.meta.get(_LIMITS) or CommandLimits()
        if supervision.aftermath is not None:
            _conclude(ctx, limits, supervision.aftermath)
        work = partial(callback, *args, **kwargs)
        if supervision.supervised():
            supervision.enter_folder()
            return _limited(ctx, limits, work)
        if _LIMITS not in ctx.meta:
            return work()
        end = supervision.split()
        if end is None:
            _live(partial(answered, ctx, partial(_limited, ctx, limits, work)))
        supervision.leave_folder(end.folder)
        return _conclude(ctx, limits, end)

    command.params += [
        SectionedOption(
            ["--timeout"],
            type=seconds,
            metavar="SECONDS",
            expose_value=False,
            callback=_remember,
            section=PROCESS,
            help="Stop after this time, with exit code 6, whatever is going on.",
        ),
        SectionedOption(
            ["--max-memory"],
            type=size,
            metavar="SIZE",
            expose_value=False,
            callback=_remember,
            section=PROCESS,
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
        limits = ctx.meta.setdefault(_LIMITS, CommandLimits())
        assert param.name is not None
        setattr(limits, param.name, value)


class _OutOfTime(KeyboardInterrupt):
    """Raised in the child: unwind, and leave nothing behind."""


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _OutOfTime


def _limited(ctx: click.Context, limits: CommandLimits, work: Callable[[], Any]) -> Any:
    """Work in a child, under the limits: where there are none, it still has to stop soon when it is told to."""
    signal.signal(signal.SIGUSR1, _give_up)
    supervision.limit(limits.timeout)
    if limits.max_memory is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = limits.max_memory if hard == resource.RLIM_INFINITY else min(hard, limits.max_memory)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        return work()
    except _OutOfTime:
        raise click.exceptions.Exit(ResourceLimitError.exit_code) from None  # the parent tells
    except MemoryError as error:
        if limits.max_memory is None:
            raise
        raise ResourceLimitError(
            f"{_model_of(ctx)}: needs more memory than --max-memory allows; allow more if you trust the model"
        ) from error


def _live(work: Callable[[], Any]) -> NoReturn:
    """In a child of a process that goes on: work, and end without going back to the caller."""
    code = 70
    try:
        supervision.listening()
        supervision.enter_folder()
        work()
        code = 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    finally:
        supervision.leave_folder()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _conclude(ctx: click.Context, limits: CommandLimits, end: supervision.End) -> NoReturn:
    """In the parent: leave as the child left. Raises ResourceLimitError, ModelError where it crashed."""
    if end.by_itself:
        ctx.exit(end.code)
    _sweep(ctx)
    if end.late and not end.stopped_by:
        raise ResourceLimitError(
            f"{_model_of(ctx)}: took longer than --timeout {limits.timeout:g} seconds and was stopped; "
            "allow more time if you trust the model"
        )
    raise supervision.what_killed(end, _model_of(ctx), limited=limits.max_memory is not None)


def _sweep(ctx: click.Context) -> None:
    """Remove what the child could not: it was killed while it wrote."""
    from bnfold.onnxfile import Publication

    output = ctx.params.get("output")
    if output is not None:
        with suppress(BnfoldError), Publication(output):
            pass
    from bnfold.cli.delivery import reserve_reports

    with suppress(BnfoldError):
        reserve_reports(ctx)
