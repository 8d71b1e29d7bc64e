"""Why two models that were meant to be one may differ: what one of them has and the other has not, with the remedy.

Read from the protobuf alone. Nothing here decides; it is said where a comparison has failed.
"""

from collections.abc import Iterator

from onnx import ModelProto, TensorProto

from bnfold.equivalence.structure.scopes import Scopes
from bnfold.equivalence.structure.signature import every_node
from bnfold.equivalence.structure.training_mode import drops, is_batch_norm, trains, visible_scopes

_QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}
_HALVES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}


def likely_causes(reference: ModelProto | None, candidate: ModelProto) -> Iterator[str]:
    """Sentences, the likeliest cause first. `reference` None: a PyTorch module, which evaluates."""
    yield from _training(reference, candidate)
    if reference is None:
        reference = ModelProto()
    for subject, model, other in (("candidate", candidate, reference), ("reference", reference, candidate)):
        half = _half(model)
        if half and not _half(other):
            yield f"The {subject} computes in {half} inside: compare with the limits of that type (--rtol, --atol)."
        quantized = _quantized(model)
        if quantized and not _quantized(other):
            yield f"The {subject} is quantized ({quantized}), which rounds far more than a fold does."
    mine, theirs = _opset(candidate), _opset(reference)
    if theirs and mine != theirs:
        yield (
            f"The candidate is of opset {mine}, the reference of {theirs}: some operators mean something else there; "
            "export both with the same opset."
        )


def _training(reference: ModelProto | None, candidate: ModelProto) -> Iterator[str]:
    mine, theirs = _trained(candidate), [] if reference is None else _trained(reference)
    if mine and theirs:
        yield (
            f"Both models run normalizations or Dropout in training mode ({mine[0]}): what they answer depends on the "
            "batch, or on chance."
        )
    elif mine or theirs:
        subject, found = ("candidate", mine) if mine else ("reference", theirs)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield (
            f"The {subject} runs {found[0]}{more} in training mode (exported without .eval()): call model.eval() "
            "before the export, or use `bnfold freeze` on it."
        )


def _trained(model: ModelProto) -> list[str]:
    return [
        f"{node.op_type} {scope.key(node)[1]!r}"
        for scope in visible_scopes(Scopes(model))
        for node in scope.body.node
        if drops(node, scope) or (is_batch_norm(node) and trains(node, scope.opset))
    ]


def _half(model: ModelProto) -> str:
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    for node in every_node(model.graph):
        if node.op_type == "Cast":
            kinds.update(attribute.i for attribute in node.attribute if attribute.name == "to")
    return next((name for kind, name in _HALVES.items() if kind in kinds), "")


def _quantized(model: ModelProto) -> str:
    return next((node.op_type for node in every_node(model.graph) if node.op_type in _QUANTIZED), "")


def _opset(model: ModelProto) -> int:
    return next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
