"""What a call takes it gives back when it returns or raises: 64 descriptors are enough for ever, without a collector.

A process of its own runs each entry point again and again, first in one thread and then in eight.
"""

import contextlib
import copy
import importlib
import json
import multiprocessing
import os
import pickle
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold import lifetime
from bnfold.assertions import NotEquivalentError
from bnfold.decisions import Reason, Refused
from bnfold.errors import BnfoldError, ModelError, ReportedError, StatisticsError, VerificationError
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.onnxfile.source import File
from bnfold.onnxfile.wire import WireError
from bnfold.service.problems import Problem
from bnfold.signals import Terminated

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}

PROBE = """
import gc, json, os, resource, sys, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
import numpy as np
import onnx
import bnfold
from bnfold import errors

MODEL, TRAIN, DATA, OTHER, BAD, count, threads = sys.argv[1:6] + [int(text) for text in sys.argv[6:8]]
asked = sys.argv[8:]
proto, raw = onnx.load(MODEL), open(MODEL, "rb").read()
[port] = proto.graph.input
batch = np.random.default_rng(0).random([dim.dim_value or 4 for dim in port.type.tensor_type.shape.dim], np.float32)


def raising(*_progress):
    raise RuntimeError("in the middle")


def refused(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


CALLS = {
    "optimize": lambda out: bnfold.optimize(MODEL, out),
    "optimize, data outside": lambda out: bnfold.optimize(DATA, out, proof="always"),
    "optimize, bytes": lambda out: bnfold.optimize(raw),
    "optimize, ModelProto": lambda out: bnfold.optimize(proto),
    "inspect": lambda out: bnfold.inspect(MODEL),
    "verify": lambda out: bnfold.verify(MODEL, DATA),
    "assert_equivalent": lambda out: bnfold.assert_equivalent(MODEL, MODEL),
    "freeze": lambda out: bnfold.freeze(TRAIN, out),
    "recalibrate": lambda out: bnfold.recalibrate(MODEL, [{port.name: batch}], out),
    "substitute": lambda out: bnfold.optimize(MODEL, out, substitute="group-norm", data=[{port.name: batch}]),
    "layers": lambda out: bnfold.verify(MODEL, DATA, layers=True),
    "not equivalent": lambda out: refused(bnfold.NotEquivalentError, bnfold.assert_equivalent, MODEL, OTHER),
    "bad model": lambda out: refused(errors.ModelError, bnfold.optimize, BAD, out),
    "bad candidate": lambda out: refused(errors.ModelError, bnfold.verify, MODEL, BAD),
    "nowhere": lambda out: refused(errors.OutputError, bnfold.optimize, MODEL, "/nowhere/o.onnx"),
    "full disk": lambda out: refused(errors.OutputError, bnfold.optimize, MODEL, "/dev/full"),
    "in the middle": lambda out: refused(RuntimeError, bnfold.optimize, MODEL, out, progress=raising),
}


def state():
    resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), resident


def calls(call, folder, name):
    def many(number):
        os.makedirs(os.path.join(folder, str(number)), exist_ok=True)  # data files have names of their own
        for _ in range(count // threads):
            call(os.path.join(folder, str(number), f"{name}.onnx"))

    if threads == 1:
        many(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(many, range(threads)):
            pass


found = {}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with tempfile.TemporaryDirectory() as folder:
    for name in asked or CALLS:
        call = CALLS[name]
        call(os.path.join(folder, f"{name}.onnx"))
        call(os.path.join(folder, f"{name}.onnx"))
        before = state()
        gc.collect()
        gc.disable()
        calls(call, folder, name)
        after = state()
        unreachable = gc.collect()
        gc.enable()
        found[name] = [b - a for a, b in zip(before, after)] + [unreachable]
    files = [name for _, _, names in os.walk(folder) for name in names if not name.endswith((".onnx", ".data"))]
print(json.dumps({"calls": found, "files": files}))
"""


