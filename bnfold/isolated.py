"""One call of the library in a process of its own, for callers that a crash of a runtime must not take with it.

The process is a new interpreter, not a fork, so that any thread of any program may call: threads of the caller and its
native libraries stay where they are. Arguments, result, exceptions and warnings are pickled; the callback of progress
is called here. What is half-written when the process dies is removed.
"""

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection
from typing import Any, Protocol, Self, TypeVar, cast

from bnfold import activity, supervision
from bnfold.errors import BnfoldError, ModelWarning, ResourceLimitError, UsageError

_SIZE = 4096
_GRACE = 5.0  # seconds to clean up in, after being asked to stop
_PROGRAM = "import sys; sys.path[:] = {path!r}; from bnfold import isolated; isolated.work({parent}, {near}, {note})"


class _Options(Protocol):
    @property
    def isolate(self) -> bool: ...


_R = TypeVar("_R")


def isolated(
    function: Callable[..., _R], *arguments: Any, options: _Options, writes: str | os.PathLike[str] | None = None
) -> _R:
    """`function(*arguments, options)` in a process of its own, with `isolate` off: its result, or what it raises.

    `writes` is the path of its output. Raises ModelError or ResourceLimitError where the process dies of a signal, and
    UsageError where something cannot be pickled.
    """
    progress = getattr(options, "progress", None)
    options = replace(cast("Any", options), isolate=False, **({} if progress is None else {"progress": None}))
    try:
        request = pickle.dumps((function, arguments, options, progress is not None))
    except Exception as error:  # whatever the classes of the caller raise
        raise UsageError(
            f"isolate hands everything to another process, and something here cannot be pickled ({error}); "
            "pass paths, bytes, arrays and functions of modules"
        ) from error
    first = arguments[0]
    model = os.fsdecode(first) if isinstance(first, str | os.PathLike) else "the model"
    with _Process(model, writes) as process:
        return cast("_R", process.answer(request, progress))


class _Process:
    """The other process, which is gone when the block ends, with all that it leaves half done."""

    def __init__(self, model: str, writes: str | os.PathLike[str] | None) -> None:
        self._model = model
        self._writes = writes

    def __enter__(self) -> Self:
        """Start it."""
        self._folder = supervision.folder_name()
        self._note_file = tempfile.TemporaryFile()
        self._note_file.truncate(_SIZE)
        self._note = mmap.mmap(self._note_file.fileno(), _SIZE)
        self._near, far = connection.Pipe()
        program = _PROGRAM.format(
            path=[str(entry) for entry in sys.path],
            parent=(os.getpid(), self._folder),
            near=far.fileno(),
            note=self._note_file.fileno(),
        )
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable, *flags, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=(far.fileno(), self._note_file.fileno()),
        )
        far.close()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it where it is still there."""
        self._near.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._note.close()
        self._note_file.close()
        if self._process.wait():
            supervision.leave_folder(self._folder)
            _sweep(self._writes)

    def answer(self, request: bytes, progress: Any) -> Any:
        """The answer of the process. Raises the exception that it raised."""
        with suppress(ConnectionError):  # it died, and is asked no more
            self._near.send_bytes(request)
        while True:
            kind, *content = self._next_message()
            if kind == "progress":
                progress(*content)
            elif kind == "warning":
                warnings.warn(content[0], stacklevel=5)
            else:
                break
        self._process.wait()
        if kind == "raised":
            raise content[0]
        return content[0]

    def _next_message(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = pickle.loads(self._near.recv_bytes())  # noqa: S301 - a process of our own
        except (EOFError, ConnectionError):
            raise self._death() from None
        return message

    def _death(self) -> BaseException:
        """The error to raise where the process ended without an answer."""
        code = self._process.wait()
        if code >= 0:
            return BnfoldError(f"{self._model}: the isolated process ended with exit code {code} and without a result")
        end = supervision.End(code, 0, False, activity.read(self._note), self._folder)
        if end.stopped_by and end.stopped_by != signal.SIGINT:
            return ResourceLimitError(f"{self._model}: was stopped by {signal.Signals(-code).name}")
        return supervision.what_killed(end, self._model)


def _sweep(output: str | os.PathLike[str] | None) -> None:
    """Remove what was being written beside `output`."""
    if output is not None:
        from bnfold.onnxfile import Publication

        with suppress(BnfoldError), Publication(output):
            pass


def work(parent: tuple[int, str], near: int, note: int) -> None:
    """The other process: do what is asked for, answer, and end."""
    from bnfold import process, signals

    supervision.die_with(parent[0])
    answers = connection.Connection(near)
    activity.share(mmap.mmap(note, _SIZE))
    signals.listen()
    process.own()
    supervision.enter_folder(parent[1])
    stopped_by = 0
    try:
        answers.send_bytes(_done(answers.recv_bytes(), answers))
    except KeyboardInterrupt as interrupt:
        stopped_by = signals.farewell(interrupt)[1] - 128
    except BrokenPipeError:
        pass  # the caller has gone on
    signals.done()
    supervision.leave_folder()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    if stopped_by:
        supervision.die_of(stopped_by)
    os._exit(0)  # without taking native libraries to pieces


def _done(request: bytes, answers: "connection.Connection[Any, Any]") -> bytes:
    try:
        function, arguments, options, tells = pickle.loads(request)  # noqa: S301 - from the caller
    except Exception as error:  # noqa: BLE001 - a class or a function that only the caller's script has
        return _raised(UsageError(f"isolate hands everything to another process, which cannot read it there: {error}"))
    if tells:
        options = replace(options, progress=lambda *counts: answers.send_bytes(pickle.dumps(("progress", *counts))))
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ModelWarning):
            answers.send_bytes(pickle.dumps(("warning", message)))
        else:
            others(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ModelWarning)
        warnings.showwarning = show
        try:
            made = function(*arguments, options)
            return pickle.dumps(("returned", made))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            return _raised(error)


def _raised(error: Exception) -> bytes:
    """The exception, and where it came from unless it is one that bnfold raises on purpose."""
    if not isinstance(error, BnfoldError):
        error.add_note("in the isolated process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        packed = pickle.dumps(("raised", error))
        pickle.loads(packed)  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - its class does not pickle
        text = "".join(traceback.format_exception_only(error)).strip()
        packed = pickle.dumps(("raised", BnfoldError(f"{type(error).__name__} in the isolated process: {text}")))
    return packed
