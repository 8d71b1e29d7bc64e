"""The process: `bnfold` and `python -m bnfold`."""

import ctypes
import os
import sys

from bnfold.signals import farewell, listen

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20


def give_back_memory() -> None:
    """Have freed blocks of 1 MiB and more go back to the system, where the C library is glibc.

    By default glibc keeps blocks below a threshold that grows with what was freed (mallopt(3), M_MMAP_THRESHOLD), so
    the weights of one session would still be there while the next is open.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def run() -> None:
    """Run the command line. Ctrl-C while that is still being imported is no traceback either."""
    try:
        # OpenBLAS's threads would spin for a while after they start, and on two cores take one from who works.
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
        listen()
        give_back_memory()
        from bnfold.cli import main

        main()
    except KeyboardInterrupt as interrupt:
        message, exit_code = farewell(interrupt)
        sys.stderr.write(f"bnfold: {message}\n")
        sys.exit(exit_code)  # as bnfold.cli.shell says later on


if __name__ == "__main__":
    run()
