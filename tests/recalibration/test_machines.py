"""Recalibration by several workers: the bits of one process, whoever computes which part, whoever dies on the way."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.batches import shards_of
from bnfold.errors import UsageError
from tests.dask_cluster import cluster
from tests.recalibration.test_exact import conv, norm, row

SIZES = (3, 1, 7, 2, 5, 4, 6, 1, 2, 9, 3, 8, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five levels with a skip connection, and thirteen files of uneven sizes."""
    place = tmp_path_factory.mktemp("machines")
    text = ""
    for level in range(4):
        text += conv("x" if level == 0 else f"n{level - 1}", f"c{level}", level) + norm(f"c{level}", f"n{level}", level)
    text += "s = Add(n3, n0)\n" + norm("s", "y", 4)
    onnx.save(row(text), place / "in.onnx")
    generator = np.random.default_rng(3)
    (place / "data").mkdir()
    for number, size in enumerate(SIZES):
        values = generator.normal(number, 1 + number, (size, 4, 6, 7)).astype(np.float32)
        np.savez(place / "data" / f"{number:02}.npz", x=values)
    return place


@pytest.fixture(scope="module")
def made() -> Iterator[Any]:
    with cluster(2) as found:
        yield found


def recalibrated(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    report = bnfold.recalibrate(
        folder / "in.onnx", str(folder / "data"), output, **{"verify": False, "batch_size": 4, **options}
    ).report
    found: dict[str, Any] = report.to_dict()["recalibration"]
    return found


@pytest.mark.parametrize(
    "options", [{}, {"mode": "fast"}, {"statistics": "torch"}, {"spill_limit": 0}, {"batch_size": 64}], ids=str
)
def test_a_cluster_gives_the_bits_of_one_process(folder: Path, tmp_path: Path, made: Any, options: Any) -> None:
    here = recalibrated(folder, tmp_path / "here.onnx", **options)
    there = recalibrated(folder, tmp_path / "there.onnx", scheduler=made.scheduler_address, **options)
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()
    assert (tmp_path / "here.onnx").read_bytes() != (folder / "in.onnx").read_bytes()
    for key in ("mode", "statistics", "batches", "levels", "drift", "left_out"):
        assert there[key] == here[key]


def test_workers_that_die_show_in_no_bit(folder: Path, tmp_path: Path) -> None:
    """One dies with what it keeps whenever a level has begun; others take over its parts."""
    here = recalibrated(folder, tmp_path / "here.onnx")
    with cluster(2, processes=True) as own:
        killed = set()

        def kill(_stage: object, done: int, total: int) -> None:
            level = done * here["levels"] // max(total, 1)
            if level in {1, 3} and level not in killed:
                killed.add(level)
                os.kill(next(iter(own.workers.values())).pid, signal.SIGKILL)

        there = recalibrated(folder, tmp_path / "there.onnx", scheduler=own.scheduler_address, progress=kill)
    assert killed == {1, 3}
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()
    assert there["drift"] == here["drift"]


def test_every_file_is_in_one_part(folder: Path, tmp_path: Path) -> None:
    shapes = {"x": ("N", 4, 6, 7)}
    files = sorted((folder / "data").iterdir())
    assert shards_of(folder / "data", shapes, 4) == [(file,) for file in files]
    assert shards_of(files[0], shapes, 4) == [(files[0],)]
    for number in range(700):
        (tmp_path / f"{number:03}.png").touch()
    parts = shards_of(tmp_path, shapes, 3)
    assert len(parts) <= 256
    assert {len(part) % 3 for part in parts[:-1]} == {0}
    assert [file for part in parts for file in part] == sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no folder of"):
        shards_of(tmp_path / "script.py:function", shapes, 4)


@pytest.mark.parametrize("data", ["script.py:batches", [{"x": np.zeros((2, 4, 6, 7), np.float32)}]])
def test_data_that_several_machines_cannot_read_is_refused(folder: Path, tmp_path: Path, made: Any, data: Any) -> None:
    with pytest.raises(UsageError, match=r"files of data|folder of"):
        bnfold.recalibrate(folder / "in.onnx", data, tmp_path / "out.onnx", scheduler=made.scheduler_address)
    with pytest.raises(UsageError, match="of the model"):
        bnfold.recalibrate(
            onnx.load(folder / "in.onnx"), str(folder / "data"), tmp_path / "out.onnx", scheduler=made.scheduler_address
        )


def test_a_mistake_is_the_users(folder: Path, tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", x=np.full((2, 4, 6, 7), np.nan, np.float32))
    with pytest.raises(UsageError, match="not finite"):
        bnfold.recalibrate(
            folder / "in.onnx", str(tmp_path / "data"), tmp_path / "out.onnx", scheduler=made.scheduler_address
        )
    monkeypatch.setattr("bnfold.cluster.PATIENCE", "1s")
    with pytest.raises(UsageError, match="cannot be reached"):
        bnfold.recalibrate(folder / "in.onnx", str(folder / "data"), tmp_path / "o.onnx", scheduler="tcp://127.0.0.1:9")
