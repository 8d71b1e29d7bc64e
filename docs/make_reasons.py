"""Writes docs/reasons.md: every reason a normalization is kept for, each with a graph that has it.

`python docs/make_reasons.py` writes the page, after it has asked bnfold about each example. A test compares the two.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper, parser

sys.path.insert(0, str(Path(__file__).parents[1]))

import bnfold
from bnfold.decisions import Action, Reason
from tests.fold_models import CONSTANTS, INPUTS, build, numbers

PAGE = Path(__file__).with_name("reasons.md")
HEAD = """# Why a normalization is kept

*Written by `python docs/make_reasons.py` from the code; every example was put to bnfold and has the reason it stands
under.*

`bnfold inspect MODEL` says for each normalization what `bnfold optimize` would do with it. Where it stays, a code and a
sentence say why; the codes are stable, so scripts may match on them (`bnfold inspect --fail-on CODE`, and
`"reason": {"code": ...}` in the JSON report). `bnfold inspect MODEL --explain NODE` tells the whole walk for one of
them. A constant gain or bias that stays beside a linear operator has a reason of these too; it is no normalization, so
it is counted on its own (`"gain": true` in the JSON report), and `--fail-on` does not ask about it.

In the examples `x` is an input of shape [N, 3, 6, 7], `w` and `b` are the weight and bias of a convolution with four
output channels, and `g, h, m, v` are scale, bias, mean and variance of four channels, `g3, h3, m3, v3` of three. They
are stored constants unless the text says otherwise. `y` is the output.
"""


@dataclass(frozen=True)
class Example:
    """The nodes of a graph, what a person can do, and how the model differs from the usual one."""

    nodes: str
    advice: str
    note: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 17
    ir: int = 8
    functions: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""
    elsewhere: str = ""  # the test that asks for this reason, where inspecting a model alone cannot


ONES = np.ones(4, np.float32)
N = "BatchNormalization"
BN = f"y = {N}(c, g, h, m, v)"
EXAMPLES: dict[Reason, Example] = {
    Reason.TRAIN_MODE: Example(
        f"c = Conv(x, w, b) y = {N}<training_mode=1>(c, g, h, m, v)",
        "`bnfold optimize` freezes it to its stored statistics first; you see this only with `--no-freeze`.",
        note="with `--no-freeze`",
        options={"freeze": False},
    ),
    Reason.SPATIAL_ZERO: Example(
        f"c = Conv(x, w, b) y = {N}<spatial=0>(c, g, h, m, v)",
        "`--assume-spatial` reads it as `spatial = 1`, or export again with opset 9 or later, which has no such mode.",
        note="opset 8",
        opset=8,
    ),
    Reason.ATTRIBUTE_OF_CALLER: Example(
        "y = local.normalize<e=0.5>(x)",
        "Calls are written out where that lets something fold; here nothing around the call could take it up.",
        note=f"the function: `normalize <e> (a) => (y) {{ p = Constant() y = {N}<epsilon = @e>(a, p, p, p, p) }}`",
        functions='<domain: "local", opset_import: ["" : 17]> normalize <e> (a) => (y) '
        f"{{ p = Constant<value = float[3] {{1,2,3}}>() y = {N}<epsilon: float = @e>(a, p, p, p, p) }}",
    ),
    Reason.MALFORMED: Example(
        f"c = Conv(x, w, b) y = {N}(c, g, h, m)",
        "The file breaks the ONNX specification here: export it again.",
        note="the variance is missing",
    ),
    Reason.PARAMETER_NOT_CONSTANT: Example(
        f"c = Conv(x, w, b) y = {N}(c, u, h, m, v)",
        "Make the parameters constants of the model.",
        note="`u` is an input",
        inputs={"u": "float[4]"},
    ),
    Reason.CONSTANT_DISPUTED: Example(
        "c = Conv(x, w, b) u = Unsqueeze<axes=[-2, -1]>(s) y = Mul(c, u)",
        "Export for opset 13 or later, or store the value instead of the operators that make it "
        "(`onnxsim` does); onnx.reference misreads negative axes of Unsqueeze before opset 13.",
        note="opset 11; `s` is stored",
        constants={"s": ONES},
        opset=11,
    ),
    Reason.OVERRIDABLE_PARAMETER: Example(
        f"c = Conv(x, w, b) {BN}",
        "If no caller ever replaces it, pass `--assume-constant-initializers`.",
        note="`g` is stored and an input as well",
        inputs={"+g": "float[4]"},
    ),
    Reason.PARAMETER_SHAPE: Example(
        f"c = Conv(x, w, b) y = {N}(c, g, h, m, v3)",
        "The file breaks the ONNX specification here: export it again.",
        note="one variance too few",
    ),
    Reason.NOT_FINITE: Example(
        f"c = Conv(x, w, b) y = {N}(c, g, h, m, negative)",
        "The statistics are damaged: look at the training run, or compute them anew with `bnfold recalibrate`.",
        note="`negative` holds -1",
        constants={"negative": -ONES},
    ),
    Reason.KEPT_ON_REQUEST: Example(
        f"c = Conv(x, w, b) {BN}",
        "Leave the `--keep` pattern away.",
        note="with `--keep '*'`",
        options={"keep": ("*",)},
    ),
    Reason.ROLLED_BACK: Example(
        f"c = Conv(x, w, b) {BN}",
        "Please report it with the model or the few operators around it: this is a bug in bnfold.",
        note="with `--on-mismatch rollback`, if bnfold had folded it wrongly",
        elsewhere="tests/optimization/test_rollback.py",
    ),
    Reason.INITIAL_STATISTICS: Example(
        f"c = Conv(x, w, b) y = {N}<training_mode=1>(c, g, h, zero, one)",
        "Compute statistics with `bnfold recalibrate`, or insist with `--accept-initial-statistics`.",
        note="`zero` holds 0 and `one` 1",
        constants={"zero": 0 * ONES, "one": ONES},
    ),
    Reason.BATCH_STATISTICS: Example(
        "c = Conv(x, w, b) mean = ReduceMean<axes=[0,2,3], keepdims=0>(c) mean1 = ReduceMean<axes=[0,2,3]>(c) "
        "d = Sub(c, mean1) dd = Mul(d, d) var = ReduceMean<axes=[0,2,3], keepdims=0>(dd) "
        f"y = {N}(c, g, h, mean, var)",
        "It was trained with `track_running_stats=False`: train it, or calibrate it, with running statistics.",
    ),
    Reason.STATISTICS_READ: Example(
        f"c = Conv(x, w, b) y, rm, rv = {N}<training_mode=1>(c, g, h, m, v)",
        "Export the model in evaluation mode, or without these outputs.",
        note="`rm` is an output of the graph",
        outputs=("y", "rm"),
    ),
    Reason.DECIDED_AT_RUN_TIME: Example(
        "y = Dropout(x, ratio, training)",
        "Export the model with a constant mode.",
        note="a Dropout; `training` is an input",
        inputs={"training": "bool"},
        constants={"ratio": np.float32(0.5)},
    ),
    Reason.STATISTICS_NOT_FOUND: Example(
        f"c = Conv(x, w, b) y = {N}<training_mode=1>(c, g, h, zero, one)",
        "Pass the file of the very network that was exported.",
        note="with `--statistics-from other.safetensors`",
        elsewhere="tests/cli/test_recalibrate.py",
    ),
    Reason.UNEVEN_GROUPS: Example(
        f"y = {N}(x, g3, h3, m3, v3)",
        "Ask for a number of groups that divides the channels, or leave it out: `--substitute group-norm`.",
        note="with `--substitute group-norm:2`; there are 3 channels",
        elsewhere="tests/passes/test_substitute.py",
    ),
    Reason.ONE_VALUE_PER_CHANNEL: Example(
        f"y = {N}(u, g, h, m, v)",
        "Use `group-norm` or `layer-norm`, which take several channels together.",
        note="with `--substitute instance-norm`; `u` has the shape [N, 4]",
        elsewhere="tests/passes/test_substitute.py",
    ),
    Reason.GRAPH_INPUT: Example(
        f"y = {N}(x, g3, h3, m3, v3)",
        "There is nothing to fold it into. `--lower` writes it as Mul and Add.",
    ),
    Reason.NO_PRODUCER: Example(
        f"c = {N}(stored, g3, h3, m3, v3) y = Add(x, c)",
        "It normalizes something that is not computed, and that is stored in a form bnfold does not change.",
        note="`stored` is a sparse initializer",
        constants={"~stored": (1, 3, 6, 7)},
    ),
    Reason.OTHER_CONSUMER: Example(
        f"c = Conv(x, w, b) {BN} z = Sigmoid(c)",
        "The two readers want different values: to fold one, the layer would have to be computed twice. In a DenseNet "
        "each Concat is read by the next Concat too, and so are the layers in front of it, so that its normalizations "
        "have only the layer behind their Relu to go to. Where all scales are positive they go there and an Add stays. "
        "Where some are not, |k| could go and a BatchNormalization with scales of 1 and -1 would stay: exact, but the "
        "same work. Even an Add in its place saves none worth having: twelve such layers took 13.4 ms in onnxruntime "
        "with either (one thread, 28 x 28, growth 32).",
        outputs=("y", "z"),
    ),
    Reason.VALUE_IS_OUTPUT: Example(
        f"c = Conv(x, w, b) {BN}",
        "Drop the output if nobody needs the value before the normalization.",
        note="`c` is an output too",
        outputs=("c", "y"),
    ),
    Reason.BARRIER: Example(
        f"d = Conv(x, w, b) c = Sigmoid(d) {BN}",
        "Behind such an activation a normalization can only go into what follows.",
    ),
    Reason.UNKNOWN_OPERATOR: Example(
        f"c = my.Layer(x) y = {N}(c, g, h, m, v)",
        "Only operators whose algebra is known are crossed.",
    ),
    Reason.SHAPE_UNKNOWN: Example(
        f"d = Conv(x, w, b) c = Reshape(d, shape) {BN}",
        "Give the model fixed shapes where it can have them.",
        note="`shape` is an input",
        inputs={"shape": "int64[4]"},
    ),
    Reason.NOT_PER_CHANNEL: Example(
        f"d = Conv(x, w, b) c = Gather<axis=1>(d, twice) y = {N}(c, g5, h5, m5, v5)",
        "A channel that is read twice would need two scales.",
        note="`twice` is the list 0, 1, 2, 3, 0, and `g5` to `v5` are five numbers",
        constants={
            "twice": np.array([0, 1, 2, 3, 0]),
            **{f"{name}5": numbers(5, seed=i, low=0.1) for i, name in enumerate("ghmv")},
        },
    ),
    Reason.WRONG_AXIS: Example(
        f"c = MatMul(t, k) {BN}",
        "The map scales another axis than the one the operator computes: equal sizes do not make equal axes.",
        note="`t` is an input of shape [N, 4, 5], `k` is [5, 4]",
        inputs={"t": "float[N,4,5]"},
        constants={"k": numbers(5, 4)},
    ),
    Reason.NEGATIVE_SCALE: Example(
        f"d = Conv(x, w, b) c = MaxPool<kernel_shape=[2,2]>(d) y = {N}(c, negative, h, m, v)",
        "Under a negative scale a maximum becomes a minimum. (Moving only |k| across would leave an operator that "
        "multiplies by the sign in the same place, so nothing would be saved.)",
        note="`negative` holds -1",
        constants={"negative": -ONES},
    ),
    Reason.SHIFT_BLOCKED: Example(
        f"d = Conv(x, w, b) e = Conv(x, w2, b) c = Mul(d, e) y = {N}<epsilon=0.0>(c, one, h, zero, one)",
        "A product takes a scale in one factor, and a shift in none. (Where there is a scale as well, it alone is "
        "folded and the shift stays as an Add.)",
        note="`one` holds 1 and `zero` 0, so that only a shift is left",
        constants={"one": ONES, "zero": 0 * ONES, "w2": numbers(4, 3, 3, 3, seed=5)},
    ),
    Reason.ROUNDING_CAST: Example(
        f"d = Conv(x, w, b) c = Cast<to=11>(d) y = {N}<epsilon=0.0>(c, k, t, o, k)",
        "Run the normalization in the type of the convolution, or the convolution in the wider type. A scale passes a "
        "Cast from the narrower type, whose weights are rounded as much as the value is.",
        note="`k` are ones, `o` zeros and `t` shifts, all double",
        constants={"k": np.ones(4), "o": np.zeros(4), "t": numbers(4, dtype=np.float64)},
    ),
    Reason.PADDED_BORDER: Example(
        f"c = {N}<epsilon=0.0>(x, one3, h3, zero3, one3) y = Conv<pads=[1,1,1,1]>(c, w, b)",
        "The padding is zero behind the normalization; in front of it, it would have to be another number for each "
        "channel. (Where there is a scale as well, it alone is folded and the shift stays as an Add.)",
        note="`one3` holds 1 and `zero3` 0, so that only a shift is left",
        constants={"one3": ONES[:3], "zero3": 0 * ONES[:3]},
    ),
    Reason.NO_CONSUMER: Example(
        f"unread = {N}(x, g3, h3, m3, v3) y = Sigmoid(x)",
        "The model computes it for nothing. (This code stands in the detail, behind what is before the operator.)",
    ),
    Reason.ZERO_SCALE: Example(
        f"q = DequantizeLinear<axis=0>(integers, scales) c = Conv(x, q) y = {N}(c, zero, h, m, v)",
        "A quantization scale must not be zero: prune the channel before the export.",
        note="`zero` holds 0",
        constants={
            "integers": np.arange(108, dtype=np.int8).reshape(4, 3, 3, 3),
            "scales": ONES,
            "zero": 0 * ONES,
        },
    ),
    Reason.OLD_OPSET: Example(
        f"q = DequantizeLinear(integers, scale) c = Conv(x, q) {BN}",
        "Convert the model to opset 13 or later with `onnx.version_converter`.",
        note="opset 12, where a weight has one quantization scale for all channels",
        constants={"integers": np.arange(108, dtype=np.int8).reshape(4, 3, 3, 3), "scale": np.float32(0.1)},
        opset=12,
    ),
    Reason.NAME_TAKEN: Example(
        f"n = {N}(x, g3, zero, zero, v3) y = Loop(count, going, x) <body = b (int64 i, bool ci, float[N,3,6,7] x) => "
        "(bool co, float[N,3,6,7] r) { co = Identity(ci) c = Conv(n, k) r = Add(c, x) }>",
        "Rename what the body calls its own.",
        note="the Conv would have to read `x`, which is another value inside the body; `zero` holds 0",
        inputs={"count": "int64", "going": "bool"},
        constants={"k": numbers(3, 3, 1, 1), "zero": np.zeros(3, np.float32)},
    ),
    Reason.NOT_ALL_ABSORB: Example(
        f"c = {N}(x, g3, h3, m3, v3) d = Conv(c, w, b) e = Conv(c, w, b) y = Add(d, e) z = MatMul(c, c)",
        "Every reader of its output has to take it up, or none.",
        outputs=("y", "z"),
    ),
    Reason.WEIGHT_NOT_CONSTANT: Example(
        f"c = Conv(x, u) {BN}",
        "Make the weight a constant of the model.",
        note="`u` is an input",
        inputs={"u": "float[4,3,3,3]"},
    ),
    Reason.BIAS_NOT_CONSTANT: Example(
        f"c = Conv(x, w, u) {BN}",
        "Make the bias a constant of the model.",
        note="`u` is an input",
        inputs={"u": "float[4]"},
    ),
    Reason.WEIGHT_SHAPE: Example(
        f"c = Conv(x, w, h3) {BN}",
        "The file breaks the ONNX specification here: export it again.",
        note="three biases for four channels",
    ),
    Reason.NOT_BROADCASTABLE: Example(
        f"c = Gemm(t, k, cube) {BN}",
        "The file breaks the ONNX specification here: export it again.",
        note="`t` is an input of shape [N, 5], `k` is [5, 4], `cube` is [1, 1, 4]",
        inputs={"t": "float[N,5]"},
        constants={"k": numbers(5, 4), "cube": numbers(1, 1, 4)},
    ),
    Reason.WEIGHT_OVERFLOW: Example(
        f"c = Conv(x, w, b) y = {N}(c, large, h, m, v)",
        "Look at the parameters: numbers of this size are seldom meant.",
        note="`large` holds 3e38",
        constants={"large": 3e38 * ONES},
    ),
    Reason.WEIGHT_UNDERFLOW: Example(
        f"c = Conv(x, w, b) y = {N}(c, tiny, h, m, v)",
        "Prune the channel, or store the model in a dtype with a wider range.",
        note="`tiny` holds 1e-40",
        constants={"tiny": np.float32(1e-40) * ONES},
    ),
    Reason.UNSUPPORTED_DTYPE: Example(
        f"c = Conv(x, w, b) y = {N}(c, whole, whole, whole, whole)",
        "The file breaks the ONNX specification here: export it again.",
        note="`whole` holds integers",
        constants={"whole": np.arange(1, 5)},
    ),
    Reason.KERNELS_DIFFER: Example(
        'c = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b) d = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w1) '
        "y = Add(c, d)",
        "Export with numbers for the padding: here what is read depends on whether the size is even. A ConvTranspose "
        "beside a Conv stays too: with a stride above 1 it makes other positions, and with stride 1, where it is a "
        "Conv with its kernel turned, no network that was looked at has one there.",
        note="`w1` is [4, 3, 1, 1]",
    ),
    Reason.MORE_WORK: Example(
        "c = Conv<pads=[0,1,0,1]>(x, across, b) d = Conv<pads=[1,0,1,0]>(x, down, b) y = Add(c, d)",
        "A kernel of three rows and three columns has nine weights, a row and a column have six: two are cheaper.",
        note="`across` is [4, 3, 1, 3], `down` is [4, 3, 3, 1]",
        constants={"across": numbers(4, 3, 1, 3), "down": numbers(4, 3, 3, 1)},
    ),
    Reason.MORE_NODES: Example(
        f"d = MatMul(t, k) e = MatMul(t, k2) c = Concat<axis=1>(d, e) y = {N}<epsilon=0.0>(c, one8, h8, zero8, one8)",
        "MatMul has no bias: two of them would need an Add each for the one normalization.",
        note="`t` is an input of shape [N, 5], `k` and `k2` are [5, 4]; `one8` and `zero8` leave only a shift",
        inputs={"t": "float[N,5]"},
        constants={
            "k": numbers(5, 4),
            "k2": numbers(5, 4, seed=1),
            "h8": numbers(8),
            "one8": np.ones(8, np.float32),
            "zero8": np.zeros(8, np.float32),
        },
    ),
    Reason.PART_OF_A_PATTERN: Example(
        "p = Div(t, root2) e = Erf(p) f = Add(e, one) q = Mul(t, f) r = Mul(q, half) y = MatMul(r, k)",
        "Runtimes fuse the whole Gelu or LayerNormalization, which saves more than one operator.",
        note="a Gelu; `t` is an input of shape [N, 5], `k` is [5, 4]",
        inputs={"t": "float[N,5]"},
        constants={
            "k": numbers(5, 4),
            "root2": np.array(2**0.5, np.float32),
            "one": np.array(1, np.float32),
            "half": np.array(0.5, np.float32),
        },
    ),
    Reason.SEARCH_LIMIT: Example(
        "d0 = Conv(x, w, b) "
        + " ".join(f"d{i + 1} = Identity(d{i})" for i in range(300))
        + f" y = {N}(d300, g, h, m, v)",
        "Simplify the graph first: nobody writes a chain of this length.",
        note="300 operators between the two",
        shown=f"d0 = Conv(x, w, b) d1 = Identity(d0) ... d300 = Identity(d299) y = {N}(d300, g, h, m, v)",
    ),
}


def model_of(example: Example) -> ModelProto:
    """The model of an example."""
    sparse = {name[1:]: shape for name, shape in example.constants.items() if name.startswith("~")}
    model = build(
        example.nodes,
        inputs=INPUTS | dict(example.inputs) | dict.fromkeys(sparse, "float"),
        constants=CONSTANTS | dict(example.constants),
        outputs=example.outputs,
        opset=example.opset,
        ir=example.ir,
    )
    for name, kind in example.inputs.items():
        if name.startswith("+"):
            model.graph.input.append(parser.parse_graph(f"g ({kind} {name[1:]}) => () {{ }}").input[0])
    for name, shape in sparse.items():
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
        values = numpy_helper.from_array(np.ones(1, np.float32), name)
        places = numpy_helper.from_array(np.zeros(1, np.int64), f"{name}_places")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, shape))
    if example.functions:
        head = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[N] a) => (float[N] e) { e = Relu(a) } '
        model.functions.extend(parser.parse_model(head + example.functions).functions)
    return model


def asked(reason: Reason) -> set[Reason]:
    """The reasons of all normalizations of an example that stay, as bnfold gives them."""
    example = EXAMPLES[reason]
    found = bnfold.inspect(model_of(example), **example.options).normalizations
    kept = [info.decision for info in found if info.decision.action is Action.KEPT and info.decision.reason]
    in_detail = {reason for decision in kept if reason.code in decision.detail}
    return {decision.reason for decision in kept if decision.reason is not None} | in_detail


def shown(example: Example) -> str:
    """What a page shows of an example."""
    note = f" ({example.note})" if example.note else ""
    nodes = (example.shown or example.nodes).replace(") ", ")\n")
    return f"Example{note}:\n\n```text\n{nodes}\n```\n"


def page() -> str:
    """The whole page. Raises ValueError where an example does not have the reason it stands under."""
    parts = [HEAD]
    for reason in Reason:
        example = EXAMPLES[reason]
        if not example.elsewhere and reason not in asked(reason):
            raise ValueError(f"the example of {reason.code} has {asked(reason)}")
        parts.append(f"## {reason.code}\n\n{reason.sentence}\n\n{example.advice}\n\n{shown(example)}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
