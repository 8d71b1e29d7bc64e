"""How many planted bugs each way of looking detects, and how many right models it accuses.

    python -m benchmarks.planted_bugs [--sites N] [--right N] [--networks WORD] [--kinds] [--real-graph]

Wrong models are made from right ones by a folder of the tests' own (tests/planted.py), each kind of bug at N sites of
each network. bnfold looks by running the models and by proving every change; beside it the checks that onnxsim
(`simplify(check_n=3)`) and polygraphy (`CompareFunc.simple` on `OnnxrtRunner`) bring along, with their defaults. Peers
that are not installed are left out: pip install '.[benchmarks]'. `--real-graph` takes a ShuffleNet of the onnx
wheel instead.
"""

import argparse
import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

import onnx
from onnx import ModelProto

from bnfold.equivalence import Standing, Verdict, prove, verify
from tests import light_graphs, planted

Judge = Callable[[ModelProto, ModelProto], bool]
"""Reference, candidate -> whether the candidate is called wrong."""
REAL_GRAPH = "light_shufflenet"


def by_running(reference: ModelProto, candidate: ModelProto) -> bool:
    """bnfold, from what both models answer."""
    return verify(reference.SerializeToString(), candidate.SerializeToString()).verdict is Verdict.NOT_EQUIVALENT


def by_proofs(reference: ModelProto, candidate: ModelProto) -> bool:
    """bnfold, from proofs of the places where they differ alone."""
    return any(proof.standing is Standing.BROKEN for proof in prove(reference, candidate))


def by_onnxsim(reference: ModelProto, candidate: ModelProto) -> bool:
    """What `onnxsim.simplify(check_n=3)` asks about its own result."""
    from onnxsim import model_checking

    with contextlib.redirect_stdout(io.StringIO()):
        return not model_checking.compare(candidate, reference, n_times=3, verbose=False)


def by_polygraphy(reference: ModelProto, candidate: ModelProto) -> bool:
    """What `polygraphy run --onnxrt` asks about two models."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    runners = [OnnxrtRunner(SessionFromOnnx(model.SerializeToString())) for model in (reference, candidate)]
    with contextlib.redirect_stdout(io.StringIO()):
        results = Comparator.run(runners)
        return not bool(Comparator.compare_accuracy(results, compare_func=CompareFunc.simple()))


OURS: dict[str, Judge] = {"running": by_running, "proofs": by_proofs}
PEERS: dict[str, Judge] = {"onnxsim": by_onnxsim, "polygraphy": by_polygraphy}


def networks() -> Iterator[tuple[str, ModelProto]]:
    """Every network of the suite in both precisions."""
    yield from planted.bases().items()


def real_graph() -> Iterator[tuple[str, ModelProto]]:
    """One of the onnx wheel, its weights drawn at random."""
    yield REAL_GRAPH, light_graphs.light(REAL_GRAPH.removeprefix("light_"))


def main() -> None:
    """Plant, look, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted_bugs", description=__doc__)
    parser.add_argument("--sites", type=int, default=1)
    parser.add_argument("--right", type=int, default=4)
    parser.add_argument("--networks", default="")
    parser.add_argument("--kinds", action="store_true")
    parser.add_argument("--real-graph", action="store_true")
    chosen = parser.parse_args()
    judges = OURS | {name: judge for name, judge in PEERS.items() if _version(name)}
    print(", ".join(f"{name} {_version(name) or 'is not installed'}" for name in ("onnxruntime", *PEERS)))
    wrong: dict[tuple[str, str], Counter[str]] = {}
    right: dict[str, Counter[str]] = {}
    for name, base in real_graph() if chosen.real_graph else networks():
        if chosen.networks not in name:
            continue
        kind = "float16" if name.endswith("float16") else "float32"
        folds = planted.Folds(base)
        for subset in planted.subsets(len(folds.sites), chosen.right):
            found = _asked(judges, base, folds.right(subset))
            right.setdefault(kind, Counter()).update(found)
        for bug, candidate in _wrong(folds, chosen.sites):
            wrong.setdefault((bug, kind), Counter()).update(_asked(judges, base, candidate))
        so_far = [" ".join(f"{key} {n}" for key, n in sum(rows.values(), Counter()).items()) for rows in (wrong, right)]
        print(f"{name}: wrong so far: {so_far[0]}; right so far: {so_far[1]}", flush=True)
    columns = ["models", *OURS, "either", *(name for name in judges if name in PEERS)]
    print(f"\n{'wrong models called wrong':36} {'':8}" + "".join(f"{column:>11}" for column in columns))
    totals: dict[str, Counter[str]] = {}
    for (bug, kind), row in sorted(wrong.items()):
        totals.setdefault(kind, Counter()).update(row)
        if chosen.kinds:
            print(f"{bug:36} {kind:8}" + "".join(f"{row[column]:11}" for column in columns))
    for title, rows in (("wrong, all kinds", totals), ("right models called wrong", right)):
        for kind, row in rows.items():
            print(f"{title:36} {kind:8}" + "".join(f"{row[column]:11}" for column in columns))
            print(
                f"{'  could not be compared':36} {kind:8}"
                + " " * 11
                + "".join(f"{row[f'{column} failed']:11}" for column in columns[1:])
            )


def _wrong(folds: planted.Folds, sites: int) -> Iterator[tuple[str, ModelProto]]:
    for bug, _, candidate in folds.wrong_ones(sites):
        yield bug, candidate
    yield from planted.structural(folds, folds.right(range(len(folds.sites)))).items()


def _asked(judges: Mapping[str, Judge], reference: ModelProto, candidate: ModelProto) -> Counter[str]:
    """One model's row: who calls it wrong, and whose check ended in an exception instead."""
    row = Counter(models=1)
    for name, judge in judges.items():
        try:
            row[name] += judge(_copy(reference), _copy(candidate))
        except Exception as error:  # noqa: BLE001 - peers raise what they see fit
            row[f"{name} failed"] += 1
            print(f"  {name} could not compare: {' '.join(str(error).split())[:160]}")
    row["either"] += any(row[name] for name in OURS)
    return row


def _copy(model: ModelProto) -> ModelProto:
    """Some checks change the models they are given."""
    return onnx.load_from_string(model.SerializeToString())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
