"""Random graphs through other optimizers: what they make wrong is found, and what they make right is not accused.

Whether a result is right is told by an interpreter in float64 that shares nothing with bnfold, and by onnxruntime. The
default run takes a few graphs; `pytest -m soak tests/rewriting/test_optimizers.py` as many as BNFOLD_OPTIMIZED_GRAPHS
says, from BNFOLD_OPTIMIZED_GRAPHS_SEED on, through every optimizer that is installed.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import bnfold
from bnfold.errors import UsageError, VerificationError
from bnfold.onnxfile import read, to_proto
from bnfold.rewriting.optimizers import OPTIMIZERS, Optimizer, missing
from bnfold.testing.random_scope import Array
from tests.oracle import evaluate
from tests.random_graph_judge import _equivalent, _equivalent_at_run_time, _float_type
from tests.random_graphs import Case, seeded_case

SOAKED = int(os.environ.get("BNFOLD_OPTIMIZED_GRAPHS", "500"))
FIRST_SEED = int(os.environ.get("BNFOLD_OPTIMIZED_GRAPHS_SEED", "0"))
INSTALLED = [name for name, kind in OPTIMIZERS.items() if not missing(kind)]


SHARP = {TensorProto.DOUBLE: 128.0, TensorProto.FLOAT: 1.0, TensorProto.FLOAT16: 1.0}
"""How many times as far as rounding every number moves an output a result may be off before it may be called wrong.

Another epsilon, such as AIMET's 1e-5 where the model says 0, is off by a few.
"""
LOOSE = {TensorProto.DOUBLE: 128.0, TensorProto.FLOAT: 32.0, TensorProto.FLOAT16: 16.0}
"""The same, before it has to be called wrong."""


def wrong_by(case: Case, made: ModelProto, slack: dict[int, float]) -> str | None:
    """What is wrong with a result, "" for nothing; None where neither the interpreter nor onnxruntime can tell.

    What the checker of ONNX refuses is wrong, and what onnxruntime does not load though it loads the original. The
    interpreter has the word where it knows all operators and every output has a number in it. Models whose inputs are
    of any size are asked at another size as well.
    """
    try:
        onnx.checker.check_model(made)
    except onnx.checker.ValidationError as error:
        return str(error).splitlines()[0]
    refusal = _refused(made)
    if refusal and not _refused(case.model):
        return refusal
    told = False
    for feed in [*case.feeds, *of_other_sizes(case)]:
        for look in (_interpreted, _equivalent_at_run_time):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    can_tell = look(case.model, made, feed, slack) is not False
            except AssertionError as error:
                if _is_other_epsilon(case.model, made, feed, slack):
                    can_tell = True
                else:
                    return str(error).splitlines()[0]
            except Exception:  # noqa: BLE001 - an operator that it does not know, a size that does not fit
                continue
            told = told or can_tell
            if can_tell:
                break
    return "" if told else None


def _is_other_epsilon(model: ModelProto, made: ModelProto, feed: dict[str, Array], slack: dict[int, float]) -> bool:
    """Whether a result is right if 1e-5, the epsilon of a node that names none, is that number and no float32.

    AIMET reads it so: in a model of doubles that is another function, by 1e-13 of its values.
    """
    read = ModelProto()
    read.CopyFrom(model)
    rest = np.float64(1e-5) - np.float64(np.float32(1e-5))
    for node in read.graph.node:
        if node.op_type == "BatchNormalization" and not any(each.name == "epsilon" for each in node.attribute):
            variance = next((each for each in read.graph.initializer if each.name == node.input[4]), None)
            if variance is None:
                return False
            moved = numpy_helper.from_array(numpy_helper.to_array(variance) + rest, f"{node.output[0]}:variance")
            read.graph.initializer.append(moved)
            node.input[4] = moved.name
    if read == model or _float_type(model) != TensorProto.DOUBLE:
        return False
    try:
        _equivalent(read, made, feed, None, slack)
    except Exception:  # noqa: BLE001 - whatever it is, it is no proof that the result is right
        return False
    return True


def _refused(model: ModelProto) -> str:
    """What onnxruntime says against loading a model; "" where it loads it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own
        return str(error).splitlines()[0]
    return ""


