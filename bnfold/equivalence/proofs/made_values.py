"""Values that a model makes together: where two pieces of it are compared, random numbers may be none of these.

Behind a Relu nothing is negative, and of two values one may follow from the other. Two pieces that differ at numbers
which never enter them compute the same.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import numpy as np
from onnx import ModelProto, TensorProto

from bnfold.equivalence.feeds.seeded import FeedPlan, build
from bnfold.equivalence.numbers.constant_expressions import store_constants
from bnfold.equivalence.numbers.element_types import Array, Feed, is_float
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.proofs.obligations import Correspondence, Obligation
from bnfold.equivalence.proofs.piece_sizes import MOST_ELEMENTS, InputShapes
from bnfold.equivalence.structure.dependence import reached
from bnfold.equivalence.structure.scopes import Cutter, Piece, Place, Value
from bnfold.equivalence.structure.signature import Port, signature_of
from bnfold.equivalence.structure.work import work_of

_MAGNITUDES = (1.0, 30.0, 1000.0, 0.03)
_MOST_NODES = 5_000
_MOST_WORK = 5e8


def depend_on_each_other(values: Collection[Value], cutter: Cutter) -> bool:
    """Whether one of several values of the main graph is made of another."""
    names = {value.name for value in values if value.scope == 0}
    return any(len(names & reached(cutter, [("", name)])) > 1 for name in names)


def cut_alike(obligation: Obligation, common: Correspondence) -> tuple[ModelProto, ModelProto, dict[str, str]]:
    """Both pieces of an obligation with their constants stored, and the new names of what enters by the old ones.

    Raises Unknowable where two values that enter have become one.
    """
    renamed = {pair.old.name: pair.new.name for pair in obligation.premises}
    if obligation.before is None or obligation.after is None or len(set(renamed.values())) < len(renamed):
        raise Unknowable("two values have become one")
    old = common.before.cut(obligation.before, list(renamed))
    new = common.after.cut(obligation.after, list(renamed.values()))
    for model in (old, new):
        store_constants(model)
    return old, new, renamed


def made_together(
    values: Sequence[Value], cutter: Cutter, shapes: InputShapes, seed: int
) -> Iterator[dict[str, Array]]:
    """What the model makes of random inputs of several magnitudes, in float64: the arrays of `values` by name.

    All of them are of the main graph. Raises Unknowable.
    """
    making = _Making(values, cutter)
    if not making.ports or not all(_is_drawn(port.elem_type) for port in making.ports):
        raise Unknowable("its inputs are not drawn at random")
    if not making.wanted:
        raise Unknowable("they are the inputs themselves")
    generator = np.random.default_rng([seed, 0x51ED270B])
    reason = "no shapes for its inputs are known"
    for sizes in making.sizes(shapes):
        feeds = [
            {name: size * generator.standard_normal(shape) for name, shape in sizes.items()} for size in _MAGNITUDES
        ]
        try:
            found = [making.run(feed) | feed for feed in feeds]
        except Unknowable as why:
            reason = str(why)
            continue
        yield from ({value.name: arrays[value.name] for value in values} for arrays in found)
        return
    raise Unknowable(reason)


def sizes_made(values: Sequence[Value], common: Correspondence, seed: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The sizes that values of the reference have together, by name: as inferred, or where it is run in float64."""
    if len(common.before.rank) > _MOST_NODES:
        return
    for sizes in common.shapes.solved:
        dims = common.dims_at(values, sizes)
        found = {name: tuple(size or 0 for size in known) for name, known in dims.items() if known is not None}
        if len(found) == len(dims) and all(map(math.prod, found.values())):
            yield found
    with suppress(Unknowable):
        yield from _sizes_run(values, common, seed)


def _sizes_run(values: Sequence[Value], common: Correspondence, seed: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Raises Unknowable."""
    if work_of(common.before.model).run > _MOST_WORK:
        raise Unknowable("the model is too large to be run in float64")
    making = _Making(values, common.before)
    if not all(port.elem_type for port in making.ports):
        raise Unknowable("its inputs are no tensors")
    for sizes in (*making.sizes(common.shapes), *common.shapes.solved):
        try:
            arrays = making.run(build(FeedPlan("sizes", "normal", sizes), making.ports, seed, {}))
        except Unknowable:
            continue
        made = sizes | {name: array.shape for name, array in arrays.items()}
        found = {value.name: made[value.name] for value in values}
        if all(map(math.prod, found.values())):
            yield found


class _Making:
    """What makes some values of the main graph out of the inputs of the model, in float64. Raises Unknowable.

    `ports`: the inputs that it reads. `wanted`: the names of the values that are not inputs themselves.
    """

    def __init__(self, values: Sequence[Value], cutter: Cutter) -> None:
        if any(value.scope for value in values):
            raise Unknowable("the values are those of a body")
        signature = signature_of(cutter.model)
        ports = {port.name: port for port in (*signature.inputs, *signature.overridable)}
        nodes, constants, entering = before(values, cutter)
        if any(name not in ports for name in entering):
            raise Unknowable("its inputs are not those of the model")
        self.ports: tuple[Port, ...] = tuple(ports[name] for name in entering)
        self.wanted = [value.name for value in values if cutter.producer(value) is not None]
        first = next((value for value in values if value.name in self.wanted[:1]), values[0])
        self._model = cutter.cut(Piece(nodes, constants, first), entering)
        for name in self.wanted[1:]:
            self._model.graph.output.add().name = name
        store_constants(self._model)
        self._evaluator = Evaluator(self._model)

    def run(self, feed: Feed) -> dict[str, Array]:
        """The values that are wanted, by name. Raises Unknowable."""
        return self._evaluator(feed, self.wanted)

    def sizes(self, shapes: InputShapes) -> Iterator[dict[str, tuple[int, ...]]]:
        """Sizes of the inputs worth trying, small ones first."""
        for choice in shapes.candidates(self._model, [port.name for port in self.ports]):
            yield from (sizes for sizes in choice if sum(map(math.prod, sizes.values())) <= MOST_ELEMENTS)


def _is_drawn(elem_type: int) -> bool:
    return bool(elem_type) and is_float(elem_type)


def before(
    values: Sequence[Value], cutter: Cutter, given: Collection[Value] = ()
) -> tuple[tuple[Place, ...], dict[str, TensorProto], list[str]]:
    """The nodes that make values of the main graph, the constants that they read, and what enters: inputs, and `given`.

    Raises Unknowable.
    """
    nodes, constants = set[Place](), dict[str, TensorProto]()
    entering: dict[str, None] = {}
    seen, waiting = set(values), list(values)
    while waiting:
        value = waiting.pop()
        place, tensor = cutter.producer(value), cutter.stored(value)
        if value in given:
            entering[value.name] = None
        elif place is not None:
            nodes.add(place)
            found = cutter.reads(place)
            if None in found or len(nodes) > _MOST_NODES:
                raise Unknowable("too much lies before them")
            new = {each for each in found if each is not None} - seen
            seen |= new
            waiting += new
        elif tensor is not None:
            constants[value.name] = tensor
        else:
            entering[value.name] = None
    return tuple(sorted(nodes, key=cutter.rank.__getitem__)), constants, sorted(entering)
