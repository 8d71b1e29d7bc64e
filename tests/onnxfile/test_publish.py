import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from bnfold.errors import OutputError
from bnfold.onnxfile import Layout, OnnxFile, Publication, Stored, Weights, read
from tests.onnxfile.test_write import Doubled, changed, write
from tests.onnxfile_models import chain, loaded, names, save_external, weight

BIG = 300_000  # float32 elements: more than any buffer on the way


def big(folder: Path, *, external: bool) -> Path:
    """A model of two big weights in a directory of its own."""
    folder.mkdir(exist_ok=True)
    proto = chain(weight("a", BIG), weight("b", BIG))
    if external:
        save_external(proto, folder / "in.onnx", "in.data")
    else:
        onnx.save(proto, folder / "in.onnx")
    return folder / "in.onnx"


def refused(target: Path | str) -> str:
    with pytest.raises(OutputError) as caught, Publication(target):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- refused early


def test_what_could_never_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    assert "there is no directory" in refused(tmp_path / "none" / "o.onnx")
    assert "is a directory" in refused(tmp_path)
    assert "not a file name" in refused("/")
    (tmp_path / "file").write_bytes(b"x")
    assert "there is no directory" in refused(tmp_path / "file" / "o.onnx")
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refused(tmp_path / "fifo")
    assert "not a regular file" in refused("/dev/full")
    (tmp_path / "loop").symlink_to("loop")
    assert "loop" in refused(tmp_path / "loop")
    # The system finds no such file, whatever `os.path.realpath` makes of it.
    assert "there is no directory" in refused(f"{tmp_path}/none/../file")
    (tmp_path / "far").symlink_to("none/../file")
    assert f"there is no directory {tmp_path}/none" in refused(tmp_path / "far")
    assert (tmp_path / "file").read_bytes() == b"x"
    assert "File name too long" in refused(tmp_path / ("x" * 300))
    assert "cannot be written" in refused("a\0b")
    assert names(tmp_path) == {"far", "file", "fifo", "loop"}


