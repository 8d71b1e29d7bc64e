"""The files being made for one output, all of which can be removed until the moment of publication."""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bnfold.atomic import create, give_permissions, hidden_name, sync
from bnfold.onnxfile.marks import OUTPUT, set_mark
from bnfold.onnxfile.output_lock import Identity, OutputLock, identity
from bnfold.onnxfile.stream import Writer

# What a file system without hard links says.
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class NewFiles:
    """The files and directories made for `target`. Every one is announced to the lock before it exists, and noted
    before it is made: whenever this is interrupted, `discard` finds it. Methods raise OSError.
    """

    def __init__(self, target: Path, old: os.stat_result | None, lock: OutputLock) -> None:
        self._target = target
        self._old = old
        self._lock = lock
        self.progress: Callable[[int], None] | None = None  # hears of every byte that is written
        self._hidden: list[Path] = []
        self._named: list[tuple[Path, Identity]] = []
        self._folders: list[Path] = []
        self._workshop: Path | None = None

    @contextmanager
    def create(
        self, folder: Path, name: str, release: Callable[[], None], *, hashed: bool
    ) -> Iterator[tuple[Path, Writer]]:
        """A new hidden file named after `name`, with the permissions of the old output, else those of any new file."""
        path = folder / hidden_name(name, secrets.token_hex(4))
        self._lock.announce(path)
        self._hidden.append(path)
        descriptor = create(path, self._old)
        try:
            writer = Writer(descriptor, release, hashed=hashed, progress=self.progress)
            try:
                yield path, writer
            finally:
                writer.abandon()
        finally:
            os.close(descriptor)
            release()

    @contextmanager
    def workshop(self) -> Iterator[Path]:
        """A new hidden folder beside the target for somebody else's work, which is removed with all that is left there.

        It outlasts `discard` and `keep`.
        """
        folder = self._target.parent / hidden_name(self._target.name, secrets.token_hex(4))
        self._lock.announce(folder)
        self._workshop = folder
        try:
            folder.mkdir(0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._workshop = None

    def take(self, ready: Path, folder: Path, name: str) -> Path | None:
        """A hidden second name in `folder` for a finished file, with the permissions of the old output.

        None where the file system gives a file no second name there.
        """
        path = folder / hidden_name(name, secrets.token_hex(4))
        self._lock.announce(path)
        self._hidden.append(path)
        try:
            os.link(ready, path)
        except OSError as error:
            if error.errno not in NO_LINKS | {errno.EXDEV}:
                raise
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._old is not None:
                give_permissions(descriptor, self._old)
        finally:
            os.close(descriptor)
        return path

    def name(self, path: Path, place: Path) -> bool:
        """Rename a finished data file to `place`; False if something is there already."""
        set_mark(path, OUTPUT, os.fsencode(self._target.name))
        made = identity(path.stat())
        self._lock.announce(place, made)
        self._named.append((place, made))
        try:
            os.link(path, place)
            path.unlink()
        except FileExistsError:
            self._named.pop()
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if os.path.lexists(place):
                self._named.pop()
                return False
            path.rename(place)
        return True

    @contextmanager
    def second_name(self, path: Path, like: Path) -> Iterator[Path]:
        """A hidden second name of a file, beside `like`, which is gone at the end unless it was moved."""
        linked = like.parent / hidden_name(like.name, secrets.token_hex(4))
        self._lock.announce(linked)
        self._hidden.append(linked)
        os.link(path, linked)
        try:
            yield linked
        finally:
            linked.unlink(missing_ok=True)

    def hidden_folder(self, made: Path, wanted: Path) -> Path:
        """A new hidden folder beside the target, in which the file `made` has the name of `wanted` too."""
        folder = self._target.parent / hidden_name(self._target.name, secrets.token_hex(4))
        self._lock.announce(folder)
        self._folders.append(folder)
        folder.mkdir()
        status, place = identity(made.stat()), folder / wanted.name
        self._lock.announce(place, status)
        self._named.append((place, status))
        os.link(made, place)
        return folder

    def announce_again(self, hidden: Iterable[Path], made: Path, places: Iterable[Path]) -> None:
        """Leave to the next bnfold on this output, should this one be killed, what is no part of it then.

        That is what is `hidden`, and the file `made` at each of `places` where the output does not look for it.
        """
        self._lock.forget()
        for path in hidden:
            self._lock.announce(path)
        for path in places:
            self._lock.announce(path, identity(made.stat()))

    def make_folder(self, folder: Path) -> None:
        """Make a directory, and those above it, unless they exist."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            self._folders.append(path)
            path.mkdir()

    def sync(self) -> None:
        """Make the data files and the directories that hold them durable."""
        for path, _ in self._named:
            sync(path)
        for folder in {path.parent: None for path, _ in self._named}:
            sync(folder)

    def forget(self, path: Path) -> None:
        """Keep the file at `path`, whatever happens."""
        self._named = [each for each in self._named if each[0] != path]

    def keep(self) -> None:
        """Keep all files, since they are published."""
        self._hidden, self._named, self._folders = [], [], []
        self._lock.forget()
        if self._workshop is not None:
            self._lock.announce(self._workshop)

    def discard(self) -> None:
        """Remove everything that was made."""
        for path in self._hidden:
            with suppress(OSError):
                path.unlink()
        for path, made in self._named:
            with suppress(OSError):
                if identity(path.stat()) == made:
                    path.unlink()
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()
        self.keep()
