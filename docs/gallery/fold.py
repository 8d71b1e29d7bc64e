# %% [markdown]
# A model with five normalizations, folded: what became of each, how far the result is from the original, and how long
# each takes in onnxruntime.

# %%
import time
from pathlib import Path

import numpy as np
import onnxruntime

import bnfold

MODEL = Path(__file__).parents[2] / "models/digits_cnn.onnx"
result = bnfold.optimize(MODEL)
print(result)

# %%
for decision in result.report.decisions:
    print(f"{decision.node:28} {decision.action} into {', '.join(decision.target)}")

# %% [markdown]
# The same input through both, with onnxruntime's own optimizations off, which would fold some of it again.


# %%
def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


image = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)
answers = {}
for name, model in {"before": MODEL.read_bytes(), "after": result.model.SerializeToString()}.items():
    running = session(model)
    running.run(None, {"images": image})
    times = []
    for _ in range(50):
        start = time.perf_counter()
        answers[name] = running.run(None, {"images": image})[0]
        times.append(time.perf_counter() - start)
    print(f"{name:7} {min(times) * 1e6:.0f} µs at best")

# %%
deviation = float(np.abs(answers["before"] - answers["after"]).max())
print(f"largest deviation {deviation:.2e}, largest value {float(np.abs(answers['before']).max()):.2f}")
assert deviation < 1e-4 * float(np.abs(answers["before"]).max())
