"""Running a model in onnxruntime.

The only module that touches onnxruntime's API for sessions. The warnings of a session are silenced; what it raises
becomes one sentence in `RunFailed`.
"""

import ctypes
import os
import re
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

import numpy as np
from onnx import TensorProto

from bnfold import process
from bnfold.equivalence.numbers.element_types import Array, Feed, Outputs, numpy_type
from bnfold.equivalence.runtime.reused_memory import ReusedMemory
from bnfold.equivalence.runtime.spending import spent, threads
from bnfold.equivalence.structure.signature import Source
from bnfold.errors import BnfoldError

_ERROR, _FATAL = 3, 4
_LONGEST_REASON = 300
_ERROR_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
# A file, a line, and the function there: its bare name, or all that the compiler calls it.
_SOURCE_LOCATION = re.compile(
    r"(/[^ :]+)+\.(cc|h|cpp):\d+ ([^()]*?::[\w~]+\([^()]*\)(::<lambda\([^()]*\)>)?( const)?( \[with [^]]*\])?|\S+) ?"
)
# A node that holds others is named before the one inside that failed.
_AROUND = re.compile(r"(Non-zero status code returned while running \w+ node\. Name:'[^']*' )+(?=Non-zero status code)")
_ALLOCATION = re.compile(r"bad.?alloc|failed to allocate memory", re.IGNORECASE)
_MAPPED = re.compile(r"map\(\w+,\s*tensor\((\w+)\)")
_T = TypeVar("_T")
_thread = threading.local()
_NUMBERS = {"float": "float32", "double": "float64", "int64": "int64"}
# Types that onnxruntime does not hand over as numpy arrays, by its own name for them.
_FOREIGN = {
    "tensor(bfloat16)": TensorProto.BFLOAT16,
    "tensor(float8e4m3fn)": TensorProto.FLOAT8E4M3FN,
    "tensor(float8e4m3fnuz)": TensorProto.FLOAT8E4M3FNUZ,
    "tensor(float8e5m2)": TensorProto.FLOAT8E5M2,
    "tensor(float8e5m2fnuz)": TensorProto.FLOAT8E5M2FNUZ,
}


class Optimization(StrEnum):
    """onnxruntime's own graph optimizations: it folds batch normalization itself by default."""

    OFF = "off"
    ON = "on"


class RunFailed(Exception):  # noqa: N818 - what happened to a run, not a mistake of the caller
    """onnxruntime could not load or run a model; the message is its reason, in one sentence."""


class LoadFailed(RunFailed):
    """onnxruntime could not load a model, so that nothing is known of what it computes."""


def runtime() -> Any:
    """The onnxruntime module, its telemetry off. Raises BnfoldError that says how to get it."""
    silent = process.send_nothing()
    try:
        import onnxruntime
    except ImportError as error:
        raise BnfoldError(
            "onnxruntime, which verification needs, is not installed: pip install 'bnfold[cpu]' "
            "(or 'bnfold[gpu]'), or pass --no-verify."
        ) from error
    if silent:
        onnxruntime.disable_telemetry_events()  # also where somebody imported it before, without the variable
    if process.owned():
        # Some providers warn for the process and not for the session: CUDA for each Conv that runs as bnfold asks.
        onnxruntime.set_default_logger_severity(_ERROR)
        process.reuse_memory()
    return onnxruntime


