"""Anything parses, or is refused in one line: nodes of a few dozen models spoiled one at a time (`malformed_nodes`)."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, parser

import bnfold
from bnfold.cli import main
from bnfold.errors import ModelError, ModelWarning
from tests.fold_models import Row, batch_norm, numbers
from tests.malformed_nodes import NAMES, model_of, spoiled

REPOSITORY = Path(__file__).parents[2]
TABLE = range(7)  # the exit codes that are about a model


def every(step: int, first: int = 0) -> Iterator[tuple[str, ModelProto]]:
    return islice((each for name in NAMES for each in spoiled(name)), first, None, step)


def check(what: str, model: ModelProto, folder: Path, *options: str) -> int:
    """Optimize it in this process; the exit code, which has to be one of the table."""
    path = folder / "in.onnx"
    path.write_bytes(model.SerializeToString())
    done = CliRunner().invoke(main, ["optimize", str(path), str(folder / "out.onnx"), *options])
    assert done.exit_code in TABLE, f"{what}: {done.stderr or done.exception}"
    assert done.exception is None or isinstance(done.exception, SystemExit), what
    assert "Traceback" not in done.stderr, what
    assert done.exit_code in (0, 1) or done.stderr.count("\n") == 1, f"{what}: {done.stderr}"
    return done.exit_code


@pytest.mark.parametrize("name", NAMES)
def test_each_model_is_right_before_it_is_spoiled(name: str, tmp_path: Path) -> None:
    assert check(name, model_of(name), tmp_path, "--no-verify") == 0


def test_no_spoiled_node_takes_the_passes_down(tmp_path: Path) -> None:
    found = Counter(check(what, model, tmp_path, "--no-verify") for what, model in every(18))
    assert found[0] > 25
    assert found[3] > 10


def test_no_spoiled_node_takes_verification_down(tmp_path: Path) -> None:
    found = Counter(check(what, model, tmp_path) for what, model in every(90, first=4))
    assert found[0] > 5


AT_MOST = 10  # seconds of processor time
# A Loop that lost its number of steps runs for ever, unless it is told otherwise.
STOPPED, ENDLESS = 6, frozenset({"loop"})
COMMANDS = (["optimize", "in.onnx", "out.onnx"], ["verify", "in.onnx", "in.onnx"], ["inspect", "in.onnx"])

# Runs `bnfold ARGUMENTS` for each line of JSON, in forks of a process that has everything imported already.
FORKS = """
import contextlib, importlib, json, os, pkgutil, sys
import onnxruntime
import bnfold
from bnfold import __main__
for module in pkgutil.walk_packages(bnfold.__path__, "bnfold."):
    with contextlib.suppress(ModuleNotFoundError):  # what only other packages need
        importlib.import_module(module.name)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["bnfold", *json.loads(line)]
        for number, name in enumerate(["/dev/null", "said", "said"]):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number == 1 else os.O_APPEND), 0o600), number)
        try:
            __main__.run()
        except SystemExit as end:  # before threads are waited for that this fork does not have
            sys.stderr.flush()
            os._exit(end.code or 0)
    _, status, usage = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, flush=True)
