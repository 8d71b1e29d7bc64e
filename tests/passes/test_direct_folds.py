"""Folds found together are the folds found one by one: the same bytes, the same decisions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.decisions import Action, Decision
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import PassOptions, default_passes, direct_folds, fold_batch_norm, normalization
from bnfold.pipeline import run_passes

F32 = np.float32


class Chain:
    """Conv and BatchNormalization, many times; `odd` may change the constants and nodes of one pair."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []
        self.value = "x"

    def pair(self, i: int, kernel: int, *, bias: bool, odd: Callable[["Chain", int], None] | None = None) -> None:
        normal = self.random.normal
        self.constants[f"w{i}"] = normal(size=(4, 2, kernel, kernel)).astype(F32)
        for name in "shm":
            self.constants[f"{name}{i}"] = normal(size=4).astype(F32)
        self.constants[f"v{i}"] = self.random.uniform(0.5, 2, size=4).astype(F32)
        inputs = [self.value, f"w{i}"]
        if bias:
            self.constants[f"b{i}"] = normal(size=4).astype(F32)
            inputs.append(f"b{i}")
        pads = [kernel // 2] * 4
        self.nodes.append(helper.make_node("Conv", inputs, [f"c{i}"], name=f"conv{i}", group=2, pads=pads))
        parameters = [f"{name}{i}" for name in "shmv"]
        self.nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *parameters], [f"n{i}"], name=f"bn{i}"))
        self.nodes.append(helper.make_node("Relu", [f"n{i}"], [f"r{i}"], name=f"relu{i}"))
        self.value = f"r{i}"
        if odd is not None:
            odd(self, i)

    def model(self) -> ModelProto:
        shape = ["N", 4, 5, 5]
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in (self.value, *self.outputs)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv_is_output(chain: Chain, i: int) -> None:
    chain.outputs.append(f"c{i}")


def conv_is_read(chain: Chain, i: int) -> None:
    chain.nodes.append(helper.make_node("Sigmoid", [f"c{i}"], [f"extra{i}"]))
    chain.outputs.append(f"extra{i}")


def weight_is_shared(chain: Chain, i: int) -> None:
    chain.nodes[-3].input[1] = f"w{i - 2}"  # of the same kernel size
    del chain.constants[f"w{i}"]


def weight_is_output(chain: Chain, i: int) -> None:
    chain.outputs.append(f"w{i}")


def weight_is_double(chain: Chain, i: int) -> None:
    chain.nodes[-3].input[1] = f"cast{i}"
    chain.constants[f"w{i}"] = chain.constants[f"w{i}"].astype(np.float64)
    chain.nodes.insert(-3, helper.make_node("Cast", [f"w{i}"], [f"cast{i}"], to=TensorProto.FLOAT))


def more_follows(chain: Chain, i: int) -> None:
    chain.constants[f"k{i}"] = np.array([2, 3, 4, 5], F32).reshape(4, 1, 1)
    chain.nodes[-1].CopyFrom(helper.make_node("Mul", [f"n{i}", f"k{i}"], [f"r{i}"]))


def no_scale(chain: Chain, i: int) -> None:
    chain.nodes[-2].attribute.append(helper.make_attribute("epsilon", 0.0))
    chain.constants[f"v{i}"][:] = chain.constants[f"s{i}"][:] = 1


def no_shift(chain: Chain, i: int) -> None:
    chain.constants[f"h{i}"][:] = chain.constants[f"m{i}"][:] = 0


def bias_is_absent(chain: Chain, _i: int) -> None:
    chain.nodes[-3].input.append("")


def one_name_for_two(chain: Chain, i: int) -> None:
    chain.nodes[-2].input[2] = chain.nodes[-2].input[3] = f"m{i}"
    del chain.constants[f"h{i}"]


def custom_conv(chain: Chain, _i: int) -> None:
    chain.nodes[-3].domain = "custom"


def no_conv(chain: Chain, i: int) -> None:
    chain.nodes[-3].CopyFrom(helper.make_node("Relu", [chain.nodes[-3].input[0]], [f"c{i}"]))
    del chain.constants[f"w{i}"]


def conv_transpose(chain: Chain, _i: int) -> None:
    chain.nodes[-3].op_type = "ConvTranspose"


def nothing_in_front(chain: Chain, i: int) -> None:
    chain.nodes[-2].input[0] = "x"
    del chain.nodes[-3], chain.constants[f"w{i}"]


def nothing_behind(chain: Chain, i: int) -> None:
    chain.outputs.append(f"n{i}")
    del chain.nodes[-1]
    chain.value = "x"


def no_weight(chain: Chain, i: int) -> None:
    del chain.nodes[-3].input[1:], chain.constants[f"w{i}"]


def an_operand_too_many(chain: Chain, i: int) -> None:
    chain.nodes[-3].input.extend([f"h{i}", f"h{i}"])


def weight_of_other_channels(chain: Chain, i: int) -> None:
    chain.constants[f"w{i}"] = chain.constants[f"w{i}"][:2].copy()


def bias_of_other_channels(chain: Chain, i: int) -> None:
    chain.constants[f"b{i}"] = np.ones(2, F32)


ODD: list[Callable[[Chain, int], None] | None] = [
    *(conv_is_output, conv_is_read, weight_is_shared, weight_is_output, weight_is_double, more_follows),
    *(no_scale, no_shift, bias_is_absent, custom_conv, no_conv, conv_transpose),
    nothing_in_front,
    *(no_weight, an_operand_too_many, weight_of_other_channels),
]


