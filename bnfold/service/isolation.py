"""The process of a job: what it may see, how large it may get, and that it ends with the service.

Where bubblewrap is installed and may make namespaces, a job has no network, a read-only file system and sees of the
service's folder its own model and results alone. Elsewhere it is an ordinary process with limits; `/readyz` says which.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bnfold.service import launch

_PROBE_SECONDS = 10


@cache
def sandbox() -> str | None:
    """The path of a bubblewrap that works here; None where there is none."""
    found = shutil.which("bwrap")
    if found is None:
        return None
    probe = [found, *_namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    try:
        done = subprocess.run(probe, capture_output=True, timeout=_PROBE_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found if done.returncode == 0 else None


def described() -> str:
    """The isolation of jobs, in words."""
    if sandbox() is None:
        return "limits only: install bubblewrap, so that jobs have no network and see no other model"
    return "bubblewrap: no network, a read-only file system, nothing of other jobs"


def command_line(
    arguments: Sequence[str], *, root: Path, sees: Sequence[Path], writes: Path, file_size: int
) -> list[str]:
    """The command line of `bnfold` with `arguments` under isolation.

    `root`: the service's folder, of which the process sees `sees` and writes `writes` alone. `file_size`: how many
    bytes a file that it writes may have.
    """
    work = [sys.executable, "-m", "bnfold", *arguments]
    bubblewrap = sandbox()
    if bubblewrap is not None:
        work = [
            *(bubblewrap, *_namespaces(), "--die-with-parent", "--new-session"),
            *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108
            *_packages(),
            *("--tmpfs", str(root)),
            *(word for path in sees for word in ("--ro-bind", str(path), str(path))),
            *("--bind", str(writes), str(writes), "--chdir", str(writes)),
            *work,
        ]
    return [sys.executable, "-I", launch.__file__, str(os.getpid()), str(file_size), *work]


def environment(writes: Path) -> dict[str, str]:
    """The environment of a job: nothing of the service's but where Python finds its packages."""
    made = {
        "PATH": os.defpath,
        "HOME": str(writes),
        "TMPDIR": str(writes / "tmp"),
        "LANG": "C.UTF-8",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    if "PYTHONPATH" in os.environ:
        made["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return made


def _namespaces() -> list[str]:
    return [
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]


def _packages() -> list[str]:
    """The folders under /tmp that are needed to run: an interpreter or packages that were installed there."""
    places = {Path(sys.executable).parent.parent, *(Path(each) for each in sys.path if each)}
    hidden = sorted(place for place in places if place.is_relative_to("/tmp") and place.exists())  # noqa: S108
    return [word for place in hidden for word in ("--ro-bind", str(place), str(place))]