def drifts_by(case: Case, made: ModelProto) -> str:
    """What is wrong with a result that only onnxruntime's optimizer makes wrong, "" for nothing.

    It stores equal initializers once, and BatchNormalization in training mode writes into its own as it runs
    (onnxruntime#29790): where that happens to the result alone, it answers otherwise from run to run.
    """
    for feed in [*case.feeds, *of_other_sizes(case)]:
        if _drifts(made, feed) and not _drifts(case.model, feed):
            return "onnxruntime, with its optimizations, answers otherwise from run to run"
    return ""


def _drifts(model: ModelProto, feed: dict[str, Array]) -> bool:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        runs = [session.run(None, feed) for _ in range(3)]
    except Exception:  # noqa: BLE001 - onnxruntime raises classes of its own
        return False
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(runs[0], runs[2], strict=True))


def _interpreted(model: ModelProto, made: ModelProto, feed: dict[str, Array], slack: dict[int, float]) -> bool:
    outputs = evaluate(model, feed).values()
    if not all(np.isfinite(each).any() for each in outputs if each.dtype.kind == "f" and each.size):
        return False
    try:
        evaluate(made, feed)
    except KeyError as error:
        raise AssertionError(f"the result has no input {error}") from error
    _equivalent(model, made, feed, None, slack)
    return True


def of_other_sizes(case: Case) -> Iterator[dict[str, Array]]:
    """Other numbers, with three rows, columns, ... more wherever a size may be any."""
    draw, feed = np.random.default_rng(0), dict(case.feeds[0])
    for value in case.model.graph.input:
        grown = [3 if dim.dim_param else 0 for dim in value.type.tensor_type.shape.dim]
        if any(grown) and value.name in feed:
            given = feed[value.name]
            feed[value.name] = draw.normal(size=np.add(given.shape, grown)).astype(given.dtype)
    if any(feed[name].shape != each.shape for name, each in case.feeds[0].items()):
        yield feed


def verdict_on(case: Case, optimizer: Optimizer) -> tuple[str, str]:
    """What became of a model: "right" or "untold" where all is well, else what is not, with the facts."""
    try:
        made = bnfold.optimize(case.model, passes=[optimizer]).model
    except VerificationError as error:
        if error.report.verdict != "not-equivalent":
            return "not verified", error.report.explanation
        if error.report.passes[0]["detail"]:
            return "found", error.report.passes[0]["detail"]
        made = to_proto(optimizer.rewrite(read(case.model)))
        wrong = wrong_by(case, made, SHARP) or drifts_by(case, made)
        return ("found", wrong) if wrong or wrong is None else ("ACCUSED", error.report.explanation)
    except UsageError as error:
        return "raised", str(error)
    wrong = wrong_by(case, made, LOOSE)
    return ("untold", "") if wrong is None else ("MISSED", wrong) if wrong else ("right", "")


def soaked(name: str, seeds: range) -> tuple[Counter[str], dict[int, tuple[str, str]]]:
    counts: Counter[str] = Counter()
    bad = {}
    for seed in seeds:
        found = verdict_on(seeded_case(seed), OPTIMIZERS[name]())
        counts[found[0]] += 1
        if found[0].isupper():
            bad[seed] = found
    return counts, bad


@pytest.mark.parametrize("name", INSTALLED)
def test_random_graphs_through_an_optimizer(name: str) -> None:
    counts, bad = soaked(name, range(12))
    assert not bad
    assert counts["right"] + counts["found"] >= 6, counts


@pytest.mark.soak
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("name", INSTALLED)
def test_hundreds_of_random_graphs_through_an_optimizer(name: str) -> None:
    counts, bad = soaked(name, range(FIRST_SEED, FIRST_SEED + SOAKED))
    print(name, dict(counts))
    assert not bad
