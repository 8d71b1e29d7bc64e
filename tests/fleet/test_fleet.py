"""Batches: every model is a row once, whatever it does to its worker, and a batch that was stopped goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from onnx import external_data_helper, load, save

import bnfold
from bnfold.errors import UsageError
from bnfold.fleet import manifest
from bnfold.fleet.batch import batch, content_of
from bnfold.fleet.finding import found
from bnfold.fleet.local import LocalWorkers
from bnfold.fleet.summary import write_all
from bnfold.fleet.task import Row, Task, worst
from tests.dask_cluster import cluster

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models/digits_cnn.onnx"


def tasks(folder: Path, *names: str) -> Iterator[Task]:
    return (Task("optimize", name, "", "", str(folder / name), key=name) for name in names)


def executions(folder: Path) -> Counter[str]:
    return Counter((folder / "executions").read_text(encoding="utf-8").split())


def test_a_model_that_ends_its_worker_is_a_row_of_its_own(tmp_path: Path) -> None:
    names = ["a", "segfault", "b", "kill", "bad", "endless", *(f"m{number}" for number in range(20))]
    workers = LocalWorkers(2, timeout=2, module="tests.fleet_worker")
    rows = {row.relative: row for row in workers.run(tasks(tmp_path, *names))}
    codes = {name: row.exit_code for name, row in rows.items() if row.exit_code}
    assert codes == {"segfault": 70, "kill": 6, "bad": 3, "endless": 6}
    assert "SIGSEGV" in rows["segfault"].message
    assert executions(tmp_path) == Counter(names)
    assert len(rows) == len(names)


def test_a_crash_is_tried_again_as_often_as_asked(tmp_path: Path) -> None:
    workers = LocalWorkers(1, retries=2, module="tests.fleet_worker")
    (row,) = workers.run(tasks(tmp_path, "segfault"))
    assert (row.exit_code, row.attempts, executions(tmp_path)["segfault"]) == (70, 3, 3)


def test_finishing_lets_what_runs_come_to_its_end(tmp_path: Path) -> None:
    workers = LocalWorkers(1, module="tests.fleet_worker")
    rows = []
    for row in workers.run(tasks(tmp_path, *(f"slow{number}" for number in range(9)))):
        rows.append(row)
        workers.finish()
    assert 1 <= len(rows) <= 2
    assert executions(tmp_path).total() == len(rows)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, one of them damaged, one with external data, and something else."""
    root = tmp_path_factory.mktemp("tree")
    (root / "vision/1").mkdir(parents=True)
    shutil.copy(MODEL, root / "vision/1/model.onnx")
    (root / "vision/config.pbtxt").write_text("name: 'vision'\n", encoding="utf-8")
    (root / "bad.onnx").write_bytes(b"junk")
    model = load(MODEL)
    external_data_helper.convert_model_to_external_data(model, location="large.data", size_threshold=0)
    save(model, root / "large.onnx")
    return root


