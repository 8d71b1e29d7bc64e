"""Opening a model on a provider, with or without values that are not outputs."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, helper

from bnfold.activity import doing
from bnfold.equivalence.runtime.providers import CPU, Precision, Provider
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed, Session, opened, quiet_options
from bnfold.equivalence.structure.output_sources import tapped
from bnfold.equivalence.structure.signature import Source
from bnfold.errors import ProviderError


@dataclass(frozen=True)
class Setting:
    """Where and how a session runs."""

    provider: Provider = CPU
    optimization: Optimization = Optimization.OFF
    precision: Precision = Precision.STRICT

    def __str__(self) -> str:
        return f"{self.provider.name}, optimization {self.optimization}"


@contextmanager
def running(source: Source, setting: Setting, taps: Sequence[str] = ()) -> Iterator[Session]:
    """A session that is gone when the block ends; `taps` become outputs as well. Raises RunFailed, ProviderError.

    Without taps the file itself is loaded. With them a copy in memory is, whose external data still lies at the file.
    """
    name = source.name if isinstance(source, Path) else "a copy in memory"
    with doing(f"running {name} in onnxruntime ({setting})"), _running(source, setting, taps) as session:
        yield session


@contextmanager
def _running(source: Source, setting: Setting, taps: Sequence[str]) -> Iterator[Session]:
    options = quiet_options(setting.optimization)
    options.use_deterministic_compute = setting.precision is Precision.STRICT
    providers = setting.provider.attach(options, setting.precision)
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
