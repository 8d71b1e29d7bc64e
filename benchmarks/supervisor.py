"""What the process that supervises costs: `bnfold optimize` of a small model with it and without.

    python -m benchmarks.supervisor [pairs, default 300]

Processes in pairs, in either order in turn, after one pair that warms the caches; of the differences within the pairs
the median, between what bounds it with 95 % confidence, in milliseconds of wall and of processor time (user and system,
of parent and child). At most 20 are allowed. Two measurements:

the command    all of `bnfold optimize --threads 1`, as it is and without a parent. What else moves such a run, half a
               second long, is ten times what is looked for: hundreds of pairs are needed.
by itself      the parent with a child that does not work, but touches every object it was given (so that each page of
               them is copied, as the work of a real child does) and ends, against a process that does the same alone.

Both processes of a pair are started in the same way, and both import what the work imports anyway.
"""

import math
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import processes
from benchmarks.start_up import MODEL

ALLOWED = 20.0  # milliseconds
START = "import sys; sys.argv[0] = 'bnfold'; from bnfold import __main__ as process; "
ALONE = "process.streams.repair(); process._work_and_leave()"
SUPERVISED = "process.run()"
TOUCHING = """
def touch():
    import ctypes, gc, os
    from bnfold import process, signals, supervision
    gc.collect()
    os._exit(0)
process._work_and_leave = touch
"""


def differences(commands: tuple[list[str], list[str]], pairs: int) -> list[tuple[processes.Run, processes.Run]]:
    """`pairs` pairs of runs of both commands, whichever comes first."""
    found = []
    for pair in range(pairs + 1):
        runs = {}
        for which in (0, 1) if pair % 2 else (1, 0):
            run = processes.run(commands[which], timeout=120)
            if run.failure:
                raise SystemExit(f"{' '.join(commands[which])}: {run.failure}")
            runs[which] = run
        if pair:
            found.append((runs[0], runs[1]))
    return found


def told(found: list[tuple[processes.Run, processes.Run]], what: str) -> str:
    """One line about "wall" or "cpu"."""
    above = sorted(1000 * (getattr(with_it, what) - getattr(without, what)) for with_it, without in found)
    # The median lies between these two order statistics in 95 of 100 samples, whatever the distribution.
    reach = math.ceil(0.98 * math.sqrt(len(above)))
    middle = len(above) // 2
    low, high = above[max(0, middle - reach)], above[min(len(above) - 1, middle + reach)]
    judged = "holds" if high <= ALLOWED else "does not hold" if low > ALLOWED else "not decided: more pairs"
    alone = 1000 * statistics.median(getattr(without, what) for _, without in found)
    return (
        f"  {what:4} {statistics.median(above):+6.1f} ms above {alone:.0f} ms, between {low:+.1f} and {high:+.1f}: "
        f"at most {ALLOWED:.0f} {judged}"
    )


def main(pairs: int) -> None:
    """Measure, and print a line for each kind of time."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["optimize", "--overwrite", "--threads", "1", str(MODEL), str(Path(folder) / "out.onnx")]
        measured = {"the command": START, "by itself": START + TOUCHING}
        for name, start in measured.items():
            commands = tuple([sys.executable, "-c", start + end, *arguments] for end in (SUPERVISED, ALONE))
            found = differences((commands[0], commands[1]), pairs)
            print(f"{name}, {len(found)} pairs", *(told(found, what) for what in ("wall", "cpu")), sep="\n", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
