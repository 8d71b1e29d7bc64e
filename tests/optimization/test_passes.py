"""Passes of one's own under the same verdict: what each changed, the guilty one by name, and the rest published."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

import bnfold
from bnfold.decisions import Action, Decision
from bnfold.errors import UsageError, VerificationError
from bnfold.graph import Model
from bnfold.passes import Preserves

BN = "BatchNormalization"
TEXT = f"""
<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3,6,7] x) => (float[2,4,4,5] y)
{{
    c = Conv (x, w, b)
    n = {BN} (c, s, h, m, v)
    t = Tanh (n)
    e = Erf (t)
    y = Identity (e)
}}
"""


def model() -> ModelProto:
    made = parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "s": (4,), "h": (4,), "m": (4,), "v": (4,)}
    for name, shape in shapes.items():
        values = random.uniform(0.5, 2, shape).astype(np.float32)
        made.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in made.graph.node:
        node.name = f"{node.op_type.lower()}0"
    return made


def drops_identity(given: ModelProto) -> None:
    """Right: the Identity at the end goes."""
    given.graph.node[-2].output[0] = "y"
    del given.graph.node[-1]


def doubles_bias(given: ModelProto) -> None:
    """Wrong."""
    bias = next(tensor for tensor in given.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * 2, "b"))


def reads_what_is_not_there(given: ModelProto) -> None:
    """Broken: no runtime loads it."""
    given.graph.node[1].input[0] = "nobody"


def of_another_type(given: ModelProto) -> None:
    """Sound as a graph, but no runtime loads it."""
    erf = next(node for node in given.graph.node if node.op_type == "Erf")
    erf.op_type = "Not"


def renames_the_output(given: ModelProto) -> None:
    given.graph.node[-1].output[0] = given.graph.output[0].name = "z"


class Softsign:
    """Wrong, through the door: a Tanh becomes a Softsign."""

    name = "softsign"
    preserves = Preserves.ALGEBRAIC

    def run(self, given: Model) -> list[Decision]:
        for node in given.main.nodes():
            if node.op_type == "Tanh":
                graph = given.main
                graph.insert(helper.make_node("Softsign", [node.input[0]], ["soft"], name="soft0"), before=node)
                for use in list(graph.consumers(node.output[0])):
                    graph.set_input(use.node, use.position, "soft")
                graph.remove(node)
        return []


WRONG = [doubles_bias, reads_what_is_not_there, of_another_type, renames_the_output, Softsign()]


def name(each: object) -> str:
    return str(getattr(each, "name", getattr(each, "__name__", "")))


@pytest.mark.parametrize("wrong", WRONG, ids=name)
def test_a_mismatch_names_the_guilty_pass(wrong: Callable[..., None], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(VerificationError, match=rf"[Tt]he pass {name(wrong)}.*rollback") as failure:
        bnfold.optimize(model(), output, passes=[drops_identity, wrong, "default"])
    report = failure.value.report
    assert (report.verdict, report.exit_code, report.published) == ("not-equivalent", 1, None)
    assert report.attribution["passes"] == [name(wrong)]
    assert (report.attribution["guilty"], report.attribution["rolled_back"]) == ([], False)
    assert {each["name"]: each["verdict"] for each in report.passes}[name(wrong)] == "guilty"
    assert "bug in bnfold" not in report.explanation
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", WRONG, ids=name)
def test_rollback_publishes_what_is_good_of_the_rest(wrong: Callable[..., None], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    passes = [drops_identity, wrong, "default"]
    report = bnfold.optimize(model(), output, passes=passes, on_mismatch="rollback").report
    assert (report.verdict, report.exit_code, report.published) == ("equivalent", 0, str(output))
    assert (report.attribution["passes"], report.attribution["rolled_back"]) == ([name(wrong)], True)
    assert f"he pass {name(wrong)}" in report.explanation
    assert [node.op_type for node in onnx.load(output).graph.node] == ["Conv", "Tanh", "Erf"]
    told = {each["name"]: each["verdict"] for each in report.passes}
    assert told[name(wrong)] == "taken-back"
    assert told["drops_identity"] == told["fold-batch-norm"] == "proved"


def test_two_guilty_passes_are_both_named(tmp_path: Path) -> None:
    passes = [reads_what_is_not_there, "default", Softsign(), doubles_bias, drops_identity]
    report = bnfold.optimize(model(), tmp_path / "out.onnx", passes=passes, on_mismatch="rollback").report
    assert report.attribution["passes"] == ["reads_what_is_not_there", "softsign", "doubles_bias"]
    assert report.verdict == "equivalent"


def test_what_is_changed_is_listed_and_what_is_not_proved_is_named() -> None:
    def tanh_by_sigmoid(given: ModelProto) -> None:
        """tanh(x) = 2 sigmoid(2 x) - 1, which no table of the proof knows."""
        tanh = next(node for node in given.graph.node if node.op_type == "Tanh")
        place = list(given.graph.node).index(tanh)
        for constant, value in (("two", 2.0), ("one", 1.0)):
            given.graph.initializer.append(numpy_helper.from_array(np.float32(value), constant))
        made = [
            helper.make_node("Mul", [tanh.input[0], "two"], ["doubled"]),
            helper.make_node("Sigmoid", ["doubled"], ["sigmoid"]),
            helper.make_node("Mul", ["sigmoid", "two"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "one"], ["t"]),
        ]
        nodes = [*given.graph.node[:place], *made, *given.graph.node[place + 1 :]]
        del given.graph.node[:]
        given.graph.node.extend(nodes)

    report = bnfold.optimize(model(), passes=["default", tanh_by_sigmoid]).report
    told = report.passes[-1]
    assert report.verdict == "equivalent"
    assert told["verdict"] == "compared"
    assert told["detail"] == "compared by running only: t"
    assert told["changes"]["added"]["count"] == 3
    assert told["changes"]["changed"] == {"count": 1, "names": ["t"]}
    assert told["changes"]["weights"]["names"] == ["two", "one"]
    assert {each["name"]: each["verdict"] for each in report.passes}["fold-batch-norm"] == "proved"
    assert all(each["seconds"] >= 0 for each in report.passes)


def test_decisions_of_a_pass_stand_beside_the_others() -> None:
    class Tells:
        name = "tells"
        preserves = "exact"

        def run(self, given: Model) -> list[Decision]:
            assert given.main.nodes()
            return [Decision("erf0", "Erf", "", Action.KEPT)]

    report = bnfold.optimize(model(), passes=["default", Tells()]).report
    assert [decision.node for decision in report.decisions] == [f"{BN.lower()}0", "erf0"]


def test_what_a_pass_gives_back_beside_decisions_is_said() -> None:
    class Counts:
        name = "counts"
        preserves = "exact"

        def run(self, given: Model) -> list[int]:
            return [len(given.graphs)]

    with pytest.raises(UsageError, match="the pass counts returns decisions, or nothing, not list"):
        bnfold.optimize(model(), passes=[Counts()])


def test_a_pass_that_raises_is_no_mismatch(tmp_path: Path) -> None:
    class Raises:
        name = "raises"
        preserves = "exact"

        def run(self, given: Model) -> list[Decision]:
            raise KeyError(given.main.nodes()[0].input[0])

    line = Raises.run.__code__.co_firstlineno + 1
    with pytest.raises(UsageError, match=rf"the pass raises raised KeyError: 'x' \({__file__}, line {line}\)"):
        bnfold.optimize(model(), tmp_path / "o.onnx", passes=["default", Raises()], on_mismatch="rollback")
    assert list(tmp_path.iterdir()) == []


def test_a_pass_without_verification_is_said_to_be_not_verified() -> None:
    report = bnfold.optimize(model(), passes=[drops_identity], verify=False).report
    assert [each["verdict"] for each in report.passes] == ["not-verified"]


def test_no_pass_at_all_gives_the_same_bytes(tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model(), source)
    assert bnfold.optimize(source, output, passes=[]).report.verdict == "equivalent"
    assert output.read_bytes() == source.read_bytes()
