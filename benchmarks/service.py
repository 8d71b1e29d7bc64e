"""What sending a large model through the service costs, against the command on the same machine.

    python -m benchmarks.service [NAME of benchmarks.models] [ROUNDS]

Prints medians of the seconds of two durable copies, of `bnfold optimize --no-verify`, and of the same with `--server`
over loopback; the ratio of the last to the sum of the others; and the most memory of the client, the service and a job.
"""

import contextlib
import hashlib
import os
import shutil
import statistics
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


def main(name: str, rounds: int) -> None:
    """Measure and print."""
    seconds: list[tuple[float, float, float]] = []
    peaks: list[list[int]] = []
    with tempfile.TemporaryDirectory() as folder:
        model, output = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        subprocess.run([sys.executable, "-m", "benchmarks.models", name, str(model)], check=True)
        command = [sys.executable, "-m", "bnfold", "optimize", str(model), str(output), "--no-verify", "--overwrite"]
        for number in range(rounds):
            os.sync()  # what is on its way to the disk is nobody's who is measured
            copies = 2 * copied(model)
            local = measured(command)
            expected = hashed(output)
            output.unlink()
            with running(Path(folder) / f"data{number}", "--max-upload", "8G") as service:  # to which all is new
                watched = Watched(
                    f"--server\0{service.url}", f"serve\0--port\0{'0'}\0--data\0{service.data}", f"{service.data}/jobs"
                )
                os.sync()
                remote = measured([*command, "--server", service.url])
                peaks.append(watched.end())
            if hashed(output) != expected:
                sys.exit("the service gave another file than the command")
            shutil.rmtree(service.data)
            output.unlink()
            seconds.append((copies, local, remote))
    copies, local, remote = map(statistics.median, zip(*seconds, strict=True))
    ratios = sorted(remote / (copies + local) for copies, local, remote in seconds)
    print(f"{name}, medians of {rounds}:")
    print(f"two copies {copies:.2f} s, command {local:.2f} s, with the service {remote:.2f} s")
    print(f"ratio {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")
    most = (max(each) / 1e6 for each in zip(*peaks, strict=True))
    print("memory: client {:.0f} MB, service {:.0f} MB, job {:.0f} MB".format(*most))


def measured(command: list[str]) -> float:
    """Seconds that a command takes; ends the benchmark where it fails."""
    begun = time.perf_counter()
    done = run(command, timeout=TIMEOUT)
    if done.failure:
        sys.exit(done.failure)
    return time.perf_counter() - begun


def hashed(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "1 GB inline", int(sys.argv[2]) if len(sys.argv) > 2 else 5)