def quiet_options(optimization: Optimization) -> Any:
    """Session options every provider shares. Errors are raised, so they need not be printed as well."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_DISABLE_ALL if optimization is Optimization.OFF else levels.ORT_ENABLE_ALL
    )
    options.log_severity_level = _FATAL
    options.use_deterministic_compute = True
    # Threads that spin until the next run of their session take a processor from what is done meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads():
        options.intra_op_num_threads = threads()
    options.enable_mem_pattern = False  # a plan of the memory of each shape, which few feeds have
    return options


class Session:
    """One loaded model; see `opened`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs: list[Any] = session.get_outputs()
        ports = [*session.get_inputs(), *self._outputs]
        self._by_value = any(port.type in _FOREIGN for port in ports)
        self._results: dict[object, dict[str, tuple[np.dtype[Any], tuple[int, ...]]]] | None = {}

    @property
    def raw(self) -> Any:
        """The onnxruntime.InferenceSession."""
        return self._session

    def run(self, feed: Feed) -> Outputs:
        """Outputs by name. Raises RunFailed.

        A sequence or map becomes one entry per tensor, named `output[3]`, a sparse tensor one for each of its parts.
        """
        names = [output.name for output in self._outputs]
        spent("runs")
        try:
            if self._by_value:
                onnxruntime = runtime()
                values = {name: _to_value(onnxruntime, array) for name, array in feed.items()}
                found = interruptibly(lambda: self._session.run_with_ort_values(names, values, _run_options()))
                results = [_from_value(value) for value in found]
            else:
                results = interruptibly(lambda: self._session.run(names, feed, _run_options()))
        except Exception as error:  # onnxruntime's exceptions share no other base class
            raise _failed(error) from error
        answered = zip(self._outputs, results, strict=True)
        return dict(pair for port, result in answered for pair in _flat(port.name, result, _held_in(port.type)))

    def run_reusing(self, memory: ReusedMemory, feed: Feed) -> Outputs:
        """As `run`, with the outputs in `memory` where inputs of the same shapes have told their types and shapes.

        Where the shapes turn out to depend on the data, this run and all that follow are done as by `run`.
        """
        shapes = tuple((name, array.shape) for name, array in feed.items())
        if self._results and shapes in self._results:
            binding = self._session.io_binding()
            inputs = {name: np.asarray(array, order="C") for name, array in feed.items()}
            outputs = {name: memory.array(*result) for name, result in self._results[shapes].items()}
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            try:
                interruptibly(lambda: self._session.run_with_iobinding(binding, _run_options()))
            except Exception:  # noqa: BLE001 - whatever it is, it is seen again where the arrays are not its reason
                self._results = None
            else:
                spent("runs")
                return outputs
        found = self.run(feed)
        numbers = all(array.dtype.kind in "biuf" for array in (*feed.values(), *found.values()))
        if self._results is not None and numbers and not self._by_value:
            self._results[shapes] = {name: (array.dtype, array.shape) for name, array in found.items()}
        return found

    def close(self) -> None:
        """Let the model go; much memory is given back, and little is there for the next one."""
        self.__dict__.clear()
        _trim()


@contextmanager
def opened(source: Source, options: Any, providers: list[Any] | None = None) -> Iterator[Session]:
    """A session as `loaded` makes it that is gone when the block ends."""
    spent("sessions")
    session = loaded(source, options, providers)
    try:
        yield session
    finally:
        session.close()


def loaded(source: Source, options: Any, providers: list[Any] | None = None) -> Session:
    """A session, to be closed. Raises RunFailed where onnxruntime cannot load the model.

    `providers` None leaves them to `options`, as plugin providers want it. A provider that cannot be started is a
    failure: onnxruntime's own answer is to print so to standard output and go on with the CPU.
    """
    onnxruntime = runtime()
    # In a locale that knows only ASCII, Python's text of a path is not what UTF-8 makes of its bytes.
    model = source if isinstance(source, bytes) else os.fsencode(source).decode()
    asked = {"providers": providers} if providers else {}
    try:
        raw = onnxruntime.InferenceSession(model, options, enable_fallback=0, **asked)
    except Exception as error:  # onnxruntime's exceptions share no other base class
        raise LoadFailed(str(_failed(error))) from error
    _trim()
    return Session(raw)


def _trim() -> None:
    """Give back what making or running a session has freed where that is much, in a process of bnfold's own."""
    if process.owned():
        process.trim(process.MOST_KEPT)


