"""Exact recalibration in segments: the same bits as one run from the beginning for each normalization.

Beside it stands the plainest way to the same statistics: the whole model with all statistics that are known, run anew
for every normalization, in onnxruntime without optimizations.
"""

import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

import bnfold
from bnfold.decisions import NodeKey
from bnfold.equivalence import evaluate_in_place, signature_of
from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.onnxfile import label, read, shared_names
from bnfold.options import CalibrationOptions
from bnfold.progress import StageProgress
from bnfold.recalibration import Calibration, calibrate, targets_of
from bnfold.statistics import Pooled, Statistics, moments_of
from bnfold.testing import numbers
from tests.architectures import exported, exported_in_train_mode
from tests.fold_models import Row

Feeds = list[dict[str, NDArray[Any]]]


def one_after_another(model: ModelProto, feeds: Feeds) -> dict[NodeKey, Statistics]:
    """The statistics of each normalization, by a run of everything before it."""
    known: dict[NodeKey, Statistics] = {}
    for target in targets_of(Model(read(model)))[0]:
        whole = ModelProto()
        whole.CopyFrom(model)
        evaluate_in_place(whole, statistics=known)
        shared = shared_names(whole.graph.node)
        node = next(node for node in whole.graph.node if label(node, shared) == target.place[1])
        data = node.input[0]
        del whole.graph.output[:]
        whole.graph.output.append(ValueInfoProto(name="tapped"))
        whole.graph.node.append(helper.make_node("Identity", [data], ["tapped"]))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(whole.SerializeToString(), options)
        pooled: Pooled | None = None
        for feed in feeds:
            moments = moments_of(session.run(None, feed)[0])
            pooled = pooled or Pooled(moments.channels)
            pooled.add(moments)
        assert pooled is not None
        known[target.place] = pooled.statistics()
    return known


def recalibrated(
    model: ModelProto, data: object, on_progress: StageProgress | None = None, **options: object
) -> Calibration:
    file = read(model)
    how = CalibrationOptions(**options)  # type: ignore[arg-type]  # from a table
    return calibrate(file, Model(file), data, how, on_progress=on_progress)  # type: ignore[arg-type]  # of many kinds


def bits(statistics: object) -> list[tuple[NodeKey, bytes, bytes]]:
    assert isinstance(statistics, dict)
    return sorted((place, each.mean.tobytes(), each.variance.tobytes()) for place, each in statistics.items())


def norm(inside: str, outside: str, number: int = 0) -> str:
    """A normalization of four channels with statistics of its own."""
    return f"{outside} = BatchNormalization({inside}, g_{number}, h_{number}, m_{number}, v_{number})\n"


CONSTANTS = {
    f"{name}_{number}": array
    for number in range(6)
    for name, array in {
        "g": numbers(4, seed=number, low=0.5, high=1.5),
        "h": numbers(4, seed=number + 20),
        "m": numbers(4, seed=number + 40),
        "v": numbers(4, seed=number + 60, low=0.5, high=1.5),
        "k": numbers(4, 4, 3, 3, seed=number + 80),
    }.items()
}
SIZES = (2, 3, 2, 1)


def conv(inside: str, outside: str, number: int) -> str:
    return f"{outside} = Conv<pads=[1,1,1,1]>({inside}, k_{number})\n"


def row(text: str, inputs: dict[str, str] | None = None, opset: int = 18) -> ModelProto:
    return Row(text, inputs=inputs or {"x": "float[N,4,6,7]"}, constants=CONSTANTS, opset=opset).model()


def feeds_of(model: ModelProto, sizes: tuple[int, ...] = SIZES) -> Feeds:
    """Batches of uneven sizes, the last the smallest."""
    generator = np.random.default_rng(5)
    found: Feeds = []
    for number, size in enumerate(sizes):
        feed: dict[str, NDArray[Any]] = {}
        for port in signature_of(model).inputs:
            dims = [dim if isinstance(dim, int) else size for dim in port.dims or ()]
            array = generator.normal(number, 1 + number, dims)
            kind = helper.tensor_dtype_to_np_dtype(port.elem_type)
            feed[port.name] = np.asarray(array > 0 if kind.kind == "b" else array, kind)
        found.append(feed)
    return found