"""


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_no_spoiled_node_takes_the_command_down(name: str, tmp_path: Path) -> None:
    """In processes of their own, since some of these a runtime may die of."""
    found: Counter[int] = Counter()
    slowest = 0.0
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as forks:  # fmt: skip
        assert forks.stdin is not None
        assert forks.stdout is not None
        for what, model in spoiled(name):
            (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
            for command in COMMANDS:
                print(json.dumps([*command, "--timeout", str(AT_MOST)]), file=forks.stdin, flush=True)
                code, took = map(float, forks.stdout.readline().split())
                found[int(code)] += 1
                said = (tmp_path / "said").read_text()
                assert code in TABLE, (what, command, said)
                assert code != STOPPED or name in ENDLESS, (what, command, said)
                slowest = max(slowest, 0.0 if code == STOPPED else took)
                assert slowest < AT_MOST, (what, command, said)
                assert "Traceback" not in said, (what, command, said)
        forks.stdin.close()
    print(f"{name}: exit codes {dict(sorted(found.items()))}, the slowest {slowest:.1f} s")


# ---------------------------------------------------------------------- the kinds, by name


def model(text: str, **arrays: np.ndarray) -> ModelProto:
    found = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    found.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return found


def test_a_node_without_inputs_and_outputs_does_no_harm(tmp_path: Path) -> None:
    """onnxruntime leaves such a node out."""
    branch = "= b () => (bool z) { z = Constant<value_int=0>() }"
    proto = model(f"g (float[2,3] x) => (float[3,2] y) {{ y = Transpose(x) u = If(f) <then_branch {branch}, "
                  f"else_branch {branch}> }}", f=np.array(True))  # fmt: skip
    del proto.graph.node[1].input[:], proto.graph.node[1].output[:]
    assert check("If", proto, tmp_path) == 0
    assert onnx.load(tmp_path / "out.onnx").graph.node[1] == proto.graph.node[1]


def test_an_unknown_operator_that_makes_nothing_does_no_harm(tmp_path: Path) -> None:
    """No schema says of it that it lacks its output."""
    proto = Row("u = acme.What(x) c = Conv(x, w) y = BatchNormalization(c, g, h, m, v)").model()
    del proto.graph.node[0].output[:]
    assert check("acme.What", proto, tmp_path) == 0
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["What", "Conv"]


BROKEN = {
    "Identity() c = Conv(x, w)": "node 'i' (Identity) has 0 inputs, and the operator takes 1",
    "Conv(x) c = Conv(x, w)": "node 'i' (Conv) has 1 inputs, and the operator takes at least 2",
    'Conv("", w) c = Conv(x, w)': "node 'i' (Conv) leaves out its input 'X', which the operator needs",
    "Cast(x) c = Conv(x, w)": "node 'i' (Cast) lacks the attribute 'to', which the operator needs",
    'Cast<to="f">(x) c = Conv(x, w)': "node 'i' (Cast) has the attribute 'to' as STRING, and the operator takes INT",
    "Relu(x, x) c = Conv(x, w)": "node 'i' (Relu) has 2 inputs, and the operator takes 1",
}


@pytest.mark.parametrize("text", BROKEN)
def test_where_something_fails_a_malformed_node_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong inside: who reads the message has to know that it is the model."""

    def failing(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("bnfold.optimization.optimize", failing)
    norm = "y = BatchNormalization(c, g, h, m, v) }"
    proto = model(f"g (float[N,3,6,7] x) => (float[N,4,4,5] y) {{ i = {text} {norm}", w=numbers(4, 3, 3, 3),
                  **batch_norm(4, ""))  # fmt: skip
    with pytest.raises(ModelError) as raised:
        bnfold.optimize(proto)
    assert str(raised.value) == f"the model: {BROKEN[text]}; export the model again"
    del proto.graph.node[0]
    with pytest.raises(IndexError):  # nothing is wrong with this one, so bnfold is
        bnfold.optimize(proto)


def named_alike() -> ModelProto:
    row = Row("c = Conv(x, w) d = BatchNormalization(c, g, h, m, v) e = Relu(d) y = BatchNormalization(e, g, h, m, v)")
    proto = row.model()
    for node in proto.graph.node:
        node.name = "anon"
    return proto


def test_nodes_may_share_a_name(tmp_path: Path) -> None:
    """Each goes by its output then, also where one is kept; one line says so, however often the model is read."""
    (tmp_path / "in.onnx").write_bytes(named_alike().SerializeToString())
    done = CliRunner().invoke(main, ["optimize", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--keep", "y"])
    assert done.exit_code == 0, done.stderr
    assert done.stderr.endswith(
        "in.onnx: has more than one node named 'anon'; each of them goes by its first output instead\n"
    )
    assert done.stderr.count("\n") == 1
    assert [node.name for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["anon"] * 3
    with pytest.warns(ModelWarning, match="has more than one node named 'anon'"):
        found = bnfold.inspect(named_alike())
    assert [each.decision.node for each in found.normalizations] == ["d", "y"]
    assert [each.decision.target for each in found.normalizations] == [("c",), ()]


def test_new_statistics_reach_the_node_that_is_meant() -> None:
    data = [{"x": numbers(8, 3, 6, 7)}]
    with pytest.warns(ModelWarning):
        alike = bnfold.recalibrate(named_alike(), data, verify=False)
    other = named_alike()
    for number, node in enumerate(other.graph.node):
        node.name = f"n{number}"
    apart = bnfold.recalibrate(other, data, verify=False)
    assert [tensor.raw_data for tensor in alike.model.graph.initializer] == [
        tensor.raw_data for tensor in apart.model.graph.initializer
    ]


NEGATIVE = {  # what inference makes of [-1, 3, -1, -1]: sizes of their own, some of them positive
    "c = Conv(x, w) y = BatchNormalization(c, g, h, m, v)": 1,
    "d = Conv(x, w) e = GlobalAveragePool(d) c = Flatten(e) y = Mul(c, s)": 3,
    "d = Conv(x, w) c = Flatten(d) e = MatMul(c, k) y = Mul(e, s)": 3,
}


@pytest.mark.parametrize("text", NEGATIVE)
def test_a_dim_below_zero_is_dynamic(text: str, tmp_path: Path) -> None:
    proto = Row(text, constants={"s": numbers(4), "k": numbers(80, 4)}).model()
    for axis in (0, 2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    assert check(text, proto, tmp_path) == 0
    made = onnx.load(tmp_path / "out.onnx").graph
    assert len(made.node) == NEGATIVE[text]
    assert made.input == proto.graph.input


def test_empty_names_stay_empty(tmp_path: Path) -> None:
    proto = Row('c = Conv(x, w) d = Clip(c, "", six) y = BatchNormalization(d, g, h, m, v)',
                constants={"six": np.array(6, np.float32)}).model()  # fmt: skip
    for node in proto.graph.node:
        node.name = ""
    proto.graph.name = ""
    assert check("empty", proto, tmp_path) == 0
    made = onnx.load(tmp_path / "out.onnx").graph
    assert {node.name for node in made.node} == {""}
    assert made.node[1].input[1] == ""