def test_read_only_places_are_refused(tmp_path: Path) -> None:
    folder = (
        Path(tempfile.mkdtemp(prefix="bnfold-test-")) if os.geteuid() == 0 else tmp_path
    )  # one that others may enter
    folder.chmod(0o777)
    (folder / "o.onnx").write_bytes(b"old")
    (folder / "o.onnx").chmod(0o444)
    (folder / "closed").mkdir(mode=0o555)
    code = """
        import os, sys
        from bnfold.errors import OutputError
        from bnfold.onnxfile import Publication
        if os.geteuid() == 0:
            os.setuid(65534)
        for target in sys.argv[1:]:
            try:
                Publication(target)
            except OutputError as error:
                print(error)
    """
    targets = [str(folder / "o.onnx"), str(folder / "closed" / "o.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *targets], capture_output=True, text=True, check=False
    )
    if folder != tmp_path:
        shutil.rmtree(folder)
    assert "is not writable" in done.stdout, done.stderr
    assert "is read-only" in done.stdout


# --- permissions and links


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_output_has_normal_permissions(tmp_path: Path, mask: int, mode: int) -> None:
    path = big(tmp_path / "in", external=True)
    (tmp_path / "out").mkdir()
    with umask(mask):
        write(read(path), tmp_path / "out" / "o.onnx")
    for name in ("o.onnx", "in.data"):
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_the_mode_of_a_replaced_file_is_kept(tmp_path: Path, mode: int) -> None:
    path = big(tmp_path / "in", external=True)
    target = tmp_path / "o.onnx"
    target.write_bytes(b"old")
    target.chmod(mode)
    write(read(path), target)
    assert stat.S_IMODE(target.stat().st_mode) == mode == stat.S_IMODE((tmp_path / "in.data").stat().st_mode)
    assert loaded(target) == loaded(path)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symlinked_output_is_written_at_its_target(tmp_path: Path, dangling: bool) -> None:
    path = big(tmp_path / "in", external=True)
    (tmp_path / "real").mkdir()
    if not dangling:
        (tmp_path / "real" / "r.onnx").write_bytes(b"old")
    (tmp_path / "o.onnx").symlink_to(Path("real", "r.onnx"))
    write(read(path), tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").is_symlink()
    assert names(tmp_path / "real") == {"r.onnx", "in.data"}
    assert loaded(tmp_path / "real" / "r.onnx") == loaded(path)
    onnxruntime.InferenceSession(tmp_path / "real" / "r.onnx")


def test_a_hard_linked_old_output_keeps_its_other_name(tmp_path: Path) -> None:
    path = big(tmp_path / "in", external=False)
    (tmp_path / "o.onnx").write_bytes(b"old")
    os.link(tmp_path / "o.onnx", tmp_path / "backup.onnx")
    write(read(path), tmp_path / "o.onnx")
    assert (tmp_path / "backup.onnx").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["ü" * 100 + ".onnx", "x" * 250 + ".onnx", "with space.onnx", "\udcff.onnx", "-o"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    write(read(big(tmp_path / "in", external=False)), tmp_path / name)
    assert names(tmp_path) == {name, "in/in.onnx"}


# --- nothing happens without publish


@pytest.mark.parametrize("external", [False, True])
def test_what_is_not_published_leaves_nothing(tmp_path: Path, external: bool) -> None:
    path = big(tmp_path / "in", external=external)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "o.onnx").write_bytes(b"old")
    with Publication(tmp_path / "out" / "o.onnx") as output:
        output.write(read(path), untouched=False)
        onnxruntime.InferenceSession(output.path)
        assert (tmp_path / "out" / "o.onnx").read_bytes() == b"old"
    assert names(tmp_path / "out") == {"o.onnx"}
    assert (tmp_path / "out" / "o.onnx").read_bytes() == b"old"


def test_directories_made_for_data_are_removed_again(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    save_external(chain(weight("a")), tmp_path / "in" / "m.onnx", "deep/er/w.bin")
    (tmp_path / "out").mkdir()
    with Publication(tmp_path / "out" / "m.onnx") as output:
        output.write(read(tmp_path / "in" / "m.onnx"), untouched=True)
        assert (tmp_path / "out" / "deep" / "er" / "w.bin").exists()
    assert not list((tmp_path / "out").iterdir())


def test_a_failed_output_can_be_kept_under_another_name(tmp_path: Path) -> None:
    path = big(tmp_path / "in", external=True)
    (tmp_path / "o.onnx").write_bytes(b"old")
    with Publication(tmp_path / "o.onnx") as output:
        output.write(read(path), untouched=False)
        with pytest.raises(OutputError, match="must be in the directory"):
            output.keep_as(tmp_path / "in" / "failed.onnx")
        output.keep_as(tmp_path / "failed.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == b"old"
    assert loaded(tmp_path / "failed.onnx") == loaded(path)
    assert names(tmp_path) == {"o.onnx", "failed.onnx", "in.data", "in/in.onnx", "in/in.data"}


# --- machines that fail


FAULTS = ["open", "write", "pwrite", "copy_file_range", "pread", "fsync", "link", "replace", "fchmod", "preadv"]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", FAULTS)
def test_a_failing_system_call_leaves_the_old_output_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, external: bool
) -> None:
    path = big(tmp_path / "in", external=external)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "o.onnx"
    target.write_bytes(b"old")
    real = getattr(os, call)
    calls = 0
    for failing in range(1, 100):  # the first call fails, then the second, and so on until none does
        calls = 0
        file = changed(read(path))

        def fail(*args: object, failing: int = failing, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        monkeypatch.setattr(os, call, fail)
        try:
            with Publication(target) as output:
                output.write(file, untouched=False)
                output.publish()
        except OutputError as error:
            message = str(error)
        else:
            message = ""
        finally:
            monkeypatch.setattr(os, call, real)
        if not message:
            break
        assert os.strerror(code) in message
        assert str(target) in message
        assert target.read_bytes() == b"old"
        assert names(tmp_path / "out") == {"o.onnx"}
    assert loaded(target).graph.initializer[1] == loaded(path).graph.initializer[1]
    assert names(tmp_path / "out") == ({"o.onnx", "in.data"} if external else {"o.onnx"})


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("limit", [0, 100, 100_000, 1_300_000, 2_000_000])
def test_a_file_size_limit_leaves_the_old_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, external: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module imported under the limit would be left cut off
    path = big(tmp_path / "in", external=external)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "o.onnx").write_bytes(b"old")
    file = changed(read(path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match="File too large"), Publication(tmp_path / "out" / "o.onnx") as output:
            output.write(file, untouched=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path / "out") == {"o.onnx"}
    assert (tmp_path / "out" / "o.onnx").read_bytes() == b"old"


class Interrupting(Doubled):
    def chunks(self) -> Iterator[memoryview]:
        yield next(super().chunks())
        raise KeyboardInterrupt


@pytest.mark.parametrize("external", [False, True])
def test_ctrl_c_while_weights_are_written_leaves_nothing(tmp_path: Path, external: bool) -> None:
    path = big(tmp_path / "in", external=external)
    file = read(path)
    file.payloads[1] = Stored(Interrupting(file.payloads[1].payload), file.payloads[1].location)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt), Publication(tmp_path / "out" / "o.onnx") as output:
        output.write(file, untouched=False)
    assert names(tmp_path / "out") == set()


@pytest.mark.parametrize("call", ["replace", "fsync", "link"])
@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_around_a_system_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, late: bool
) -> None:
    path = big(tmp_path / "in", external=True)
    target = tmp_path / "out" / "o.onnx"
    target.parent.mkdir()
    target.write_bytes(b"old")
    real = getattr(os, call)

    def interrupted(*args: object, **options: object) -> None:
        if late:
            real(*args, **options)
        raise KeyboardInterrupt

    def run() -> None:
        with Publication(target) as output:
            if call == "link":
                monkeypatch.setattr(os, call, interrupted)
            output.write(read(path), untouched=False)
            monkeypatch.setattr(os, call, interrupted)
            output.publish()

    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(os, call, real)
    if call == "replace" and late:
        assert names(target.parent) == {"o.onnx", "in.data"}
        assert loaded(target) == loaded(path)
    else:
        assert names(target.parent) == {"o.onnx"}
        assert target.read_bytes() == b"old"


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("durable", [True, False])
def test_the_disk_is_waited_for_where_what_was_written_is_to_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, durable: bool
) -> None:
    path = big(tmp_path / "in", external=external)
    folder = tmp_path / "out"
    folder.mkdir()
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    with Publication(folder / "o.onnx") as output:
        output.write(read(path), untouched=False)
        output.publish(durable=durable)
    assert loaded(folder / "o.onnx") == loaded(path)
    made = {entry.stat().st_ino for entry in [folder, *folder.iterdir()]}
    assert synced == (made if durable else set())


# --- other processes


def test_a_second_process_on_the_same_output_is_refused(tmp_path: Path) -> None:
    with Publication(tmp_path / "o.onnx"):
        assert "another bnfold" in refused(tmp_path / "o.onnx")
        with Publication(tmp_path / "other.onnx"):
            pass
    with Publication(tmp_path / "o.onnx"):
        pass
    assert names(tmp_path) == set()


KILLED = """
    import os, signal, sys
    from bnfold.onnxfile import Publication, read
    source, target, moment = sys.argv[1:]
    real = getattr(os, moment.split("-")[0])
    def die(*args, **options):
        if moment.endswith("after"):
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    with Publication(target) as output:
        if moment.startswith(("fsync", "replace")):
            output.write(read(source), untouched=False)
        setattr(os, moment.split("-")[0], die)
        if not moment.startswith(("fsync", "replace")):
            output.write(read(source), untouched=False)
        output.publish()
"""


@pytest.mark.parametrize(
    "moment", ["copy_file_range-before", "link-before", "link-after", "fsync-after", "replace-after"]
)
def test_what_a_killed_process_leaves_is_swept_by_the_next(tmp_path: Path, moment: str) -> None:
    path = big(tmp_path / "in", external=True)
    target = tmp_path / "out" / "o.onnx"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(target), moment], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    left = names(target.parent)
    assert len(left) >= 2
    assert target.exists() == (moment == "replace-after")
    with Publication(target):
        pass
    assert names(target.parent) == ({"o.onnx", "in.data"} if moment == "replace-after" else set())


