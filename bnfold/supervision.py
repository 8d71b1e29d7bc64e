"""Two processes: a small one that waits, and its child that does the work and may die of it.

Native code that crashes, or computes without end, takes the child alone; the parent says what the child was doing. Both
are in one process group over the same terminal, standard input and output, so that what the terminal sends (Ctrl-C,
Ctrl-Z, a hang-up) reaches both; what is sent to the parent alone is passed on.
"""

import math
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from bnfold import activity
from bnfold.errors import ModelError, ResourceLimitError
from bnfold.signals import NUDGE, Terminated

_GRACE = 2.0  # seconds to clean up in, after being asked to stop and before being killed
_NUDGE_AFTER = 0.05  # seconds after a signal, and twice as long each time
_LOOK_EVERY = 0.02  # seconds, where the system does not tell who sent a signal
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SIZE = 4096


class End(NamedTuple):
    """The end of a child: its exit code, or minus the signal it died of.

    `passed_on`: the signal that it was told to stop by, 0 for none. `late`: it did not stop before its deadline.
    `doing`: what it was doing, in words, "" where it did not say. `folder`: the name of its temporary folder.
    """

    code: int
    passed_on: int
    late: bool
    doing: str
    folder: str

    @property
    def by_itself(self) -> bool:
        """Whether the child ended as processes do, and nothing is left to be said: of being late it says nothing."""
        return self.code >= 0 and (not self.late or bool(self.passed_on) or self.code == 0)

    @property
    def stopped_by(self) -> int:
        """The signal that it was told to stop by, or died of as if it had been; 0 for none."""
        return self.passed_on or (-self.code if -self.code in _PASSED_ON else 0)

    @property
    def crashed(self) -> bool:
        """Whether it died of what native code dies of that is broken, or was killed."""
        return not self.passed_on and -self.code in (*CRASHES, signal.SIGKILL)


_deadline: mmap.mmap | None = None
_folder = ""
_blocked: AbstractSet[int] | None = None
aftermath: End | None = None
"""The end of the child, in a parent that has to explain it."""


def supervised() -> bool:
    """Whether this process is a child, whose parent takes care of its end."""
    return _deadline is not None


def split() -> End | None:
    """Fork: None in the child, which has its signals blocked until `listening`; how that ended in the parent.

    Needs a process with one thread, and leaves what the child wrote to buffers before to the child.
    """
    global _blocked, _deadline, _folder
    memory, note = mmap.mmap(-1, _SIZE), mmap.mmap(-1, _SIZE)
    _write_deadline(memory, math.nan)
    parent, folder = os.getpid(), folder_name()
    forwarded = {number for number in (*_PASSED_ON, signal.SIGTSTP) if signal.getsignal(number) is not signal.SIG_IGN}
    children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, children)
        die_with(parent)
        _blocked, _deadline, _folder = before, memory, folder
        activity.share(note)
        return None
    try:
        code, passed_on, late = _Waiting(child, memory, forwarded).until_the_end()
    finally:
        signal.signal(signal.SIGCHLD, children)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return End(code, passed_on, late, activity.read(note), folder)


def listening() -> None:
    """Unblock signals in the child, when its handlers are set; those that came meanwhile come now."""
    global _blocked
    if _blocked is not None:
        blocked, _blocked = _blocked, None
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def limit(seconds: float | None) -> None:
    """Have the parent stop this child after so many seconds (None: never), and kill it where it does not stop then.

    It is sent SIGUSR1 then, for which it needs a handler.
    """
    assert _deadline is not None
    _write_deadline(_deadline, math.inf if seconds is None else time.monotonic() + seconds)
    os.kill(os.getppid(), signal.SIGCHLD)  # so that the parent looks


def unhurried() -> None:
    """Let this child end by itself when it is asked to, however long that takes, as a service does."""
    if _deadline is not None:
        _write_deadline(_deadline, math.nan)


def folder_name() -> str:
    """A name for the folder of a child's temporary files."""
    return f"bnfold-{os.getpid()}-{time.monotonic_ns():x}"


def enter_folder(name: str | None = None) -> None:
    """Make all temporary files of this child in a folder of its own, which `leave_folder` removes, or the parent.

    `name` is what the parent calls it, where the child was not made by `split`.
    """
    global _folder
    if name is not None:
        _folder = name
    if _folder:
        import tempfile

        try:
            place = os.path.join(tempfile.gettempdir(), _folder)  # noqa: PTH118 - no more imports than needed
            os.mkdir(place, 0o700)  # noqa: PTH102
        except OSError:
            return  # then whoever needs a temporary file says so
        tempfile.tempdir = place


def leave_folder(name: str | None = None) -> None:
    """Remove that folder with all that is in it: the child's own, or (in the parent) that of a child that died."""
    if name is not None or (_folder and "tempfile" in sys.modules):
        import shutil
        import tempfile

        if name is None:
            place, tempfile.tempdir = tempfile.tempdir, None
            if place is None or os.path.basename(place) != _folder:  # noqa: PTH119
                return
        else:
            try:
                place = os.path.join(tempfile.gettempdir(), name)  # noqa: PTH118
            except OSError:
                return  # there is no folder for temporary files
        shutil.rmtree(place, ignore_errors=True)


