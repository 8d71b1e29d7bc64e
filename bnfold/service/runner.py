"""The workers of a service: each takes the oldest job that waits and runs it in a process of its own."""

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfold.job import WRITING
from bnfold.service.arguments import PRINTING, REPORTS, arguments_of
from bnfold.service.isolation import command_line, environment
from bnfold.service.settings import Settings
from bnfold.service.store import State, Store, StoredJob

LOG = logging.getLogger("bnfold.service")

_LOOK_EVERY = 0.1  # seconds
_GRACE = 10.0  # seconds beyond the job's own time limit
_COLLECT_EVERY = 600.0
_STATES = {0: State.SUCCEEDED, 1: State.REJECTED}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a finished process. `message`: the last line it wrote for a person."""

    state: State
    exit_code: int | None
    verdict: str | None
    message: str


class Runner:
    """`settings.workers` threads, each with at most one child process."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._wake = threading.Condition()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._collected = 0.0

    def start(self) -> None:
        """Take up what the last process left, and begin to work."""
        again = self._store.recover()
        if again:
            LOG.info("jobs of the last process wait again", extra={"jobs": again})
        for number in range(self._settings.workers):
            thread = threading.Thread(target=self._work, name=f"bnfold-worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Kill what runs, which waits again at the next start, and end the threads."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def notify(self) -> None:
        """Say that a job waits, or that one was cancelled."""
        with self._wake:
            self._wake.notify_all()

    def _work(self) -> None:
        while not self._stopping:
            self._collect()
            job = self._store.claim()
            if job is None:
                with self._wake:
                    self._wake.wait(timeout=1.0)
                continue
            try:
                self._run(job)
            except Exception:
                LOG.exception("a job could not be run", extra={"job": job.id})
                message = "the service could not run this job; its log says why"
                self._store.finish(job.id, State.FAILED, exit_code=None, verdict=None, message=message)

    def _collect(self) -> None:
        if time.monotonic() - self._collected > _COLLECT_EVERY or not self._collected:
            self._collected = time.monotonic()
            gone = self._store.collect(self._settings.retention)
            if gone:
                LOG.info("removed what nothing used", extra={"removed": gone})

    def _run(self, job: StoredJob) -> None:
        folder = self._store.folder_of(job.id)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        LOG.info("started", extra={"job": job.id, "command": job.command})
        outcome = self._outcome(job, folder)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        if outcome is None:
            LOG.info("stopped", extra={"job": job.id})
            return
        if outcome.state is not State.SUCCEEDED:
            shutil.rmtree(folder / "result", ignore_errors=True)
        self._store.finish(
            job.id, outcome.state, exit_code=outcome.exit_code, verdict=outcome.verdict, message=outcome.message
        )
        LOG.info("ended", extra={"job": job.id, "state": outcome.state.value, "exit_code": outcome.exit_code})

    def _outcome(self, job: StoredJob, folder: Path) -> Outcome | None:
        """Run the job to its end; None where it was stopped from outside."""
        models = {role: self._store.model(content) for role, content in job.contents.items() if role != "data"}
        paths = {role: self._store.path_of(model) for role, model in models.items()}
        sees = [self._store.root / "models" / model.id for model in models.values()]
        if "data" in job.contents:
            data = folder / "data.npz"
            shutil.copyfile(self._store.path_of_file(job.contents["data"]), data)
            paths["data"] = data
        output, sha256 = None, None
        if job.command in WRITING:
            sha256 = models["model"].files[models["model"].model]
            output = folder / "result" / Path(models["model"].model).name
            output.parent.mkdir()
        arguments = arguments_of(job.command, job.options, paths, output, folder, self._settings, sha256)
        line = command_line(
            arguments,
            root=self._store.root,
            sees=sees,
            writes=folder,
            file_size=4 * self._settings.max_upload + (1 << 20),
        )
        with (folder / "tmp" / "stdout").open("wb") as said, (folder / "tmp" / "stderr").open("wb") as failed:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                line,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=failed,
                env=environment(folder),
                cwd=folder,
                start_new_session=True,
            )
            try:
                ended = self._wait(job, process, folder)
            finally:
                _kill(process)
        if job.command in PRINTING and ended == "ended" and process.returncode == 0:
            (folder / "tmp" / "stdout").replace(folder / REPORTS["json"])
        return self._judged(ended, process.returncode, folder)

    def _wait(self, job: StoredJob, process: "subprocess.Popen[bytes]", folder: Path) -> str:
        """Wait for the end of the process: "ended", "late" or "stopped"."""
        deadline = time.monotonic() + self._settings.job_timeout + _GRACE
        last = ""
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_LOOK_EVERY)
                return "ended"
            if time.monotonic() > deadline:
                return "late"
            if self._stopping or self._store.job(job.id).state is not State.RUNNING:
                return "stopped"
            now = _progress(folder)
            if now is not None and now != last:
                last = now
                with suppress(ValueError, KeyError, TypeError):
                    found = json.loads(now)
                    self._store.tell(job.id, str(found["stage"]), int(found["done"]), int(found["total"]))

    def _judged(self, ended: str, code: int, folder: Path) -> Outcome | None:
        if ended == "stopped":
            return None
        if ended == "late":
            text = f"took longer than {self._settings.job_timeout:g} seconds and was stopped"
            return Outcome(State.FAILED, 6, None, text)
        report = _report(folder)
        verdict = report.get("verdict")
        message = str(report.get("explanation") or "") or _last_line(folder / "tmp" / "stderr")
        if code < 0:
            message = f"the process was ended by {signal.Signals(-code).name}"
        return Outcome(_STATES.get(code, State.FAILED), code, str(verdict) if verdict else None, message)


def _progress(folder: Path) -> str | None:
    """The last whole line of progress that the process wrote."""
    try:
        with (folder / "tmp" / "stderr").open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 4096))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return None
    found = [line for line in lines if line.startswith(b'{"stage"')]
    return found[-1].decode("utf-8", "replace") if found else None


def _report(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / REPORTS["json"]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_line(path: Path) -> str:
    try:
        text = path.read_bytes()[-8192:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('{"stage"')]
    return lines[-1].removeprefix("bnfold: ") if lines else ""


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all of its session."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