def test_a_forged_list_of_leftovers_removes_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.onnx").write_bytes(b"x")
    lines = [
        '["../precious", null]',
        '["mine.onnx", null]',
        '["mine.onnx", [1, 2]]',
        "[",
        "3",
        '{"a": 1}',
        "\0",
        "[1, 2]",
    ]
    (tmp_path / "out" / ".o.onnx.lock.bnfold").write_text("\n".join(lines))
    with Publication(tmp_path / "out" / "o.onnx"):
        pass
    assert names(tmp_path) == {"precious", "out/mine.onnx"}


# --- old data


def new_version(file: OnnxFile, factor: int) -> OnnxFile:
    for _ in range(factor):
        file = changed(file)
        file.payloads[0] = file.payloads[-1]
    return file


def test_data_that_an_overwritten_output_needed_is_removed_if_bnfold_wrote_it(tmp_path: Path) -> None:
    path = big(tmp_path / "in", external=True)
    target = tmp_path / "out" / "o.onnx"
    target.parent.mkdir()
    for factor in range(4):
        write(new_version(read(path), factor), target)
        assert len(names(target.parent)) == 2, factor
    write(read(path), target, Layout(Weights.INLINE))
    assert names(target.parent) == {"o.onnx"}


def test_data_that_somebody_else_wrote_or_needs_stays(tmp_path: Path) -> None:
    save_external(chain(weight("a", BIG)), tmp_path / "foreign.onnx", "foreign.data")
    write(read(chain(weight("b"))), tmp_path / "foreign.onnx")
    assert (tmp_path / "foreign.data").exists()
    path = big(tmp_path / "in", external=True)
    write(read(path), tmp_path / "o.onnx")
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "o.onnx").read_bytes())
    write(read(path), tmp_path / "o.onnx", Layout(Weights.INLINE))
    assert loaded(tmp_path / "copy.onnx") == loaded(path)


