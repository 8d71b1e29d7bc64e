"""External data by a name that is asked for, in place: the folder holds the same two names before and after."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.onnxfile import Layout, Publication, Weights, read, to_proto
from tests.fold_models import Row
from tests.onnxfile.test_write import changed, write
from tests.onnxfile_models import chain, loaded, names, save_external, weight

ASKED = Layout(Weights.EXTERNAL, "m.onnx_data")
NAMES = {"m.onnx", "m.onnx_data"}


def model_in(folder: Path) -> Path:
    """A model as Hugging Face keeps them: `m.onnx` with its weights in `m.onnx_data`."""
    folder.mkdir(exist_ok=True)
    save_external(chain(weight("a"), weight("b")), folder / "m.onnx", "m.onnx_data")
    return folder / "m.onnx"


def doubled(path: Path) -> bool | None:
    """Whether the first weight is twice what it was; None where the model is neither the old nor the new one."""
    values = onnx.numpy_helper.to_array(to_proto(read(path)).graph.initializer[0])
    old = onnx.numpy_helper.to_array(weight("a"))
    return True if (values == 2 * old).all() else False if (values == old).all() else None


def test_the_data_keeps_its_name_and_nothing_is_left(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    write(changed(read(path)), path, ASKED)
    assert names(tmp_path) == {*NAMES, "config.json"}
    assert doubled(path)
    assert (tmp_path / "m.onnx_data").stat().st_nlink == 1
    assert not list(tmp_path.glob(".*"))


def test_what_is_checked_is_the_very_file_that_is_published(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    with Publication(path) as publication:
        publication.write(changed(read(path)), untouched=False, layout=ASKED)
        assert doubled(publication.path)
        assert not doubled(path)
        checked = publication.path.read_bytes()
        publication.publish()
    assert path.read_bytes() == checked


def test_a_result_that_is_not_published_leaves_all_as_it_was(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    with Publication(path) as publication:
        publication.write(changed(read(path)), untouched=False, layout=ASKED)
    assert (names(tmp_path), doubled(path)) == (NAMES, False)
    with Publication(path) as publication:
        publication.write(changed(read(path)), untouched=False, layout=ASKED)
        publication.keep_as(tmp_path / "m.failed.onnx")
    assert len(names(tmp_path)) == 4
    assert (doubled(path), doubled(tmp_path / "m.failed.onnx")) == (False, True)


@pytest.mark.parametrize("obstacle", ["another model", "no hard links", "a link", "another output", "not its data"])
def test_where_it_would_take_the_data_of_others_it_gets_another_name(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = target = model_in(tmp_path)
    layout = ASKED
    if obstacle == "another model":
        (tmp_path / "m.onnx.bak").write_bytes(path.read_bytes())
    elif obstacle == "a link":
        (tmp_path / "m.onnx_data").rename(tmp_path / "real")
        (tmp_path / "m.onnx_data").symlink_to("real")
    elif obstacle == "another output":
        target = tmp_path / "n.onnx"
    elif obstacle == "not its data":
        (tmp_path / "w.bin").write_bytes(b"somebody's")
        layout = Layout(Weights.EXTERNAL, "w.bin")
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path) - {"m.onnx"}}
    if obstacle == "no hard links":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    write(changed(read(path)), target, layout)
    assert before.items() <= {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}.items()
    assert doubled(target)
    assert len(names(tmp_path)) == len(before) + (3 if target != path else 2)


KILLED = """
    import os, signal, sys
    from bnfold.onnxfile import Layout, Publication, Weights, read
    from tests.onnxfile.test_write import changed
    def publish(path, last):
        done = 0
        def count(event, _):
            nonlocal done
            if event in ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
                done += 1
                if done == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        with Publication(path) as publication:
            sys.addaudithook(count)
            publication.write(changed(read(path)), untouched=False, layout=Layout(Weights.EXTERNAL, "m.onnx_data"))
            publication.publish()
    for step, path in enumerate(sys.argv[1:], 1):
        child = os.fork()
        if child == 0:
            publish(path, step)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
MOST_STEPS = 30


def test_a_kill_at_any_step_leaves_a_whole_model_and_the_next_run_tidies_up(tmp_path: Path) -> None:
    """One process imports everything, and forks a child for each step that is killed there."""
    paths = [model_in(tmp_path / str(step)) for step in range(MOST_STEPS)]
    words = [sys.executable, "-c", textwrap.dedent(KILLED), *map(str, paths)]
    done = subprocess.run(
        words, check=True, timeout=300, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    codes = list(map(int, done.stdout.split()))
    killed = codes.index(0)
    assert codes == [-signal.SIGKILL] * killed + [0] * (MOST_STEPS - killed)
    assert killed >= 8
    states = set()
    for step, path in enumerate(paths[: killed + 1], 1):
        states.add(doubled(path))
        with Publication(path):
            pass
        assert len(names(path.parent)) in (2, 3)  # between two steps there may be the old data, too
        assert not list(path.parent.glob(".*")), step
        loaded(path)  # by onnx, which refuses data of two names
    assert states == {False, True}


def test_optimize_keeps_the_folder_of_a_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"wide": rng.normal(size=(4, 3, 9, 9)).astype(np.float32)}
    text = "c = Conv<pads=[4,4,4,4]>(x, wide, b) y = BatchNormalization(c, g, h, m, v)"
    onnx.save(
        Row(text, constants=constants).model(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.onnx_data",
        size_threshold=1024,
    )
    report = bnfold.optimize(tmp_path / "m.onnx", tmp_path / "m.onnx", layout=ASKED).report
    assert report.verdict == "equivalent"
    assert names(tmp_path) == NAMES
    assert [node.op_type for node in loaded(tmp_path / "m.onnx").graph.node] == ["Conv"]
    assert not report.notes
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
    (tmp_path / "w.bin").write_bytes(b"somebody's")
    text = (tmp_path / "copy.onnx").read_bytes()
    again = bnfold.optimize(tmp_path / "m.onnx", tmp_path / "m.onnx", layout=Layout(Weights.EXTERNAL, "w.bin")).report
    [new] = names(tmp_path) - {*NAMES, "copy.onnx", "w.bin"}
    assert f"The weights went to {new}: w.bin is there already, and may be needed by other files." in again.notes
    assert (tmp_path / "w.bin").read_bytes() == b"somebody's"
    assert (tmp_path / "copy.onnx").read_bytes() == text
