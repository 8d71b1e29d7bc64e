"""Writes docs/diagnoses.md: what a person should know of a normalization, each with a graph that has it.

`python docs/make_diagnoses.py` writes the page, after it has asked bnfold about each example. A test compares the two.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from make_reasons import ONES, Example, N, model_of, shown

import bnfold
from bnfold.decisions import Diagnosis

PAGE = Path(__file__).with_name("diagnoses.md")
HEAD = """# What a person should know of a normalization

*Written by `python docs/make_diagnoses.py` from the code; every example was put to bnfold and has the diagnosis it
stands under.*

`bnfold inspect MODEL` says these beside each normalization. They are symptoms of something that went wrong before the
file was written, whether or not the normalization can be folded. The codes are stable: `bnfold inspect --fail-on CODE`
exits with 1 where a normalization has one, for CI. [Why a normalization is kept](reasons.md) is the other list.

In the examples `x` is an input of shape [N, 3, 6, 7], `w` and `b` are the weight and bias of a convolution with four
output channels, and `g, h, m, v` are scale, bias, mean and variance of four channels. They are stored constants unless
the text says otherwise. `y` is the output.
"""

ZEROS = np.zeros(4, np.float32)
TRAINED = f"y = {N}<training_mode=1>(c, g, h, m, v)"
EXAMPLES: dict[Diagnosis, Example] = {
    Diagnosis.EXPORTED_IN_TRAINING_MODE: Example(
        f"c = Conv(x, w, b) {TRAINED}",
        "Call `model.eval()` before the export, or `bnfold.export`, which does. `bnfold freeze` gives an existing file "
        "the meaning it has in evaluation.",
        note="`training_mode=1`",
    ),
    Diagnosis.ONE_VALUE_PER_CHANNEL: Example(
        f"c = Gemm(t, k) y = {N}<training_mode=1>(c, g, h, m, v)",
        "Train with batches of two and more, or in evaluation mode. A global pooling in front of it leaves one value "
        "of each image.",
        note="`t` is an input of shape [1, 5]",
        inputs={"t": "float[1,5]"},
        constants={"k": np.ones((5, 4), np.float32)},
    ),
    Diagnosis.BEHIND_ACTIVATION: Example(
        f"c = Conv(x, w, b) r = Relu(c) y = {N}(r, g, h, m, v)",
        "Put the normalization in front of the activation in a network that is trained anew: there it always folds.",
    ),
    Diagnosis.INITIAL_STATISTICS: Example(
        f"c = Conv(x, w, b) y = {N}(c, g, h, zero, one)",
        "Export the trained weights, or compute the statistics from data: `bnfold recalibrate --data`.",
        note="`zero` holds zeros, `one` ones",
        constants={"zero": ZEROS, "one": ONES},
    ),
    Diagnosis.TINY_VARIANCE: Example(
        f"c = Conv(x, w, b) y = {N}(c, g, h, m, tiny)",
        "Such a channel was dead in training. Prune it, or look for what makes it constant.",
        note="`tiny` holds 1e-12",
        constants={"tiny": np.float32(1e-12) * ONES},
    ),
    Diagnosis.BATCH_STATISTICS: Example(
        "c = Conv(x, w, b) mu = ReduceMean<axes=[0,2,3]>(c) d = Sub(c, mu) q = Mul(d, d) "
        "s = ReduceMean<axes=[0,2,3]>(q) e = Add(s, eps) r = Sqrt(e) y = Div(d, r)",
        "Compute statistics from data, `bnfold recalibrate --data`, or take saved ones, `--statistics-from`.",
        note="`eps` holds 1e-5",
        constants={"eps": np.float32(1e-5)},
    ),
    Diagnosis.LOST_STATISTICS: Example(
        f"c = Conv(x, w, b) y = {N}(c, g, h, zero, zero)",
        "Export again, or take the statistics from the checkpoint: `--statistics-from`.",
        note="`zero` holds zeros",
        constants={"zero": ZEROS},
    ),
    Diagnosis.SPATIAL_ZERO: Example(
        f"c = Conv(x, w, b) y = {N}<spatial=0>(c, g, h, m, v)",
        "`--assume-spatial` reads it as the exporter meant it.",
        note="opset 8",
        opset=8,
    ),
    Diagnosis.QUANTIZED_BEFORE_FOLDING: Example(
        f"c = Conv(x, w, b) q = QuantizeLinear(c, s0, z0) d = DequantizeLinear(q, s0, z0) "
        f"p = DequantizeLinear(g8, s0, z0) y = {N}(d, p, h, m, v)",
        "Fold the float model, then quantize the result.",
        note="`g8`, `s0` and `z0` are a quantized scale",
        constants={"s0": np.float32(0.5), "z0": np.int8(0), "g8": np.arange(1, 5, dtype=np.int8)},
    ),
}


def asked(diagnosis: Diagnosis) -> set[str]:
    """The codes of all diagnoses of an example."""
    example = EXAMPLES[diagnosis]
    found = bnfold.inspect(model_of(example), **example.options).normalizations
    return {each.code for info in found for each in info.diagnoses}


def page() -> str:
    """The whole page. Raises ValueError where an example does not have the diagnosis it stands under."""
    parts = [HEAD]
    for diagnosis in Diagnosis:
        example = EXAMPLES[diagnosis]
        if diagnosis.code not in asked(diagnosis):
            raise ValueError(f"the example of {diagnosis.code} has {asked(diagnosis)}")
        parts.append(f"## {diagnosis.code}\n\n{diagnosis.sentence}\n\n{example.advice}\n\n{shown(example)}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
