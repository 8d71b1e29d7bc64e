"""Opening a model on a provider, with or without values that are not outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bnfold.equivalence.behind import tapped
from bnfold.equivalence.providers import CPU, Precision, Provider
from bnfold.equivalence.sessions import Optimization, RunFailed, Session, opened, quiet_options
from bnfold.equivalence.signature import Source


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
    options = quiet_options(setting.optimization)
    providers = setting.provider.attach(options, setting.precision)
    if taps:
        if isinstance(source, Path):
            folder = str(source.resolve().parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            source = _read(source)
        source = tapped(source, taps)
    with opened(source, options, providers) as session:
        yield session


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror}") from error
