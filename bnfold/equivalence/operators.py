"""The ONNX operators, as far as judging two models needs to know them: one row each.

A row says what is true of the operator by its specification, not what a fold does with it: nothing here is read by
`passes`, and nothing here reads `passes`, so that a mistake there is not repeated here. An operator without a row is
one that nothing is known of, as one of another domain.
"""

from enum import StrEnum
from typing import NamedTuple

from onnx import NodeProto

DEFAULT_DOMAINS = ("", "ai.onnx")


class Magnitude(StrEnum):
    """The computation on absolute values that bounds an operator's rounding errors.

    SAME: the operator itself, which is linear in its data or monotone with slope at most 1. PRODUCT: the same, and
    twice of two factors that are computed; a divisor that is needs its own values. ADDED: the sum, for a difference.
    SLOPED: its steepest slope times its data. NORMALIZED: by deviations of its own data. SHAPES: the operator itself,
    which reads no numbers. UNBOUNDED: there is no such bound.
    """

    SAME = "same"
    PRODUCT = "product"
    ADDED = "added"
    SLOPED = "sloped"
    NORMALIZED = "normalized"
    SHAPES = "shapes"
    UNBOUNDED = "unbounded"


class Part(StrEnum):
    """The part of its inputs that an operator reads. SHAPE: sizes, or the type, alone. SOME: elements of the first."""

    ALL = "all"
    SOME = "some"
    SHAPE = "shape"


class Operator(NamedTuple):
    """`crossed`: a map per channel may pass it or be taken up by it, under conditions that a proof tests by numbers.

    `affine`: with constants beside its data it is such a map. `unchanging`: its data leave it as they came.
    `commutative`: the order of its inputs does not matter. `random`: two runs differ. `repeats`: it runs a body more
    than once, without a bound that the file tells. `slow`: onnx.reference walks over positions in Python.
    `saturating`: it hides differences at its ends. `discrete`: it hides them between its steps. `transparent`: each
    element it makes is one it was given. `windowed`: it slides a window over the spatial axes. `real`: what it makes
    is never an integer.
    """

    crossed: bool = False
    affine: bool = False
    unchanging: bool = False
    commutative: bool = False
    random: bool = False
    repeats: bool = False
    slow: bool = False
    saturating: bool = False
    discrete: bool = False
    transparent: bool = False
    windowed: bool = False
    real: bool = False
    magnitude: Magnitude = Magnitude.UNBOUNDED
    part: Part = Part.ALL

    @property
    def weighted(self) -> bool:
        """Whether it is linear in its data, with weights, so that each element it makes is made of many."""
        return self.magnitude is Magnitude.PRODUCT and not self.affine


def _carrier(**facts: object) -> Operator:
    """An operator that puts each element of its data somewhere else."""
    return Operator(**{"crossed": True, "transparent": True, "magnitude": Magnitude.SAME, **facts})  # type: ignore[arg-type]  # the fields of Operator


_SAME, _PRODUCT = Magnitude.SAME, Magnitude.PRODUCT
_RECURRENT = Operator(slow=True, real=True)
_RANDOM = Operator(random=True)
_SATURATING = Operator(saturating=True, real=True)
_DISCRETE = Operator(discrete=True)
_COMPARISON = Operator(discrete=True)
_LOGICAL = Operator(discrete=True, commutative=True)

