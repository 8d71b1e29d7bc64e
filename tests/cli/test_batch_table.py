"""What `bnfold batch` shows at a terminal: a table while it runs, failures first, and of it what stays at the end."""

import os
import pty
import shutil
import subprocess
import sys
import threading
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def at_a_terminal(folder: Path, *words: str) -> tuple[int, str]:
    """Run `bnfold batch` with a terminal for its output; its exit code, and all that came to the terminal."""
    mine, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(mine, 1 << 16):
                seen.extend(chunk)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    code = subprocess.run(
        [sys.executable, "-m", "bnfold", "batch", *words],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        check=False,
    ).returncode
    os.close(theirs)
    reader.join()
    os.close(mine)
    return code, seen.decode("utf-8", "replace")


def test_a_table_while_it_runs_and_the_failures_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(REPOSITORY / "models" / "digits_cnn.onnx", tmp_path / "in" / f"{name}.onnx")
    (tmp_path / "in" / "bad[red]\u202e.onnx").write_bytes(b"junk")
    code, seen = at_a_terminal(tmp_path, "optimize", "in", "--output", "out", "--jobs", "1", "--no-verify")
    assert code == 3
    assert "4 of 4" in seen
    assert "\u202e" not in seen
    table, _, rest = seen.rpartition("\x1b[2K")  # what stays when the table is taken away
    assert "bad or unsupported model" in table
    lines = rest.replace("\r", "").splitlines()
    assert lines[0].startswith("bad[red]")
    assert lines[1] == "4 models: 1 bad or unsupported model, 3 good"
    assert len(lines) == 4
    again, seen = at_a_terminal(tmp_path, "optimize", "in", "--output", "out", "--jobs", "1", "--no-verify")
    assert (again, "4 done before" in seen) == (3, True)
    quiet, seen = at_a_terminal(tmp_path, "inspect", "in", "--output", "of", "--jobs", "1", "-q")
    assert (quiet, "\x1b" in seen) == (3, False)
