"""The store of a service: files by their content, models made of them, and jobs; in SQLite and one folder.

Everything survives a killed process: rows are written in transactions, files under a temporary name first. A file lies
once on disk for each model it belongs to, as a plain file, which the strict reader of external data asks for.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.job import Job
from bnfold.service.names import checked_hash, checked_name
from bnfold.writeback import Writeback

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, path TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS models (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, files TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, command TEXT NOT NULL, contents TEXT NOT NULL, options TEXT NOT NULL, state TEXT NOT NULL,
    stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, owner TEXT NOT NULL DEFAULT '', title TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, started REAL, finished REAL, exit_code INTEGER, verdict TEXT,
    message TEXT NOT NULL DEFAULT '', revision INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created);
"""

_ATTEMPTS = 2


class State(StrEnum):
    """The state of a job. REJECTED is a verdict: the result is not equivalent, or was not verified."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing more happens to the job."""
        return self not in {State.QUEUED, State.RUNNING}


class Unknown(Exception):  # noqa: N818 - what was asked for is not there
    """There is no such content, model or job."""


class Mismatch(Exception):  # noqa: N818 - the sender's mistake
    """The content that was sent has another hash than announced."""


class Full(Exception):  # noqa: N818 - a state of the service
    """The queue or the disk is full."""


@dataclass(frozen=True)
class StoredModel:
    """A model and its external data: `files` are content hashes by relative name, `model` is one of these names."""

    id: str
    model: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class StoredJob:
    """One row of the queue; times are seconds since 1970."""

    id: str
    command: str
    contents: Mapping[str, str]
    options: Mapping[str, Any]
    state: State
    stage: str
    done: int
    total: int
    attempts: int
    owner: str
    title: str
    created: float
    started: float | None
    finished: float | None
    exit_code: int | None
    verdict: str | None
    message: str
    revision: int


