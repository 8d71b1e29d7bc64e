"""The constants of one model as numbers, for the proofs: read from the file, or computed from what stands there."""

import math

import numpy as np
from onnx import TensorProto, helper

from bnfold.equivalence.numbers.constant_expressions import evaluate
from bnfold.equivalence.numbers.element_types import Array, rounding
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.operators import DEFAULT_DOMAINS
from bnfold.equivalence.proofs.weights import Weights
from bnfold.equivalence.structure.scopes import Cutter, Piece, Place, Value

_SMALL = 1 << 20
"""What has more numbers is read in blocks alone."""
_NOISE = 4.0
_TINY = 1 << 12
_MOST_RECENT = 16
"""So many that are not tiny are kept: neighbouring pieces read the same ones."""


class Constants:
    """Asked for constants of one model. What nodes compute of constants is computed once."""

    def __init__(self, owner: Cutter) -> None:
        self.owner = owner
        self._computed: dict[Value, Array] = {}
        self._noises: dict[Value, float] = {}
        self._recent: dict[Value, Array] = {}

    def is_constant(self, value: Value) -> bool:
        """Whether no caller can influence a value."""
        return self.owner.stored(value) is not None or value in self.owner.constant_made

    def count(self, piece: Piece) -> int:
        """How many numbers a piece stores, in initializers and in nodes."""
        stored = sum(math.prod(tensor.dims) for tensor in piece.constants.values())
        held = [each.t for place in piece.nodes for each in self.owner.node(place).attribute if each.HasField("t")]
        return stored + sum(math.prod(tensor.dims) for tensor in held)

    def tensor(self, value: Value) -> TensorProto | None:
        """The tensor that a constant is, stored or in a Constant node; None where it is computed."""
        stored = self.owner.stored(value)
        if stored is not None:
            return stored
        seen: set[Value] = set()
        while value not in seen:
            seen.add(value)
            stored = self.owner.stored(value)
            if stored is not None:
                return stored
            place = self.owner.producer(value)
            node = None if place is None else self.owner.node(place)
            if place is None or node is None or node.domain not in DEFAULT_DOMAINS:
                return None
            if node.op_type == "Constant":
                return next((each.t for each in node.attribute if each.name == "value"), None)
            if node.op_type != "Identity":
                return None
            behind = self.owner.inputs(place)[0]
            if behind is None:
                return None
            value = behind
        return None

    def elem_type(self, value: Value) -> int:
        """The type of a constant. Raises Unknowable where it cannot be computed."""
        tensor = self.tensor(value)
        return tensor.data_type if tensor is not None else helper.np_dtype_to_tensor_dtype(self._evaluated(value).dtype)

    def small(self, value: Value) -> Array:
        """A constant in float64 where it is a float, else in its own type. Raises Unknowable."""
        found = self._recent.get(value)
        if found is None:
            found = self._small(value)
            if found.size > _TINY:
                if len(self._recent) >= _MOST_RECENT:
                    self._recent.clear()
                self._recent[value] = found
        return found

    def _small(self, value: Value) -> Array:
        tensor = self.tensor(value)
        if tensor is not None and math.prod(tensor.dims) > _SMALL:
            raise Unknowable(f"constant {value.name!r} is too large to be looked at whole")
        array = self.owner.array(tensor) if tensor is not None else self._evaluated(value)
        is_real = array.dtype.kind == "f" or array.dtype.name.startswith("bf")
        return array.astype(np.float64 if is_real else array.dtype)  # a copy, never a view of the file

    def weights(self, value: Value) -> Weights:
        """A constant of any size. Raises Unknowable where it cannot be computed, or is no float."""
        tensor = self.tensor(value)
        if tensor is not None:
            if rounding(tensor.data_type) is None:
                raise Unknowable(f"constant {value.name!r} is no float")
            return Weights.stored(tensor, self.owner)
        array = self._evaluated(value)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if rounding(kind) is None:
            raise Unknowable(f"constant {value.name!r} is no float")
        return Weights.given(array, kind, self.noise(value))

    def noise(self, value: Value) -> float:
        """How far rounding may have moved each number of a computed constant; 0 for a stored one.

        The nodes that compute it round after each step, and in which order they sum up is not said: four times what
        float64 makes of it otherwise.
        """
        if self.owner.stored(value) is not None or self.tensor(value) is not None:
            return 0.0
        exact = self._evaluated(value)
        return self._noises.get(value, 0.0) if exact.dtype.kind == "f" else 0.0

    def _evaluated(self, value: Value) -> Array:
        if value not in self._computed:
            piece = Piece(tuple(sorted(self._places(value), key=self.owner.rank.__getitem__)), self._stored, value)
            model = self.owner.cut(piece, ())
            found = evaluate(model)[value.name]
            self._computed[value] = found
            if found.dtype.kind == "f" and found.size:
                exact = Evaluator(model)({})[value.name]
                with np.errstate(all="ignore"):
                    moved = np.abs(found.astype(np.float64) - exact) if exact.shape == found.shape else np.array(np.nan)
                self._noises[value] = _NOISE * float(np.nan_to_num(moved.max()))
        return self._computed[value]

    def _places(self, value: Value) -> set[Place]:
        """The nodes that compute a constant; `_stored` becomes what they read."""
        self._stored: dict[str, TensorProto] = {}
        places: set[Place] = set()
        waiting = [value]
        while waiting:
            each = waiting.pop()
            stored, place = self.owner.stored(each), self.owner.producer(each)
            if stored is not None:
                self._stored[each.name] = stored
            elif place is not None and place not in places:
                places.add(place)
                waiting += [found for found in self.owner.reads(place) if found is not None]
        return places
