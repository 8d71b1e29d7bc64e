"""Calls of model-local functions, written out where a function hides from its body what only its callers know.

PyTorch's function exports give a layer's weights as arguments: inside the function they are no constants, and the same
body means something else at each call. Written out, each call has weights of its own.
"""

import onnx.inliner
from onnx import ModelProto

FunctionId = tuple[str, str]  # domain and name


def inlined(proto: ModelProto, functions: set[FunctionId]) -> ModelProto | None:
    """A copy of `proto` with every call of `functions` written out; None where onnx cannot do that.

    A function that imports another version of the default operator set than the model is left as it is.
    """
    try:
        copy: ModelProto = onnx.inliner.inline_selected_functions(proto, sorted(functions))
    except (RuntimeError, ValueError, onnx.checker.ValidationError):
        return None
    kept = {(function.domain, function.name) for function in copy.functions}
    return None if functions <= kept else copy
