"""Models as one line of text, and what the fold made of them.

A row of a table is the node list of a graph in the syntax of `onnx.parser`. A name that no node makes is an input where
`INPUTS` (or the row) has a type for it, and a stored constant where `CONSTANTS` (or the row) has an array for it. Sizes
are chosen so that a mixed-up axis cannot pass unseen: 3 input channels, 4 output channels, 6 rows and 7 columns.

In a row of a table of what is left alone, `/good|bad/` marks the one place that differs between a model that folds and
one that must not: `text.good()` and `text.bad()` are the two.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from bnfold.decisions import Action, Decision
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import FoldBatchNorm, FoldBatchNormOptions
from bnfold.pipeline import run_passes
from bnfold.testing import build, every_node, numbers
from tests.oracle import evaluate

Array = NDArray[Any]
_CHOICE = re.compile(r"/([^/|]*)\|([^/|]*)/")

INPUTS: Mapping[str, str] = {
    "x": "float[N,3,6,7]",
    "x2": "float[N,3,6,7]",
    "flag": "bool",
    "loose4": "float[4]",
    "loose_w": "float[4,3,3,3]",
}


def batch_norm(channels: int, suffix: str, seed: int = 0, dtype: Any = np.float32) -> dict[str, Array]:
    """The parameters g, h, m, v of a BatchNormalization of `channels`, their names ending in `suffix`."""
    return {
        f"g{suffix}": numbers(channels, seed=seed + 1, dtype=dtype),
        f"h{suffix}": numbers(channels, seed=seed + 2, dtype=dtype),
        f"m{suffix}": numbers(channels, seed=seed + 3, dtype=dtype),
        f"v{suffix}": numbers(channels, seed=seed + 4, low=0.1, high=2.0, dtype=dtype),
    }


CONSTANTS: Mapping[str, Array] = {
    "w": numbers(4, 3, 3, 3),
    "w1": numbers(4, 3, 1, 1),
    "b": numbers(4),
    **batch_norm(4, ""),
    **batch_norm(4, "_2", seed=10),
    **{f"{name}3": array for name, array in batch_norm(3, "").items()},
}


def int64(*values: int) -> Array:
    """What an operator reads as a shape, axes, pads or indices: int64 [len(values)]."""
    return np.array(values, np.int64)


PLAIN = FoldBatchNormOptions()


@dataclass(frozen=True)
class Row:
    """One model of a table: its text and whatever differs from the defaults."""

    text: str
    inputs: Mapping[str, str] | None = None
    constants: Mapping[str, Array] | None = None
    outputs: Sequence[str] = ("y",)
    opset: int | tuple[int, int] = 18
    ir: int | tuple[int, int] = 9
    options: FoldBatchNormOptions | tuple[FoldBatchNormOptions, FoldBatchNormOptions] = PLAIN
    assume: bool = False

    def good(self) -> "Row":
        return self._pick(0)

    def bad(self) -> "Row":
        return self._pick(1)

    def _pick(self, side: int) -> "Row":
        def of(value: Any) -> Any:
            return value[side] if isinstance(value, tuple) else value

        return Row(
            _CHOICE.sub(lambda found: found.group(side + 1), self.text),
            self.inputs,
            self.constants,
            tuple(_CHOICE.sub(lambda found: found.group(side + 1), name) for name in self.outputs),
            of(self.opset),
            of(self.ir),
            of(self.options),
            self.assume,
        )

    def model(self) -> ModelProto:
        return build(
            self.text,
            inputs={**INPUTS, **(self.inputs or {})},
            constants={**CONSTANTS, **(self.constants or {})},
            outputs=self.outputs,
            opset=self.opset,
            ir=self.ir,
        )


def completing(inputs: Mapping[str, str], constants: Mapping[str, Array]) -> Callable[[Row], Row]:
    """What completes a row of a table whose rows share these inputs and constants; the row's own come first."""
    return lambda row: replace(
        row, inputs={**inputs, **(row.inputs or {})}, constants={**constants, **(row.constants or {})}
    )


