"""The driver of a batch: finds models, skips what an earlier run did, and writes down what becomes of each."""

import hashlib
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bnfold.batches import script_of
from bnfold.errors import ModelError, UsageError
from bnfold.fleet import manifest
from bnfold.fleet.finding import FOLDER, Models, copy_others, found
from bnfold.fleet.local import LocalWorkers
from bnfold.fleet.task import COMMANDS, Row, Task, worst
from bnfold.job import WRITING, Job
from bnfold.options import COMMANDS as OPTIONS
from bnfold.options import is_from_python, options_of
from bnfold.paths import is_same

_CHUNK = 1 << 20


class Workers(Protocol):
    """Whoever does the work of a batch."""

    def run(self, tasks: Iterator[Task]) -> Iterator[Row]:
        """A row for each task, in any order."""

    def finish(self) -> None:
        """Let what runs come to its end, and begin nothing more."""

    def kill(self) -> None:
        """End at once."""


@dataclass(frozen=True)
class BatchOptions:
    """The options of a batch, whatever its command is.

    `jobs`: processes at once. `resume`: skip what an earlier run into the same output did with the same content,
    options and versions. `retries`: of a model that crashed its worker. `fail_fast`: begin nothing more after the first
    failure. `timeout` in seconds and `max_memory` in bytes: of each model. `copy_others`: bring along what is no model.
    `reference`: for `verify`, the folder whose models have the same paths.
    """

    jobs: int = 1
    resume: bool = True
    retries: int = 0
    fail_fast: bool = False
    timeout: float | None = None
    max_memory: int | None = None
    copy_others: bool = False
    reference: str | None = None


