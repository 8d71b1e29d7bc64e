"""Start of a job's process: it dies with the service, gets its limits, and becomes the command. Run as a script.

    python launch.py PARENT FILE_SIZE COMMAND [ARGUMENT ...]

A process of its own sets the limits, since between fork and exec of a process with threads no Python may run.
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Never returns: the command takes this process over, or it ends."""
    parent, file_size, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    with suppress(OSError, AttributeError):  # where it exists
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # the service went away before that took effect
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execv(command[0], command)  # noqa: S606 - that is its purpose


if __name__ == "__main__":
    main()