def test_in_place_runs_with_external_data_keep_one_data_file(tmp_path: Path) -> None:
    path = big(tmp_path / "m", external=True)
    target = tmp_path / "o.onnx"
    write(read(path), target)
    for _ in range(3):
        write(changed(read(target)), target)
        assert len(names(tmp_path)) == 4
    values = onnx.numpy_helper.to_array(loaded(target).graph.initializer[0])
    assert (values == onnx.numpy_helper.to_array(weight("a", BIG)) * 8).all()


@pytest.mark.parametrize("name", ["o.onnx.bak", "best.ONNX", "model", "o.txt", "sub/x.onnx", "../above.onnx", "link"])
def test_old_data_that_another_file_names_is_left_and_said_so(name: str, tmp_path: Path) -> None:
    path = big(tmp_path / "in", external=True)
    folder = tmp_path / "above" / "out"
    folder.mkdir(parents=True)
    target = folder / "o.onnx"
    write(read(path), target, Layout(Weights.EXTERNAL))
    old = sorted(names(folder) - {"o.onnx"})
    assert old == ["o.onnx.data"]
    model = target.read_bytes()
    if name == "sub/x.onnx":
        (folder / "sub").mkdir()
        proto = onnx.load_from_string(model)
        for tensor in proto.graph.initializer:
            tensor.external_data[0].value = "../o.onnx.data"
        (folder / name).write_bytes(proto.SerializeToString())
    elif name == "../above.onnx":
        proto = onnx.load_from_string(model)
        for tensor in proto.graph.initializer:
            tensor.external_data[0].value = "out/o.onnx.data"
        (folder / name).write_bytes(proto.SerializeToString())
    elif name == "link":
        (tmp_path / "real.onnx").write_bytes(model)
        (folder / "link").symlink_to(tmp_path / "real.onnx")
    elif name == "o.txt":
        (folder / name).write_bytes(b'weights: location "o.onnx.data"')
    else:
        (folder / name).write_bytes(model)
    with Publication(target) as publication:
        publication.write(read(path), untouched=False, layout=Layout(Weights.INLINE))
        publication.publish()
    assert publication.left == (folder / "o.onnx.data",)
    assert (folder / "o.onnx.data").exists()


def test_old_data_goes_where_other_files_are_no_models_of_it(tmp_path: Path) -> None:
    path = big(tmp_path / "in", external=True)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "o.onnx"
    write(read(path), target, Layout(Weights.EXTERNAL))
    save_external(chain(weight("b", BIG)), tmp_path / "out" / "other.onnx", "other.data")
    (tmp_path / "out" / "notes.txt").write_text("nothing about data")
    (tmp_path / "out" / "array.bin").write_bytes(os.urandom(1 << 16))
    with Publication(target) as publication:
        publication.write(read(path), untouched=False, layout=Layout(Weights.INLINE))
        publication.publish()
    assert publication.left == ()
    assert names(tmp_path / "out") == {"o.onnx", "other.onnx", "other.data", "notes.txt", "array.bin"}


def test_old_data_is_left_where_there_are_too_many_files_to_look_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = big(tmp_path / "in", external=True)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "o.onnx"
    write(read(path), target, Layout(Weights.EXTERNAL))
    for number in range(4):
        (tmp_path / "out" / str(number)).touch()
    monkeypatch.setattr("bnfold.onnxfile.old_data.MOST_FILES", 3)
    with Publication(target) as publication:
        publication.write(read(path), untouched=False, layout=Layout(Weights.INLINE))
        publication.publish()
    assert publication.left == (tmp_path / "out" / "o.onnx.data",)


# --- a signal between a system call and the note of its result


