"""Being asked to stop: SIGTERM and SIGHUP unwind like Ctrl-C, so that nothing half done stays behind."""

import contextlib
import signal
from types import FrameType

# What shells say of a process that a signal ended: 128 and its number.
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def listen() -> None:
    """Raise `Terminated` in the main thread from now on, the first time; later signals let the cleaning up finish.

    A signal that the caller ignores (nohup) stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs that listens
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Terminated(number)


def farewell(interrupt: KeyboardInterrupt) -> tuple[str, int]:
    """What to say, and the exit code: 128 and the number of the signal, as shells have it."""
    if isinstance(interrupt, Terminated):
        return f"stopped by {signal.Signals(interrupt.number).name}", 128 + interrupt.number
    return "interrupted", 128 + signal.SIGINT
