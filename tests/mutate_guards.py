"""Whether a test notices when a guard in `passes/` is gone: mutation testing in one warm process.

    python -m tests.mutate_guards                        every guard of every pass
    python -m tests.mutate_guards carriers layout        of these modules
    python -m tests.mutate_guards --cosmic-ray affine    cosmic-ray's own mutants (pip install cosmic-ray)
    python -m tests.mutate_guards --all carriers         how many tests notice, not only the first
    python -m tests.mutate_guards --tests tests/passes/test_freeze.py -- freeze_batch_norm

The tests are collected once and run once, which says which of them reach which line. Then, for each mutant, a fork of
that process puts the mutated code into the functions that are there and runs the tests that reach it until one fails,
the quickest first; those that take half a second of processor time are not asked. No file is written. A line is printed
for each mutant that no test noticed, then how many were noticed per module.
"""

import argparse
import gc
import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TextIO

import coverage
import pytest

from tests.mutants import Mutant, cosmic_ray_mutants, guard_mutants

REPOSITORY = Path(__file__).parents[1]
PASSES = REPOSITORY / "passes"
SECONDS = 120  # a mutant that takes longer runs in circles: somebody would notice
SLOW = 0.5  # a test that takes more seconds of processor time than this is not asked


@dataclass(frozen=True)
class Fate:
    """What became of one mutant: the tests that failed, by id; None where it could not be put in place."""

    module: str
    mutant: Mutant
    noticed: list[str] | None


