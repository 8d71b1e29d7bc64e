"""A client of the service, on the standard library alone."""

import hashlib
import http.client
import ipaddress
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from bnfold.errors import BnfoldError, OutputError, UsageError
from bnfold.job import COMMANDS
from bnfold.paths import require_regular
from bnfold.running_hash import RunningHash
from bnfold.service.names import checked_name
from bnfold.writeback import Writeback

_CHUNK = 1 << 20
_LARGE = 8 << 20  # bytes that take long enough to hash that it is asked first whether the hash can be of use
_TIMEOUT = 120.0  # seconds without an answer
_WAIT = 30  # seconds the service is asked to wait


class ServiceError(BnfoldError):
    """The service refused a request, or cannot be reached. `status` is that of HTTP, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        """The sentence alone."""
        return str(self.args[0])


@dataclass(frozen=True)
class RemoteJob:
    """A job as the service tells it: `GET /v1/jobs/{id}` describes each key of `facts`."""

    id: str
    state: str
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in {"queued", "running"}

    @property
    def exit_code(self) -> int | None:
        """The exit code of the command there; None while it runs, and where it was stopped."""
        found: int | None = self.facts["exit_code"]
        return found

    @property
    def verdict(self) -> str | None:
        """The verdict of the report, where there is one."""
        found: str | None = self.facts["verdict"]
        return found

    @property
    def message(self) -> str:
        """A sentence on why there is no result, else ""."""
        return str(self.facts["message"])


class Client:
    """One service. `url` like ``http://127.0.0.1:8000``; `token` where it asks for one.

    Every method raises ServiceError where the service refuses or cannot be reached.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a service, like http://127.0.0.1:8000")
        self._parts = parts
        self._token = token

    def upload(self, model: str | os.PathLike[str]) -> str:
        """Send a model with its external data, only what the service does not have; the id by which jobs name it.

        Raises ModelError for what is not a model.
        """
        from bnfold.onnxfile import read

        path = Path(model)
        files = {path.name: path} | {name: path.parent / name for name in read(path).data_names}
        hashes = {name: self.send(place, name) for name, place in files.items()}
        return str(self._json("POST", "/v1/models", {"model": path.name, "files": hashes})["id"])

    def send(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Send one file where the service does not have its content; its SHA-256."""
        place = Path(path)
        require_regular(place, "what is to be sent")
        try:
            size = place.stat().st_size
        except OSError as error:
            raise UsageError(f"{place}: {error.strerror or error}") from error
        if size >= _LARGE and not self._may_have(size):
            return self._send_unknown(place, size)
        sha256 = _hash(place)
        address = f"/v1/models/{sha256}/files/{quote(name or place.name)}"
        with self._answer("HEAD", address) as answer:
            known = answer.status == http.HTTPStatus.OK
            answer.read()
        if not known:
            with place.open("rb") as stream, self._answer("PUT", address, stream, _binary(size)) as answer:
                _checked(answer)
        return sha256

    def _may_have(self, size: int) -> bool:
        """Whether the service may have a file of this size; a service of an earlier version does not say."""
        with self._answer("HEAD", f"/v1/files?size={size}") as answer:
            answer.read()
        return answer.status != http.HTTPStatus.NOT_FOUND

    def _send_unknown(self, place: Path, size: int) -> str:
        """Send a file that cannot be there; its SHA-256, which is computed here too where nothing guards the way."""
        with place.open("rb") as stream, ExitStack() as stack:
            before = os.fstat(stream.fileno())
            own = None
            if not self._is_guarded:
                own = stack.enter_context(closing(RunningHash(stream.fileno())))
                own.advance(size)
            with self._answer("POST", "/v1/files", stream, _binary(size)) as answer:
                found = str(json.loads(_checked(answer))["sha256"])
            now = os.fstat(stream.fileno())
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise ServiceError(f"{place} was written to while it was sent; send it again when it is complete")
            if own is not None and found != own.hexdigest():
                raise ServiceError(f"{place} arrived with another SHA-256, {found}: it was damaged on its way")
        return found

    @property
    def _is_guarded(self) -> bool:
        """Whether nothing can change on its way unnoticed: over TLS, and within this machine."""
        return self._parts.scheme == "https" or _is_loopback(self._parts.hostname or "")

    def submit(self, command: str, options: Mapping[str, Any] | None = None, **contents: str) -> RemoteJob:
        """Queue a job: `contents` are `model`, or `reference` and `candidate`, by id. `options` are the library's."""
        body = {"command": command, "options": dict(options or {}), **contents}
        return _job(self._json("POST", "/v1/jobs", body))

    def job(self, key: str, *, wait: float = 0) -> RemoteJob:
        """A job as it stands, at the latest after `wait` seconds once it has ended."""
        return _job(self._json("GET", f"/v1/jobs/{key}?{urlencode({'wait': min(wait, _WAIT)})}"))

    def wait(self, key: str) -> RemoteJob:
        """The job when it has ended."""
        while not (job := self.job(key, wait=_WAIT)).ended:
            pass
        return job

    def cancel(self, key: str) -> RemoteJob:
        """Cancel a job that waits or runs."""
        return _job(self._json("DELETE", f"/v1/jobs/{key}"))

    def report(self, key: str, form: str = "json") -> bytes:
        """The report of a job that has ended: "json", "html", "md" or "xml"."""
        with self._answer("GET", f"/v1/jobs/{key}/report.{form}") as answer:
            return _checked(answer)

    def download(self, key: str, output: str | os.PathLike[str]) -> list[Path]:
        """Write what a job published: the model at `output`, external data where it looks for it. The files written.

        Each file appears whole or not at all. Raises OutputError.
        """
        job = self.job(key)
        target = Path(output)
        names = [link.removeprefix("files/") for link in job.facts["links"] if link.startswith("files/")]
        if not names:
            raise ServiceError(f"job {key} has published no model: {job.message or job.state}")
        for name in names:
            checked_name(name)
        published = names[0]
        places = {name: target if name == published else target.parent / name for name in names}
        for name in reversed(names):  # the model last: what it names is there then
            self._fetch(f"/v1/jobs/{key}/files/{quote(name)}", places[name], above=target.parent)
        return list(places.values())

    def run(self, command: str, output: str | os.PathLike[str] | None = None, **given: Any) -> RemoteJob:
        """Send models, run a job to its end, and write its result to `output` where it has one.

        Of `given`, `model`, `reference` and `candidate` are paths of models and `data` of an .npz file; the others are
        options.
        """
        roles = COMMANDS.get(command, ())
        contents = {}
        for role in roles:
            if role not in given:
                raise UsageError(f"{command} needs {role}")
            path = given.pop(role)
            contents[role] = self.send(path) if role == "data" else self.upload(path)
        job = self.wait(self.submit(command, given, **contents).id)
        if output is not None and job.state == "succeeded":
            self.download(job.id, output)
        return job

    # --- requests

    def _fetch(self, address: str, place: Path, *, above: Path) -> None:
        """Write what is at `address` to `place`, in folders that are made below the folder `above`."""
        try:
            if place.parent != above:
                place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as stream:
                temporary = Path(stream.name)
                try:
                    with self._answer("GET", address) as answer:
                        _copied(answer, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                    mask = os.umask(0)
                    os.umask(mask)
                    temporary.chmod(0o666 & ~mask)
                    temporary.replace(place)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise OutputError(f"{place} could not be written: {error.strerror or error}") from error

    def _json(self, method: str, address: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        with self._answer(method, address, data, headers) as answer:
            found: dict[str, Any] = json.loads(_checked(answer))
        return found

    @contextmanager
    def _answer(
        self, method: str, address: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request; the `body` is bytes, or a file of as many bytes as the headers announce."""
        parts = self._parts
        assert parts.hostname is not None
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=_TIMEOUT, context=context, blocksize=_CHUNK
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT, blocksize=_CHUNK)
        given = dict(headers or {})
        if self._token is not None:
            given["Authorization"] = f"Bearer {self._token}"
        try:
            with suppress(BrokenPipeError):  # an answer that came before the body was sent says why
                file = body if isinstance(body, BufferedReader) else None
                connection.request(method, parts.path.rstrip("/") + address, None if file else body, given)
                if file is not None:
                    nbytes = int(given["Content-Length"])
                    if connection.sock.sendfile(file, count=nbytes) < nbytes:
                        raise ServiceError("the file became shorter while it was sent")
            yield connection.getresponse()
        except (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError) as error:
            raise ServiceError(f"the service at {parts.geturl()} cannot be reached: {error}") from error
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise ServiceError(f"the service at {parts.geturl()} cannot be reached: {error}") from error
        finally:
            connection.close()


def _checked(answer: http.client.HTTPResponse) -> bytes:
    """The body. Raises ServiceError for an answer that is an error, with the sentence it holds."""
    body = answer.read()
    if answer.status < http.HTTPStatus.BAD_REQUEST:
        return body
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason
    raise ServiceError(f"the service answered {answer.status}: {detail}", answer.status)


def _copied(answer: http.client.HTTPResponse, stream: IO[bytes]) -> None:
    """Write the body to `stream`. Raises ServiceError for an answer that is an error or ends early."""
    if answer.status != http.HTTPStatus.OK:
        _checked(answer)
    writeback = Writeback(stream.fileno())
    block = memoryview(bytearray(_CHUNK))
    while count := answer.readinto(block):
        stream.write(block[:count])
        writeback.advance(stream.tell())
    if answer.length:
        raise ServiceError("the connection ended before the file did")


def _job(facts: dict[str, Any]) -> RemoteJob:
    return RemoteJob(facts["id"], facts["state"], facts)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _binary(nbytes: int) -> dict[str, str]:
    return {"Content-Length": str(nbytes), "Content-Type": "application/octet-stream"}


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