CHAIN = conv("x", "a", 0) + norm("a", "b", 0) + conv("b", "c", 1) + norm("c", "d", 1) + conv("d", "e", 2)
BODIES = (
    "then_branch = t () => (float[N,4,6,7] p) {{ p = Relu({0}) }}, "
    "else_branch = f () => (float[N,4,6,7] q) {{ q = Neg({0}) }}"
)
LOOP = (
    "count = Constant<value = int64 {3}>() go = Constant<value = bool {1}>()\n"
    "z = Loop<body = step (int64 i, bool again, float[N,4,6,7] s) => (bool on, float[N,4,6,7] out)"
    " { on = Identity(again) t = Tanh(s) out = Add(t, b) }>(count, go, d)\n"
)
MODELS = {
    "a chain": lambda: row(CHAIN + norm("e", "y", 2)),
    "branches": lambda: row(
        conv("x", "a", 0) + norm("a", "b", 0) + conv("x", "c", 1) + conv("b", "d", 2) + norm("d", "e", 1)
        + "s = Add(c, e)\n" + norm("s", "y", 2)
    ),
    "a skip connection over every level": lambda: row(
        "r = Relu(x)\n" + CHAIN + norm("e", "f", 2) + conv("f", "h", 3) + norm("h", "i", 3)
        + "s = Sum(i, r, x, a)\n" + norm("s", "y", 4)
    ),
    "normalizations of one level": lambda: row(
        norm("x", "a", 0) + norm("x", "b", 1) + "c = Mul(a, b)\n" + norm("c", "y", 2)
    ),
    "levels out of the order of nodes": lambda: row(
        CHAIN + norm("e", "f", 2) + "n = Neg(x)\n" + norm("n", "p", 3) + "s = Mul(f, p)\n" + norm("s", "y", 4)
    ),
    "shared statistics": lambda: row(
        conv("x", "a", 0) + norm("a", "b") + conv("b", "c", 1) + norm("c", "d") + conv("d", "e", 2) + norm("e", "y")
    ),
    "an If": lambda: row(
        CHAIN + f"z = If<{BODIES.format('b')}>(flag)\ns = Add(z, e)\n" + norm("s", "y", 2),
        {"x": "float[N,4,6,7]", "flag": "bool"},
    ),
    "a Loop": lambda: row(CHAIN + norm("e", "f", 2) + LOOP + "s = Add(z, f)\n" + norm("s", "y", 3)),
    "several inputs": lambda: row(
        conv("x", "a", 0) + norm("a", "b", 0) + "s = Add(b, u)\n" + conv("s", "c", 1) + norm("c", "d", 1)
        + "t = Mul(d, u)\nr = Add(t, w5)\n" + norm("r", "y", 2),
        {"x": "float[N,4,6,7]", "u": "float[N,4,6,7]", "w5": "float[N,4,6,7]"},
    ),
    "a sequence across levels": lambda: row(
        "p = SplitToSequence<axis=1, keepdims=1>(x)\n" + CHAIN + norm("e", "f", 2)
        + "two = Constant<value = int64 {2}>()\nq = SequenceAt(p, two)\ns = Add(f, q)\n" + norm("s", "y", 3)
    ),
    "constants that are computed": lambda: row(
        "k = Mul(k_0, k_1)\nc0 = Conv<pads=[1,1,1,1]>(x, k)\n" + norm("c0", "b", 0)
        + "c1 = Conv<pads=[1,1,1,1]>(b, k)\n" + norm("c1", "y", 1)
    ),
    "shapes and integers": lambda: row(
        "sh = Shape(x)\n" + CHAIN + "r = Reshape(e, sh)\n" + norm("r", "y", 2)
    ),
    "as many values as the data decides": lambda: row(
        "zero = Constant<value = float {0}>() l = ReduceMean<axes = [0, 2, 3], keepdims = 0>(x)\n"
        "on = Greater(l, zero) sq = Compress<axis = 1>(x, on)\n" + CHAIN
        + "both = Concat<axis = 1>(e, sq) m6 = ReduceMax<axes = [1]>(both) s = Add(e, m6)\n" + norm("s", "y", 2),
        opset=13,
    ),
    "float16": lambda: row(
        CHAIN + norm("e", "f", 2) + "hf = Cast<to=10>(d)\nhr = Relu(hf)\nw6 = Cast<to=1>(hr)\ns = Add(w6, f)\n"
        + norm("s", "y", 3)
    ),
    "the input itself": lambda: row(norm("x", "a", 0) + "s = Add(a, x)\n" + norm("s", "y", 1)),
    "IR version 3": lambda: Row(
        CHAIN + norm("e", "y", 2), inputs={"x": "float[N,4,6,7]"}, constants=CONSTANTS, opset=8, ir=3
    ).model(),
    "training mode": lambda: exported_in_train_mode("torchscript", 17).proto,
    "batch statistics": lambda: exported("batch_statistics", "dynamo", 18).proto,
    "unet": lambda: exported("unet").proto,
    "densenet": lambda: exported("densenet").proto,
}  # fmt: skip
ROOM = {
    "in memory": {},
    "in a file": {"spill_limit": 0, "spill": True},
    "in both": {"spill_limit": 3000, "spill": True},
    "little": {"spill_limit": 9000},
    "little in a file": {"spill_limit": 0, "spill": True, "spill_budget": 9000},
    "nothing": {"spill_limit": 0},
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_does_not_show_in_the_bits(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    feeds = feeds_of(model)
    expected = bits(one_after_another(model, feeds))
    for options in ROOM.values():
        room = options | ({"spill": tmp_path} if "spill" in options else {})
        found = recalibrated(model, lambda: iter(feeds), **room)
        assert bits(found.statistics) == expected, options
        assert found.batches == len(feeds)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a skip connection over every level", "as many values as the data decides", "densenet"]
)
def test_batches_in_memory_that_others_were_in(name: str, tmp_path: Path) -> None:
    """Of one size one after the other, so that all but the first of each are written where an earlier one was."""
    model = MODELS[name]()
    feeds = feeds_of(model, (2, 2, 2, 3, 2, 3, 3, 1))
    expected = bits(one_after_another(model, feeds))
    for options in ROOM.values():
        room = options | ({"spill": tmp_path} if "spill" in options else {})
        assert bits(recalibrated(model, lambda: iter(feeds), **room).statistics) == expected, options


def test_what_is_told_of_what_was_kept(tmp_path: Path) -> None:
    model = MODELS["a skip connection over every level"]()
    feeds = feeds_of(model)
    told = {}
    for name, options in ROOM.items():
        room = options | ({"spill": tmp_path} if "spill" in options else {})
        told[name] = recalibrated(model, feeds, **room)
        assert told[name].levels == 5
        assert told[name].kept_bytes <= room.get("spill_limit", 1 << 30)
        assert told[name].spilled_bytes <= room.get("spill_budget", 16 << 30)
    whole = told["in memory"].kept_bytes
    assert (told["in memory"].spilled_bytes, told["in memory"].repeated, told["in memory"].passes) == (0, 0, 1)
    assert (told["in a file"].kept_bytes, told["in a file"].repeated, told["in a file"].passes) == (0, 0, 1)
    assert whole <= told["in a file"].spilled_bytes <= 2 * whole
    assert told["in both"].kept_bytes > 0
    assert told["in both"].spilled_bytes > 0
    assert told["in both"].repeated == 0
    assert told["little"].passes == 1
    assert 0 < told["little"].repeated < told["nothing"].repeated == 4 * len(feeds)
    assert told["nothing"].passes == 5


def test_a_generator_is_read_once() -> None:
    model = MODELS["a chain"]()
    feeds = feeds_of(model)
    data = iter(feeds)
    found = recalibrated(model, data)
    assert bits(found.statistics) == bits(one_after_another(model, feeds))
    assert next(data, None) is None
    assert (found.passes, found.levels) == (1, 3)


def test_the_api_takes_a_generator_and_says_what_it_took() -> None:
    model = MODELS["a chain"]()
    result = bnfold.recalibrate(model, iter(feeds_of(model)))
    told = result.report.recalibration
    assert result.report.verdict == "equivalent"
    assert (told["passes"], told["levels"], told["repeated"]) == (1, 3, 0)
    assert told["kept_bytes"] > 0


def test_a_generator_whose_array_is_written_to_again() -> None:
    """As a reader does that fills one buffer."""
    model = MODELS["the input itself"]()
    feeds = feeds_of(model, (2, 2, 2))

    def filling() -> Iterator[NDArray[Any]]:
        buffer = np.empty_like(feeds[0]["x"])
        for feed in feeds:
            buffer[:] = feed["x"]
            yield buffer

    assert bits(recalibrated(model, filling()).statistics) == bits(one_after_another(model, feeds))


def test_a_generator_that_does_not_fit_is_refused() -> None:
    model = MODELS["a chain"]()
    with pytest.raises(UsageError, match=r"read once only.*--spill-limit.*--spill-budget"):
        recalibrated(model, iter(feeds_of(model)), spill_limit=3000)


def test_nothing_is_kept_for_one_level() -> None:
    model = row(conv("x", "a", 0) + norm("a", "y", 0))
    found = recalibrated(model, iter(feeds_of(model)), spill_limit=0)
    assert (found.kept_bytes, found.levels, found.passes) == (0, 1, 1)


def test_a_fixed_batch_takes_a_batch_in_parts() -> None:
    text = CHAIN + norm("e", "y", 2)
    model = row(text, {"x": "float[2,4,6,7]"})
    array = np.random.default_rng(1).normal(size=(6, 4, 6, 7)).astype(np.float32)
    heard: list[tuple[int, int]] = []
    found = recalibrated(model, [array], on_progress=lambda *at: heard.append(at))
    assert bits(found.statistics) == bits(one_after_another(model, [{"x": part} for part in np.split(array, 3)]))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_an_input_that_may_be_left_out() -> None:
    model = row("s = Conv<pads=[1,1,1,1]>(x, k_4)\n" + norm("s", "a", 0) + conv("a", "t", 4) + norm("t", "y", 1))
    model.graph.input.append(helper.make_tensor_value_info("k_4", 1, [4, 4, 3, 3]))
    feeds = [{"x": feed["x"]} for feed in feeds_of(model)]
    assert bits(recalibrated(model, feeds).statistics) == bits(one_after_another(model, feeds))


def test_shards_in_any_order_and_any_room() -> None:
    model = MODELS["branches"]()
    feeds = feeds_of(model)
    expected = bits(recalibrated(model, feeds).statistics)
    for order in itertools.islice(itertools.permutations(feeds), 1, 24, 7):
        assert bits(recalibrated(model, list(order), spill_limit=9000).statistics) == expected


def test_a_folder_that_is_not_there() -> None:
    model = MODELS["a chain"]()
    with pytest.raises(UsageError, match="no temporary file can be made there"):
        recalibrated(model, feeds_of(model), spill="/nowhere/at/all")


@pytest.mark.parametrize("end", ["return", "raise"])
def test_no_descriptor_and_no_file_is_left(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = MODELS["a chain"]()
    feeds = feeds_of(model)

    def data() -> Iterator[dict[str, NDArray[Any]]]:
        yield from feeds
        if end == "raise":
            raise KeyboardInterrupt

    recalibrated(model, feeds)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    if end == "raise":
        with pytest.raises(KeyboardInterrupt):
            recalibrated(model, data(), spill=tmp_path, spill_limit=0)
    else:
        recalibrated(model, data(), spill=tmp_path, spill_limit=0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []


def test_broken_rows_are_seen_behind_the_first_level() -> None:
    """The division is by what only the second level reads."""
    model = row(
        norm("x", "a", 0) + "q = Div(a, u)\n" + norm("q", "y", 1), {"x": "float[N,4,6,7]", "u": "float[N,4,6,7]"}
    )
    feeds = feeds_of(model)
    feeds[2]["u"][:] = 0
    with pytest.raises(UsageError, match="are not finite: look for broken rows"):
        recalibrated(model, feeds)
