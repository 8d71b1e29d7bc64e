"""Nothing that is written is something that is read: every pair of roles in every command, links included."""
# ruff: noqa: ARG001 - the fixtures `folder` and `models` change into a folder of their own

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import bnfold
from bnfold.cli import main
from bnfold.errors import UsageError
from bnfold.onnxfile import Layout, Weights
from bnfold.paths import Use, is_same, refuse_conflicts
from tests.fold_models import Row, numbers
from tests.report_samples import old

MODELS = Path(__file__).parents[2] / "models"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(MODELS.parent)}
SCRIPT = "import numpy\ndef f():\n    yield {'images': numpy.zeros((2, 1, 8, 8), numpy.float32)}\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file for each role that is read; weights lie in `w.bin`."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, data in (("in.onnx", "w.bin"), ("other.onnx", "o.bin")):
        proto = onnx.load(MODELS / "digits_cnn.onnx")
        onnx.save(proto, folder / name, save_as_external_data=True, location=data, size_threshold=0)
    np.savez(folder / "d.npz", images=np.zeros((2, 1, 8, 8), np.float32))
    (folder / "s.py").write_text(SCRIPT)
    (folder / "data").mkdir()
    np.savez(folder / "data" / "f.npz", images=np.zeros((2, 1, 8, 8), np.float32))
    (folder / "st.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (folder / "r.json").write_text(json.dumps(old("optimize")))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "work"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    return place


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


DATA = {
    "d.npz": ["--inputs", "d.npz"],
    "data/f.npz": ["--inputs", "data"],
    "s.py": ["--inputs", "s.py:f"],
}
READ: dict[str, dict[str, list[str]]] = {
    "optimize": {
        "w.bin": [],
        **DATA,
        "st.safetensors": ["--statistics-from", "st.safetensors"],
    },
    "freeze": {"w.bin": [], **DATA},
    "recalibrate": {
        "w.bin": ["--data", "d.npz"],
        "d.npz": ["--data", "d.npz"],
        "data/f.npz": ["--data", "data"],
        "s.py": ["--data", "s.py:f"],
        "st.safetensors": ["--statistics-from", "st.safetensors"],
    },
    "verify": {"in.onnx": [], "w.bin": [], "other.onnx": [], "o.bin": [], **DATA},
}
READ["optimize"] |= {
    "d.npz ": ["--recalibrate", "d.npz"],
    "s.py ": ["--substitute", "layer-norm", "--data", "s.py:f"],
    "data/f.npz ": ["--recalibrate", "data"],
}
WRITTEN: dict[str, Callable[[str, str], list[str]]] = {
    "OUTPUT": lambda model, place: [model, place],
    "--report": lambda model, place: [model, "new.onnx", "--report", place, "--report-format", "json"],
    "the failed copy": lambda model, place: [model, place.replace(".failed", ""), "--keep-failed"],
    "the data": lambda model, place: [model, "new.onnx", f"--external-data={place}"],
}
LINKS: dict[str, Callable[[Path], str]] = {
    "itself": lambda path: str(path),
    "another spelling": lambda path: f"./{path.parent}/../{path.parent.resolve().name}/{path.name}",
    "symbolic link": lambda path: _made(path, lambda link: link.symlink_to(path.resolve())),
    "hard link": lambda path: _made(path, lambda link: link.hardlink_to(path)),
    "through a linked folder": lambda path: _linked_folder(path),
}


def _made(path: Path, make: Callable[[Path], None]) -> str:
    link = Path(f"link{path.suffix}")
    make(link)
    return str(link)


def _linked_folder(path: Path) -> str:
    Path("folder").symlink_to(path.resolve().parent)
    return f"folder/{path.name}"


PAIRS = [
    (command, read, written)
    for command, reads in READ.items()
    for read in reads
    for written in (["--report"] if command == "verify" else ["OUTPUT", "--report", "the data"])
    if not (written == "the data" and read.strip() == "data/f.npz")  # a name in the folder of OUTPUT
] + [(command, "in.onnx", "--report") for command in ("optimize", "freeze", "recalibrate")]


@pytest.mark.parametrize(("command", "read", "written"), PAIRS)
def test_what_is_read_is_never_written(command: str, read: str, written: str, folder: Path) -> None:
    """In one test all spellings of the path: the refusal comes before the work, so it is quick."""
    place = Path(read.strip())
    for spelling in LINKS.values() if written != "the data" else [LINKS["itself"]]:
        named = spelling(place)
        before = content(folder)
        words = READ[command].get(read, READ[command]["w.bin"])
        if command == "verify":
            arguments = ["in.onnx", "other.onnx", "--report", named, "--report-format", "json"]
        else:
            arguments = WRITTEN[written]("in.onnx", named)
        result = run(command, *arguments, *words)
        assert result.exit_code == 2, (named, result.stderr)
        assert "would be written over" in result.stderr
        assert content(folder) == before
        for link in ("folder", f"link{place.suffix}"):
            if os.path.lexists(link):
                Path(link).unlink()


@pytest.mark.parametrize(
    "words", [["in.onnx", "none/../w.bin"], ["in.onnx", "none/"], ["in.onnx", "o.onnx", "--report", "none/../in.json"]]
)
def test_a_place_in_a_folder_that_is_not_there_is_refused(words: list[str], folder: Path) -> None:
    before = content(folder)
    result = run("optimize", *words)
    assert result.exit_code == 4, result.stderr
    assert content(folder) == before


MODULE = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)), (torch.zeros(1, 2, 5, 4),)
"""


@pytest.mark.parametrize("read", ["module.py", "weights.pth", "d.npz", "s.py", "bnfold.toml"])
def test_what_an_export_reads_is_never_written(read: str, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    (folder / "module.py").write_text(MODULE)
    (folder / "bnfold.toml").write_text("")
    torch.save({"0.weight": torch.zeros(3, 2, 3, 3)}, folder / "weights.pth")
    words = {"d.npz": ["--inputs", "d.npz"], "s.py": ["--pass", "s.py:f"]}.get(read, ["--checkpoint", "weights.pth"])
    for spelling in LINKS.values():
        named = spelling(Path(read))
        before = content(folder)
        for outputs in ([named], ["new.onnx", "--report", named, "--report-format", "json"]):
            result = run("export", "module.py:make", *outputs, "--accept-initial-statistics", *words)
            assert (result.exit_code, "would be written over" in result.stderr) == (2, True), (named, result.stderr)
            assert content(folder) == before
        for link in ("folder", f"link{Path(read).suffix}"):
            if os.path.lexists(link):
                Path(link).unlink()


@pytest.mark.parametrize("command", ["optimize", "freeze", "recalibrate", "verify"])
def test_a_configuration_is_never_written(command: str, folder: Path) -> None:
    (folder / "bnfold.toml").write_text("")
    before = content(folder)
    words = ["--data", "d.npz"] if command == "recalibrate" else []
    for paths in (["other.onnx", "--report", "bnfold.toml", "--report-format", "json"], ["bnfold.toml"]):
        if command == "verify" and len(paths) == 1:
            continue
        result = run(command, "in.onnx", *paths, *words)
        assert (result.exit_code, "over the configuration" in result.stderr) == (2, True), result.stderr
        assert content(folder) == before


@pytest.mark.parametrize("command", ["optimize", "freeze"])
def test_a_failed_copy_is_never_written_over_the_model(command: str, folder: Path) -> None:
    shutil.copy("in.onnx", "m.failed.onnx")
    before = content(folder)
    result = run(command, "m.failed.onnx", "m.onnx", "--keep-failed")
    assert result.exit_code == 2
    assert "the failed result would be written over MODEL" in result.stderr
    assert content(folder) == before


@pytest.mark.parametrize("link", ["itself", "symbolic link", "hard link"])
def test_a_saved_report_is_not_replaced_while_it_is_read(link: str, folder: Path) -> None:
    place = LINKS[link](Path("r.json"))
    before = content(folder)
    for words in (["judge", "r.json", "--report", place], ["render", "r.json", place]):
        result = run("report", *words)
        assert (result.exit_code, "would be written over REPORT" in result.stderr) == (2, True)
    assert content(folder) == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("out.onnx", []),
        ("out.failed.onnx", []),
        ("new.bin", ["--external-data=new.bin"]),
        ("out.onnx.data", ["--external-data"]),
        ("w.bin", []),
    ],
)
def test_a_report_is_none_of_the_other_outputs(place: str, words: list[str], folder: Path) -> None:
    (folder / "new").mkdir()
    before = content(folder)
    report = ["--report", f"new/{place}", "--report-format", "json"]
    result = run("optimize", "in.onnx", "new/out.onnx", *words, *report)
    assert result.exit_code == 2
    assert "which this run uses" in result.stderr
    assert content(folder) == before


def test_a_report_is_not_the_data_of_the_output_before(folder: Path) -> None:
    assert run("optimize", "in.onnx", "out.onnx", "--no-verify", "--external-data=x.bin").exit_code == 0
    result = run("optimize", "in.onnx", "out.onnx", "--no-verify", "--report", "x.bin", "--report-format", "json")
    assert (result.exit_code, "the data of OUTPUT" in result.stderr) == (2, True)
    assert run("verify", "in.onnx", "out.onnx").exit_code == 0


def test_in_place_stays_allowed(folder: Path) -> None:
    assert run("optimize", "in.onnx", "in.onnx", "--no-verify").exit_code == 0
    Path("link.onnx").symlink_to("in.onnx")
    assert run("optimize", "link.onnx", "in.onnx", "--no-verify", "--external-data=w.bin").exit_code == 0
    assert run("verify", "in.onnx", "other.onnx").exit_code == 0


def test_the_library_refuses_as_the_command_does(folder: Path) -> None:
    before = content(folder)
    layout = Layout(Weights.EXTERNAL, "d.npz")
    for output, options in (
        ("w.bin", {}),
        ("d.npz", {"inputs": "d.npz"}),
        ("n.onnx", {"inputs": "d.npz", "layout": layout}),
    ):
        with pytest.raises(UsageError, match="would be written over"):
            bnfold.optimize("in.onnx", output, **options)
    assert content(folder) == before


def test_files_are_compared_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "l").symlink_to("c")
    assert is_same(tmp_path / "a", tmp_path / "x" / ".." / "a") is False  # there is no x
    assert is_same(tmp_path / "a", tmp_path / "." / "a")
    assert not is_same(tmp_path / "a", tmp_path / "b")
    assert not is_same(tmp_path / "a", tmp_path / "A")
    assert is_same(tmp_path / "c", tmp_path / "l")
    assert is_same(tmp_path / "n\u00e9w", tmp_path / unicodedata.normalize("NFD", "N\u00c9W"))
    assert not is_same(tmp_path / "c", tmp_path / "d")
    refuse_conflicts([Use("MODEL", Path(os.devnull))], [Use("--report", Path(os.devnull))] * 2)


# --- bad paths get a sentence


def test_a_model_does_not_go_to_a_file_named_dash(folder: Path) -> None:
    result = run("optimize", "in.onnx", "-")
    assert result.exit_code == 0
    assert onnx.load_from_string(result.stdout_bytes).graph.node
    assert not Path("-").exists()


def test_statistics_from_a_pipe_are_not_waited_for(folder: Path) -> None:
    os.mkfifo("pipe")
    result = run("optimize", "in.onnx", "out.onnx", "--statistics-from", "pipe")
    assert (result.exit_code, "is not a regular file" in result.stderr) == (2, True)


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_what_may_never_end_is_no_configuration_and_no_list_of_tokens(path: str, folder: Path) -> None:
    os.mkfifo("fifo")
    for words in (
        ["optimize", "in.onnx", "out.onnx", "--config", path],
        ["serve", "--host", "0.0.0.0", "--token-file", path],
    ):
        result = run(*words)
        assert (result.exit_code, "is not a regular file" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "fifo", "."])
def test_what_is_no_file_is_no_report(path: str, folder: Path) -> None:
    os.mkfifo("fifo")
    result = run("report", "judge", path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_a_report_may_come_through_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "bnfold", "report", "judge", "/dev/stdin"]
    text = (folder / "r.json").read_bytes()
    done = subprocess.run(command, input=text, capture_output=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/sys/kernel/notes").is_file(), reason="there is no such file")
def test_a_file_that_the_system_makes_up_is_no_model(folder: Path) -> None:
    for path in ("/sys/kernel/notes", "/proc/self/status"):
        result = run("optimize", path, "out.onnx")
        assert (result.exit_code, result.stderr.count("\n")) == (3, 1), result.stderr


def test_a_name_that_is_not_utf8_is_said_to_be_so(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.onnx")
    result = run("optimize", "in.onnx", name)
    assert (result.exit_code, "is not UTF-8" in result.stderr) == (2, True)
    shutil.copy("in.onnx", name)
    result = run("verify", "in.onnx", name)
    assert (result.exit_code, "the name of CANDIDATE is not UTF-8" in result.stderr) == (2, True)


def test_a_report_of_another_kind_is_refused(folder: Path) -> None:
    result = run("optimize", "in.onnx", "out.onnx", "--report", "r.pdf")
    assert (result.exit_code, "r.pdf: the name tells no format" in result.stderr) == (2, True)
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize("command", [["optimize", "in.onnx", "out.onnx", "--no-verify"], ["inspect", "in.onnx"]])
def test_a_pattern_that_matches_nothing_is_said(command: list[str], folder: Path) -> None:
    result = run(*command, "--keep", "nomatch*", "--keep", "*")
    assert result.exit_code == 0
    assert "note: --keep nomatch* matches no normalization." in result.stdout
    assert "--keep * matches" not in result.stdout


# --- another model at the output


@pytest.fixture(params=["marks", "no marks"])
def marks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With extended attributes, and as on a file system that has none."""
    if request.param == "no marks":
        monkeypatch.delattr(os, "setxattr", raising=False)
        monkeypatch.delattr(os, "getxattr", raising=False)
    kind: str = request.param
    return kind


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two trainings of one network, and another network."""
    monkeypatch.chdir(tmp_path)
    wide = {"w": numbers(4, 3, 9, 9)}  # large enough to be stored beside the model
    text = "c = Conv<pads=[4,4,4,4]>(x, w, b) {} = BatchNormalization(c, g, h, m, v)"
    proto = Row(text.format("y"), constants=wide).model()
    onnx.save(proto, "a.onnx")
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array((array * 1.5).astype(np.float32), tensor.name))
    onnx.save(proto, "b.onnx")
    onnx.save(Row(text.format("z"), constants=wide, outputs=("z",)).model(), "c.onnx")
    return tmp_path


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("other", ["b.onnx", "c.onnx"])
def test_another_model_is_not_overwritten(other: str, models: Path) -> None:
    before = content(models)
    result = run("optimize", "a.onnx", other, "--no-verify")
    assert (result.exit_code, "--overwrite" in result.stderr) == (2, True)
    assert content(models) == before
    assert run("optimize", "a.onnx", other, "--no-verify", "--overwrite").exit_code == 0
    assert content(models)[other] != before[other]


@pytest.mark.parametrize("other", ["b.onnx", "c.onnx"])
def test_a_failed_copy_replaces_no_other_model(other: str, marks: str, models: Path) -> None:
    """It replaces a former one; without marks also what has its inputs and outputs."""
    assert run("optimize", other, "out.failed.onnx", "--no-verify").exit_code == 0
    before = content(models)
    words = ("optimize", "a.onnx", "out.onnx", "--no-proof", "--rtol=0", "--atol=0", "--keep-failed")
    result = run(*words)
    if other == "c.onnx" or marks != "no marks":
        assert result.exit_code == 2
        assert "out.failed.onnx: is a model already" in result.stderr
        assert content(models) == before
    for flags in (["--overwrite"], []):  # a second run needs no flag
        assert run(*words, *flags).exit_code == 1
        assert content(models)["out.failed.onnx"] != before["out.failed.onnx"]
    assert not Path("out.onnx").exists()


@pytest.mark.usefixtures("marks")
@pytest.mark.parametrize("words", [[], ["--lower"], ["--external-data=o.bin"], ["--dry-run"]])
def test_a_second_run_needs_no_flag(words: list[str], models: Path) -> None:
    for _ in range(3):
        result = run("optimize", "a.onnx", "out.onnx", "--no-verify", *words)
        assert result.exit_code == 0, result.stderr


@pytest.mark.usefixtures("marks")
def test_a_model_that_was_trained_further_needs_no_flag(models: Path) -> None:
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 0
    shutil.copy("b.onnx", "a.onnx")
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 0


@pytest.mark.usefixtures("marks")
def test_a_second_run_where_nothing_changes_needs_no_flag(models: Path) -> None:
    assert run("optimize", "a.onnx", "folded.onnx", "--no-verify").exit_code == 0
    for _ in range(2):
        assert run("optimize", "folded.onnx", "out.onnx", "--no-verify").exit_code == 0


def test_with_a_mark_other_options_need_no_flag(models: Path) -> None:
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 0
    assert run("freeze", "a.onnx", "out.onnx", "--no-verify").exit_code == 0


def test_a_mark_ends_where_somebody_writes_to_the_file(models: Path) -> None:
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 0
    Path("out.onnx").write_bytes(Path("b.onnx").read_bytes())
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 2


def test_not_one_byte_tells_of_the_mark(models: Path) -> None:
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 0
    first = Path("out.onnx").read_bytes()
    shutil.copy("a.onnx", "z.onnx")
    assert run("optimize", "z.onnx", "out2.onnx", "--no-verify").exit_code == 0
    assert Path("out2.onnx").read_bytes() == first


def test_what_is_no_model_may_be_replaced(models: Path) -> None:
    Path("out.onnx").write_text("notes")
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify").exit_code == 0


def test_the_library_has_the_same_rule(models: Path) -> None:
    with pytest.raises(UsageError, match="is a model already"):
        bnfold.optimize("a.onnx", "b.onnx", verify=False)
    model = onnx.load("a.onnx")
    for _ in range(2):
        bnfold.optimize(model, "out.onnx", verify=False)
    bnfold.optimize("a.onnx", "b.onnx", verify=False, overwrite=True)


def test_old_data_that_was_left_is_in_the_report(models: Path) -> None:
    assert run("optimize", "a.onnx", "out.onnx", "--no-verify", "--external-data=o.bin").exit_code == 0
    shutil.copy("out.onnx", "out.onnx.bak")
    result = run("optimize", "a.onnx", "out.onnx", "--no-verify", "--inline", "--report", "r.json")
    assert result.exit_code == 0
    assert "o.bin is not needed any more; it stays, since other files may name it." in result.stdout
    assert any("o.bin" in note for note in json.loads(Path("r.json").read_text())["notes"])
