"""For the whole suite: how many processes run it, what they share, and which signals they leave to commands."""

import gc
import os
import shutil
import signal
import sys
import tempfile

import pytest

from tests.shared import FOLDER

MOST_PROCESSES = 4
MEMORY_OF_ONE = 2.5e9
"""Bytes: each of them holds PyTorch and the models of its tests."""

# Tests run side by side, a process for each processor and more: what PyTorch and numpy start beside them would take
# half of the time in waiting for one another.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# The commands that tests start, hundreds of them, import bnfold: compiled once, they start in two thirds of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Started by `nohup`, or behind a shell that goes on, this process ignores signals, and so would the commands that the
# tests start and send them to. A handler, unlike being ignored, is not handed on to them.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole default suite runs in a process for each processor and one more, what is asked for by name in this one.

    A third of its time it waits for commands that it started, and for disks. There are no more than memory holds.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr == "not soak"
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(processors + 1, MOST_PROCESSES, int(memory / MEMORY_OF_ONE)) if whole and processors > 1 else 0


SLOWEST = (
    "equivalence/test_planted.py",
    "models/test_architectures.py",
    "service/test_service.py",
    "test_isolated.py",
    "test_backend_suite.py",
    "api/test_real_models.py",
    "test_broken_machines.py",
    "test_supervision.py",
    "cli/test_processes.py",
    "test_gives_back.py",
)
"""Files that take longest, a minute down to a quarter of one. They begin, so that at the end no process waits long."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0].removeprefix("tests/"), len(places)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of the collections to come, which took a twentieth of the time."""
    gc.freeze()


_made = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder in the first process, before it starts others, which inherit its name."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = config.stash[_made] = tempfile.mkdtemp(prefix="bnfold-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if _made in config.stash:
        del os.environ[FOLDER]
        shutil.rmtree(config.stash[_made], ignore_errors=True)