def folded(model: ModelProto, **options: Any) -> tuple[bytes, tuple[Decision, ...]]:
    file = read(model)
    decisions = run_passes(Model(file), default_passes(PassOptions(**options)))
    return to_proto(file).SerializeToString(deterministic=True), decisions


def both_ways(model: ModelProto, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, Any, int]:
    """One by one, together, and how many of the latter were found together."""
    found: list[int] = []
    find = direct_folds.direct_folds

    def counted(*arguments: Any) -> Any:
        result = find(*arguments)
        found.append(len(result))
        return result

    monkeypatch.setattr(direct_folds, "direct_folds", lambda *_: {})
    alone = folded(model, **options)
    monkeypatch.setattr(direct_folds, "direct_folds", counted)
    monkeypatch.setattr(direct_folds, "WORTH_JOINING", 1)
    monkeypatch.setattr(normalization, "_WORTH_JOINING", 1)
    return alone, folded(model, **options), sum(found)


@pytest.mark.parametrize(
    ("options", "walks"),
    [
        ({}, 0),
        ({"keep": ("bn3",)}, 0),
        ({"forbidden": frozenset({("", "bn3")})}, 0),
        ({"explain": "bn3"}, 1),
    ],
)
def test_one_that_somebody_asks_about_is_left_to_the_walk(
    options: dict[str, Any], walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(2)
    for i in range(6):
        chain.pair(i, 3, bias=True)
    searched: list[Any] = []
    search = fold_batch_norm.Search  # type: ignore[attr-defined]  # it imports the name
    monkeypatch.setattr(
        fold_batch_norm, "Search", lambda *given, **how: searched.append(given) or search(*given, **how)
    )
    alone, together, found = both_ways(chain.model(), monkeypatch, **options)
    assert together == alone
    stays = [decision.node for decision in together[1] if decision.action is Action.KEPT]
    assert found == 6 + len(stays)  # what stays is found once more when the rest is done
    assert stays == ["bn3"] * ("keep" in options or "forbidden" in options)
    assert [decision.node for decision in together[1] if decision.walk] == ["bn3"] * walks
    assert len(searched) == 6 - len(stays) + walks  # one by one all are searched for


@pytest.mark.parametrize("seed", range(3))
def test_a_plain_chain_is_found_together(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(seed)
    for i in range(20):
        chain.pair(i, (1, 3)[i % 2], bias=bool(i // 2 % 2))
    alone, together, found = both_ways(chain.model(), monkeypatch)
    assert found == 20
    assert together == alone


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_an_unusual_pair_is_left_to_the_walk(
    odd: Callable[[Chain, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(7)
    for i in range(8):
        chain.pair(i, (1, 3)[i % 2], bias=False, odd=odd if i == 5 else None)
    alone, together, found = both_ways(chain.model(), monkeypatch)
    assert found == (6 if odd is weight_is_shared else 7)  # two pairs share that weight
    assert together == alone


@pytest.mark.parametrize(
    ("odd", "bias", "together_are"),
    [
        pytest.param(bias_of_other_channels, True, 3, id="a bias that does not fit leaves the others alone"),
        pytest.param(nothing_behind, False, 4, id="what ends in an output is found as well"),
    ],
)
def test_one_of_a_kind_does_not_change_how_the_others_are_found(
    odd: Callable[[Chain, int], None], bias: bool, together_are: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(8)
    for i in range(4):
        chain.pair(i, 3, bias=bias, odd=odd if i == 2 else None)
    alone, together, found = both_ways(chain.model(), monkeypatch)
    assert found == together_are
    assert together == alone


def test_pairs_may_share_the_parameters_of_the_normalization(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(3)
    for i in range(6):
        chain.pair(i, 3, bias=True, odd=one_name_for_two)
    alone, together, found = both_ways(chain.model(), monkeypatch)
    assert found == 6
    assert together == alone


@pytest.mark.parametrize("huge", ["w", "m"])
def test_numbers_without_room_leave_all_of_their_kind_to_the_walk(huge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(5)
    for i in range(8):
        chain.pair(i, (1, 3)[i % 2], bias=False)
    chain.constants[f"{huge}3"][:] = 3e38
    chain.constants["s3"][:] = 100
    alone, together, found = both_ways(chain.model(), monkeypatch)
    assert found == 4  # those with the other kernel
    assert together == alone


def test_many_bytes_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_folds, "MOST_BYTES", 600)
    chain = Chain(9)
    for i in range(7):
        chain.pair(i, 3, bias=True)
    alone, together, found = both_ways(chain.model(), monkeypatch)
    assert found == 7
    assert together == alone


def test_a_fold_that_an_edit_has_overtaken_is_not_applied() -> None:
    chain = Chain(11)
    for i in range(20):
        chain.pair(i, 1, bias=False)
    model = Model(read(chain.model()))
    graph = model.main
    nodes = graph.nodes()
    folds = direct_folds.direct_folds(nodes, normalization.plain_affines(nodes, graph), graph)
    first, second, third, fourth, fifth = (folds[id(nodes[3 * i + 1])] for i in range(5))
    assert first.is_possible(graph)
    graph.set_constant(second.conv, 1, first.constants[0][1])
    assert not second.is_possible(graph)
    graph.add_behind(third.conv, first.constants[1][1])
    assert not third.is_possible(graph)
    graph.set_constant(fourth.node, 1, first.constants[1][1])
    assert not fourth.is_possible(graph)
    graph.set_input(nodes[-1], 0, fifth.node.input[0])
    assert not fifth.is_possible(graph)
    assert first.is_possible(graph)
