# %% [markdown]
# A model whose statistics do not fit its data: recalibrated, it sees what it was made for. The report says how far each
# normalization moved.

# %%
from pathlib import Path

import numpy as np
import onnx

import bnfold

model = onnx.load(Path(__file__).parents[2] / "models/digits_cnn.onnx")
data = [{"images": np.random.default_rng(seed).normal(2.0, 3.0, (64, 1, 8, 8)).astype(np.float32)} for seed in range(4)]

# %%
result = bnfold.recalibrate(model, data)
print(result)
for drift in result.report.recalibration["drift"]:
    print(f"{drift['node']:28} mean moved by {drift['mean']:.2f} standard deviations")

# %% [markdown]
# The same statistics in any order of the batches, bit for bit; and then everything folds.

# %%
again = bnfold.recalibrate(model, data[::-1])
assert again.model.SerializeToString() == result.model.SerializeToString()
folded = bnfold.optimize(result.model)
print(folded)
assert "BatchNormalization" not in {node.op_type for node in folded.model.graph.node}