class MutantLoop:
    """A pytest plugin that runs the collected tests once for each mutant, in a process of its own each time."""

    def __init__(
        self, modules: Sequence[str], kinds: Callable[..., Iterator[Mutant]], *, count: bool, most: int
    ) -> None:
        self.fates: list[Fate] = []
        self._modules = modules
        self._kinds = kinds
        self._count = count
        self._most = most
        self._failed: list[str] = []
        self._progress = os.fdopen(os.dup(2), "w")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            return False
        by_id = {item.nodeid: item for item in session.items}
        with tempfile.TemporaryDirectory() as folder:
            data = str(Path(folder, "coverage"))
            seconds = _in_a_fork(lambda: self._reach(session.items, data), 1800)
            reached = coverage.CoverageData(data)
            reached.read()
            paths = {module: PASSES / f"{module}.py" for module in self._modules}
            by_line = {module: reached.contexts_by_lineno(str(path)) for module, path in paths.items()}
        quick = {test for test, each in seconds.items() if each <= SLOW}
        functions = _functions()
        for module, path in paths.items():
            for mutant in self._kinds(path.read_text(encoding="utf-8"), str(path)):
                reaching = set(by_line[module].get(mutant.reached, ())) & quick
                tests = sorted(reaching, key=seconds.__getitem__)
                tests = tests[:: -(-len(tests) // self._most) or 1] if self._most else tests
                items = [by_id[test] for test in tests]
                noticed = _in_a_fork(lambda m=mutant, i=items: self._judge(m, i, functions), SECONDS)
                self.fates.append(Fate(module, mutant, noticed))
                if noticed is None or not noticed:
                    told = "not tried" if noticed is None else f"SURVIVED {len(tests)} tests"
                    print(f"passes/{module}.py:{mutant.line}: {told}: {mutant.what}", file=self._progress, flush=True)
        return True

    def _reach(self, items: Sequence[pytest.Item], data: str) -> dict[str, float]:
        """Run all tests, write the lines each reaches to `data`; the processor time each took, by id."""
        watch = coverage.Coverage(data_file=data, include=[f"{PASSES}/*"], config_file=False)
        seconds = {}
        watch.start()
        for item in items:
            watch.switch_context(item.nodeid)
            started = time.process_time()
            _run(item)
            seconds[item.nodeid] = time.process_time() - started
        watch.stop()
        watch.save()
        if self._failed:
            raise AssertionError(f"these tests fail as it is: {self._failed}")
        return seconds

    def _judge(self, mutant: Mutant, items: Sequence[pytest.Item], functions: "Functions") -> list[str] | None:
        if not _put_in_place(mutant.code, functions):
            return None
        for item in items:
            if self._failed and not self._count:
                break
            _run(item)
        return self._failed


def _run(item: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


# ---------------------------------------------------------------------- code in the place of other code

Functions = dict[tuple[str, str, int], list[FunctionType]]


def _functions() -> Functions:
    """Every function of the passes that exists, closures included, by module, name and line."""
    found: Functions = {}
    for each in gc.get_objects():
        if type(each) is not FunctionType or "passes" not in each.__code__.co_filename:
            continue
        path = Path(each.__code__.co_filename).resolve()
        if path.parent == PASSES:
            found.setdefault((path.stem, *_place(each.__code__)), []).append(each)
    return found


def _put_in_place(code: CodeType, functions: Functions) -> bool:
    """Give the functions the code they have in a mutated module; whether any code is another one now."""
    changed = False
    for new in _codes(code):
        for function in functions.get((Path(new.co_filename).stem, *_place(new)), ()):
            if _contents(function.__code__) != _contents(new):
                try:
                    function.__code__ = new
                except ValueError:  # a closure over other names
                    continue
                changed = True
    return changed


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _contents(code: CodeType) -> tuple[Any, ...]:
    constants = [_contents(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, *constants)


# ---------------------------------------------------------------------- processes


def _in_a_fork(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns, run in a fork of this process; a list that says so where it did not end in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _silently(work, writing)
    os.close(writing)
    answer = b""
    until = time.monotonic() + seconds
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            answer += part
        else:
            os.kill(child, 9)
            answer = json.dumps([f"nothing ended within {seconds} s"]).encode()
    os.waitpid(child, 0)
    if not answer:
        return ["the process broke down"]
    result = json.loads(answer)
    if isinstance(result, str):
        pytest.exit(result, returncode=3)
    return result


def _silently(work: Callable[[], Any], writing: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        answer = work()
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
        answer = f"{type(error).__name__}: {error}"
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(json.dumps(answer).encode())
    os._exit(0)


# ---------------------------------------------------------------------- the command


_BY = (("by one test", 1, 1), ("by 2 to 5", 2, 5), ("by more", 6, sys.maxsize))


def print_table(fates: Sequence[Fate], out: TextIO, *, count: bool) -> None:
    """How many mutants of each module were noticed; with `count`, by how many tests."""
    columns = ["module", "mutants", "noticed", "survived", "not tried"] + [name for name, _, _ in _BY if count]
    print(" | ".join(columns), file=out)
    for module in [*dict.fromkeys(fate.module for fate in fates), "all"]:
        of_module = [fate.noticed for fate in fates if module in (fate.module, "all")]
        tried = [noticed for noticed in of_module if noticed is not None]
        row = [len(of_module), sum(map(bool, tried)), sum(not n for n in tried), len(of_module) - len(tried)]
        row += [sum(least <= len(noticed) <= most for noticed in tried) for _, least, most in _BY if count]
        print(" | ".join([module, *map(str, row)]), file=out)


def main(arguments: Sequence[str]) -> int:
    """Run the command; 1 where a mutant survived."""
    everything = sorted(path.stem for path in PASSES.glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(everything)}")
    parser.add_argument("--tests", nargs="+", default=["tests/passes/test_*.py"], help="test files or patterns")
    parser.add_argument("--cosmic-ray", action="store_true", help="the mutants of cosmic-ray instead of guards")
    parser.add_argument("--all", action="store_true", help="run all tests that reach a mutant, and count")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="ask at most N tests about each mutant")
    options = parser.parse_args(arguments)
    modules = options.modules or everything
    if unknown := set(modules) - set(everything):
        parser.error(f"no module {sorted(unknown)} in passes/")
    files = sorted(str(path) for pattern in options.tests for path in REPOSITORY.glob(pattern))
    kinds = cosmic_ray_mutants if options.cosmic_ray else guard_mutants
    loop = MutantLoop(modules, kinds, count=options.all, most=options.most)
    without = ["--deselect", "tests/passes/test_random_graphs.py", "-p", "no:cacheprovider", "-qq", "--capture=no"]
    if pytest.main([*files, *without, "--rootdir", str(REPOSITORY)], plugins=[loop]):
        print("the tests could not be collected, or fail as they are", file=sys.stderr)
        return 2
    print_table(loop.fates, sys.stdout, count=options.all)
    return int(any(fate.noticed == [] for fate in loop.fates))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
