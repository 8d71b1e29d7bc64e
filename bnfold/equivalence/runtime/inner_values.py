"""Reading values inside a model while it runs: the batches go in, what chosen normalizations read comes out.

One batch is in memory at a time, and only the part of the model that makes the wanted values is run.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from bnfold.decisions import NodeKey
from bnfold.equivalence.feeds.batches import inputs_of
from bnfold.equivalence.feeds.user_data import checked
from bnfold.equivalence.numbers.element_types import Array
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed
from bnfold.equivalence.structure.copies import copied
from bnfold.equivalence.structure.evaluation_semantics import evaluate_in_place, use_batch_in_place
from bnfold.equivalence.structure.scopes import reads
from bnfold.equivalence.structure.signature import signature_of
from bnfold.errors import BnfoldError
from bnfold.onnxfile import OnnxFile, label, shared_names
from bnfold.statistics import Statistics


def tap(
    file: OnnxFile,
    places: Sequence[NodeKey],
    batches: Iterable[Any],
    *,
    known: Mapping[NodeKey, Statistics],
    by_batch: bool,
) -> Iterator[dict[NodeKey, Array]]:
    """For each batch, what the normalizations at `places` of the main graph normalize: [N, C, ...], the model's dtype.

    All others use the statistics in `known`, else their stored ones; `by_batch` lets those at `places` use the
    statistics of the batch. Dropout is off. For what a batch is see `bnfold.equivalence.feeds.batches`.

    Raises UsageError for batches that do not fit the model, BnfoldError where onnxruntime cannot run it.
    """
    signature = signature_of(file.proto)
    with TemporaryDirectory(prefix="bnfold-recalibration-") as folder:
        wanted: dict[NodeKey, str] = {}

        def prepare(model: ModelProto) -> None:
            evaluate_in_place(model, statistics=known)
            if by_batch:
                use_batch_in_place(model, places)
            wanted.update({place: node.input[0] for place, node in data_of(model.graph, places).items()})
            name_none(model.graph)
            _keep_only(model.graph, sorted(set(wanted.values())))

        target = copied(file, Path(folder) / "tapped.onnx", prepare)
        inputs = {value for value in set(wanted.values()) if value in {port.name for port in signature.inputs}}
        try:
            with running(target, Setting(optimization=Optimization.ON)) as session:
                for number, batch in enumerate(batches):
                    for _, feed in checked(inputs_of(batch, signature, number), signature):
                        values = session.run(feed) | {name: feed[name] for name in inputs}
                        yield {place: values[name] for place, name in wanted.items()}
        except RunFailed as failure:
            raise BnfoldError(f"onnxruntime cannot run the model on the data: {failure}") from failure


def data_of(graph: GraphProto, places: Collection[NodeKey]) -> dict[NodeKey, NodeProto]:
    """The nodes of the main graph that stand at `places`; the data of each is its first input."""
    chosen = set(places)
    shared = shared_names(graph.node)
    labels = {("", label(node, shared)): node for node in graph.node}
    return {place: node for place, node in labels.items() if place in chosen}


def name_none(graph: GraphProto) -> None:
    """Take the names of nodes away, which nobody asks for any more: onnxruntime refuses two of one name."""
    for node in graph.node:
        node.ClearField("name")


def _keep_only(graph: GraphProto, values: Sequence[str]) -> None:
    """Leave what makes `values`, and make them the outputs. Inputs that are fed stay, so that feeds fit."""
    needed, kept = set(values), list[NodeProto]()
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(reads(node))
            kept.append(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    unused = {tensor.name for tensor in graph.initializer} - needed
    inputs = [value for value in graph.input if value.name not in unused]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    del graph.output[:]
    made = [value for value in values if value not in given]
    # A session wants an output and cannot give out an input: one that is tapped is taken from the feed.
    graph.output.extend(ValueInfoProto(name=name) for name in made)
    if not made:
        add_something(graph)


def add_something(graph: GraphProto) -> None:
    """An output that nobody asks for, of the first input: a session wants one."""
    name = "bnfold__nothing"
    graph.node.append(NodeProto(op_type="Identity", input=[graph.input[0].name], output=[name]))
    graph.output.append(ValueInfoProto(name=name))
