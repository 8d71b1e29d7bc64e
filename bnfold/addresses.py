"""Files at addresses: ``s3://``, ``hf://``, ``memory://`` and whatever else fsspec knows, by the extra ``remote``.

A model at an address is fetched with its external data into a temporary folder, the work is done there, and what it
made is sent where it belongs: data first, the model last, each as a whole. An address is never a path on the way.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bnfold.errors import BnfoldError, ModelError, OutputError, UsageError

_SEPARATOR = "://"
_BLOCK = 8 << 20


def is_address(path: Any) -> bool:
    """Whether this names a file by an address: a text with ``://``, and not a path that exists."""
    return isinstance(path, str) and _SEPARATOR in path and not os.path.lexists(path)


def require_remote(address: str) -> None:
    """Raise UsageError where fsspec, which opens addresses, is not installed."""
    if find_spec("fsspec") is None:
        raise UsageError(f"{address} is an address: pip install 'bnfold[remote]' to read and write it, or download it")


class _Place(NamedTuple):
    """A file at an address: the file system, the path in it, and the address of its folder."""

    address: str
    system: Any
    path: str

    @classmethod
    def of(cls, address: str) -> "_Place":
        """Raise UsageError for an address that no installed package opens."""
        require_remote(address)
        import fsspec.core

        try:
            # An instance of its own: a transaction belongs to all who share one.
            system, path = fsspec.core.url_to_fs(address, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{address}: {error}") from error
        return cls(address, system, path)

    def beside(self, name: str) -> "_Place":
        """A file of that name in the same folder."""
        address, path = (each.rpartition("/")[0] for each in (self.address, self.path))
        return _Place(f"{address}/{name}", self.system, f"{path}/{name}")

    def exists(self) -> bool:
        """Whether something is there. Raises OutputError where that cannot be known."""
        try:
            return bool(self.system.exists(self.path))
        except Exception as error:  # whatever the package behind the address raises
            raise OutputError(f"{self.address}: {_reason(error)}") from error

    def fetch(self, local: Path) -> None:
        """Bring the file here. Raises ModelError where it cannot be read."""
        try:
            self.system.get_file(self.path, str(local))
        except Exception as error:  # whatever the package behind the address raises
            raise ModelError(f"{self.address}: cannot read the model: {_reason(error)}") from error

    def send(self, files: Iterable[tuple[str, Path]]) -> None:
        """Put files into the folder, in order, by name: each is seen as a whole or not at all, and on failure none is.

        Raises OutputError.
        """
        import shutil

        try:
            if "hf" in self.system.protocol:
                self._commit(files)
                return
            with self.system.transaction:
                for name, local in files:
                    with local.open("rb") as source, self.system.open(self.beside(name).path, "wb") as target:
                        shutil.copyfileobj(source, target, _BLOCK)
        except Exception as error:  # whatever the package behind the address raises
            raise OutputError(f"{self.address}: cannot be written: {_reason(error)}") from error

    def _commit(self, files: Iterable[tuple[str, Path]]) -> None:
        """Put files into a repository of the Hugging Face Hub, whose file system has no transactions, as one commit."""
        from huggingface_hub import CommitOperationAdd, HfApi

        there = self.system.resolve_path(self.path)
        if not hasattr(there, "path_in_repo"):
            raise OSError("a bucket of the Hub has no commits, so half of a model could be seen: upload a file instead")
        folder = there.path_in_repo.rpartition("/")[0]
        HfApi(endpoint=self.system.endpoint, token=self.system.token).create_commit(
            there.repo_id,
            [CommitOperationAdd(f"{folder}/{name}".lstrip("/"), local) for name, local in files],
            commit_message=f"Upload {self.path.rpartition('/')[2]} with bnfold",
            repo_type=there.repo_type,
            revision=there.revision,
        )
        self.system.invalidate_cache()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return " ".join(str(error).split()) or type(error).__name__


@dataclass
class Staging:
    """Files of a run that have addresses, and where they are meanwhile: what is in one folder there is in one here."""

    folder: Path
    names: dict[str, str] = field(default_factory=dict)
    _folders: dict[str, Path] = field(default_factory=dict)
    _data: dict[str, frozenset[str]] = field(default_factory=dict)

    def path(self, address: str) -> str:
        """The path that a file at `address` has meanwhile. Raises UsageError."""
        require_remote(address)
        parent, _, name = address.rpartition("/")
        if not name:
            raise UsageError(f"{address} ends with a slash: name the file")
        folder = self._folders.setdefault(parent, self.folder / str(len(self._folders)))
        folder.mkdir(exist_ok=True)
        self.names[str(folder / name)] = address
        return str(folder / name)

    def fetched(self, address: str) -> str:
        """The path of the model that is at `address`, with its data beside it. Raises ModelError and UsageError."""
        from bnfold.onnxfile import named_data

        local, place = Path(self.path(address)), _Place.of(address)
        place.fetch(local)
        self._data[address] = named_data(local) or frozenset()
        for name in sorted(self._data[address]):
            target = local.parent / name
            if target.resolve().is_relative_to(local.parent.resolve()):  # one that leaves the folder is refused later
                target.parent.mkdir(parents=True, exist_ok=True)
                place.beside(name).fetch(target)
        return str(local)

    def require_free(self, address: str, *, overwrite: bool) -> None:
        """Raise UsageError where something is at `address` that was not fetched and is not to be replaced."""
        if not overwrite and address not in self._data and _Place.of(address).exists():
            raise UsageError(f"{address}: something is there already; choose another output, or pass --overwrite")

    def send(self, address: str, *, overwrite: bool) -> None:
        """Send the model that was made for `address`, its data first. Raises OutputError and UsageError."""
        from bnfold.onnxfile import named_data

        local, place = Path(self.path(address)), _Place.of(address)
        names = sorted(named_data(local) or ())
        own = self._data.get(address, frozenset())
        for name in names:
            if not overwrite and name not in own and place.beside(name).exists():
                raise UsageError(f"{place.beside(name).address}: something is there already; name other data, or pass "
                                 "--overwrite")  # fmt: skip
        place.send([*((name, local.parent / name) for name in names), (local.name, local)])

    def told(self, text: str) -> str:
        """The text with the addresses in place of the paths."""
        for local, address in self.names.items():
            text = text.replace(local, address)
        return text


@contextmanager
def staged() -> Iterator[Staging]:
    """A folder for files that have addresses; an error of bnfold that leaves it names those."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        staging = Staging(Path(os.path.realpath(folder)))
        try:
            yield staging
        except BnfoldError as error:
            error.args = tuple(staging.told(each) if isinstance(each, str) else each for each in error.args)
            raise


def send_text(address: str, text: str) -> None:
    """Write a text to an address, as UTF-8. Raises OutputError and UsageError."""
    import tempfile

    place = _Place.of(address)
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        local = Path(folder, "text")
        local.write_text(text, encoding="utf-8")
        place.send([(place.path.rpartition("/")[2], local)])
