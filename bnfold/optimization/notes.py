"""Sentences on a model as a whole: what it has instead of BatchNormalization, and what its file says wrongly."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnx import NodeProto

from bnfold.decisions import Decision, Diagnosis
from bnfold.equivalence.operators import OPERATORS, operator_of
from bnfold.graph import STORED, Graph, Model
from bnfold.onnxfile import Layout, Written
from bnfold.passes.diagnosis import is_quantized
from bnfold.passes.normalization import is_batch_norm

_NAMED = 3
# They normalize with statistics of what they are given, whichever domain they are of.
_OTHERS = frozenset(
    {"GroupNorm", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "LRN"}
    | {"MeanVarianceNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
    | {"SkipGroupNorm", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
)
_AVERAGES = frozenset({"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool"})


def notes_on(model: Model, decisions: Sequence[Decision]) -> Iterator[str]:
    """The sentences on `model`, after the passes decided."""
    batch_norms = [
        (node, graph)
        for graph in model.graphs
        for node in graph.nodes_of(("BatchNormalization",))
        if is_batch_norm(node)
    ]
    if not decisions and not batch_norms:
        yield from _without_batch_norm(model)
    random = {op_type for op_type, row in OPERATORS.items() if row.random}
    drawn = Counter(
        node.op_type for graph in model.graphs for node in graph.nodes_of(random) if operator_of(node).random
    )
    if drawn:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in drawn.most_common())
        yield (
            f"The model draws random numbers ({listed}), so each run answers otherwise; where that is a part of "
            "training, export it in evaluation mode."
        )
    stored = sum(edit.kind == STORED for edit in model.edits)
    if stored:
        yield f"{stored:,} {'expression of constants is' if stored == 1 else 'expressions of constants are'} stored."
    quantized = sum(is_quantized(node, graph) for node, graph in batch_norms)
    if quantized:
        yield f"{Diagnosis.QUANTIZED_BEFORE_FOLDING.sentence} [{Diagnosis.QUANTIZED_BEFORE_FOLDING.code}]"
    stale = list(dict.fromkeys(name for _, name in model.stale)) if model.modified else []
    if stale:
        names = ", ".join(map(repr, stale[:_NAMED])) + (f" and {len(stale) - _NAMED} more" if stale[_NAMED:] else "")
        yield f"What the file declared of {names} contradicts what its operators make, and was dropped."


def note_on_data(layout: Layout | None, written: Written) -> Iterator[str]:
    """The sentence where weights could not go by the name that was asked for."""
    if layout is None or layout.name is None or written.exchange is not None:
        return
    for path in written.data_files:
        if path.name != Path(layout.name).name:
            yield f"The weights went to {path.name}: {layout.name} is there already, and may be needed by other files."


def _without_batch_norm(model: Model) -> Iterator[str]:
    """Notes on a model without BatchNormalization: the normalizations it has, and why others may be gone."""
    found = Counter(_kind(node, graph) for graph in model.graphs for node in graph.nodes())
    found.pop("", None)
    if found:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in found.most_common())
        yield (
            f"The model has {listed}: they take mean or deviation from each input anew, so no constant scale and "
            "shift does the same, and nothing can take them up."
        )
    yield (
        "PyTorch's exporters fold a BatchNormalization behind a Conv themselves where the module is in eval mode: a "
        "model from there may have none left."
    )


def _kind(node: NodeProto, graph: Graph) -> str:
    """The name of a normalization by statistics of its input; "" for any other operator."""
    if node.op_type in _OTHERS:
        return node.op_type
    if node.op_type == "Div" and len(node.input) == 2 and _is_deviation(node.input[1], graph):
        return "normalization written in operators"
    return ""


def _is_deviation(value: str, graph: Graph) -> bool:
    """Whether `value` is a root of an average, perhaps of one plus epsilon, or a norm."""
    for op_types in (("Sqrt", "Pow", "Clip", "Max", "Expand"), ("Add", "Expand", "Clip", "Max")):
        maker = graph.producer(value)
        if maker is not None and maker.op_type in op_types:
            computed = [operand for operand in maker.input if operand and graph.constant(operand) is None]
            value = computed[0] if computed else ""
    maker = graph.producer(value)
    return maker is not None and maker.op_type in _AVERAGES
