"""The process: `bnfold` and `python -m bnfold`. It is two, see `bnfold.supervision`."""

import atexit
import os
import sys

from bnfold import streams

ON_WINDOWS = "bnfold: Windows has neither the forks nor the file locks that bnfold is made with; run it in WSL"

_NOT_FLUSHED = 120  # what Python itself ends with


def run() -> None:
    """Run the command line. Ctrl-C while that is still being imported is no traceback either."""
    streams.repair()
    if sys.platform == "win32":
        sys.exit(ON_WINDOWS)
    from bnfold import supervision

    end = supervision.split()
    if end is None:
        _work_and_leave()
        return
    if end.by_itself:
        os._exit(end.code)  # nothing is buffered here, and there is nobody else
    supervision.leave_folder(end.folder)
    if not (end.crashed or end.late or end.stopped_by):
        supervision.die_of(-end.code)
    supervision.aftermath = end
    _work()


def _work_and_leave() -> None:
    """Do the work of the child, and end it without taking Python and the native libraries to pieces.

    That takes 50 ms where onnxruntime was loaded, and providers crash in it when everything is said and written.
    """
    try:
        _work()
    except (SystemExit, KeyboardInterrupt) as end:
        # A signal between the end of the work and `done` comes too late: what it interrupts is the leaving.
        leaving = end if isinstance(end, SystemExit) else end.__context__
        if not isinstance(leaving, SystemExit) or not isinstance(leaving.code, int | None):
            raise
        atexit._run_exitfuncs()  # noqa: SLF001 - as Python itself ends
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except OSError:
            os._exit(leaving.code or _NOT_FLUSHED)
        os._exit(leaving.code or 0)


def _work() -> None:
    from bnfold import process, supervision
    from bnfold.signals import done, farewell, listen

    try:
        listen()
        supervision.listening()
        process.own()
        from bnfold.cli import main

        main()
    except KeyboardInterrupt as interrupt:
        message, exit_code = farewell(interrupt)
        sys.stderr.write(f"bnfold: {message}\n")
        sys.exit(exit_code)  # as bnfold.cli.shell says later on
    finally:
        done()
        supervision.leave_folder()


if __name__ == "__main__":
    run()
