"""Models and reports at addresses: in memory, in an S3 that moto serves, and on a server that stands in for the Hub."""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import fsspec.config
import onnx
import pytest
from click.testing import CliRunner, Result
from fsspec.implementations.memory import MemoryFileSystem

import bnfold
from bnfold.addresses import is_address
from bnfold.cli import main
from bnfold.errors import ModelError, OutputError, UsageError, VerificationError

MODEL = Path(__file__).parents[1] / "models/digits_cnn.onnx"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe("/b/m.onnx", MODEL.read_bytes())
    yield system
    system.store.clear()


def names(system: Any) -> set[str]:
    return {name.removeprefix("/b/") for name in system.store}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "told"),
    [("s3://b/m.onnx", True), ("memory://m.onnx", True), ("m.onnx", False), ("C:\\m.onnx", False), (b"a://b", False)],
)
def test_an_address_is_told_from_a_path(text: Any, told: bool) -> None:
    assert is_address(text) is told


def test_a_path_that_exists_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:").mkdir()
    Path("a:/b").write_bytes(b"")
    assert not is_address("a://b")


def test_from_address_to_address(memory: Any) -> None:
    result = bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx")
    assert names(memory) == {"m.onnx", "o.onnx"}
    assert result.report.input.path == "memory://b/m.onnx"
    assert result.report.output is not None
    assert result.report.output.path == result.report.published == "memory://b/o.onnx"
    assert "/tmp" not in json.dumps(result.report.to_dict())
    folded = onnx.load_from_string(memory.cat("/b/o.onnx"))
    assert bnfold.verify(MODEL, folded).verdict == "equivalent"
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}