def what_killed(end: End, model: str, *, limited: bool = False) -> BaseException:
    """The error for a child that died of a signal while it worked on `model`. `limited`: in memory, as asked."""
    if end.stopped_by:
        return KeyboardInterrupt() if end.stopped_by == signal.SIGINT else Terminated(end.stopped_by)
    name = signal.Signals(-end.code).name
    when = f" while it was {end.doing}" if end.doing else ""
    if limited or -end.code not in CRASHES or _memory_is_limited():
        return ResourceLimitError(f"{model}: was stopped by {name}{when}, most likely for lack of memory; allow more")
    return ModelError(f"{model}: makes onnx or onnxruntime crash ({name}){when}; do not use it if you do not trust it")


def _memory_is_limited() -> bool:
    import resource

    return any(
        resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)
    )


def die_of(number: int) -> None:
    """End as the child did, of a signal that says nothing about the work, like SIGQUIT."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)


def die_with(parent: int) -> None:
    """Die with the parent, where the system can see to that."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _write_deadline(memory: mmap.mmap, moment: float) -> None:
    memory[:8] = struct.pack("d", moment)


class _Waiting:
    """The parent: passes signals on and stops a child that takes too long."""

    def __init__(self, child: int, memory: mmap.mmap, forwarded: AbstractSet[int]) -> None:
        self._child = child
        self._memory = memory
        self._forwarded = forwarded
        self._passed_on = 0
        self._late = False
        self._kill_at = math.inf
        self._nudge_at = math.inf
        self._nudge_after = _NUDGE_AFTER

    def until_the_end(self) -> tuple[int, int, bool]:
        """The exit code or minus the signal, the signal that was passed on, and whether the child was late."""
        for info in self._signals():
            found, status = os.waitpid(self._child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status), self._passed_on, self._late
            if info is not None:
                self._pass_on(*info)
            self._keep_time()
        raise AssertionError("signals never end")

    def _signals(self) -> Iterator[tuple[int, bool] | None]:
        """Signals as they come, each with whether the kernel sent it to the child too; None to look at the time."""
        if not hasattr(signal, "sigtimedwait"):
            yield from self._polled()
        numbers = self._forwarded | {signal.SIGCHLD}
        while True:
            moment = self._next_moment()
            info: signal.struct_siginfo | None = None
            if moment == math.inf:
                info = signal.sigwaitinfo(numbers)
            else:
                info = signal.sigtimedwait(numbers, max(0.0, moment - time.monotonic()))
            yield None if info is None or info.si_signo == signal.SIGCHLD else (info.si_signo, info.si_code > 0)

    def _polled(self) -> Iterator[tuple[int, bool] | None]:
        """`_signals` where no system call waits for signals."""
        while True:
            pending = signal.sigpending() & self._forwarded
            for number in pending:
                yield signal.sigwait({number}), number in (signal.SIGINT, signal.SIGTSTP)
            yield None
            time.sleep(_LOOK_EVERY)

    def _next_moment(self) -> float:
        return min(self._kill_at, self._nudge_at, self._late_at())

    def _late_at(self) -> float:
        (deadline,) = struct.unpack("d", self._memory[:8])
        return math.inf if math.isnan(deadline) or self._late or self._passed_on else deadline

    def _pass_on(self, number: int, by_kernel: bool) -> None:
        if number == signal.SIGTSTP:
            self._stop(by_kernel=by_kernel)
            return
        if not (by_kernel and number == signal.SIGINT):  # of a hang-up only a session's leader may hear
            self._kill(number)
        self._passed_on = number
        self._nudge_after = _NUDGE_AFTER
        self._nudge_at = time.monotonic() + self._nudge_after
        (deadline,) = struct.unpack("d", self._memory[:8])
        if not math.isnan(deadline):
            self._kill_at = min(self._kill_at, time.monotonic() + 2 * _GRACE)

    def _stop(self, *, by_kernel: bool) -> None:
        """Ctrl-Z: stop as any process does, and go on with the child."""
        if not by_kernel:
            self._kill(signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        self._kill(signal.SIGCONT)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._kill_at:
            self._kill_at = math.inf
            self._kill(signal.SIGKILL)
        elif now >= self._nudge_at:
            self._nudge()
        elif now >= self._late_at():
            self._late = True
            self._kill_at = now + _GRACE
            self._kill(signal.SIGUSR1)

    def _nudge(self) -> None:
        """Interrupt what the child waits for.

        Python's handlers run between two steps of its interpreter: a signal that comes after the last step before a
        system call is noted, and waits with it. Where another thread wants the interpreter, like rich's that draws
        bars, the main one gives it up in between, and under load that takes a while.
        """
        self._nudge_after *= 2
        self._nudge_at = time.monotonic() + self._nudge_after
        self._kill(NUDGE)

    def _kill(self, number: int) -> None:
        os.kill(self._child, number)  # it was not waited for, so the number is still its own
