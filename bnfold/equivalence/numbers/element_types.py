"""The element types of ONNX as numpy sees them, and how finely each one rounds."""

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

Array = np.ndarray[Any, np.dtype[Any]]
Feed = dict[str, Array]
"""An array for each input, by name."""
Outputs = dict[str, Array]
"""An array for each value asked for, by name."""


class Rounding(NamedTuple):
    """`unit`: unit roundoff u, half the distance from 1 to the next number. `tiny`: below this nothing is resolved.

    `tiny` is the smallest normal number, since runtimes may flush what is smaller to zero; for float16 it is the
    smallest subnormal, since those are kept.
    """

    unit: float
    tiny: float
    largest: float


_FLOATS: dict[int, Rounding] = {
    TensorProto.DOUBLE: Rounding(2.0**-53, 2.0**-1022, 1.8e308),
    TensorProto.FLOAT: Rounding(2.0**-24, 2.0**-126, 3.4e38),
    TensorProto.FLOAT16: Rounding(2.0**-11, 2.0**-24, 65504.0),
    TensorProto.BFLOAT16: Rounding(2.0**-8, 2.0**-126, 3.39e38),
}
_NAMED = {
    "float64": _FLOATS[TensorProto.DOUBLE],
    "float32": _FLOATS[TensorProto.FLOAT],
    "float16": _FLOATS[TensorProto.FLOAT16],
    "bfloat16": _FLOATS[TensorProto.BFLOAT16],
}


def rounding(elem_type: int) -> Rounding | None:
    """None for types that do not round: integers, bool, string."""
    return _FLOATS.get(elem_type)


def rounding_of(dtype: np.dtype[Any]) -> Rounding | None:
    """`rounding` of a numpy (or ml_dtypes) type."""
    return rounding_named(dtype.name)


def rounding_named(name: str) -> Rounding | None:
    """`rounding` of the name of a numpy (or ml_dtypes) type."""
    return _NAMED.get(name)


def numpy_type(elem_type: int) -> np.dtype[Any]:
    """bfloat16 and the 8-bit floats come as ml_dtypes types, strings as object. Raises KeyError for no such type."""
    return tensor_dtype_to_np_dtype(elem_type)


def is_float(elem_type: int) -> bool:
    """Whether values of this type are rounded real numbers that a feed may draw from a distribution."""
    return elem_type in _FLOATS or numpy_type(elem_type).name.startswith("float")


def distance(one: Array, other: Array) -> Array:
    """The distance of each two numbers of one type and shape, in float64: of integers that differ it is never 0.

    float64 does not hold those beyond 2**53: 2**60 and 2**60 + 1 are the same number there.
    """
    if one.dtype.kind in "iu":
        unsigned = f"u{one.dtype.itemsize}"
        first, second = one.astype(unsigned), other.astype(unsigned)  # modulo 2**bits, as their difference
        apart: Array = np.where(other > one, second - first, first - second)
        return apart.astype(np.float64)
    wide, also = one.astype(np.float64), other.astype(np.float64)
    return np.abs(np.subtract(also, wide, out=also), out=also)