class Batch:
    """A batch that runs in a thread of its own: iterate over its rows, or wait for its `result`.

    Like a `concurrent.futures.Future` it has `done`, `cancel` and `result`.
    """

    def __init__(
        self,
        command: str,
        what: str,
        output: Path,
        options: Mapping[str, Any],
        how: BatchOptions,
        workers: Workers,
        scripts: Mapping[str, str],
    ) -> None:
        self.folder = output / FOLDER
        self.codes: Counter[int] = Counter()
        self.skipped = 0
        self._command = command
        self.models: Models = found(what, output)
        if command in WRITING and not options.get("overwrite") and is_same(self.models.root, output):
            raise UsageError(
                f"{output}: is the folder of the models themselves; choose another output, or pass --overwrite to "
                "replace each by its result"
            )
        self._output = output
        self._options = options
        self._how = how
        self._workers = workers
        self._scripts = scripts
        self._rows: queue.Queue[Row | BaseException | None] = queue.Queue(maxsize=64)
        self._ended = threading.Event()
        self._cancelled = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drive, name="bnfold-batch", daemon=True)
        self._thread.start()

    # --- as its caller sees it

    def __iter__(self) -> Iterator[Row]:
        """The rows of this run as models end; raises what stopped the batch."""
        while (each := self._rows.get()) is not None:
            if isinstance(each, BaseException):
                raise each
            yield each

    def done(self) -> bool:
        """Whether the batch has ended."""
        return self._ended.is_set()

    def cancel(self, *, now: bool = False) -> None:
        """Begin nothing more; with `now` also end what runs."""
        self._cancelled = True
        if now:
            self._workers.kill()
        else:
            self._workers.finish()

    def result(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit code of the batch. Raises TimeoutError, and what stopped it."""
        threading.Thread(target=self._drain, daemon=True).start()
        if not self._ended.wait(timeout):
            raise TimeoutError("the batch has not ended")
        if self._error is not None:
            raise self._error
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """The worst kind so far, by `bnfold.fleet.task.ORDER`."""
        return worst(self.codes)

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._cancelled

    def rows(self) -> Iterator[Row]:
        """Every row of the manifest, those of earlier runs included."""
        return manifest.rows(self.folder)

    def _drain(self) -> None:
        with suppress(BaseException):
            for _ in self:
                pass

    # --- its thread

    def _drive(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the rows are read
            self._error = error
        finally:
            self._ended.set()
            self._rows.put(self._error)

    def _work(self) -> None:
        known = (
            {row.relative: (row.key, row.exit_code) for row in manifest.rows(self.folder)} if self._how.resume else {}
        )
        if self._how.copy_others:
            copy_others(self.models, self._output)
        written = manifest.Manifest(self.folder)
        try:
            for row in self._workers.run(self._tasks(known)):
                written.add(row)
                self.codes[row.exit_code] += 1
                self._rows.put(row)
                if self._how.fail_fast and not row.good:
                    self._workers.finish()
        finally:
            written.close()

    def _tasks(self, known: Mapping[str, tuple[str, int]]) -> Iterator[Task]:
        nothing = True
        for path in self.models:
            nothing = False
            task = self._task(path)
            key, code = known.get(task.relative, ("", 0))
            if key == task.key and (not task.output or code or Path(task.output).exists()):
                self.skipped += 1
                self.codes[code] += 1
                continue
            yield task
        if nothing:
            raise UsageError(f"there is no model (*.onnx) in {self.models.what}")

    def _task(self, path: Path) -> Task:
        relative = self.models.relative(path)
        contents = {"model": content_of(path)}
        reference = ""
        if self._command == "verify":
            assert self._how.reference is not None
            other = Path(self._how.reference).absolute()
            reference = str(other if other.is_file() else other / relative)
            contents = {"reference": content_of(Path(reference)), "candidate": contents["model"]}
        if self._command == "recalibrate":
            contents["data"] = content_of(Path(str(self._options["data"])))
        return Task(
            self._command,
            relative,
            str(path),
            str(self._output / relative) if self._command in WRITING else "",
            str(self.folder / "reports" / f"{relative}.json"),
            self._options,
            reference,
            Job(self._command, contents, {**self._options, **self._scripts}).key,
        )


def content_of(path: Path) -> str:
    """The hash of a file, or of a model and its external data; of a file that is not there, that of nothing."""
    from bnfold.onnxfile import read

    digest = hashlib.sha256()
    places = [path]
    if path.suffix == ".onnx":
        with suppress(ModelError, OSError, ValueError):
            places += [path.parent / name for name in read(path).data_names]
    elif path.is_dir():
        places = sorted(each for each in path.rglob("*") if each.is_file())
    for place in places:
        if place.is_file():
            with suppress(OSError), place.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
        digest.update(b"\0")
    return digest.hexdigest()


def batch(
    command: str,
    models: str,
    output: str | Path,
    *,
    jobs: int = 1,
    resume: bool = True,
    retries: int = 0,
    fail_fast: bool = False,
    timeout: float | None = None,
    max_memory: int | None = None,
    copy_others: bool = False,
    reference: str | None = None,
    scheduler: str | None = None,
    **options: Any,
) -> Batch:
    """Do one command with many models; iterate over what comes back, or ask it for its `result`.

    `command` is optimize, freeze, inspect, verify or recalibrate. `models` is a folder, a pattern like
    ``models/**/*.onnx``, or a .txt list of paths; the tree is mirrored below `output`, where the folder `bnfold-batch`
    keeps a manifest and the report of each model. `verify` compares each with the model of the same path below
    `reference`. The other parameters are those of `BatchOptions`; `options` are those of the command. `scheduler` is
    the address of a dask cluster, which then does the work: paths must mean the same there.

    Raises UsageError at once for what cannot be asked for; what goes wrong with a model is its row.
    """
    if command not in COMMANDS:
        raise UsageError(f"batch does {', '.join(COMMANDS)}, not {command!r}")
    if jobs < 1 or retries < 0:
        raise UsageError("jobs is at least 1, and retries at least 0")
    if (command == "verify") != (reference is not None):
        raise UsageError("verify needs reference, the folder of the models to compare with, and only verify does")
    if command == "recalibrate" and not isinstance(options.get("data"), str):
        raise UsageError("recalibrate needs data: the path of an .npz file or of a folder")
    kind = OPTIONS[command]
    if any(each.name == "threads" for each in options_of(kind)):
        options.setdefault("threads", 1)
    given = kind.from_dict(options)
    plain = given.changed()
    for name in filter(is_from_python, plain.get("passes") or ()):
        raise UsageError(f"the pass {name} is of this process alone: name it as script.py:function for a batch")
    named = [script_of(path) for _, path in given.paths_read()]
    scripts = {str(script[0]): content_of(script[0]) for script in named if script is not None}
    how = BatchOptions(jobs, resume, retries, fail_fast, timeout, max_memory, copy_others, reference)
    workers: Workers
    if scheduler is None:
        workers = LocalWorkers(jobs, timeout=timeout, max_memory=max_memory, retries=retries)
    else:
        from bnfold.fleet.cluster import ClusterWorkers

        workers = ClusterWorkers(scheduler, timeout=timeout, max_memory=max_memory, retries=retries)
    return Batch(command, models, Path(output).absolute(), plain, how, workers, scripts)
