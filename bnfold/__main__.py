"""The process: `bnfold` and `python -m bnfold`."""

import sys

from bnfold import process
from bnfold.signals import done, farewell, listen


def run() -> None:
    """Run the command line. Ctrl-C while that is still being imported is no traceback either."""
    try:
        listen()
        process.own()
        from bnfold.cli import main

        main()
    except KeyboardInterrupt as interrupt:
        message, exit_code = farewell(interrupt)
        sys.stderr.write(f"bnfold: {message}\n")
        sys.exit(exit_code)  # as bnfold.cli.shell says later on
    finally:
        done()


if __name__ == "__main__":
    run()
