"""The number of bytes of a tensor by its shape and type, and whether it has them.

Sources: onnx.proto of onnx 1.23 (TensorProto.DataType; the packing of the 2-, 4- and 6-bit types behind raw_data and
int32_data).
"""

import math

import numpy as np
from onnx import TensorProto

MAX_ELEMENTS = 2**63 - 1
MAX_DIMS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32  # of an array of numpy
AGAIN = "the model is damaged or its exporter wrong: export it again"

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.FLOAT8E8M0: 8,
    TensorProto.FLOAT6E2M3: 6,
    TensorProto.FLOAT6E3M2: 6,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.UINT2: 2,
    TensorProto.INT2: 2,
}


def element_count(tensor: TensorProto) -> int:
    """The product of the dims. Raises ValueError, with the end of a sentence, if they cannot be a shape."""
    if tensor.HasField("segment"):
        raise ValueError("is a segment of a larger tensor, which no runtime puts together; save it whole")
    dims = tensor.dims[:]
    elements = math.prod(dims)
    if min(dims, default=0) < 0:
        raise ValueError(f"has a negative dimension ({next(dim for dim in dims if dim < 0)}); {AGAIN}")
    if elements > MAX_ELEMENTS:
        raise ValueError(f"has the dimensions {dims}, more elements than a 64-bit number can count; {AGAIN}")
    if len(dims) > MAX_DIMS:
        raise ValueError(f"has {len(dims)} dimensions, and arrays have {MAX_DIMS} at most; export it again with fewer")
    return elements


def raw_nbytes(tensor: TensorProto) -> int | None:
    """The size in bytes of the tensor's raw_data; None for strings and for types that bnfold does not know.

    Raises ValueError as `element_count` does.
    """
    elements = element_count(tensor)
    bits = BITS.get(tensor.data_type)
    return None if bits is None else (elements * bits + 7) // 8


# Types whose numbers lie in a field of their own, and how many numbers one element takes; the others use int32_data.
NUMBERS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}


def check_contents(tensor: TensorProto) -> None:
    """Raise ValueError, with the end of a sentence, unless a tensor that is not external has the data of its shape."""
    if tensor.data_type == TensorProto.FLOAT and _is_sound_float32(tensor):  # by far the most frequent kind
        return
    _check_type(tensor)
    if tensor.HasField("raw_data"):
        check_raw(tensor, len(tensor.raw_data))
        return
    expected = element_count(tensor)
    bits = BITS.get(tensor.data_type)
    if bits is None and tensor.data_type != TensorProto.STRING:
        return
    field, numbers = NUMBERS.get(tensor.data_type, ("int32_data", 1))
    expected = expected * numbers if bits not in (2, 4) else (expected * bits + 7) // 8
    found = len(getattr(tensor, field))
    if found != expected:
        raise ValueError(f"has {found} values where its shape {list(tensor.dims)} needs {expected}; {AGAIN}")


def _is_sound_float32(tensor: TensorProto) -> bool:
    """Whether a quick look finds the raw_data that the shape of a float32 tensor needs."""
    sizes = tensor.dims
    nbytes = len(tensor.raw_data)
    if len(sizes) == 1:
        return 0 < nbytes == 4 * sizes[0]
    dims = sizes[:]
    return nbytes > 0 and nbytes == 4 * math.prod(dims) and min(dims, default=0) >= 0 and len(dims) <= MAX_DIMS


def _check_type(tensor: TensorProto) -> None:
    if tensor.data_type not in BITS and tensor.data_type != TensorProto.STRING:
        raise ValueError(f"has the element type {tensor.data_type}, which the installed onnx does not know; {AGAIN}")


def check_raw(tensor: TensorProto, nbytes: int) -> None:
    """Raise ValueError, with the end of a sentence, if `nbytes` of raw_data do not fit the dims and the type."""
    _check_type(tensor)
    expected = raw_nbytes(tensor)
    if nbytes == expected:
        return
    if expected is not None:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise ValueError(
            f"has {nbytes} bytes of data where its shape {list(tensor.dims)} of {kind} needs {expected}; {AGAIN}"
        )
    if tensor.data_type == TensorProto.STRING:
        raise ValueError(f"holds strings as raw data, which ONNX does not allow; {AGAIN}")
