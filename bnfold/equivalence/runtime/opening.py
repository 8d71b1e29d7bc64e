"""Opening a model on a provider, with or without values that are not outputs."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from onnx import TensorProto, helper

from bnfold.activity import beside, doing
from bnfold.equivalence.runtime.providers import CPU, Precision, Provider
from bnfold.equivalence.runtime.sessions import (
    Optimization,
    RunFailed,
    Running,
    Session,
    loaded,
    memory_is_limited,
    opened,
    quiet_options,
)
from bnfold.equivalence.runtime.spending import spent
from bnfold.equivalence.structure.output_sources import tapped
from bnfold.equivalence.structure.signature import Source
from bnfold.errors import ProviderError

_T = TypeVar("_T")


class Setting(NamedTuple):
    """Where and how a session runs."""

    provider: Provider = CPU
    optimization: Optimization = Optimization.OFF
    precision: Precision = Precision.STRICT

    def __str__(self) -> str:
        return f"{self.provider.name}, optimization {self.optimization}"


class _Begun(NamedTuple):
    source: Source
    setting: Setting
    thread: threading.Thread
    made: Future[Session]


class Ahead:
    """Sessions on the CPU that are made, and run, in threads of their own while something else is done.

    As a context manager: inside of it, and of others inside, `running` takes such a session instead of making one, the
    first time.
    """

    def __init__(self) -> None:
        self._begun: list[_Begun] = []
        self._works = ExitStack()
        self.shelves = [self._begun]
        """What was begun here, and in those around."""

    def __enter__(self) -> Self:
        if (around := _ahead.get()) is not None:
            self.shelves += around.shelves
        self._token = _ahead.set(self)
        return self

    def __exit__(self, *_error: object) -> None:
        _ahead.reset(self._token)
        self.drop()

    def begin(self, source: Source, setting: Setting) -> None:
        """Begin to make a session, unless it was begun; not where memory is limited, which it would share."""
        if memory_is_limited() or self._find(source, setting) is not None:
            return
        made: Future[Session] = Future()
        arguments = (_load_into, made, source, setting)
        thread = threading.Thread(target=copy_context().run, args=arguments, name="bnfold-open")
        self._begun.append(_Begun(source, setting, thread, made))
        thread.start()

    def work(self, work: Callable[[], _T]) -> Callable[[], _T]:
        """Begin `work`, which runs models, and return what waits for its result.

        Where memory is limited, which it would share, it is done when it is waited for.
        """
        if memory_is_limited():
            return work
        return self._works.enter_context(Running(partial(_beside, work))).result

    def take(self, source: Source, setting: Setting) -> Session | None:
        """The session, if it was begun and not taken yet. Raises what making it raised."""
        found = self._find(source, setting)
        if found is None:
            return None
        shelf, at = found
        begun = shelf.pop(at)
        spent("sessions")
        begun.thread.join()
        return begun.made.result()

    def drop(self) -> None:
        """Stop the work that was begun here, and close what was begun and not taken."""
        self._works.close()
        while self._begun:
            begun = self._begun.pop()
            spent("sessions")
            begun.thread.join()
            with suppress(Exception):  # nobody asked for it
                begun.made.result().close()

    def _find(self, source: Source, setting: Setting) -> tuple[list[_Begun], int] | None:
        """The shelf that a session is on which was begun, and its position there."""
        for shelf in self.shelves:
            for at, begun in enumerate(shelf):
                if begun.setting == setting and (begun.source is source or begun.source == source):
                    return shelf, at
        return None


_ahead: ContextVar[Ahead | None] = ContextVar("ahead", default=None)


def _load_into(made: "Future[Session]", source: Source, setting: Setting) -> None:
    try:
        options, providers = _attached(setting)
        with beside(), doing(f"loading {_called(source)} in onnxruntime"):
            made.set_result(loaded(source, options, providers))
    except BaseException as error:  # noqa: BLE001 - raised again where the session is taken
        made.set_exception(error)


def _beside(work: Callable[[], _T]) -> _T:
    with beside():
        return work()


def _attached(setting: Setting) -> tuple[Any, list[Any] | None]:
    """The options of a session in a setting, and its providers."""
    options = quiet_options(setting.optimization)
    options.use_deterministic_compute = setting.precision is Precision.STRICT
    return options, setting.provider.attach(options, setting.precision)


@contextmanager
def running(source: Source, setting: Setting, taps: Sequence[str] = ()) -> Iterator[Session]:
    """A session that is gone when the block ends; `taps` become outputs as well. Raises RunFailed, ProviderError.

    Without taps the file itself is loaded. With them a copy in memory is, whose external data still lies at the file.
    """
    with doing(f"running {_called(source)} in onnxruntime ({setting})"), _running(source, setting, taps) as session:
        yield session


def _called(source: Source) -> str:
    return source.name if isinstance(source, Path) else "a copy in memory"


@contextmanager
def _running(source: Source, setting: Setting, taps: Sequence[str]) -> Iterator[Session]:
    begun = _ahead.get()
    if begun is not None and not taps and (session := begun.take(source, setting)) is not None:
        with closing(session):
            yield session
        return
    options, providers = _attached(setting)
    if taps:
        if isinstance(source, Path):
            folder = str(source.resolve().parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            source = _read(source)
        source = tapped(source, taps)
    with ExitStack() as stack:
        try:
            with doing("loading it"):
                session = stack.enter_context(opened(source, options, providers))
        except RunFailed:
            _require_startable(setting)
            raise
        yield session


def _require_startable(setting: Setting) -> None:
    """Raises ProviderError where not even the smallest model can be loaded: then it is not the model's fault."""
    if setting.provider is CPU:
        return
    options = quiet_options(setting.optimization)
    providers = setting.provider.attach(options, setting.precision)
    try:
        with opened(_smallest_model(), options, providers):
            return
    except RunFailed as failure:
        name, install = setting.provider.name, setting.provider.install
        raise ProviderError(f"provider {name}: it cannot be started here ({failure}); {install}.") from failure


def _smallest_model() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    return model.SerializeToString()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror}") from error
