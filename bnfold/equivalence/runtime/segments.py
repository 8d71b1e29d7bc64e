"""A model run in segments, level by level of its normalizations: each segment goes on where the one before it stopped.

The segment of level k makes the data of the normalizations of level k, from which their statistics are computed, and
the values that cross its frontier: those that are known before these statistics are, and read after that. Whoever keeps
what crosses need not compute it again.

Every operator runs by itself, without onnxruntime's optimizations. With them the bits of a value would depend on what
stands around its node (a BatchNormalization becomes part of the Conv before it, an Add of the Conv behind it), and so
on where the model is cut. Without them they depend on what the node reads alone.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from bnfold.decisions import NodeKey
from bnfold.equivalence.feeds.batches import inputs_of
from bnfold.equivalence.feeds.user_data import checked
from bnfold.equivalence.numbers.element_types import Array, Feed
from bnfold.equivalence.operators import operator_of
from bnfold.equivalence.runtime.inner_values import add_something, data_of, name_none
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.reused_memory import ReusedMemory
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed, Session
from bnfold.equivalence.structure.evaluation_semantics import evaluate_in_place
from bnfold.equivalence.structure.scopes import reads
from bnfold.equivalence.structure.signature import every_node, signature_of
from bnfold.errors import BnfoldError
from bnfold.onnxfile import OnnxFile, Publication
from bnfold.statistics import Statistics

_SETTING = Setting(optimization=Optimization.OFF)
_UNKNOWN = Statistics(np.zeros(0), np.zeros(0))


class Answer(NamedTuple):
    """A segment's answer to one feed: the inputs of its level's normalizations, and the values that cross behind it."""

    data: dict[NodeKey, Array]
    crossing: dict[str, Array]


class SegmentedModel:
    """The part of a model that makes the data of normalizations of the main graph, cut at their levels.

    `levels`: the normalizations of each level, none of which depends on one of its own or of a later level. They use
    the statistics that a segment is given, all others their stored ones; Dropout is off. As a context manager it holds
    a temporary folder.
    """

    def __init__(self, file: OnnxFile, levels: Sequence[Collection[NodeKey]]) -> None:
        self.signature = signature_of(file.proto)
        self._file = file.copy()
        places = [place for level in levels for place in level]
        evaluate_in_place(self._file.proto, statistics=dict.fromkeys(places, _UNKNOWN))
        graph = self._file.proto.graph
        data = data_of(graph, places)
        self._data = [{place: data[place].input[0] for place in level} for level in levels]
        self._nodes = list(graph.node)
        self._reads = [tuple(dict.fromkeys(reads(node))) for node in self._nodes]
        self._made_by = {name: at for at, node in enumerate(self._nodes) for name in node.output if name}
        self._statistics = {
            self._made_by[node.input[index]]: (place, index) for place, node in data.items() for index in (3, 4)
        }
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self._ports = {value.name: value for value in graph.input}
        self._functions = {(function.domain, function.name) for function in self._file.proto.functions}
        self._types: dict[str, int] = {}
        name_none(graph)
        numbers = {place: number for number, level in enumerate(levels) for place in level}
        self._find_levels({self._made_by[node.output[0]]: numbers[place] + 1 for place, node in data.items()})
        self._memory = ReusedMemory()
        self._uncut: set[str] = set()
        self._find_frontiers()

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="bnfold-recalibration-")
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    @property
    def entering(self) -> frozenset[str]:
        """The inputs of the model that are read at all: where nothing else is kept, all begins from them."""
        return self._entering

    def crossing(self, level: int) -> frozenset[str]:
        """The values that cross the frontier behind a level: known then, and read later."""
        return self._frontiers[level]

    def feeds(self, batches: Iterable[object]) -> Iterator[tuple[Feed, bool]]:
        """The feeds of the model, each with whether a batch ends with it. Raises UsageError for data that does not fit.

        For what a batch is see `bnfold.equivalence.feeds.batches`; a model with a fixed batch takes it in parts.
        """
        for number, batch in enumerate(batches):
            last: Feed | None = None
            for _, feed in checked(inputs_of(batch, self.signature, number), self.signature):
                if last is not None:
                    yield last, False
                last = feed
            if last is not None:
                yield last, True

    @contextmanager
    def segment(
        self, start: Collection[str], level: int, known: Mapping[NodeKey, Statistics]
    ) -> Iterator[Callable[[Mapping[str, Array]], Answer]]:
        """The segment from the values `start`, which cross one frontier, through `level`, while the block lasts.

        `known`: the statistics of all levels before. Raises BnfoldError where onnxruntime cannot run the model.
        """
        try:
            while True:
                with self._loaded(start, level, known) as session:
                    uncut = {port.name for port in session.raw.get_outputs() if not port.type.startswith("tensor(")}
                    if not uncut:
                        yield lambda values: self._run(session, values, level)
                        return
                self._uncut |= uncut  # sequences and the like, which are computed again wherever they are read
                self._find_frontiers()
        except RunFailed as failure:
            raise BnfoldError(f"onnxruntime cannot run the model on the data: {failure}") from failure

    @contextmanager
    def _loaded(self, start: Collection[str], level: int, known: Mapping[NodeKey, Statistics]) -> Iterator[Session]:
        wanted = {*self._data[level].values(), *self._frontiers[level]}
        file = replace(self._file, proto=self._cut(start, wanted, known))
        with Publication(Path(self._folder.name) / f"level {level + 1}.onnx") as publication:
            publication.write(file, untouched=False, hashed=False)
            with running(publication.path, _SETTING) as session:
                yield session

    def _run(self, session: Session, values: Mapping[str, Array], level: int) -> Answer:
        taken = {port.name for port in session.raw.get_inputs()} | {
            port.name for port in session.raw.get_overridable_initializers()
        }
        feed = {name: array for name, array in values.items() if name in taken}
        made = {**values, **session.run_reusing(self._memory, feed)}
        crossing = {name: made[name] for name in self._frontiers[level] if name in made}
        for name in crossing.keys() - self._types.keys():
            self._types[name] = helper.np_dtype_to_tensor_dtype(crossing[name].dtype)
        return Answer({place: made[name] for place, name in self._data[level].items()}, crossing)

    # --- where the model is cut

    def _find_levels(self, first: Mapping[int, int]) -> None:
        """The level whose segment makes each value: 0 without any statistics. Constants have none.

        `first`: the level of each normalization by its position, which is the one behind that of its data.
        """
        ports = (*self.signature.inputs, *self.signature.overridable)
        levels = {port.name: 0 for port in ports}
        self._node_levels: dict[int, int] = {}
        for position, node in enumerate(self._nodes):
            known = [levels[name] for name in self._reads[position] if name in levels]
            level = max([*known, first.get(position, 0)]) if known else self._level_of_source(node)
            if level is not None:
                self._node_levels[position] = level
                levels.update(dict.fromkeys(filter(None, node.output), level))
        self._levels = levels
        needed = {name for level in self._data for name in level.values()}
        self._needed: list[int] = []
        for position in reversed(range(len(self._nodes))):
            if not needed.isdisjoint(self._nodes[position].output):
                needed.update(self._reads[position])
                self._needed.append(position)
        self._entering = frozenset(port.name for port in ports if port.name in needed)

    def _level_of_source(self, node: NodeProto) -> int | None:
        """The level of a node that reads constants alone: its values are kept only where it is random."""
        graph = GraphProto(node=[node])
        return 0 if any(operator_of(each).random for each in every_node(graph)) else None

    def _find_frontiers(self) -> None:
        """Which values cross the frontier behind each level: known by then, and read by a node of a later one."""
        last = {name: level for level, data in enumerate(self._data) for name in data.values()}
        for position in self._needed:
            node = self._nodes[position]
            until = max(
                [self._node_levels.get(position, 0)] + [last.get(n, 0) for n in node.output if n in self._uncut]
            )
            for name in self._reads[position]:
                last[name] = max(last.get(name, 0), until)
        frontiers: list[set[str]] = [set() for _ in self._data]
        for name, until in last.items():
            if name in self._levels and name not in self._uncut:
                for level in range(self._levels[name], until):
                    frontiers[level].add(name)
        self._frontiers = [frozenset(names) for names in frontiers]

    def _cut(self, start: Collection[str], wanted: Collection[str], known: Mapping[NodeKey, Statistics]) -> ModelProto:
        """A model that makes `wanted` of `start`, with all constants that it takes."""
        positions, needed = set[int](), set(wanted)
        waiting = [name for name in wanted if name not in start]
        while waiting:
            position = self._made_by.get(waiting.pop())
            if position is not None and position not in positions:
                positions.add(position)
                needed.update(self._reads[position])
                waiting += [name for name in self._reads[position] if name not in start]
        graph = GraphProto(name=self._file.proto.graph.name)
        for position in sorted(positions):
            self._add(graph.node.add(), position, known)
        graph.initializer.extend(self._initializers[name] for name in sorted(needed & self._initializers.keys()))
        graph.sparse_initializer.extend(self._sparse[name] for name in sorted(needed & self._sparse.keys()))
        graph.input.extend(value for name, value in self._ports.items() if name in needed)
        entered = sorted((needed & set(start)) - self._ports.keys())
        graph.input.extend(helper.make_tensor_value_info(name, self._types[name], None) for name in entered)
        given = {*start, *self._ports, *self._initializers}
        graph.output.extend(ValueInfoProto(name=name) for name in sorted(wanted) if name not in given)
        if not graph.output:
            add_something(graph)
        model = helper.make_model(
            graph, ir_version=self._file.proto.ir_version, opset_imports=self._file.proto.opset_import
        )
        if any((node.domain, node.op_type) in self._functions for node in every_node(graph)):
            model.functions.extend(self._file.proto.functions)
        return model

    def _add(self, copied: NodeProto, position: int, known: Mapping[NodeKey, Statistics]) -> None:
        copied.CopyFrom(self._nodes[position])
        if position in self._statistics:
            place, index = self._statistics[position]
            values, stored = (known[place].mean, known[place].variance)[index - 3], copied.attribute[0].t
            dtype = helper.tensor_dtype_to_np_dtype(stored.data_type)
            stored.CopyFrom(numpy_helper.from_array(values.astype(dtype), stored.name))