class Running(Generic[_T]):
    """Work that runs models, in a thread of its own. As a context manager: it is stopped when the block ends."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._options = runtime().RunOptions()
        self._outcome: Future[_T] = Future()
        self._thread = threading.Thread(target=copy_context().run, args=(self._do,), name="bnfold-run")

    def __enter__(self) -> Self:
        try:
            self._thread.start()  # which waits for the thread, so that an interrupt may come here, too
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def result(self) -> _T:
        """Wait for what comes of the work, or raise what it raised."""
        return self._outcome.result()

    def stop(self) -> None:
        """End the run at its next node, and those after it where they begin, and wait for the thread."""
        self._options.terminate = True
        if self._thread.is_alive():
            self._thread.join()

    def _do(self) -> None:
        _thread.options = self._options
        try:
            self._outcome.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._outcome.set_exception(error)


def interruptibly(work: Callable[[], _T]) -> _T:
    """Do `work`, which runs models, in a thread of its own: in native code the main thread would hear no signal.

    A model can run without end (a Loop that never stops); Ctrl-C then ends the run at its next node. For many short
    runs one thread is enough: to start one for each, and wait for it, takes as long as they do.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    with Running(work) as running:
        return running.result()


def _run_options() -> Any:
    """The options of runs in this thread: they end where the thread that waits for them is interrupted."""
    return getattr(_thread, "options", None)


def memory_is_limited() -> bool:
    """Whether the process may use only so much."""
    return resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY


def _failed(error: Exception) -> RunFailed:
    """The error to raise for an exception of onnxruntime. Raises MemoryError where the process may use only so much."""
    if memory_is_limited() and (isinstance(error, MemoryError) or _ALLOCATION.search(str(error))):
        raise MemoryError from error
    return RunFailed(reason(error))


def reason(error: Exception) -> str:
    """The message of an exception of onnxruntime in one sentence, without code, source locations and line breaks."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = _SOURCE_LOCATION.sub("", _ERROR_CODE.sub("", text))
    text = _AROUND.sub("", re.sub(r"Status Message: ", "", text))
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rstrip() + "…"
    return text.rstrip(".") or type(error).__name__


def _to_value(onnxruntime: Any, array: Array) -> Any:
    kinds = {numpy_type(elem_type): elem_type for elem_type in _FOREIGN.values()}
    if array.dtype in kinds:
        bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kinds[array.dtype])
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _from_value(value: Any) -> Any:
    """bfloat16 and float8 have no numpy type of their own: their bytes are copied out of the CPU tensor."""
    elem_type = _FOREIGN.get(value.data_type())
    if elem_type is None:
        return value.numpy() if value.is_tensor() else []
    dtype, shape = numpy_type(elem_type), tuple(value.shape())
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(value.data_ptr(), nbytes), dtype).reshape(shape)


def _held_in(type_name: str) -> np.dtype[Any] | None:
    """The type of the numbers in a map, which onnxruntime hands over as Python's own; None for other types."""
    held = _MAPPED.search(type_name)
    return np.dtype(_NUMBERS[held[1]]) if held and held[1] in _NUMBERS else None


def _flat(name: str, result: Any, held: np.dtype[Any] | None) -> Iterator[tuple[str, Array]]:
    if isinstance(result, Mapping):
        yield f"{name}.length", np.array(len(result))
        for key in sorted(result, key=str):
            yield from _flat(f"{name}[{key}]", result[key], held)
    elif isinstance(result, list):
        yield f"{name}.length", np.array(len(result))
        for number, item in enumerate(result):
            yield from _flat(f"{name}[{number}]", item, held)
    elif result is None:
        yield name, np.array([], dtype=np.float32)
    elif hasattr(result, "dense_shape"):
        yield from _parts_of(name, result)
    elif isinstance(result, float | int) and held is not None:
        yield name, np.asarray(result, held)
    else:
        yield name, np.asarray(result)


def _parts_of(name: str, raw: Any) -> Iterator[tuple[str, Array]]:
    """The shape, the values and the coordinates of a sparse tensor."""
    onnxruntime = runtime()
    sparse = onnxruntime.SparseTensor(raw)
    yield f"{name}[shape]", np.asarray(sparse.dense_shape())
    yield f"{name}[values]", np.asarray(sparse.values())
    if sparse.format() == onnxruntime.OrtSparseFormat.ORT_SPARSE_COO:
        yield f"{name}[indices]", np.asarray(sparse.as_coo_view().indices())
