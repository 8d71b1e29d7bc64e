"""The files of models are read once or twice, however many stages look at them.

Counted is what Python opens; onnxruntime opens the file that it loads on its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import bnfold
from bnfold.onnxfile import Stored, model_file
from bnfold.onnxfile.source import Source
from tests.optimization.test_rollback import at, chain, plant

REPOSITORY = Path(__file__).parents[1]
DIGITS, TRAIN = (REPOSITORY / "models" / name for name in ("digits_cnn.onnx", "digits_cnn_train.onnx"))
LABELLED = REPOSITORY / "models" / "digits.npz"

# Each command in a folder of its own, all in one process, which is spared for it: an audit hook cannot be taken away.
COUNTING = """
import collections, json, os, sys
opened = collections.Counter()

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        opened[os.path.realpath(os.fsdecode(arguments[0]))] += 1

sys.addaudithook(note)
from bnfold.cli import main
home, found = os.getcwd(), {}
with open("commands.json") as stream:
    commands = json.load(stream)
for number, (what, arguments) in enumerate(commands.items()):
    os.mkdir(str(number))
    os.chdir(str(number))
    opened.clear()
    main(arguments, standalone_mode=False)
    found[what] = dict(opened)
    os.chdir(home)
with open("found.json", "w") as stream:
    json.dump(found, stream)
"""

REPORTS = ("--report", "r.json", "--report", "r.html", "--report", "r.md")
MAKE: dict[str, tuple[object, ...]] = {
    "optimize": ("optimize", DIGITS, "o.onnx"),
    "optimize, with reports": ("optimize", DIGITS, "o.onnx", *REPORTS),
    "optimize without proof": ("optimize", DIGITS, "o.onnx", "--no-proof"),
    "freeze": ("freeze", TRAIN, "o.onnx"),
    "recalibrate, and optimize": ("optimize", TRAIN, "o.onnx", "--recalibrate", LABELLED, "--mode", "fast", *REPORTS),
}
FOLDED = "../0/o.onnx"  # of the first command
VERIFY: dict[str, tuple[object, ...]] = {
    "verify": ("verify", DIGITS, FOLDED),
    "verify with proof": ("verify", DIGITS, FOLDED, "--proof"),
    "verify with layers and a report": ("verify", DIGITS, FOLDED, "--proof", "--layers", "--report", "r.json"),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """By command: how often it opens each file."""
    folder = tmp_path_factory.mktemp("opened")
    commands = {what: [*map(str, arguments)] for what, arguments in (MAKE | VERIFY).items()}
    (folder / "commands.json").write_text(json.dumps(commands))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", COUNTING], check=False, capture_output=True, text=True, cwd=folder,
                          env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int]] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("what", MAKE)
def test_a_model_is_read_once_and_once_more_where_no_report_must_overwrite_its_data(
    what: str, opened: dict[str, dict[str, int]]
) -> None:
    counted, arguments = opened[what], MAKE[what]
    assert counted[os.path.realpath(str(arguments[1]))] == 1 + ("--report" in arguments)
    written = [number for name, number in counted.items() if "/.o.onnx." in name and not name.endswith("lock.bnfold")]
    assert written
    # It is created, read for the comparison and for task accuracy, and synchronized before it is published.
    assert max(written) <= 3 + (LABELLED in arguments)


@pytest.mark.parametrize("what", VERIFY)
def test_verify_asks_the_structures_that_were_read(what: str, opened: dict[str, dict[str, int]]) -> None:
    """Once more for a report, and once as bytes for the sessions that give out inner values, 16 of them at a time."""
    arguments, expected = VERIFY[what], 1 + ("--report" in VERIFY[what]) + ("--layers" in VERIFY[what])
    folded = next(name for name in opened[what] if name.endswith("/0/o.onnx"))
    assert [opened[what][os.path.realpath(str(DIGITS))], opened[what][folded]] == [expected] * 2, arguments


def test_each_attempt_of_a_rollback_edits_a_copy_of_what_was_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With one fold planted wrong, several attempts are made: from one reading, each from the input as it was."""
    plant(monkeypatch, at(2))
    onnx.save(chain(), tmp_path / "in.onnx")
    seen: list[object] = []
    take_payloads = model_file.take_payloads  # type: ignore[attr-defined]  # it imports the name

    def noting(source: Source, payloads: list[Stored]) -> bytes:
        seen.append(source.path)
        return take_payloads(source, payloads)

    monkeypatch.setattr(model_file, "take_payloads", noting)
    report = bnfold.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", on_mismatch="rollback", proof="never").report
    assert report.attribution is not None
    assert report.attribution["tried"] > 1
    assert [each["node"] for each in report.attribution["guilty"]] == ["bn2"]
    assert seen.count(tmp_path / "in.onnx") == 1
