"""Memory that is used again: never while anybody holds an array in it, and not more of it than arrays were held."""

import threading

import numpy as np
import pytest
from onnx import parser

from bnfold.equivalence.numbers.element_types import Array, Feed
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.reused_memory import ReusedMemory

FLOAT = np.dtype(np.float32)


def address(array: Array) -> int:
    return array.ctypes.data


@pytest.mark.parametrize("shape", [(2, 3, 5), (7,), (), (3, 0)])
@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i8", "?"])
def test_an_array_is_of_its_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = ReusedMemory().array(np.dtype(dtype), shape)
    array[...] = 1
    assert (array.dtype, array.shape) == (np.dtype(dtype), shape)
    assert (array == 1).all()
    assert array.flags.c_contiguous


def test_memory_is_used_again_when_the_last_view_of_it_is_gone() -> None:
    memory = ReusedMemory()
    first = memory.array(FLOAT, (4, 6))
    at, part = address(first), first[2:3].reshape(2, 3)[:, 1]
    del first
    second = memory.array(FLOAT, (4, 6))
    assert address(second) != at
    del part
    assert address(memory.array(np.dtype(np.int32), (24,))) == at


def test_memory_comes_back_from_any_thread() -> None:
    memory = ReusedMemory()
    held = [memory.array(FLOAT, (100,)) for _ in range(8)]
    addresses = {address(array) for array in held}
    threads = [threading.Thread(target=held.pop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = [memory.array(FLOAT, (100,)) for _ in range(8)]
    assert {address(array) for array in again} == addresses


def test_no_more_is_held_than_arrays_were_at_one_time() -> None:
    memory = ReusedMemory()
    generator = np.random.default_rng(0)
    held: list[Array] = []
    most = 0
    for size in generator.choice([10, 20, 35, 50], 400):
        if len(held) > generator.integers(1, 12):
            del held[: generator.integers(1, len(held))]
        held.append(memory.array(FLOAT, (size,)))
        most = max(most, sum(array.nbytes for array in held))
        assert memory.nbytes <= most


def test_what_is_free_and_too_small_goes() -> None:
    memory = ReusedMemory()
    held = [memory.array(FLOAT, (10,)) for _ in range(6)]
    assert memory.nbytes == 240
    held.clear()
    held.append(memory.array(FLOAT, (35,)))
    assert memory.nbytes == 220
    held.append(memory.array(FLOAT, (30,)))
    assert memory.nbytes == 260


HEADER = '<ir_version: 8, opset_import: ["": 13]> '
ZERO = "zero = Constant<value = float {0}>() "
ADDS = (
    HEADER
    + "g (float[N, 3] x, float b) => (float[N, 3] y, bool[N, 3] z) { y = Add(x, b) "
    + ZERO
    + "z = Less(y, zero) }"
)
CHOOSES = HEADER + "g (float[N] x) => (float[M] y) {" + ZERO + "on = Greater(x, zero) y = Compress<axis = 0>(x, on) }"
TEXTS = HEADER + "g (string[N] x) => (string[N] y) { y = Identity(x) }"
BFLOAT16 = HEADER + "g (float[N] x) => (bfloat16[N] y) { y = Cast<to = 16>(x) }"


def answers(text: str, feeds: list[Feed]) -> tuple[list[dict[str, Array]], list[bool], ReusedMemory]:
    """The answers to the feeds, held until the end, whether each is as that of a plain run, and the memory."""
    memory = ReusedMemory()
    with running(parser.parse_model(text).SerializeToString(), Setting()) as session:
        found = [session.run_reusing(memory, feed) for feed in feeds]
        plain = [session.run(feed) for feed in feeds]
    same = [
        one.keys() == other.keys()
        and all(one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one)
        for one, other in zip(found, plain, strict=True)
    ]
    return found, same, memory


def test_answers_that_are_held_are_not_written_over() -> None:
    generator = np.random.default_rng(3)
    feeds: list[Feed] = [
        {"x": generator.normal(size=(size, 3)).astype(np.float32), "b": np.array(size, np.float32)}
        for size in (2, 2, 4, 2, 4, 1)
    ]
    feeds[3] = {"x": np.asfortranarray(feeds[3]["x"]), "b": feeds[3]["b"]}
    _, same, memory = answers(ADDS, feeds)
    assert same == [True] * 6
    assert memory.nbytes == (2 + 2 + 4) * 3 * 5, "all but the first of each size"


def test_shapes_that_depend_on_the_data() -> None:
    feeds: list[Feed] = [{"x": np.array(x, np.float32)} for x in ([1, 2, -1], [3, 4, -2], [1, -1, -1], [1, 2, 3])]
    found, same, _ = answers(CHOOSES, feeds)
    assert same == [True] * 4
    assert [each["y"].size for each in found] == [2, 2, 1, 3]


def test_an_answer_that_is_no_plain_array_of_numbers() -> None:
    texts: list[Feed] = [{"x": np.array(["a", each], object)} for each in ("b", "c", "d")]
    _, _, memory = answers(TEXTS, texts)
    assert memory.nbytes == 0
    _, same, memory = answers(BFLOAT16, [{"x": np.ones(3, np.float32)}] * 3)
    assert (same, memory.nbytes) == ([True] * 3, 0)