class Store:
    """Everything kept under `root`. One connection to the database, used by one thread at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.RLock()
        for name in ("incoming", "files", "models", "jobs"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(root / "service.sqlite3", check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _row(self, query: str, *values: Any) -> sqlite3.Row | None:
        with self._lock:
            found: sqlite3.Row | None = self._database.execute(query, values).fetchone()
        return found

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def check(self) -> None:
        """Raises sqlite3.Error or OSError where the store cannot be used."""
        self._row("SELECT 1")
        with tempfile.TemporaryFile(dir=self.root / "incoming"):
            pass

    # --- files

    def size_of(self, sha256: str) -> int | None:
        """The size of a stored file in bytes; None where it is not here."""
        row = self._row("SELECT size, path FROM files WHERE sha256 = ?", sha256)
        return None if row is None or not (self.root / row["path"]).exists() else int(row["size"])

    def has_size(self, nbytes: int) -> bool:
        """Whether any file of this many bytes is stored."""
        rows = self._rows("SELECT path FROM files WHERE size = ?", nbytes)
        return any((self.root / row["path"]).exists() for row in rows)

    def path_of_file(self, sha256: str) -> Path:
        """Where a file lies. Raises Unknown."""
        row = self._row("SELECT path FROM files WHERE sha256 = ?", sha256)
        if row is None:
            raise Unknown(f"the content {sha256} was not sent")
        return self.root / str(row["path"])

    def incoming(self) -> "Incoming":
        """A place for a file that is being sent."""
        return Incoming(self)

    def keep(self, temporary: Path, sha256: str, size: int) -> None:
        """Take over a file that was received whole."""
        relative = f"files/{sha256}"
        with self._lock:
            if self.size_of(sha256) is not None:
                temporary.unlink()
            else:
                temporary.chmod(0o444)
                temporary.replace(self.root / relative)
            with self._transaction() as database:
                database.execute(
                    "INSERT INTO files (sha256, size, path, used) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (sha256) DO UPDATE SET used = excluded.used",
                    (sha256, size, relative, time.time()),
                )

    # --- models

    def add_model(self, model: str, files: Mapping[str, str]) -> tuple[StoredModel, bool]:
        """The model made of files that are here, and whether it is new. Raises UsageError, and Unknown for a file."""
        if model not in files:
            raise UsageError(f"model {model!r} is not among the files")
        if len(files) > 10_000:
            raise UsageError("a model has at most 10,000 files")
        named = {checked_name(name): checked_hash(sha256) for name, sha256 in files.items()}
        content = json.dumps({"model": model, "files": named}, sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()
        stored = StoredModel(key, model, named)
        with self._lock:
            if self._row("SELECT 1 FROM models WHERE id = ?", key) is not None:
                self._touch("models", "id", key)
                return stored, False
            for sha256 in named.values():
                if self.size_of(sha256) is None:
                    raise Unknown(f"the content {sha256} was not sent")
            self._lay_out(stored)
            with self._transaction() as database:
                database.execute(
                    "INSERT INTO models (id, model, files, used) VALUES (?, ?, ?, ?)",
                    (key, model, json.dumps(named), time.time()),
                )
        return stored, True

    def _lay_out(self, model: StoredModel) -> None:
        """Put the files of a model into its folder: moved where nothing else has them, copied else."""
        target = self.root / "models" / model.id
        if target.exists():
            shutil.rmtree(target)  # left by a process that was killed
        for name, sha256 in model.files.items():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            row = self._row("SELECT path FROM files WHERE sha256 = ?", sha256)
            assert row is not None
            source = self.root / row["path"]
            if row["path"].startswith("files/"):
                source.replace(place)
                with self._transaction() as database:
                    relative = str(place.relative_to(self.root))
                    database.execute("UPDATE files SET path = ? WHERE sha256 = ?", (relative, sha256))
            else:
                shutil.copyfile(source, place)
                place.chmod(0o444)

    def model(self, key: str) -> StoredModel:
        """Raises Unknown."""
        row = self._row("SELECT * FROM models WHERE id = ?", key)
        if row is None:
            raise Unknown(f"there is no model {key}")
        return StoredModel(row["id"], row["model"], json.loads(row["files"]))

    def path_of(self, model: StoredModel) -> Path:
        """Where the .onnx file of a model lies."""
        return self.root / "models" / model.id / model.model

    def _touch(self, table: str, column: str, key: str) -> None:
        with self._transaction() as database:
            database.execute(f"UPDATE {table} SET used = ? WHERE {column} = ?", (time.time(), key))  # noqa: S608

    # --- jobs

    def submit(self, job: Job, *, owner: str, title: str, most: int) -> tuple[StoredJob, bool]:
        """Queue a job; the same job is queued once. The job, and whether it is new. Raises Full and Unknown.

        A job that was cancelled, has expired, or failed is queued again.
        """
        for role, content in job.contents.items():
            if role != "data":
                self.model(content)
                self._touch("models", "id", content)
        key = job.key
        with self._transaction() as database:
            row = database.execute("SELECT state FROM jobs WHERE id = ?", (key,)).fetchone()
            again = {State.CANCELLED, State.EXPIRED, State.FAILED}
            if row is None or row["state"] in again:
                waiting = database.execute("SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')").fetchone()[
                    0
                ]
                if waiting >= most:
                    raise Full(f"{waiting} jobs wait or run, and no more are taken")
                database.execute("DELETE FROM jobs WHERE id = ?", (key,))
                database.execute(
                    "INSERT INTO jobs (id, command, contents, options, state, owner, title, created) "
                    "VALUES (?, ?, ?, ?, 'queued', ?, ?, ?)",
                    (
                        key,
                        job.command,
                        json.dumps(dict(job.contents), sort_keys=True),
                        json.dumps(dict(job.options), sort_keys=True),
                        owner,
                        title,
                        time.time(),
                    ),
                )
                new = True
            else:
                new = False
        return self.job(key), new

    def job(self, key: str) -> StoredJob:
        """Raises Unknown."""
        row = self._row("SELECT * FROM jobs WHERE id = ?", key)
        if row is None:
            raise Unknown(f"there is no job {key}")
        return _job(row)

    def jobs(self, *, state: str | None = None, search: str = "", limit: int = 100, offset: int = 0) -> list[StoredJob]:
        """Jobs, the newest first."""
        rows = self._rows(
            "SELECT * FROM jobs WHERE (? IS NULL OR state = ?) AND instr(lower(title || ' ' || command || ' ' || id), "
            "lower(?)) ORDER BY created DESC, id LIMIT ? OFFSET ?",
            *(state, state, search, limit, offset),
        )
        return [_job(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """The number of jobs in each state."""
        rows = self._rows("SELECT state, COUNT(*) AS number FROM jobs GROUP BY state")
        return {state.value: 0 for state in State} | {row["state"]: row["number"] for row in rows}

    def folder_of(self, key: str) -> Path:
        """Where the results of a job lie."""
        return self.root / "jobs" / key

    def claim(self) -> StoredJob | None:
        """The oldest job that waits, now running; None where none waits."""
        with self._transaction() as database:
            row = database.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY created, id LIMIT 1").fetchone()
            if row is None:
                return None
            database.execute(
                "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1, revision = revision + 1, "
                "stage = '', done = 0, total = 0 WHERE id = ?",
                (time.time(), row["id"]),
            )
        return self.job(row["id"])

    def tell(self, key: str, stage: str, done: int, total: int) -> None:
        """Note the progress of a running job."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ?, revision = revision + 1 "
                "WHERE id = ? AND state = 'running'",
                (stage, done, total, key),
            )

    def finish(self, key: str, state: State, *, exit_code: int | None, verdict: str | None, message: str) -> bool:
        """Put a running job into its final state; False where it is no longer running, as when it was cancelled."""
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE jobs SET state = ?, exit_code = ?, verdict = ?, message = ?, finished = ?, stage = '', "
                "revision = revision + 1 WHERE id = ? AND state = 'running'",
                (state.value, exit_code, verdict, message, time.time(), key),
            ).rowcount
        return bool(changed)

    def cancel(self, key: str) -> StoredJob:
        """Cancel a job that waits or runs; one that has ended stays as it is. Raises Unknown."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, stage = '', message = 'cancelled', "
                "revision = revision + 1 WHERE id = ? AND state IN ('queued', 'running')",
                (time.time(), key),
            )
        return self.job(key)

    def recover(self) -> int:
        """After a start: jobs that ran when the last process ended wait again, or failed after a second attempt.

        Returns how many wait again. What was half received or half made is removed.
        """
        for left in (self.root / "incoming").iterdir():
            _remove(left)
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET state = 'failed', finished = ?, revision = revision + 1, stage = '', "
                "message = 'the service was stopped twice while this job ran' "
                "WHERE state = 'running' AND attempts >= ?",
                (time.time(), _ATTEMPTS),
            )
            again = database.execute(
                "UPDATE jobs SET state = 'queued', revision = revision + 1, stage = '' WHERE state = 'running'"
            ).rowcount
        known = {row["id"] for row in self._rows("SELECT id FROM models")}
        for folder in (self.root / "models").iterdir():
            if folder.name not in known:
                self._give_back(folder)
        finished = {
            row["id"] for row in self._rows("SELECT id FROM jobs WHERE state IN ('succeeded', 'rejected', 'failed')")
        }
        for folder in (self.root / "jobs").iterdir():
            if folder.name not in finished:
                _remove(folder)
        return int(again)

    def _give_back(self, folder: Path) -> None:
        """Move what a killed process had laid out of a model back to the files that wait to be used."""
        rows = self._rows("SELECT sha256, path FROM files WHERE path LIKE ?", f"models/{folder.name}/%")
        for row in rows:
            if (self.root / row["path"]).exists():
                (self.root / row["path"]).replace(self.root / "files" / row["sha256"])
            with self._transaction() as database:
                database.execute(
                    "UPDATE files SET path = ? WHERE sha256 = ?", (f"files/{row['sha256']}", row["sha256"])
                )
        _remove(folder)

    def collect(self, older_than: float) -> int:
        """Remove results, models and files that nothing has used for `older_than` seconds; how many went.

        What a job that waits or runs is about is in use.
        """
        limit = time.time() - older_than
        gone = 0
        for row in self._rows("SELECT id FROM jobs WHERE finished < ? AND state != 'expired'", limit):
            with self._transaction() as database:
                database.execute(
                    "UPDATE jobs SET state = 'expired', revision = revision + 1 WHERE id = ?", (row["id"],)
                )
            _remove(self.folder_of(row["id"]))
            gone += 1
        needed = {
            content
            for row in self._rows("SELECT contents FROM jobs WHERE state IN ('queued', 'running')")
            for content in json.loads(row["contents"]).values()
        }
        for row in self._rows("SELECT id FROM models WHERE used < ?", limit):
            if row["id"] not in needed:
                with self._transaction() as database:
                    database.execute("DELETE FROM models WHERE id = ?", (row["id"],))
                self._forget(f"models/{row['id']}/%")
                _remove(self.root / "models" / row["id"])
                gone += 1
        for row in self._rows("SELECT sha256, path FROM files WHERE used < ? AND path LIKE 'files/%'", limit):
            if row["sha256"] not in needed:
                self._forget(row["path"])
                (self.root / row["path"]).unlink(missing_ok=True)
                gone += 1
        return gone

    def _forget(self, path: str) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM files WHERE path LIKE ?", (path,))


class Incoming:
    """A file that is being sent: written under a temporary name, hashed on the way."""

    def __init__(self, store: Store) -> None:
        self._store = store
        handle, name = tempfile.mkstemp(dir=store.root / "incoming")
        self._file = os.fdopen(handle, "r+b", buffering=0)
        self._path = Path(name)
        self._hash = hashlib.sha256()
        self._writeback = Writeback(handle)
        self._size = 0

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append; raises OSError."""
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._hash.update(chunk)
            self._size += len(chunk)
        self._writeback.advance(self._size)

    def finish(self, expected: str | None) -> str:
        """Keep what was sent; its hash. Raises Mismatch where it is not `expected`, and keeps nothing then."""
        found = self._hash.hexdigest()
        if expected is not None and found != expected:
            raise Mismatch(f"what was sent has the hash {found}")
        os.fsync(self._file.fileno())
        self._file.close()
        self._store.keep(self._path, found, self._size)
        return found

    def discard(self) -> None:
        """Remove what was not kept."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _job(row: sqlite3.Row) -> StoredJob:
    values = dict(row)
    values["contents"] = json.loads(values["contents"])
    values["options"] = json.loads(values["options"])
    values["state"] = State(values["state"])
    return StoredJob(**values)


def _remove(path: Path) -> None:
    """Remove a file or a folder with what is in it, read-only files included."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
