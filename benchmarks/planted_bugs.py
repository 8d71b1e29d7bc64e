"""How many planted bugs each way of looking detects, and how many right models it accuses.

    python -m benchmarks.planted_bugs [sites per network, default 2]

Prints one line per kind of bug: planted, detected by running the models, by proving every change, by either.
"""

import sys
from collections import Counter

from onnx import ModelProto

from bnfold.equivalence import Standing, Verdict, prove, verify
from tests import planted


def differs(reference: ModelProto, candidate: ModelProto) -> bool:
    """Whether running both models tells them apart."""
    return verify(reference.SerializeToString(), candidate.SerializeToString()).verdict is Verdict.NOT_EQUIVALENT


def broken(reference: ModelProto, candidate: ModelProto) -> bool:
    """Whether the proof of a place where they differ breaks."""
    return any(proof.standing is Standing.BROKEN for proof in prove(reference, candidate))


def main(sites: int) -> None:
    """Plant, look, print."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    alarms = Counter[str]()
    for name, base in planted.bases().items():
        kind = "float16" if name.endswith("float16") else "float32"
        folds = planted.Folds(base)
        for chosen in planted.subsets(len(folds.sites), 4):
            right = folds.right(chosen)
            alarms["right models"] += 1
            alarms["accused"] += differs(base, right) or broken(base, right)
        for site in range(min(sites, len(folds.sites))):
            for bug in planted.BUGS:
                wrong = folds.wrong(site, bug)
                if wrong is not None:
                    run, proof = differs(base, wrong), broken(base, wrong)
                    row = counts.setdefault((bug, kind), Counter())
                    row.update(planted=1, run=run, proof=proof, either=run or proof)
        right = folds.right(range(len(folds.sites)))
        structural = {
            "batch > 1 only": planted.batch_coupled(right),
            "one border": planted.border_ignored(right),
            "across Relu": planted.relu_crossed(folds),
            "zero padding ignored": planted.padding_ignored(folds),
        }
        for bug, wrong in structural.items():
            if wrong is not None:
                run, proof = differs(base, wrong), broken(base, wrong)
                counts.setdefault((bug, kind), Counter()).update(planted=1, run=run, proof=proof, either=run or proof)
    total: dict[str, Counter[str]] = {}
    print(f"{'bug':36} {'type':8} planted   run  proof  either")
    for (bug, kind), row in sorted(counts.items()):
        print(f"{bug:36} {kind:8} {row['planted']:7} {row['run']:5} {row['proof']:6} {row['either']:7}")
        total.setdefault(kind, Counter()).update(row)
    for kind, row in total.items():
        print(f"{'all':36} {kind:8} {row['planted']:7} {row['run']:5} {row['proof']:6} {row['either']:7}")
    print(f"right models {alarms['right models']}, accused {alarms['accused']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
