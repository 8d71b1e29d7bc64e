"""A batch at length: two hundred models, bad ones among them, a worker and the driver killed on the way.

pytest -m soak tests/fleet/test_soaks.py
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from onnx import parser, save

from bnfold.fleet import manifest
from bnfold.fleet.batch import batch
from tests.dask_cluster import cluster
from tests.service.test_soaks import ENDLESS
from tests.test_isolated import TRAP

pytestmark = pytest.mark.soak

REPOSITORY = Path(__file__).parents[2]
DIGITS = sorted((REPOSITORY / "models").glob("digits_*.onnx"))
MODELS = 200


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Of the models 4 are damaged, 2 never end, and 2 crash the process that runs them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(MODELS - 8):
        place = folder / f"{number % 7}" / f"m{number:03}.onnx"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(DIGITS[number % len(DIGITS)], place)
    for number in range(4):
        (folder / f"{number}" / "damaged.onnx").write_bytes(DIGITS[0].read_bytes()[: 1000 * (number + 1)])
    for number in range(2):
        save(parser.parse_model(ENDLESS), folder / f"{number}" / "endless.onnx")
        save(TRAP, folder / f"{number}" / "crash.onnx")
    return folder


def rows_of(log: Path) -> list[dict[str, object]]:
    lines = log.read_bytes() if log.exists() else b""
    return [json.loads(line) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]


def workers_of(driver: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"bnfold.fleet.worker" in words and str(driver).encode() in words:
            found.append(int(process.name))
    return found


def until(log: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    while len(rows_of(log)) < count and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.timeout(3000)
def test_two_hundred_models_a_killed_worker_and_a_killed_driver(models: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "bnfold", "batch", "optimize", "in", "--output", "out", "--jobs", "2", "-q"]
    line += ["--timeout", "60", "--retries", "1", "--no-proof"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    log = tmp_path / "out/bnfold-batch" / manifest.NAME
    chance = random.Random(0)
    # The driver is killed twice, and what it had written down stays as it is.
    for count in (40, 90):
        driver = subprocess.Popen(line, cwd=tmp_path, env=environment, start_new_session=True)
        until(log, count, driver)
        assert driver.poll() is None
        kept = rows_of(log)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        assert rows_of(log)[: len(kept)] == kept
        time.sleep(chance.uniform(0, 1))
    # A worker is killed in the middle of a model.
    driver = subprocess.Popen(line, cwd=tmp_path, env=environment, start_new_session=True)
    until(log, 130, driver)
    victims: list[int] = []
    while not victims and driver.poll() is None:
        victims = [each for parent in (driver.pid, *children(driver.pid)) for each in workers_of(parent)]
    os.kill(victims[0], signal.SIGKILL)
    assert driver.wait() == 70  # the worst: what crashed
    rows = rows_of(log)
    assert Counter(row["relative"] for row in rows) == Counter(
        path.relative_to(models).as_posix() for path in models.rglob("*.onnx")
    )  # each once
    by_code: dict[int, Counter[str]] = {}
    for row in rows:
        name = Path(str(row["relative"])).stem
        by_code.setdefault(int(str(row["exit_code"])), Counter())[name if name[0] != "m" else "m"] += 1
    assert by_code == {
        0: Counter(m=MODELS - 8),
        3: Counter(damaged=4),
        6: Counter(endless=2),
        70: Counter(crash=2),
    }
    assert sum(int(str(row["attempts"])) - 1 for row in rows if "crash" not in str(row["relative"])) <= 1
    hidden = [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]
    assert hidden == []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.onnx")}
    again = subprocess.run(line, cwd=tmp_path, env=environment, check=False)
    assert again.returncode == 70
    assert rows_of(log) == rows
    assert {path: path.stat().st_mtime_ns for path in before} == before


def children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        found += [int(word) for word in (task / "children").read_text(encoding="ascii").split()]
    return found


@pytest.mark.timeout(1800)
def test_a_killed_dask_worker_takes_no_model_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "in").mkdir()
    for number in range(24):
        shutil.copy(DIGITS[number % len(DIGITS)], tmp_path / "in" / f"m{number:02}.onnx")
    with cluster(2, processes=True) as made:
        running = batch(
            "optimize", str(tmp_path / "in"), tmp_path / "out", scheduler=made.scheduler_address, proof="never"
        )
        rows = []
        for row in running:
            rows.append(row)
            if len(rows) == 6:
                victim = next(iter(made.workers.values()))
                os.kill(victim.pid, signal.SIGKILL)
    assert Counter(row.relative for row in rows) == Counter(f"m{number:02}.onnx" for number in range(24))
    assert {row.exit_code for row in rows} == {0}
