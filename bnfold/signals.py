"""Being asked to stop: SIGTERM and SIGHUP unwind like Ctrl-C, so that nothing half done stays behind."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_Handler = Callable[[int, FrameType | None], object]

# A signal in the middle of an import waits for its end, this long at a time and so often at most.
# The supervisor does not wait so long; without one a slow machine may need it.
_LATER, _MOST_OFTEN = 0.02, 1500
_postponed = 0
_ONCE = 0.5  # seconds
_interrupted = -_ONCE
_done = False
_raised: KeyboardInterrupt | None = None

NUDGE = signal.SIGURG
"""Does nothing, and ignored by default; but a system call returns, and the handlers of earlier signals run."""

# What shells say of a process that a signal ended: 128 and its number.
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def listen() -> None:
    """Raise `Terminated` in the main thread from now on, the first time; later signals let the cleaning up finish.

    A signal that the caller ignores (nohup) stays ignored. In the middle of an import nothing is raised: Python would
    wrap it in other exceptions, and extension modules abort the process. Where Python drops what was raised, in
    destructors and callbacks of weak references, it is raised once more a little later.
    """
    handlers = {signal.SIGTERM: _stop, signal.SIGHUP: _stop, signal.SIGINT: _interrupt}
    for number, handler in handlers.items():
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs that listens
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, handler)
    with contextlib.suppress(ValueError):
        if signal.getsignal(NUDGE) is signal.SIG_DFL:
            signal.signal(NUDGE, lambda _number, _frame: None)
    sys.unraisablehook = partial(_dropped, sys.unraisablehook)


def _stop(number: int, frame: FrameType | None) -> None:
    if _done or _is_postponed(_stop, number, frame):
        return
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    _raise(Terminated(number))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; the same once more, from the terminal and from whoever passes it on, counts as one."""
    global _interrupted
    if _done or time.monotonic() - _interrupted < _ONCE or _is_postponed(_interrupt, number, frame):
        return
    _interrupted = time.monotonic()
    _raise(KeyboardInterrupt())


def _raise(interrupt: KeyboardInterrupt) -> NoReturn:
    global _raised
    _raised = interrupt
    raise interrupt


def raised() -> KeyboardInterrupt | None:
    """The interrupt that a signal was made of, whatever has become of it since."""
    return _raised


def _dropped(otherwise: Callable[["UnraisableHookArgs"], object], unraisable: "UnraisableHookArgs") -> None:
    """Have an interrupt that nobody can catch raised again, where no other can be; `otherwise` says of the rest."""
    if _raised is None or unraisable.exc_value is not _raised:
        otherwise(unraisable)
    elif not _done:
        _later(partial(_again, _raised))


def _again(dropped: KeyboardInterrupt, number: int, frame: FrameType | None) -> None:
    """Raise what Python dropped, unless another signal has come since."""
    if not _done and _raised is dropped and not _is_postponed(partial(_again, dropped), number, frame):
        raise dropped


def _later(handler: _Handler, number: int = signal.SIGALRM) -> None:
    """Call `handler` of the signal `number` in the main thread in a moment."""
    signal.signal(signal.SIGALRM, lambda _alarm, frame: handler(number, frame))
    signal.setitimer(signal.ITIMER_REAL, _LATER)


def _is_postponed(handler: _Handler, number: int, frame: FrameType | None) -> bool:
    """Have the signal handled a little later if this is the middle of an import, unless that takes too long."""
    global _postponed
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    _postponed += 1
    if frame is None or _postponed > _MOST_OFTEN:
        return False
    _later(handler, number)
    return True


def done() -> None:
    """The work is done: a signal that was postponed, or comes now, comes too late.

    One that came before may have its handler still to run.
    """
    global _done
    _done = True
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM))
    signal.setitimer(signal.ITIMER_REAL, 0)


def behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that another exception was made of on its way: imports and native callbacks wrap what they meet."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def farewell(interrupt: KeyboardInterrupt) -> tuple[str, int]:
    """The last words, and the exit code: 128 and the number of the signal, as shells have it."""
    if isinstance(interrupt, Terminated):
        return f"stopped by {signal.Signals(interrupt.number).name}", 128 + interrupt.number
    return "interrupted", 128 + signal.SIGINT