OPERATORS: dict[str, Operator] = {
    # linear in their data, with weights
    "Conv": Operator(crossed=True, windowed=True, real=True, magnitude=_PRODUCT),
    "ConvTranspose": Operator(crossed=True, windowed=True, real=True, magnitude=_PRODUCT),
    "Gemm": Operator(crossed=True, magnitude=_PRODUCT),
    "MatMul": Operator(crossed=True, magnitude=_PRODUCT),
    "Einsum": Operator(magnitude=_PRODUCT),
    "ConvInteger": Operator(windowed=True),
    "QLinearConv": Operator(windowed=True),
    "DeformConv": Operator(windowed=True, slow=True, real=True),
    # one map per channel
    "BatchNormalization": Operator(crossed=True, affine=True, real=True, magnitude=_SAME),
    "Mul": Operator(crossed=True, affine=True, commutative=True, magnitude=_PRODUCT),
    "Div": Operator(crossed=True, affine=True, magnitude=_PRODUCT),
    "Add": Operator(crossed=True, affine=True, commutative=True, magnitude=_SAME),
    "Sub": Operator(crossed=True, affine=True, magnitude=Magnitude.ADDED),
    "Sum": Operator(crossed=True, affine=True, commutative=True, magnitude=_SAME),
    "Neg": Operator(crossed=True, magnitude=Magnitude.SLOPED),
    "Mean": Operator(commutative=True, magnitude=_SAME),
    "InstanceNormalization": Operator(crossed=True, real=True, magnitude=Magnitude.NORMALIZED),
    "GroupNormalization": Operator(real=True),
    "LayerNormalization": Operator(real=True),
    # nothing, or nothing but where and in which type an element stands
    "Identity": _carrier(unchanging=True),
    "Dropout": Operator(crossed=True, unchanging=True, magnitude=_SAME),
    "Cast": _carrier(),
    "CastLike": Operator(crossed=True, magnitude=_SAME),
    "Transpose": _carrier(),
    "Reshape": _carrier(),
    "Flatten": _carrier(),
    "Squeeze": _carrier(),
    "Unsqueeze": _carrier(),
    "Expand": _carrier(),
    "Tile": _carrier(),
    "Concat": _carrier(),
    "Split": _carrier(part=Part.SOME),
    "Slice": _carrier(part=Part.SOME),
    "Gather": _carrier(part=Part.SOME),
    "GatherND": _carrier(part=Part.SOME),
    "GatherElements": _carrier(part=Part.SOME),
    "DepthToSpace": _carrier(),
    "SpaceToDepth": _carrier(),
    "Pad": Operator(crossed=True, magnitude=_SAME),
    "Resize": Operator(crossed=True, slow=True, magnitude=_SAME),
    "Upsample": Operator(crossed=True, slow=True, magnitude=_SAME),
    "GridSample": Operator(slow=True, real=True),
    # averages and sums
    "AveragePool": Operator(crossed=True, windowed=True, real=True, magnitude=_SAME),
    "GlobalAveragePool": Operator(crossed=True, real=True, magnitude=_SAME),
    "ReduceMean": Operator(crossed=True, magnitude=_SAME),
    "ReduceSum": Operator(crossed=True, magnitude=_SAME),
    "LpPool": Operator(windowed=True, slow=True, real=True),
    "GlobalLpPool": Operator(real=True),
    # monotone: a positive scale passes them
    "Relu": Operator(crossed=True, magnitude=_SAME),
    "LeakyRelu": Operator(crossed=True, real=True, magnitude=Magnitude.SLOPED),
    "PRelu": Operator(crossed=True, magnitude=Magnitude.SLOPED),
    "MaxPool": Operator(crossed=True, windowed=True, magnitude=_SAME),
    "GlobalMaxPool": Operator(crossed=True, real=True, magnitude=_SAME),
    "ReduceMax": Operator(crossed=True, transparent=True, magnitude=_SAME),
    "ReduceMin": Operator(transparent=True),
    "Max": Operator(commutative=True),
    "Min": Operator(commutative=True),
    "MaxRoiPool": Operator(slow=True, real=True),
    "RoiAlign": Operator(slow=True, real=True),
    # flat at their ends, or everywhere but at steps
    "Softmax": _SATURATING,
    "LogSoftmax": _SATURATING,
    "Hardmax": _SATURATING,
    "Sigmoid": _SATURATING,
    "HardSigmoid": _SATURATING,
    "Tanh": _SATURATING,
    "Erf": _SATURATING,
    "Clip": Operator(saturating=True),
    "ArgMax": _DISCRETE,
    "ArgMin": _DISCRETE,
    "TopK": _DISCRETE,
    "NonMaxSuppression": _DISCRETE,
    "NonZero": _DISCRETE,
    "OneHot": _DISCRETE,
    "Unique": _DISCRETE,
    "Where": _DISCRETE,
    "Compress": _DISCRETE,
    "Round": _DISCRETE,
    "Floor": _DISCRETE,
    "Ceil": _DISCRETE,
    "Sign": _DISCRETE,
    "QuantizeLinear": _DISCRETE,
    "DequantizeLinear": Operator(discrete=True, real=True),
    "Greater": _COMPARISON,
    "GreaterOrEqual": _COMPARISON,
    "Less": _COMPARISON,
    "LessOrEqual": _COMPARISON,
    "IsNaN": _COMPARISON,
    "IsInf": _COMPARISON,
    "Not": _COMPARISON,
    "Equal": _LOGICAL,
    "And": _LOGICAL,
    "Or": _LOGICAL,
    "Xor": _LOGICAL,
    # sizes
    "Shape": Operator(part=Part.SHAPE, magnitude=Magnitude.SHAPES),
    "Size": Operator(part=Part.SHAPE, magnitude=Magnitude.SHAPES),
    "Constant": Operator(transparent=True),
    # with a memory, with bodies, with dice
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "Loop": Operator(repeats=True),
    "Scan": Operator(repeats=True),
    "SequenceMap": Operator(repeats=True),
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "Bernoulli": _RANDOM,
    "Multinomial": _RANDOM,
}
_UNKNOWN = Operator()


def operator(op_type: str) -> Operator:
    """The row of one of ONNX's own operators; one that says nothing where there is none."""
    return OPERATORS.get(op_type, _UNKNOWN)


def operator_of(node: NodeProto) -> Operator:
    """The row of a node's operator; one that says nothing for an operator of another domain."""
    return OPERATORS.get(node.op_type, _UNKNOWN) if node.domain in DEFAULT_DOMAINS else _UNKNOWN


def reads_part(node: NodeProto, position: int) -> bool:
    """Whether a node reads only the sizes, the type or some elements of that input."""
    if operator_of(node).part is not Part.ALL:
        return True
    return position == 1 and node.op_type == "CastLike" and node.domain in DEFAULT_DOMAINS
