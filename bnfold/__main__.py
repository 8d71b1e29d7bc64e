"""The process: `bnfold` and `python -m bnfold`. It is two, see `bnfold.supervision`."""

import os
import sys

from bnfold import streams


def run() -> None:
    """Run the command line. Ctrl-C while that is still being imported is no traceback either."""
    streams.repair()
    from bnfold import supervision

    end = supervision.split()
    if end is None:
        _work()
        return
    if end.by_itself:
        os._exit(end.code)  # nothing is buffered here, and there is nobody else
    supervision.leave_folder(end.folder)
    if not (end.crashed or end.late or end.stopped_by):
        supervision.die_of(-end.code)
    supervision.aftermath = end
    _work()


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
