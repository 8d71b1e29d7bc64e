"""Values that a model makes together: where two pieces of it are compared, random numbers may be none of these.

Behind a Relu nothing is negative, and of two values one may follow from the other. Two pieces that differ at numbers
which never enter them compute the same.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from onnx import ModelProto, TensorProto

from bnfold.equivalence.numbers.constant_expressions import store_constants
from bnfold.equivalence.numbers.element_types import Array, is_float
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.proofs.obligations import Correspondence, Obligation
from bnfold.equivalence.proofs.piece_sizes import InputShapes
from bnfold.equivalence.structure.dependence import reached
from bnfold.equivalence.structure.scopes import Cutter, Piece, Place, Value
from bnfold.equivalence.structure.signature import signature_of

_MAGNITUDES = (1.0, 30.0, 1000.0, 0.03)
_MOST_NODES = 5_000
_MOST_ELEMENTS = 1 << 20
"""Of what enters the model: more are too many for float64."""


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
    if any(value.scope for value in values):
        raise Unknowable("the values are those of a body")
    signature = signature_of(cutter.model)
    ports = {port.name: port for port in (*signature.inputs, *signature.overridable)}
    nodes, constants, entering = before(values, cutter)
    if not entering or any(name not in ports or not _is_drawn(ports[name].elem_type) for name in entering):
        raise Unknowable("its inputs are not drawn at random")
    wanted = [value.name for value in values if cutter.producer(value) is not None]
    if not wanted:
        raise Unknowable("they are the inputs themselves")
    model = cutter.cut(Piece(nodes, constants, next(value for value in values if value.name == wanted[0])), entering)
    for name in wanted[1:]:
        model.graph.output.add().name = name
    store_constants(model)
    run, generator = Evaluator(model), np.random.default_rng([seed, 0x51ED270B])
    reason = "no shapes for its inputs are known"
    for choice in shapes.candidates(model, entering):
        for sizes in choice:
            if sum(map(np.prod, sizes.values())) > _MOST_ELEMENTS:
                continue
            feeds = [
                {name: size * generator.standard_normal(shape) for name, shape in sizes.items()} for size in _MAGNITUDES
            ]
            try:
                found = [run(feed) | feed for feed in feeds]
            except Unknowable as why:
                reason = str(why)
                continue
            yield from ({value.name: arrays[value.name] for value in values} for arrays in found)
            return
    raise Unknowable(reason)


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