CALLS = (
    *("open", "close", "write", "pwrite", "fsync", "link", "unlink", "rename", "replace"),
    *("ftruncate", "fstat", "stat"),
)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_signal_right_after_any_system_call_leaves_nothing(
    in_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KeyboardInterrupt comes once, after the first call, after the second, and so on until none is left."""
    sound = chain(weight("a"), weight("b"))
    countdown = -1

    def interrupting(call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal countdown
            result = call(*args, **options)
            if sys._getframe(1).f_code.co_name in ("close", "__del__", "_let_go"):  # there Python lets no exception out
                return result
            countdown -= 1
            if countdown == 0:
                raise KeyboardInterrupt
            return result

        return wrapped

    for name in CALLS:
        monkeypatch.setattr(os, name, interrupting(getattr(os, name)))
    outcomes = []
    for position in range(1, 1000):
        folder = tmp_path / str(position)
        folder.mkdir()
        save_external(sound, folder / "in.onnx")
        target = folder / ("in.onnx" if in_place else "o.onnx")
        if not in_place:
            target.write_bytes(b"old")
        old = {path.name: path.read_bytes() for path in folder.iterdir()}
        file = read(folder / "in.onnx")
        file.proto.doc_string = "new"
        countdown = position
        interrupted = False
        try:
            with Publication(target) as publication:
                publication.write(file, untouched=False)
                publication.publish()
        except KeyboardInterrupt:
            interrupted = True
        finished, countdown = countdown > 0, -1
        now = {path.name: path.read_bytes() for path in folder.iterdir()}
        published = now[target.name] != old[target.name]
        assert published or now == old, (position, sorted(now))
        assert not [name for name in now if name.startswith(".")], (position, sorted(now))
        assert not published or len(onnx.load(target).graph.node) == 2
        outcomes.append((interrupted, published))
        if finished:
            break
    assert outcomes[-1] == (False, True)
    assert (True, False) in outcomes
    assert len(outcomes) > 30


# --- made in the workshop


def publish_from_workshop(source: Path, target: Path) -> None:
    with Publication(target) as publication:
        with publication.workshop() as folder:
            made = shutil.copytree(source.parent, folder / "made") / source.name
            publication.write(read(made), untouched=True, ours=True)
        publication.publish()


@pytest.mark.parametrize("external", [False, True])
def test_a_model_that_was_made_in_the_workshop_is_moved_and_not_copied(tmp_path: Path, *, external: bool) -> None:
    source, target = big(tmp_path / "in", external=external), tmp_path / "out" / "o.onnx"
    target.parent.mkdir()
    target.write_bytes(source.read_bytes())
    target.chmod(0o640)
    with Publication(target) as publication:
        with publication.workshop() as folder:
            made = shutil.copytree(source.parent, folder / "made") / source.name
            nodes = {path.name: path.stat().st_ino for path in made.parent.iterdir()}
            publication.write(read(made, strict_external_data=True), untouched=True, ours=True)
            assert not made.exists()
            assert publication.path.stat().st_ino == nodes["in.onnx"]
        publication.publish()
    assert {path.name for path in target.parent.iterdir()} == {"o.onnx"} | ({"in.data"} if external else set())
    assert target.stat().st_ino == nodes["in.onnx"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    for path in target.parent.iterdir():
        assert path.stat().st_nlink == 1  # onnx refuses data of two names
    assert loaded(target) == loaded(source)


def test_a_workshop_model_is_copied_where_files_get_no_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = big(tmp_path / "in", external=True), tmp_path / "o.onnx"

    def refuse(*_paths: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    publish_from_workshop(source, target)
    assert loaded(target) == loaded(source)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "o.onnx", "in.data"}


def test_a_workshop_model_is_written_anew_where_the_name_of_its_data_is_taken(tmp_path: Path) -> None:
    source, target = big(tmp_path / "in", external=True), tmp_path / "o.onnx"
    (tmp_path / "in.data").write_bytes(b"of somebody else")
    publish_from_workshop(source, target)
    assert loaded(target) == loaded(source)
    assert (tmp_path / "in.data").read_bytes() == b"of somebody else"
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".")]) == 0


@pytest.mark.parametrize("written", [False, True])
def test_the_next_bnfold_removes_the_workshop_of_one_that_was_killed(tmp_path: Path, *, written: bool) -> None:
    source, target = big(tmp_path / "in", external=True), tmp_path / "out" / "o.onnx"
    target.parent.mkdir()
    program = f"""
        import os, shutil, signal
        from bnfold.onnxfile import Publication, read
        with Publication({str(target)!r}) as publication, publication.workshop() as folder:
            made = shutil.copytree({str(source.parent)!r}, folder / "made") / "in.onnx"
            if {written}:
                publication.write(read(made), untouched=True, ours=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(path.is_dir() for path in target.parent.iterdir())
    with Publication(target):
        pass
    assert list(target.parent.iterdir()) == []
