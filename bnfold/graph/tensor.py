"""`Tensor`: one constant of a model, lazy from the file it came from to the file it goes to."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from bnfold.onnxfile import Payload, Span

# Up to this size products are computed at once: it is cheaper than to remember how.
_EAGER_BYTES = 1 << 12
# Up to this size a look at every element is made in one piece, and nothing of it is kept.
_QUICK_BYTES = 1 << 16
# After a look at this many bytes of a file, their pages are handed back.
_MAPPED_BYTES = 16 << 20
# From this size on a look at every element of a file is worth saving: whoever writes the tensor sees them as well.
_STREAMED_BYTES = 1 << 20
# Smaller blocks stay nearer to the processor, larger ones cost less Python for each byte, and two threads run Python in
# turns. Measured with weights of 10 MB; 384 KiB and 1 MiB took a tenth longer.
_BLOCK_BYTES = 3 << 18


class FloatRange(NamedTuple):
    """The range of a dtype, its smallest normal and its largest finite number; and half the step above 1."""

    smallest_normal: float
    largest: float
    roundoff: float


def _limits(dtype: type) -> FloatRange:
    limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]  # ml_dtypes is not annotated
    return FloatRange(float(limits.smallest_normal), float(limits.max), float(limits.eps) / 2)


# The dtypes a scale can be multiplied into, with one rounding of the product.
FLOATS: dict[np.dtype, FloatRange] = {
    np.dtype(dtype): _limits(dtype) for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
}


# What sizes and axes are stored as.
_INT64 = np.dtype(np.int64)
_LITTLE = {dtype: dtype.newbyteorder("<") for dtype in (*FLOATS, _INT64)}
# The same by the number that ONNX gives each.
FLOAT_TYPES: dict[int, np.dtype] = {helper.np_dtype_to_tensor_dtype(dtype): dtype for dtype in FLOATS}
_FREQUENT_TYPES: dict[int, np.dtype] = FLOAT_TYPES | {TensorProto.INT64: _INT64}


Block: TypeAlias = tuple[slice, ...]
"""An index of the leading axes of an array that selects elements which follow each other."""
Look: TypeAlias = Callable[[NDArray[np.float64]], None]
"""Called with the largest absolute value at each index of an axis; raises where it does not like what it sees."""


class Made(NamedTuple):
    """What makes an array anew each time that somebody looks: the same numbers, none of which is kept."""

    make: Callable[[], NDArray[Any]]


class _Scratch(threading.local):
    """Memory of this thread for one block at a time, by what it is for: new memory has to be mapped by the system."""

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def array(self, purpose: str, shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
        """An array of anything, valid until the next for this purpose."""
        nbytes = math.prod(shape) * dtype.itemsize
        memory = self._memory.get(purpose)
        if memory is None or memory.nbytes < nbytes:
            memory = self._memory[purpose] = np.empty(nbytes, np.uint8)
        return memory[:nbytes].view(dtype).reshape(shape)


_scratch = _Scratch()


class Tensor:
    """A constant of shape `shape` and numpy dtype `dtype`, times the `factors` it was scaled by. Immutable.

    `source` is a byte range of a file (nothing is read until somebody looks), an array, or what makes one. An array may
    be float64 where `dtype` is narrower: results of arithmetic stay exact until they are stored, and are rounded once.
    `looks`: who looks at the source along which axis when the tensor is written (see `looked_at`).
    """

    __slots__ = ("_array", "dtype", "factors", "looks", "shape", "source")
    _looked_at: ClassVar[int] = 0

    def __init__(
        self,
        dtype: np.dtype,
        shape: tuple[int, ...],
        source: Span | Made | NDArray[Any],
        factors: tuple[NDArray[np.float64], ...] = (),
        looks: tuple[tuple[int, Look], ...] = (),
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.source = source
        self.factors = factors
        self.looks = looks
        self._array: NDArray[Any] | None = source if isinstance(source, np.ndarray) else None

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {list(self.shape)})"

    @classmethod
    def from_proto(cls, proto: TensorProto, payload: Payload | None) -> "Tensor":
        """The tensor of an initializer or attribute; `payload` holds its bytes where `proto` does not."""
        if isinstance(payload, TensorPayload):
            return payload.tensor
        shape = tuple(proto.dims[:])
        dtype = _FREQUENT_TYPES.get(proto.data_type)
        if payload is None and dtype is not None and (raw := proto.raw_data):  # by far the most frequent kinds
            return cls(dtype, shape, np.ndarray(shape, _LITTLE[dtype], raw))
        if proto.data_type == TensorProto.STRING:  # whose bytes need not be UTF-8
            return cls(np.dtype(object), shape, np.array(proto.string_data[:], object).reshape(shape))
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
        if payload is None:
            return cls(dtype, shape, numpy_helper.to_array(proto))
        if payload.nbytes == math.prod(shape) * dtype.itemsize:
            assert isinstance(payload, Span)
            return cls(dtype, shape, payload)
        raw = b"".join(payload.chunks())  # two or more elements share a byte
        packed = TensorProto(data_type=proto.data_type, dims=shape, raw_data=raw)
        return cls(dtype, shape, numpy_helper.to_array(packed))

    @classmethod
    def of(cls, values: ArrayLike, dtype: np.dtype) -> "Tensor":
        """The tensor that stores `values`, usually float64, rounded once to `dtype`."""
        array = np.asarray(values)
        return cls(dtype, array.shape, array)

    @classmethod
    def made(cls, shape: tuple[int, ...], dtype: np.dtype, make: Callable[[], NDArray[np.float64]]) -> "Tensor":
        """The same of the values that `make` returns, of shape `shape`: kept where they are few, else made again."""
        source = make() if math.prod(shape) * 8 <= _QUICK_BYTES else Made(make)
        return cls(dtype, shape, source)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the stored form."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def _values(self) -> NDArray[Any]:
        """The source as an array, unscaled; for a file a view of its mapped bytes."""
        if self._array is None:
            if isinstance(self.source, Made):
                return self.source.make()
            assert isinstance(self.source, Span)
            flat = np.frombuffer(self.source.view(), self.dtype.newbyteorder("<"))
            self._array = flat.reshape(self.shape)
        return self._array

    def scaled(self, factor: NDArray[np.float64], *axes: int) -> "Tensor":
        """This tensor times `factor` along `axes`, multiplied in float64, rounded once when it is stored.

        `factor` has one dim for each of `axes` (in increasing order), of that axis's size or 1. Lazy where it is large.
        """
        form = [1] * len(self.shape)
        for axis, size in zip(axes, factor.shape, strict=True):
            assert size in (1, self.shape[axis]), (factor.shape, axes, self)
            form[axis] = size
        aligned = factor.reshape(form)
        if self.nbytes <= _EAGER_BYTES and not self.factors:
            return Tensor(self.dtype, self.shape, self.exact() * aligned)
        return Tensor(self.dtype, self.shape, self.source, (*self.factors, aligned), self.looks)

    def is_streamed_along(self, axis: int) -> bool:
        """Whether it is so large that it is only worth looking at when it is written, and `looked_at` along `axis`."""
        streamed = isinstance(self.source, Span) and self.nbytes >= _STREAMED_BYTES and self.dtype.itemsize > 2
        return streamed and self._is_scaled_along(axis)

    def looked_at(self, axis: int, look: Look) -> "Tensor":
        """This tensor, which calls `look` when all of it has been written.

        `look` gets the magnitude of the source, to which `times_factors` gives that of the tensor.
        """
        return Tensor(self.dtype, self.shape, self.source, self.factors, (*self.looks, (axis, look)))

    def exact(self) -> NDArray[np.float64]:
        """The values in float64, not rounded to `dtype`. Shape `shape`."""
        values = self._exact_block(()) if self.factors else self._values.astype(np.float64, copy=False)
        if self.nbytes > _QUICK_BYTES:
            self._release()
        return values

    def numpy(self) -> NDArray[Any]:
        """The values as they are stored: shape `shape`, dtype `dtype`. Not to be written to."""
        return self._stored(self._exact_block(()) if self.factors else self._values)

    def tobytes(self) -> bytes:
        """The stored form: little-endian, row-major."""
        if self.dtype == np.float32 and not self.factors:
            return self._values.astype("<f4", copy=False).tobytes()
        return self.numpy().astype(_LITTLE.get(self.dtype, self.dtype), copy=False).tobytes()

    def has_only_normals(self) -> bool:
        """Whether every element lies in the normal range of `dtype`, at one quick look; False for large tensors."""
        if self.nbytes > _QUICK_BYTES or not self.size:
            return False
        limits, sizes = FLOATS[self.dtype], np.abs(self.exact()).reshape(-1)
        smallest, largest = np.minimum.reduce(sizes), np.maximum.reduce(sizes)
        self._release()
        return bool(limits.smallest_normal <= smallest and largest <= limits.largest)

    def magnitude(self, axis: int) -> NDArray[np.float64]:
        """The largest absolute value at each index of `axis`, before rounding; NaN where there is a NaN.

        Shape [shape[axis]], float64. Reads every element, block by block.
        """
        if self.nbytes <= _QUICK_BYTES:
            others = tuple(a for a in range(len(self.shape)) if a != axis)
            small: NDArray[np.float64] = np.abs(self.exact()).max(axis=others, initial=0.0)
            return small
        exact = not self._is_scaled_along(axis) or self.dtype.itemsize == 2
        found = _Largest(self.shape, axis)
        for block, values in self._read(_blocks(self.shape, self.dtype.itemsize)):
            found.add(block, self._exact_for_now(block, values) if exact else values)
        self._release()
        return found.values if exact else self.times_factors(found.values)

    def times_factors(self, largest: NDArray[np.float64]) -> NDArray[np.float64]:
        """The magnitude of the tensor from that of its source along an axis that all its factors lie along."""
        for factor in self.factors:
            with np.errstate(all="ignore"):
                largest = largest * np.abs(factor.reshape(-1))
        return largest

    def _is_scaled_along(self, axis: int) -> bool:
        """Whether every factor is one number per index of `axis`: then the largest element stays the largest."""
        return all(factor.size == factor.shape[axis] for factor in self.factors)

    def sum(self, axes: tuple[int, ...]) -> NDArray[np.float64]:
        """The sum over `axes`, which become 1, before rounding; float64. Reads every element, block by block."""
        total, source = np.zeros([1 if a in axes else n for a, n in enumerate(self.shape)]), self._values
        for block in _blocks(self.shape, self.dtype.itemsize):
            part = tuple(slice(None) if a in axes else s for a, s in enumerate(block))
            total[part] += self._exact_for_now(block, source[block]).sum(axis=axes, keepdims=True)
        self._release()
        return total

    def _release(self) -> None:
        """Give mapped pages back now and then, so that peak memory does not grow with the model."""
        if isinstance(self.source, Span):
            Tensor._looked_at += self.nbytes
            if Tensor._looked_at > _MAPPED_BYTES:
                Tensor._looked_at = 0
                self.source.origin.release()

    def _read(self, blocks: Iterable[Block], offset: int = 0) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Each of these blocks, which follow each other from byte `offset` on, with the source's values in it.

        Those of a file are read into memory that the next block reuses: to map a page costs more than to copy it.
        """
        source = self.source
        if not isinstance(source, Span) or self.nbytes <= _QUICK_BYTES:
            values = self._values
            for block in blocks:
                yield block, values[block]
            return
        for block in blocks:
            shape = _shape(block, self.shape)
            part = _scratch.array("source", shape, self.dtype.newbyteorder("<"))
            source.read_into(part.reshape(-1).view(np.uint8).data, offset)
            offset += part.nbytes
            yield block, part

    def _exact_block(self, block: Block) -> NDArray[np.float64]:
        return self._exact(block, self._values[block])

    def _exact(self, block: Block, part: NDArray[Any]) -> NDArray[np.float64]:
        """`part`, the source's values in a block, times the factors."""
        return self._times_factors(block, part.astype(np.float64))

    def _exact_for_now(self, block: Block, part: NDArray[Any]) -> NDArray[np.float64]:
        """The same, in memory that the next block reuses: getting new one would take longer than the arithmetic."""
        if not part.flags.c_contiguous:  # sums depend on the order in memory
            return self._exact(block, part)
        values = _scratch.array("exact", part.shape, np.dtype(np.float64))
        np.copyto(values, part)
        return self._times_factors(block, values)

    def _times_factors(self, block: Block, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multiply the values of a block by the factors, in place."""
        with np.errstate(all="ignore"):
            for factor in self.factors:
                values *= _part(factor, block)
        return values

    def _stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values`, with the factors in them, rounded to what is stored."""
        if values.dtype == self.dtype:
            return values
        if self.dtype == np.float32 and not self.factors:  # whoever computed it has checked the range
            return values.astype(np.float32)
        with np.errstate(all="ignore"):
            return values.astype(self.dtype)

    def stored(self, blocks: Iterable[Block], offset: int, seen: "Seen") -> Iterator[NDArray[Any]]:
        """The stored values of these blocks, which follow each other from byte `offset` on; each holds until the next.

        All of them share their memory: getting new memory for each would take longer than the arithmetic.
        """
        here = seen.nothing()
        for block, values in self._read(blocks, offset):
            for largest in here:
                largest.add(block, values)
            if not self.factors:
                yield self._stored(values)
                continue
            exact = self._exact_for_now(block, values)
            stored = _scratch.array("stored", values.shape, self.dtype)
            with np.errstate(all="ignore"):
                np.copyto(stored, exact, casting="same_kind")
            yield stored
        self._release()
        seen.add(here)


class _Largest:
    """The largest absolute value at each index of an axis, of an array that comes block by block."""

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        self.values = np.zeros(shape[axis])
        self._axis = axis
        self._others = tuple(a for a in range(len(shape)) if a != axis)

    def add(self, block: Block, part: NDArray[Any]) -> None:
        """Take in the values of a block. A NaN stays."""
        high = part.max(axis=self._others, initial=0).astype(np.float64)
        low = part.min(axis=self._others, initial=0).astype(np.float64)
        region = self.values[block[self._axis]] if self._axis < len(block) else self.values
        np.maximum(region, np.maximum(high, -low), out=region)


class Seen:
    """A view of a tensor's numbers, complete when all of its `parts` have been written, in any order."""

    def __init__(self, tensor: Tensor, parts: int) -> None:
        self._tensor = tensor
        self._missing = parts
        self._lock = threading.Lock()
        self._largest = self.nothing()

    def nothing(self) -> list["_Largest"]:
        """The start values of a part, one for each observer."""
        return [_Largest(self._tensor.shape, axis) for axis, _ in self._tensor.looks]

    def add(self, part: list["_Largest"]) -> None:
        """Take in what a whole part has seen; after the last one everybody looks."""
        with self._lock:
            self._missing -= 1
            for largest, more in zip(self._largest, part, strict=True):
                np.maximum(largest.values, more.values, out=largest.values)
            if self._missing:
                return
        for (_, look), largest in zip(self._tensor.looks, self._largest, strict=True):
            look(largest.values)


class TensorPayload:
    """A `Tensor` as the bytes the writer streams into the output (a `Payload` of the onnxfile room)."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def nbytes(self) -> int:
        """The number of bytes of the stored form."""
        return self.tensor.nbytes

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in order: little-endian, row-major, a bounded number at a time."""
        blocks = _blocks(self.tensor.shape, self.tensor.dtype.itemsize)
        return _bytes(self.tensor.stored(blocks, 0, Seen(self.tensor, 1)))

    def parts(self, nbytes: int) -> Sequence[Payload]:
        """This tensor in parts of about `nbytes`, which may be made in any order, side by side."""
        count = self.nbytes // nbytes
        if not isinstance(self.tensor.source, Span) or count < 2:
            return [self]
        blocks = list(_blocks(self.tensor.shape, self.tensor.dtype.itemsize))
        size = -(-len(blocks) // min(count, len(blocks)))
        groups = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        seen, offset, parts = Seen(self.tensor, len(groups)), 0, []
        for group in groups:
            parts.append(_TensorPart(self.tensor, group, offset, seen))
            offset += parts[-1].nbytes
        return parts


class _TensorPart:
    """Some blocks of a tensor, which begin at byte `offset` of its stored form."""

    def __init__(self, tensor: Tensor, blocks: Sequence[Block], offset: int, seen: Seen) -> None:
        self._tensor, self._blocks, self._offset, self._seen = tensor, blocks, offset, seen
        elements = sum(math.prod(_shape(block, tensor.shape)) for block in blocks)
        self.nbytes = elements * tensor.dtype.itemsize

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in order."""
        return _bytes(self._tensor.stored(self._blocks, self._offset, self._seen))


def _bytes(arrays: Iterable[NDArray[Any]]) -> Iterator[memoryview]:
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        yield np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _part(factor: NDArray[np.float64], block: Block) -> NDArray[np.float64]:
    """The part of `factor` that meets that block of the array it is broadcast to."""
    return factor[tuple(s if f > 1 else slice(None) for s, f in zip(block, factor.shape, strict=False))]


def _shape(block: Block, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a block of an array of that shape."""
    sizes = (len(range(*part.indices(size))) for part, size in zip(block, shape, strict=False))
    return (*sizes, *shape[len(block) :])


def _blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[Block]:
    """Split an array into contiguous blocks of at most `_BLOCK_BYTES`, in row-major order.

    Each block indexes the leading axes by slices, so that no axis disappears.
    """
    if not shape or math.prod(shape) * itemsize <= _BLOCK_BYTES:
        yield ()
        return
    split = next(
        a for a in range(len(shape)) if a == len(shape) - 1 or math.prod(shape[a + 1 :]) * itemsize <= _BLOCK_BYTES
    )
    row = math.prod(shape[split + 1 :]) * itemsize
    step = max(1, _BLOCK_BYTES // row)
    for index in np.ndindex(*shape[:split]):
        lead = tuple(slice(i, i + 1) for i in index)
        for start in range(0, shape[split], step):
            yield (*lead, slice(start, start + step))