@dataclass(frozen=True)
class Folded:
    """What came out."""

    model: ModelProto
    decisions: tuple[Decision, ...]
    modified: bool

    @property
    def operators(self) -> list[str]:
        """The operators of the main graph, in order."""
        return [node.op_type for node in self.model.graph.node]

    @property
    def every_operator(self) -> list[str]:
        """The operators of every scope."""
        bodies = [self.model.graph, *self.model.functions]
        return [node.op_type for body in bodies for node in every_node(body)]

    def decision(self, node: str | None = None) -> Decision:
        """The one decision there is, or the one for `node`."""
        found = [decision for decision in self.decisions if node in (None, decision.node)]
        assert len(found) == 1, self.decisions
        return found[0]

    def constant(self, name: str) -> Array:
        """A stored initializer."""
        return numpy_helper.to_array(next(t for t in self.model.graph.initializer if t.name == name))


def fold(model: ModelProto, options: FoldBatchNormOptions | None = None, *, assume: bool = False) -> Folded:
    """Run the pass alone over a copy of `model`."""
    file = read(model.SerializeToString())
    scopes = Model(file, assume_constant_initializers=assume)
    decisions = run_passes(scopes, [FoldBatchNorm(options)])
    return Folded(to_proto(file), decisions, scopes.modified)


def feeds(model: ModelProto, batch: int, seed: int = 0) -> dict[str, Array]:
    """Numbers for every input that has no default; symbolic dims are `batch`."""
    stored = {tensor.name for tensor in model.graph.initializer}
    random = np.random.default_rng([seed, batch])
    made: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        numbers_ = random.integers(0, 2, shape) if dtype.kind in "bi" else random.normal(0, 1, shape)
        made[value.name] = numbers_.astype(dtype)
    return made


def assert_same_function(original: ModelProto, folded: ModelProto, rtol: float = 2e-6) -> None:
    """In real arithmetic the two differ only by the rounding of new constants; borders and batches 1 and 2 included.

    `rtol` is relative to the largest output: some ten roundings of the dtype that stores the weights.
    """
    for batch in (1, 2):
        fed = feeds(original, batch)
        expected, found = evaluate(original, fed), evaluate(folded, fed)
        assert list(expected) == list(found)
        for name, value in expected.items():
            assert found[name].shape == value.shape, name
            assert np.isfinite(value).all()
            np.testing.assert_allclose(found[name], value, rtol=0, atol=rtol * max(1e-3, np.abs(value).max()))


def assert_well_formed(original: ModelProto, folded: ModelProto) -> None:
    """Valid ONNX with the same interface, and no more nodes than there were."""
    onnx.checker.check_model(folded, full_check=True)
    assert [value.SerializeToString() for value in folded.graph.output] == [
        value.SerializeToString() for value in original.graph.output
    ]
    stored = {tensor.name for tensor in (*original.graph.initializer, *folded.graph.initializer)}
    assert [v for v in folded.graph.input if v.name not in stored] == [
        v for v in original.graph.input if v.name not in stored
    ]
    assert list(folded.opset_import) == list(original.opset_import)
    assert folded.ir_version == original.ir_version


def check_folds(row: Row, left: str, *, action: Action = Action.FOLDED, rtol: float = 2e-6) -> Folded:
    """Fold a row of a table of what folds; the operators that are `left`, in order, separated by spaces."""
    row = row.good()
    original = row.model()
    onnx.checker.check_model(original, full_check=True)
    done = fold(original, row.options, assume=row.assume)
    assert done.operators == left.split(), [str(d) for d in done.decisions]
    assert done.modified
    assert action in [decision.action for decision in done.decisions], done.decisions
    assert_well_formed(original, done.model)
    assert_same_function(original, done.model, rtol)
    again = fold(done.model, row.options, assume=row.assume)
    assert not again.modified, "a second run changes something"
    return done


def check_left_alone(name: str, row: Row) -> Folded:
    """A row of a table of what is left alone. `name` starts with the reason; the good side of the row must fold."""
    good, bad = row.good(), row.bad()
    assert good != bad, "the row marks no difference"
    kept = [d for d in fold(good.model(), good.options, assume=good.assume).decisions if d.action is Action.KEPT]
    assert not kept, f"even without the difference: {kept}"
    original = bad.model()
    done = fold(original, bad.options, assume=bad.assume)
    assert not done.modified, done.decisions
    assert done.model.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)
    reasons = [decision.reason.code for decision in done.decisions if decision.reason is not None]
    assert reasons == [name.split(":")[0]], done.decisions
    assert [decision.action for decision in done.decisions] == [Action.KEPT]
    return done
