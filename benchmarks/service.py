"""What sending a large model through the service costs, against the command on the same machine.

    python -m benchmarks.service [NAME of benchmarks.models]

Prints seconds of two durable copies, of `bnfold optimize --no-verify`, and of the same with `--server` over loopback;
the ratio of the last to the sum of the others; and the most memory that the client, the service and its job held.
"""

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.processes import run
from benchmarks.proof_cost import copied
from tests.service_process import running

TIMEOUT = 3600


class Watched:
    """The most resident memory of any process whose command line holds a word, for each of `words`.

    All processes are looked at five times a second: more often takes time from those that are measured.
    """

    def __init__(self, *words: str) -> None:
        self._words = [word.encode() for word in words]
        self._peaks = [0] * len(words)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> list[int]:
        """Bytes, in the order of the words."""
        self._ended.set()
        self._thread.join()
        return self._peaks

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, ValueError, StopIteration):
                    line = (process / "cmdline").read_bytes()
                    for at, word in enumerate(self._words):
                        if word in line:
                            self._peaks[at] = max(self._peaks[at], memory(process))


def memory(process: Path) -> int:
    """Bytes of resident memory of its own at the peak; mapped files, which the system may take back, are left out."""
    lines = (process / "status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main(name: str) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        model, output = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        subprocess.run([sys.executable, "-m", "benchmarks.models", name, str(model)], check=True)
        copies = 2 * copied(model)
        command = [sys.executable, "-m", "bnfold", "optimize", str(model), str(output), "--no-verify", "--overwrite"]
        local = run(command, timeout=TIMEOUT)
        expected = output.stat().st_size
        with running(Path(folder) / "data", "--max-upload", "8G") as service:
            watched = Watched(
                f"--server\0{service.url}", f"serve\0--port\0{'0'}\0--data\0{service.data}", f"{service.data}/jobs"
            )
            begun = time.perf_counter()
            remote = run([*command, "--server", service.url], timeout=TIMEOUT)
            wall = time.perf_counter() - begun
            peaks = [peak / 1e6 for peak in watched.end()]
        for each in (local, remote):
            if each.failure:
                sys.exit(each.failure)
        if output.stat().st_size != expected:
            sys.exit("the service gave another file than the command")
    print(f"{name}: two copies {copies:.2f} s, command {local.wall:.2f} s, with the service {wall:.2f} s")
    print(f"ratio {wall / (copies + local.wall):.2f}")
    print("memory: client {:.0f} MB, service {:.0f} MB, job {:.0f} MB".format(*peaks))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "1 GB inline")