@pytest.fixture(scope="module")
def done(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("done")
    running = batch("optimize", str(tree), output, jobs=2, copy_others=True, seed=3)
    rows = list(running)
    assert (running.result(60), running.done()) == (3, True)
    assert {row.relative: row.exit_code for row in rows} == {"vision/1/model.onnx": 0, "bad.onnx": 3, "large.onnx": 0}
    return output


def test_the_tree_is_mirrored_with_what_else_is_in_it(tree: Path, done: Path) -> None:
    names = {path.relative_to(done).as_posix() for path in done.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("bnfold-batch")} == {
        *("vision/1/model.onnx", "vision/config.pbtxt", "large.onnx", "large.data"),
    }
    assert bnfold.verify(tree / "large.onnx", done / "large.onnx").verdict == "equivalent"
    report = json.loads((done / "bnfold-batch/reports/vision/1/model.onnx.json").read_text(encoding="utf-8"))
    assert report["options"]["seed"] == 3


def test_a_second_run_does_nothing(tree: Path, done: Path) -> None:
    before = (done / "bnfold-batch" / manifest.NAME).read_bytes()
    running = batch("optimize", str(tree), done, seed=3)
    assert list(running) == []
    assert (running.skipped, running.exit_code) == (3, 3)
    assert (done / "bnfold-batch" / manifest.NAME).read_bytes() == before


def test_other_options_are_another_job(tree: Path, done: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(done, output)
    again = {row.relative for row in batch("optimize", str(tree), output, seed=4, proof="never")}
    assert again == {"vision/1/model.onnx", "bad.onnx", "large.onnx"}


def test_passes_by_name_and_of_scripts(tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text("def stamp(model, word='a'):\n    model.doc_string = word\n", "utf-8")

    def run() -> list[Row]:
        passes = [f"{script}:stamp:word=b", "default"]
        return list(batch("optimize", str(tree), tmp_path / "out", jobs=2, passes=passes))

    assert {row.relative: row.exit_code for row in run()} == {"vision/1/model.onnx": 0, "bad.onnx": 3, "large.onnx": 0}
    assert {load(tmp_path / "out" / name).doc_string for name in ("vision/1/model.onnx", "large.onnx")} == {"b"}
    assert run() == []
    script.write_text("def stamp(model, word='a'):\n    model.doc_string = word * 2\n", "utf-8")
    assert len(run()) == 3, "another content of the script is another job"
    with pytest.raises(UsageError, match=r"the pass <lambda> is of this process alone: name it as script\.py:function"):
        batch("optimize", str(tree), tmp_path / "other", passes=[lambda _: None])


def test_one_report_of_all(done: Path) -> None:
    written = write_all(done, lambda: manifest.rows(done / "bnfold-batch"))
    texts = {path.suffix: path.read_text(encoding="utf-8") for path in written}
    told = json.loads(texts[".json"])
    assert (told["models"], told["exit_code"], told["outcomes"]) == (3, 3, {"0": 2, "3": 1})
    assert [row["relative"] for row in told["rows"]] == ["bad.onnx", "large.onnx", "vision/1/model.onnx"]
    root = ET.fromstring(texts[".xml"])
    assert [suite.get("name") for suite in root] == ["bad.onnx", "large.onnx", "vision/1/model.onnx"]
    assert (root.get("tests"), root.get("errors")) == ("3", "1")
    assert texts[".md"].startswith("**3 models: 1 bad or unsupported model, 2 good**")
    assert texts[".html"].index("bad.onnx") < texts[".html"].index("vision/1/model.onnx")
    assert "<script" not in texts[".html"]


def test_names_cannot_break_a_report(tmp_path: Path) -> None:
    name = "a|b`<script>alert(1)</script>&[x](y)\n.onnx"
    row = Row(name, "k", "optimize", 3, message=name)
    folder = tmp_path / "bnfold-batch"
    written = manifest.Manifest(folder)
    written.add(row)
    written.close()
    texts = [path.read_text(encoding="utf-8") for path in write_all(tmp_path, lambda: manifest.rows(folder))]
    for text in texts[1:]:
        assert "<script>" not in text
    ET.fromstring(texts[2])


def test_verify_compares_models_of_the_same_path(tree: Path, done: Path, tmp_path: Path) -> None:
    running = batch("verify", str(done), tmp_path, reference=str(tree), proof="never")
    rows = {row.relative: row for row in running}
    assert {name: (row.exit_code, row.verdict) for name, row in rows.items()} == {
        "vision/1/model.onnx": (0, "equivalent"),
        "large.onnx": (0, "equivalent"),
    }


def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path) -> None:
    models = tmp_path / "in"
    models.mkdir()
    for number in range(6):
        shutil.copy(MODEL, models / f"m{number}.onnx")
    line = [sys.executable, "-m", "bnfold", "batch", "optimize", "in", "--output", "out", "--jobs", "1", "--no-proof"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    first = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    log = tmp_path / "out/bnfold-batch" / manifest.NAME
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = log.read_bytes()
    second = subprocess.run([*line, "-q"], cwd=tmp_path, env=environment, check=False)
    assert second.returncode == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    assert log.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert sorted(json.loads(each)["relative"] for each in lines) == [f"m{number}.onnx" for number in range(6)]


def test_ctrl_c_lets_what_runs_come_to_its_end(tmp_path: Path) -> None:
    models = tmp_path / "in"
    models.mkdir()
    for number in range(30):
        shutil.copy(MODEL, models / f"m{number:02}.onnx")
    line = [sys.executable, "-m", "bnfold", "batch", "optimize", "in", "--output", "out", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    running = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    log = tmp_path / "out/bnfold-batch" / manifest.NAME
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == 130
    outputs = {path.name for path in (tmp_path / "out").glob("*.onnx")}
    assert outputs == {json.loads(each)["relative"] for each in log.read_text(encoding="utf-8").splitlines()}
    assert 0 < len(outputs) < 30


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("fold", {}, "batch does"),
        ("verify", {}, "reference"),
        ("optimize", {"reference": "x"}, "reference"),
        ("recalibrate", {}, "data"),
        ("optimize", {"sed": 1}, "did you mean seed"),
        ("optimize", {"jobs": 0}, "jobs"),
    ],
)
def test_what_cannot_be_asked_for(command: str, given: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        batch(command, str(tmp_path), tmp_path / "out", **given)  # type: ignore[arg-type]


def test_a_folder_without_models_says_so(tmp_path: Path) -> None:
    running = batch("optimize", str(tmp_path), tmp_path / "out")
    with pytest.raises(UsageError, match="no model"):
        list(running)
    with pytest.raises(UsageError, match="no such folder"):
        found("nowhere/at/all")


def test_results_among_the_models_are_none_of_them(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(tree, folder)
    (folder / "out" / "vision").mkdir(parents=True)
    shutil.copy(folder / "large.onnx", folder / "out" / "large.onnx")
    (tmp_path / "link").symlink_to(folder / "out")
    for what in (str(folder), str(folder / "**" / "*.onnx")):
        for output in (folder / "out", tmp_path / "link"):
            models = found(what, output)
            assert [models.relative(path) for path in models] == ["bad.onnx", "large.onnx", "vision/1/model.onnx"]
    assert len(list(found(str(folder / "vision"), folder))) == 1  # an output above the models


def test_models_are_not_replaced_unless_asked(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(tree, folder)
    (tmp_path / "link").symlink_to(folder)
    for output in (folder, tmp_path / "link", folder / "vision" / ".."):
        with pytest.raises(UsageError, match="folder of the models themselves"):
            batch("optimize", str(folder), output)
    assert batch("inspect", str(folder), folder).result() == 3  # bad.onnx
    before = (folder / "large.onnx").read_bytes()
    assert batch("optimize", str(folder / "large.onnx"), folder, overwrite=True, verify=False).result() == 0
    assert (folder / "large.onnx").read_bytes() != before


def test_patterns_and_lists(tree: Path, tmp_path: Path) -> None:
    pattern = found(str(tree / "**" / "*.onnx"))
    assert pattern.root == tree
    assert [pattern.relative(path) for path in pattern] == ["bad.onnx", "large.onnx", "vision/1/model.onnx"]
    names = tmp_path / "list.txt"
    names.write_text(f"# two\n{tree}/large.onnx\n{tree}/vision/1/model.onnx\n", encoding="utf-8")
    listed = found(str(names))
    assert [listed.relative(path) for path in listed] == ["large.onnx", "vision/1/model.onnx"]


def test_the_content_of_a_model_is_that_of_its_data_too(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    assert content_of(tmp_path / "copy/large.onnx") == content_of(tree / "large.onnx")
    data = tmp_path / "copy/large.data"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    assert content_of(tmp_path / "copy/large.onnx") != content_of(tree / "large.onnx")


def test_half_a_line_of_the_manifest_is_cut_off(tmp_path: Path) -> None:
    written = manifest.Manifest(tmp_path)
    written.add(Row("a", "k", "optimize", 0))
    written.close()
    with (tmp_path / manifest.NAME).open("ab") as stream:
        stream.write(b'{"relative": "b"')
    assert [row.relative for row in manifest.rows(tmp_path)] == ["a"]
    written = manifest.Manifest(tmp_path)
    written.add(Row("c", "k", "optimize", 0))
    written.close()
    assert [row.relative for row in manifest.rows(tmp_path)] == ["a", "c"]


def test_the_worst_kind_decides() -> None:
    assert worst({0: 5}) == 0
    assert worst({0: 5, 1: 2, 3: 1}) == 3
    assert worst({6: 1, 70: 1}) == 70
    assert worst({}) == 0


def test_a_dask_cluster_does_the_work(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    with cluster() as made:
        running = batch("optimize", str(tree), tmp_path, scheduler=made.scheduler_address, proof="never")
        rows = {row.relative: row.exit_code for row in running}
    assert rows == {"vision/1/model.onnx": 0, "bad.onnx": 3, "large.onnx": 0}