def test_external_data_comes_and_goes_with_the_model(memory: Any, tmp_path: Path) -> None:
    onnx.save(onnx.load(MODEL), tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    for name in ("e.onnx", "e.bin"):
        memory.pipe(f"/b/{name}", (tmp_path / name).read_bytes())
    before = memory.cat("/b/e.bin")
    bnfold.optimize("memory://b/e.onnx", "memory://b/o.onnx")
    [data] = names(memory) - {"m.onnx", "e.onnx", "e.bin", "o.onnx"}
    assert memory.cat("/b/e.bin") == before
    (tmp_path / "back").mkdir()
    for name in ("o.onnx", data):
        memory.get_file(f"/b/{name}", str(tmp_path / "back" / name))
    assert bnfold.verify(MODEL, tmp_path / "back/o.onnx").verdict == "equivalent"
    assert bnfold.inspect("memory://b/e.onnx").model.path == "memory://b/e.onnx"
    assert bnfold.verify("memory://b/e.onnx", "memory://b/o.onnx").verdict == "equivalent"


def test_in_place(memory: Any) -> None:
    bnfold.optimize("memory://b/m.onnx", "memory://b/m.onnx")
    assert names(memory) == {"m.onnx"}
    operators = {node.op_type for node in onnx.load_from_string(memory.cat("/b/m.onnx")).graph.node}
    assert "BatchNormalization" not in operators


def test_nothing_is_replaced_that_nobody_asked_to_replace(memory: Any) -> None:
    memory.pipe("/b/o.onnx", b"something else")
    with pytest.raises(UsageError, match=r"^memory://b/o\.onnx: something is there already"):
        bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx")
    assert memory.cat("/b/o.onnx") == b"something else"
    bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx", overwrite=True)
    assert memory.cat("/b/o.onnx") != b"something else"


def test_data_of_another_model_is_not_replaced(memory: Any) -> None:
    memory.pipe("/b/o.onnx.data", b"of another")
    layout = bnfold.Layout(bnfold.Weights.EXTERNAL, None, 0)
    with pytest.raises(UsageError, match=r"memory://b/o\.onnx\.data: something is there already"):
        bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx", layout=layout)
    assert names(memory) == {"m.onnx", "o.onnx.data"}


def test_what_is_not_equivalent_is_not_sent(memory: Any) -> None:
    with pytest.raises(VerificationError) as raised:
        bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx", rtol=0.0, atol=0.0, proof="never")
    assert names(memory) == {"m.onnx"}
    assert raised.value.report.input.path == "memory://b/m.onnx"
    assert "/tmp" not in str(raised.value)


def test_a_dry_run_sends_nothing(memory: Any) -> None:
    assert bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx", dry_run=True).report.verdict == "equivalent"
    assert names(memory) == {"m.onnx"}


def test_half_of_a_model_is_never_seen(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = MemoryFileSystem._open

    def full(self: Any, path: str, mode: str = "rb", **more: Any) -> Any:
        if mode == "wb" and path.endswith("o.onnx"):
            raise OSError(28, "No space left on device")
        return opened(self, path, mode, **more)

    monkeypatch.setattr(MemoryFileSystem, "_open", full)
    layout = bnfold.Layout(bnfold.Weights.EXTERNAL, None, 0)
    with pytest.raises(OutputError, match=r"memory://b/o\.onnx: cannot be written: .*No space"):
        bnfold.optimize("memory://b/m.onnx", "memory://b/o.onnx", layout=layout)
    assert names(memory) == {"m.onnx"}


def test_what_is_not_there_is_named_by_its_address(memory: Any) -> None:
    with pytest.raises(ModelError, match=r"^memory://b/none\.onnx: cannot read the model"):
        bnfold.inspect("memory://b/none.onnx")
    memory.pipe("/b/bad.onnx", b"no model")
    with pytest.raises(ModelError, match=r"^memory://b/bad\.onnx: "):
        bnfold.inspect("memory://b/bad.onnx")


def test_the_command_reads_writes_and_reports_at_addresses(memory: Any) -> None:
    result = run("optimize", "memory://b/m.onnx", "memory://b/o.onnx", "--report", "memory://b/r.json")
    assert result.exit_code == 0, result.stderr
    assert "written: memory://b/o.onnx" in result.stdout
    assert json.loads(memory.cat("/b/r.json"))["published"] == "memory://b/o.onnx"
    assert run("verify", "memory://b/m.onnx", "memory://b/o.onnx").exit_code == 0
    assert "written: memory://c/m.onnx" in run("optimize", "memory://b/m.onnx", "memory://c/").stdout
    assert run("inspect", "memory://b/m.onnx").stdout.startswith("memory://b/m.onnx: 18 nodes")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("optimize", "memory://b/m.onnx", "memory://b/o.onnx", "--keep-failed"), "name a file, not an address"),
        (("optimize", MODEL, "/tmp/never.onnx", "--inputs", "memory://b/x.npz"), "data is read from files"),
        (("optimize", "nowhere://b/m.onnx", "/tmp/never.onnx"), "nowhere://b/m.onnx: Protocol not known: nowhere"),
        (("optimize", "memory://b/m.onnx", "o.onnx", "--server", "http://h"), "as paths of this machine"),
    ],
)
@pytest.mark.usefixtures("memory")
def test_what_cannot_be_done_is_said(arguments: tuple[Any, ...], told: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, told in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.stderr


def test_an_address_that_ends_with_a_slash_names_no_file() -> None:
    with pytest.raises(UsageError, match="ends with a slash"):
        bnfold.optimize("memory://b/m.onnx/")


def test_without_fsspec_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bnfold.addresses.find_spec", lambda _: None)
    result = run("optimize", "https://example.org/a/m.onnx", tmp_path / "o.onnx")
    assert result.exit_code == 2
    assert result.stderr == (
        "bnfold: https://example.org/a/m.onnx is an address: pip install 'bnfold[remote]' to read and write it, "
        "or download it\n"
    )


# ---------------------------------------------------------------------- an S3


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | KEYS
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        (tmp_path / "moto.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server,
    ):
        try:
            for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
                monkeypatch.setenv(name, value)
            deadline = time.monotonic() + 120
            while not answers(port) and time.monotonic() < deadline:
                time.sleep(0.1)
            system = fsspec.filesystem("s3", skip_instance_cache=True)
            system.mkdir("bucket")
            system.pipe("bucket/in/m.onnx", MODEL.read_bytes())
            yield system
        finally:
            server.kill()


def test_s3(s3: Any, tmp_path: Path) -> None:
    layout = bnfold.Layout(bnfold.Weights.EXTERNAL, "w.bin", 0)
    result = bnfold.optimize("s3://bucket/in/m.onnx", "s3://bucket/out/o.onnx", layout=layout)
    assert result.report.published == "s3://bucket/out/o.onnx"
    s3.invalidate_cache()
    assert sorted(s3.ls("bucket/out")) == ["bucket/out/o.onnx", "bucket/out/w.bin"]
    for name in ("o.onnx", "w.bin"):
        s3.get_file(f"bucket/out/{name}", str(tmp_path / name))
    assert bnfold.verify(MODEL, tmp_path / "o.onnx").verdict == "equivalent"
    done = run("optimize", "s3://bucket/in/m.onnx", "s3://bucket/o2.onnx", "--report", "s3://bucket/r.json")
    assert done.exit_code == 0, done.stderr
    s3.invalidate_cache()
    assert json.loads(s3.cat("bucket/r.json"))["verdict"] == "equivalent"
    with pytest.raises(UsageError, match="something is there already"):
        bnfold.optimize("s3://bucket/in/m.onnx", "s3://bucket/o2.onnx")
    with pytest.raises(ModelError, match=r"^s3://bucket/none\.onnx: cannot read"):
        bnfold.inspect("s3://bucket/none.onnx")
    with pytest.raises(OutputError, match="cannot be written"):
        bnfold.optimize("s3://bucket/in/m.onnx", "s3://missing/o.onnx")


# ---------------------------------------------------------------------- a Hub


class Hub(BaseHTTPRequestHandler):
    """The calls by which huggingface_hub reads and writes small files of one repository, ``owner/repo``."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    commits: list[list[str]]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, code: int, content: Any, **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix("/owner/repo/resolve/main/")
        if path in ("/api/models/owner/repo", "/api/models/owner/repo/revision/main"):
            self.answer(200, {"id": "owner/repo", "sha": "1" * 40, "siblings": [], "tags": [], "private": False})
        elif path.startswith("/api/models/owner/repo/tree/main"):
            told = {each: hashlib.sha1(data).hexdigest() for each, data in self.files.items()}
            self.answer(
                200, [{"type": "file", "path": e, "size": len(self.files[e]), "oid": o} for e, o in told.items()]
            )
        elif name in self.files:
            self.answer(200, self.files[name], ETag=f'"{hashlib.sha1(self.files[name]).hexdigest()}"')
        else:
            self.answer(404, {"error": "none"}, X_Error_Code="EntryNotFound")

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/preupload/main"):
            each = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.answer(200, {"files": [each | {"path": file["path"]} for file in json.loads(asked)["files"]]})
        elif self.path.endswith("/commit/main"):
            lines = [json.loads(line) for line in asked.splitlines()]
            made = [line["value"] for line in lines if line["key"] == "file"]
            self.files.update({value["path"]: base64.b64decode(value["content"]) for value in made})
            self.commits.append([value["path"] for value in made])
            url = f"https://huggingface.co/owner/repo/commit/{'2' * 40}"
            self.answer(200, {"commitUrl": url, "commitOid": "2" * 40, "pullRequestUrl": None})
        else:  # paths-info: nothing of that name
            self.answer(200, [])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    own = type("Own", (Hub,), {"files": {"m.onnx": MODEL.read_bytes()}, "commits": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), own) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {"endpoint": f"http://127.0.0.1:{server.server_port}", "token": "hf_none"}
        monkeypatch.setitem(fsspec.config.conf, "hf", options)
        try:
            yield own
        finally:
            server.shutdown()


def test_the_hub_gets_a_model_and_its_data_in_one_commit(hub: type[Hub], tmp_path: Path) -> None:
    result = bnfold.optimize("hf://owner/repo/m.onnx", "hf://owner/repo/onnx/o.onnx")
    assert result.report.published == "hf://owner/repo/onnx/o.onnx"
    assert hub.commits == [["onnx/o.onnx"]]
    layout = bnfold.Layout(bnfold.Weights.EXTERNAL, "w.bin", 0)
    bnfold.optimize("hf://owner/repo/m.onnx", "hf://owner/repo/e.onnx", layout=layout)
    assert hub.commits[1:] == [["w.bin", "e.onnx"]]
    assert bnfold.verify("hf://owner/repo/m.onnx", "hf://owner/repo/e.onnx").verdict == "equivalent"
    with pytest.raises(UsageError, match=r"^hf://owner/repo/e\.onnx: something is there already"):
        bnfold.optimize("hf://owner/repo/m.onnx", "hf://owner/repo/e.onnx")
    done = run("optimize", "hf://owner/repo/m.onnx", tmp_path / "o.onnx", "--report", "hf://owner/repo/r.json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(hub.files["r.json"])["verdict"] == "equivalent"


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_said() -> None:
    for address, told in (
        ("hf://owner/repo/none.onnx", "there is no such file"),
        ("hf://owner/other/m.onnx", "404 Client Error"),
    ):
        with pytest.raises(ModelError, match=f"^{re.escape(address)}: cannot read the model: .*{told}"):
            bnfold.inspect(address)


def test_without_the_package_of_the_hub_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "hf", raising=False)  # type: ignore[attr-defined]
    result = run("optimize", "hf://owner/repo/m.onnx", tmp_path / "o.onnx")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert re.match("bnfold: hf://owner/repo/m.onnx: .*huggingface_hub", result.stderr)
