"""The service at length: killed again and again, asked by many at once, and given what no service should swallow.

pytest -m soak tests/service/test_soaks.py
"""

import concurrent.futures
import contextlib
import hashlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import parser, save

import bnfold
from tests.service_process import MODEL, REPOSITORY, ServiceProcess, running

pytestmark = pytest.mark.soak

KILLS = 60
CLIENTS, JOBS = 16, 200
MODELS = sorted((REPOSITORY / "models").glob("digits_*.onnx"))
ENDLESS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1] x) => (float[1] y) {
  n = Constant<value = int64 {2000000000}>()
  t = Constant<value = bool {1}>()
  y = Loop<body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w) {
    d = Identity(c) w = Identity(v)
  }>(n, t, x)
}"""


def resident(service: ServiceProcess) -> int:
    """Bytes of memory that the service holds, its jobs left out."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and os.fsencode(service.data) in words:
                found += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert found
    return found


@pytest.mark.timeout(3600)
def test_every_job_ends_once_however_often_the_service_is_killed(tmp_path: Path) -> None:
    """A job that ran at two kills has failed, and says so; asked for again it runs. Every result is the command's."""
    bnfold.optimize(MODEL, tmp_path / "expected.onnx")
    expected = (tmp_path / "expected.onnx").read_bytes()
    chance = random.Random(0)
    with running(tmp_path / "data", "--workers", "2") as service:
        model, done = service.model(), set[str]()
        for kill in range(KILLS):
            job = service.job(model=model, options={"seed": kill + 1})["id"]
            time.sleep(chance.uniform(0, 3))
            service.kill()
            service.start()
            done.add(job)
        for key in sorted(done):
            job = service.ended(key, seconds=600)
            if job["state"] == "failed":
                assert "ended" in job["message"] or "kill" in job["message"] or "twice" in job["message"], job
                seed = service.ask("GET", f"/v1/jobs/{key}").json()["options"]["seed"]
                key = service.job(model=model, options={"seed": seed})["id"]
                job = service.ended(key, seconds=600)
            assert job["state"] == "succeeded", job
            assert service.ask("GET", f"/v1/jobs/{key}/model").content == expected


@pytest.mark.timeout(3600)
def test_many_clients_at_once_get_what_each_asked_for(tmp_path: Path) -> None:
    save(parser.parse_model(ENDLESS), tmp_path / "endless.onnx")
    with running(tmp_path / "data", "--workers", "2", "--job-timeout", "60", "--max-queued", "400") as service:
        ids = {path: service.model(path, path.name) for path in MODELS}
        endless = service.model(tmp_path / "endless.onnx", "endless.onnx")
        hanging = service.job(model=endless, options={"proof": "never"})["id"]

        def work(number: int) -> tuple[int, dict[str, Any]]:
            path = MODELS[number % len(MODELS)]
            if number % 4 == 0:
                job = service.job("inspect", model=ids[path])
            elif number % 4 == 1:
                job = service.job("verify", {"seed": number}, reference=ids[path], candidate=ids[path])
            else:
                job = service.job("optimize", {"seed": number}, model=ids[path])
            return number, service.ended(job["id"], seconds=3000)

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(work, range(JOBS)))
        bad = [(number, job) for number, job in found if job["state"] != "succeeded"]
        assert not bad
        late = service.ended(hanging, seconds=600)
        assert (late["state"], late["exit_code"]) == ("failed", 6)


@pytest.mark.timeout(1800)
def test_bombs_slow_bodies_and_many_connections_leave_it_up_and_small(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--max-upload", "1G") as service:
        before = sum(path.stat().st_size for path in service.data.rglob("*") if path.is_file())
        zeros = bytes(1 << 20)

        def endless() -> Iterator[bytes]:
            for _ in range(10 << 10):
                yield zeros

        address = f"/v1/models/{'0' * 64}/files/m.onnx"
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the connection may end before the answer is read
            assert service.ask("PUT", address, content=endless()).status_code == 413
        host, port = service.url.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(200)]
        for connection in slow:
            connection.sendall(f"PUT {address} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nab".encode())
        time.sleep(2)
        assert service.ask("GET", "/healthz").status_code == 200
        assert service.ended(service.job(model=service.model())["id"])["state"] == "succeeded"
        assert resident(service) < 150 << 20
        for connection in slow:
            connection.close()
        for name in ("../../m.onnx", "a%00b.onnx", "x" * 4000, "..%2f..%2fm.onnx"):
            sha256 = hashlib.sha256(b"x").hexdigest()
            assert service.ask("PUT", f"/v1/models/{sha256}/files/{name}", content=b"x").status_code in {
                404,
                405,
                414,
                422,
            }
        deadline = time.monotonic() + 60
        while list((service.data / "incoming").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        after = sum(path.stat().st_size for path in service.data.rglob("*") if path.is_file())
        assert after - before < 8 << 20
