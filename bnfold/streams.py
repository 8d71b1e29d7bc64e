"""Standard input, output and error, as a process may be started without them.

A number below 3 that is closed goes to the next file that anybody opens; a library that writes messages to number 2
would then write them into a model. Python itself has None in the place of such a stream.
"""

import os
import sys


def repair() -> None:
    """Open the null device on each of 0, 1 and 2 that is closed, and give Python a stream for it."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
