"""A service in a process of its own, for tests."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

REPOSITORY = Path(__file__).parents[1]
MODEL = REPOSITORY / "models/digits_cnn.onnx"
START_SECONDS = 90


class ServiceProcess:
    """`bnfold serve` on a free port, and requests to it."""

    def __init__(self, data: Path, *options: str, token: str | None = None) -> None:
        self.data = data
        self._path = data.parent / f"{data.name}.log"
        self._options = options
        self.token = token
        self.start()

    def start(self) -> None:
        """Start, also after it was killed; waits until it answers."""
        before = self.log()
        line = [sys.executable, "-m", "bnfold", "serve", "--port", "0", "--data", str(self.data), *self._options]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        with self._path.open("ab") as log:
            self.process = subprocess.Popen(
                line, stdout=log, stderr=log, cwd=self.data.parent, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = re.search(r"serving on (http://[0-9.:]+)", self.log()[len(before) :])
            if found is not None:
                self.url = found[1]
                try:
                    if httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"the service did not start: {self.log()}")

    def log(self) -> str:
        """What it has written so far."""
        return self._path.read_text(encoding="utf-8") if self._path.exists() else ""

    def kill(self) -> None:
        """As the kernel does it for lack of memory."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As a service manager does it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One request."""
        headers = dict(given.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return httpx.request(method, f"{self.url}{path}", timeout=120, headers=headers, **given)

    def put(self, name: str, content: bytes) -> str:
        """Send a file; its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        answer = self.ask("PUT", f"/v1/models/{sha256}/files/{name}", content=content)
        assert answer.status_code in {200, 201}, answer.text
        return sha256

    def model(self, path: Path = MODEL, name: str = "m.onnx") -> str:
        """Send a model of one file; its id."""
        sha256 = self.put(name, path.read_bytes())
        answer = self.ask("POST", "/v1/models", json={"model": name, "files": {name: sha256}})
        assert answer.status_code in {200, 201}, answer.text
        return str(answer.json()["id"])

    def job(
        self, command: str = "optimize", options: Mapping[str, Any] | None = None, **contents: str
    ) -> dict[str, Any]:
        """Queue a job."""
        answer = self.ask("POST", "/v1/jobs", json={"command": command, "options": dict(options or {}), **contents})
        assert answer.status_code in {200, 201}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, key: str, seconds: float = 180) -> dict[str, Any]:
        """The job when it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.ask("GET", f"/v1/jobs/{key}?wait=20").json()
            if found["state"] not in {"queued", "running"}:
                return found
        raise AssertionError(json.dumps(found))

    def events(self, key: str) -> Iterator[dict[str, Any]]:
        """What the stream of events says, until it ends."""
        with httpx.stream("GET", f"{self.url}/v1/jobs/{key}/events", timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))


@contextmanager
def running(data: Path, *options: str, token: str | None = None) -> Iterator[ServiceProcess]:
    """A service that is stopped at the end."""
    service = ServiceProcess(data, *options, token=token)
    try:
        yield service
    finally:
        service.stop()
