"""What the client sends, and what it asks first, as a service sees it."""

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bnfold.service import client as client_module
from bnfold.service.client import Client, ServiceError

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Pretender(http.server.ThreadingHTTPServer):
    """A service that notes requests. `sizes`: its status for a question by size; `claimed`: the hash it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sizes = 404
        self.known: set[str] = set()
        self.claimed: str | None = None
        self.asked: list[str] = []
        self.meanwhile: Callable[[], object] = bool


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Pretender

    def do_HEAD(self) -> None:
        self.server.asked.append(f"HEAD {self.path}")
        by_size = self.path.startswith("/v1/files?")
        known = any(sha256 in self.path for sha256 in self.server.known)
        self._answer(self.server.sizes if by_size else 200 if known else 404)

    def do_PUT(self) -> None:
        self._receive("PUT", 201)

    def do_POST(self) -> None:
        self._receive("POST", 201)

    def _receive(self, method: str, status: int) -> None:
        self.server.asked.append(f"{method} {self.path}")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.meanwhile()
        found = self.server.claimed or hashlib.sha256(content).hexdigest()
        self._answer(status, json.dumps({"sha256": found, "size": len(content)}).encode())

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Pretender]:
    with Pretender() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def client(service: Pretender, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(client_module, "_LARGE", len(CONTENT))
    return Client(f"http://127.0.0.1:{service.server_port}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(CONTENT)
    return path


def test_a_large_file_of_a_new_size_is_sent_without_hashing_it_first(
    service: Pretender, client: Client, file: Path
) -> None:
    assert client.send(file) == SHA256
    assert service.asked == [f"HEAD /v1/files?size={len(CONTENT)}", "POST /v1/files"]


def test_a_known_content_stays_here(service: Pretender, client: Client, file: Path) -> None:
    service.sizes, service.known = 200, {SHA256}
    assert client.send(file) == SHA256
    assert service.asked[1:] == [f"HEAD /v1/models/{SHA256}/files/m.onnx"]


@pytest.mark.parametrize("status", [200, 405, 401], ids=["another of this size", "earlier version", "no token"])
def test_a_content_that_may_be_known_is_asked_for_by_its_hash(
    service: Pretender, client: Client, file: Path, status: int
) -> None:
    service.sizes = status
    assert client.send(file) == SHA256
    assert service.asked[1:] == [f"{method} /v1/models/{SHA256}/files/m.onnx" for method in ("HEAD", "PUT")]


def test_a_small_file_is_hashed_first(service: Pretender, client: Client, file: Path) -> None:
    file.write_bytes(CONTENT[:-1])
    client.send(file)
    assert service.asked[0].startswith("HEAD /v1/models/")


def test_a_file_that_becomes_shorter_is_an_error(client: Client, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_binary", lambda nbytes: {"Content-Length": str(nbytes + 1)})
    with pytest.raises(ServiceError, match="became shorter"):
        client.send(file)


def test_what_arrives_damaged_is_an_error(
    service: Pretender, client: Client, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.claimed = "0" * 64
    assert client.send(file) == service.claimed  # within one machine nobody hashes twice
    monkeypatch.setattr(client_module, "_is_loopback", lambda _: False)
    with pytest.raises(ServiceError, match="damaged on its way"):
        client.send(file)


def test_a_file_that_changes_while_it_is_sent_is_an_error(service: Pretender, client: Client, file: Path) -> None:
    service.meanwhile = lambda: file.write_bytes(CONTENT[::-1])
    with pytest.raises(ServiceError, match="was written to while it was sent"):
        client.send(file)


@pytest.mark.parametrize(
    ("url", "guarded"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("https://models.example", True),
        ("http://models.example", False),
        ("http://10.0.0.1", False),
    ],
)
def test_the_ways_on_which_nothing_changes_unnoticed(url: str, *, guarded: bool) -> None:
    assert Client(url)._is_guarded is guarded
