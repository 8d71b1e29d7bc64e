"""The process: `bnfold` and `python -m bnfold`."""

import sys


def run() -> None:
    """Run the command line. Ctrl-C while that is still being imported is no traceback either."""
    try:
        from bnfold.cli import main

        main()
    except KeyboardInterrupt:
        sys.stderr.write("bnfold: interrupted\n")
        sys.exit(130)  # as bnfold.cli.shell says later on


if __name__ == "__main__":
    run()