def write_models(folder: Path, batch: str, channels: int, outputs: int) -> list[str]:
    """The model, one in training mode, one with its weights outside, one that answers otherwise, half of one."""
    numbers = np.random.default_rng(0)
    weights = {"w": numbers.random((outputs, channels, 3, 3)) - 0.5}
    weights |= {name: 0.5 + numbers.random(outputs) for name in "ghmv"}

    def save(name: str, operators: str, factor: float = 1.0, **how: Any) -> str:
        ports = f"(float[{batch},{channels},3,5] x) => (float[{batch},{outputs},1,3] y)"
        text = f"g {ports} {{ c = Conv(x, w) {operators} }}"
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        for key, array in weights.items():
            model.graph.initializer.append(numpy_helper.from_array((factor * array).astype(np.float32), key))
        onnx.save(model, folder / f"{name}.onnx", **how)
        return str(folder / f"{name}.onnx")

    norm = "y = BatchNormalization{}(c, g, h, m, v)"
    model = save("model", norm.format(""))
    train = save("train", norm.replace("y =", "y, a, b =").format("<training_mode = 1>"))
    data = save("data", norm.format(""), save_as_external_data=True, location="weights.data", size_threshold=0)
    other = save("other", norm.format(""), factor=1.5)
    whole = Path(model).read_bytes()
    (folder / "bad.onnx").write_bytes(whole[: len(whole) // 2])
    return [model, train, data, other, str(folder / "bad.onnx")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_models(tmp_path_factory.mktemp("models"), "N", channels=16, outputs=24)


@pytest.fixture(scope="module")
def quick_models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same with as few feeds and weights as there can be."""
    return write_models(tmp_path_factory.mktemp("quick_models"), "1", channels=2, outputs=4)


def probe(models: list[str], count: int, threads: int, *names: str) -> dict[str, list[int]]:
    """How many descriptors, threads, bytes and unreachable objects there are more after `count` calls of each.

    Of the entry points `names`, by default of all.
    """
    command = [sys.executable, "-c", PROBE, *models, str(count), str(threads), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["files"] == []
    calls: dict[str, list[int]] = found["calls"]
    for name, (descriptors, more, nbytes, unreachable) in calls.items():
        print(f"{name}: {descriptors} descriptors, {more} threads, {nbytes >> 10} KiB, {unreachable} objects")
        assert (descriptors, more) == (0, 0), name
        assert unreachable < count, name  # less than one for each call
    return calls


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("count", "threads"), [(3, 1), (4, 4)])
def test_a_call_leaves_no_descriptor_no_thread_and_no_cycle(count: int, threads: int, models: list[str]) -> None:
    probe(models, count, threads)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("name", re.findall(r'^    "([^"]+)": lambda out: ', PROBE, re.MULTILINE))
def test_two_thousand_calls(name: str, threads: int, quick_models: list[str]) -> None:
    [(_, _, nbytes, _)] = probe(quick_models, 2000, threads, name).values()
    assert nbytes <= 20 << 20


# ---------------------------------------------------------------------- into other processes and back


@pytest.mark.parametrize("ends", [False, True])
def test_memory_stays_where_the_process_ends_anyway(
    ends: bool, quick_models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "_memory_stays", False)
    if ends:
        lifetime.process_ends_with_the_call()
    with lifetime.given_back():
        file = read(quick_models[0])
        model = Model(file)
    assert bool(vars(model)) is ends
    assert isinstance(file.source, File)
    assert not File._opened.get(id(file.source))  # what is no memory is given back in any case


def outcome(name: str, models: list[str], folder: str) -> Any:
    """What an entry point returns or raises, in whichever process this runs."""
    model, _, _, other, bad = models
    output = f"{folder}/{name}.onnx"
    calls = {
        "result": lambda: bnfold.optimize(model, output, proof="always"),
        "result without a file": lambda: bnfold.optimize(model),
        "inspection": lambda: bnfold.inspect(model),
        "verification": lambda: bnfold.verify(model, other, layers=True),
        "not equivalent": lambda: bnfold.assert_equivalent(model, other),
        "bad model": lambda: bnfold.optimize(bad),
        "usage": lambda: bnfold.verify(model, other, input_shapes={"nothing": (1,)}),
        "output": lambda: bnfold.optimize(model, "/nowhere/o.onnx"),
    }
    return calls[name]()


OUTCOMES: dict[str, type[BaseException] | None] = {
    "result": None, "result without a file": None, "inspection": None, "verification": None,
    "not equivalent": NotEquivalentError, "bad model": ModelError, "usage": bnfold.BnfoldError,
    "output": bnfold.BnfoldError,
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_comes_out_of_a_call_pickles_and_copies(name: str, models: list[str], tmp_path: Path) -> None:
    kind = OUTCOMES[name]
    if kind is None:
        found = outcome(name, models, str(tmp_path))
    else:
        with pytest.raises(kind) as raised:
            outcome(name, models, str(tmp_path))
        found = raised.value
    for other in (pickle.loads(pickle.dumps(found)), copy.copy(found), copy.deepcopy(found)):
        assert type(other) is type(found)
        assert str(other) == str(found)
        assert set(vars(other)) == set(vars(found))


def test_through_the_pools_of_the_standard_library(models: list[str], tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    jobs = [(name, models, str(tmp_path)) for name in OUTCOMES]
    with fork.Pool(1) as pool:
        waiting = [pool.apply_async(outcome, job) for job in jobs]
        check([each.get for each in waiting])
    with ProcessPoolExecutor(1, mp_context=fork) as executor:
        futures = [executor.submit(outcome, *job) for job in jobs]
        check([each.result for each in futures])


def check(answers: list[Any]) -> None:
    for answer, kind in zip(answers, OUTCOMES.values(), strict=True):
        if kind is None:
            assert answer(timeout=120) is not None
        else:
            with pytest.raises(kind):
                answer(timeout=120)


def errors_of_the_package() -> list[type[BaseException]]:
    """Every class of exception that a module of bnfold defines."""
    for module in pkgutil.walk_packages(bnfold.__path__, "bnfold."):
        if module.name == "bnfold.__main__":
            continue
        if module.name.startswith("bnfold.integrations."):
            with contextlib.suppress(ModuleNotFoundError):  # each for a package that need not be installed
                importlib.import_module(module.name)
            continue
        importlib.import_module(module.name)
    found: list[type[BaseException]] = []
    classes: list[type[BaseException]] = [BaseException]
    while classes:
        current = classes.pop()
        found += [current] if current.__module__.startswith("bnfold.") else []
        classes += current.__subclasses__()
    return list(dict.fromkeys(found))


ARGUMENTS: dict[type[BaseException], tuple[Any, ...]] = {
    Refused: (Reason.SPATIAL_ZERO, "n"),
    WireError: ("broken", 7),
    Terminated: (15,),
    Problem: (404, "no"),
    NotEquivalentError: ("no", {"verification": 1}),
    ReportedError: ("no", {"report": 1}),
    VerificationError: ("no", {"report": 1}),
    StatisticsError: ("no", {"report": 1}),
}


def test_every_error_of_the_package_pickles_and_copies() -> None:
    classes = errors_of_the_package()
    assert {BnfoldError, *ARGUMENTS} <= set(classes)
    for kind in classes:
        error = kind(*ARGUMENTS.get(kind, ("word",)))
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert (type(other), other.args, vars(other), str(other)) == (kind, error.args, vars(error), str(error))


class OneArgumentMoreError(ModelError):
    def __init__(self, message: str, node: str) -> None:
        super().__init__(message)
        self.node = node


def test_an_error_with_a_constructor_of_its_own_pickles_too() -> None:
    other = pickle.loads(pickle.dumps(OneArgumentMoreError("no", "n")))
    assert (str(other), other.node, other.exit_code) == ("no", "n", 3)
