"""Merging moments: exact, so that neither order nor grouping nor an offset can be seen in the result."""

import itertools
import math
from collections import deque
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.statistics import Averaged, ExactSum, Moments, Pooled, Statistics, moments_of
from bnfold.statistics.exact_sum import split_product
from tests.peak_memory import least_peak

FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-1e100, 1e100).filter(lambda x: x == 0 or abs(x) > 1e-100)


@settings(deadline=None)
@given(st.lists(FINITE, max_size=40))
def test_a_sum_is_exact(numbers: list[float]) -> None:
    total = ExactSum(1)
    for number in numbers:
        total.add(np.array([number]))
    assert total.exact() == [sum(map(Fraction, numbers), Fraction(0))]


@pytest.mark.parametrize("number", [5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, -0.0, 3.0])
def test_the_ends_of_the_range(number: float) -> None:
    total = ExactSum(2)
    for _ in range(3):
        total.add(np.array([number, -number]))
    assert total.exact() == [3 * Fraction(number), -3 * Fraction(number)]


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=9))
def test_vectors_count_the_same_at_once_and_one_by_one(pairs: list[tuple[float, float]]) -> None:
    at_once, one_by_one = ExactSum(2), ExactSum(2)
    at_once.add(np.array(pairs))
    at_once.add(np.array([pairs, pairs]).swapaxes(0, 1))
    for pair in pairs * 3:
        one_by_one.add(np.array(pair))
    assert at_once.to_bytes() == one_by_one.to_bytes()
    assert at_once.exact() == [3 * sum(map(Fraction, column)) for column in zip(*pairs, strict=True)]


@settings(deadline=None)
@given(MODERATE, MODERATE)
def test_a_product_is_split_exactly(a: float, b: float) -> None:
    high, low = split_product(np.array([a]), np.array([b]))
    assert Fraction(high[0]) + Fraction(low[0]) == Fraction(a) * Fraction(b)


def uneven(data: np.ndarray, parts: int, seed: int = 0) -> list[np.ndarray]:
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, len(data)), parts - 1, replace=False))
    return np.split(data, cuts)


def pooled(parts: list[np.ndarray]) -> Statistics:
    merger = Pooled(parts[0].shape[1])
    for part in parts:
        merger.add(moments_of(part))
    return merger.statistics()


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    generator = np.random.default_rng(1)
    shape = np.array([0.0, 1e4, -300.0]).reshape(1, 3, 1, 1), np.array([1.0, 1e-2, 50.0]).reshape(1, 3, 1, 1)
    return generator.normal(size=(97, 3, 5, 4)) * shape[1] + shape[0]


@pytest.mark.parametrize("parts", [1, 2, 16])
def test_shards_agree_with_the_whole(data: np.ndarray, parts: int) -> None:
    found = pooled(uneven(data, parts) if parts > 1 else [data])
    exact = [[Fraction(float(x)) for x in data[:, c].reshape(-1)] for c in range(3)]
    for channel, values in enumerate(exact):
        mean = sum(values) / len(values)
        variance = sum((x - mean) ** 2 for x in values) / len(values)
        assert found.mean[channel] == pytest.approx(float(mean), rel=1e-12, abs=1e-14)
        assert found.variance[channel] == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("unit", [1.0, 2.0**-80, 2.0**-150, 2.0**60, 2.0**200])
def test_statistics_are_rounded_once_in_any_unit(unit: float) -> None:
    """Sums may be whole numbers, or lie far behind the binary point."""
    generator = np.random.default_rng(2)
    parts = [
        Moments(count, unit * generator.integers(-9, 9, 1) / 1.0, unit**2 * np.array([count / 3]))
        for count in (4, 3, 7)
    ]
    by_elements, by_batches = Pooled(1), Averaged(1)
    for part in parts:
        by_elements.add(part)
        by_batches.add(part)
    terms = [(part.count, Fraction(part.mean.item()), Fraction(part.m2.item())) for part in parts]
    mean = sum(count * own for count, own, _ in terms) / 14
    inner = sum(m2 + count * own * own for count, own, m2 in terms) / 14
    assert by_elements.statistics() == (float(mean), float(inner - mean * mean))
    variances = [Fraction((part.m2 / (part.count - 1)).item()) for part in parts]
    assert by_batches.statistics() == (float(sum(own for _, own, _ in terms) / 3), float(sum(variances) / 3))


def test_the_mean_of_the_variances_is_another_number(data: np.ndarray) -> None:
    parts = uneven(data, 16)
    naive = np.mean([part.var((0, 2, 3)) for part in parts], axis=0)
    assert (np.abs(naive / pooled(parts).variance - 1) > 1e-3).any(), "or the tests above show nothing"


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), max_size=20), st.lists(st.tuples(FINITE, FINITE), max_size=20))
def test_a_sum_goes_through_bytes(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> None:
    whole, parts = ExactSum(2), []
    for numbers in (first, second):
        part = ExactSum(2)
        for pair in numbers:
            whole.add(np.array(pair))
            part.add(np.array(pair))
        parts.append(ExactSum.from_bytes(memoryview(part.to_bytes()), 2)[0])
    parts[1].merge(parts[0])
    assert parts[1].exact() == whole.exact()
    assert parts[1].to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("kind", [Pooled, Averaged])
def test_shards_that_travel_give_the_bits_of_the_whole(kind: type[Pooled | Averaged], data: np.ndarray) -> None:
    parts = uneven(data, 13)
    whole = kind(3)
    shards = [kind(3) for _ in range(4)]
    for index, part in enumerate(parts):
        whole.add(moments_of(part))
        shards[index % 4].add(moments_of(part))
    merged = kind(3)
    for shard in reversed(shards):
        merged.merge(kind.from_bytes(shard.to_bytes()))
    assert merged.to_bytes() == whole.to_bytes()
    assert (merged.statistics().mean == whole.statistics().mean).all()
    assert (merged.statistics().variance == whole.statistics().variance).all()
    assert len(whole.to_bytes()) < 3 * 3 * 8 * 12, "limbs that are not used take no room"


def test_bytes_of_something_else_are_refused(data: np.ndarray) -> None:
    merger = Pooled(3)
    merger.add(moments_of(data))
    good = merger.to_bytes()
    later = good[:4] + bytes([2]) + good[5:]
    for bad in (b"", good[:-1], good + b"x", b"x" + good[1:], later, good[:40], good[:26] + b"\xff\xff" + good[28:]):
        with pytest.raises(ValueError, match=r"\w"):
            Pooled.from_bytes(bad)
    with pytest.raises(ValueError, match="kind"):
        Averaged.from_bytes(good)
    with pytest.raises(ValueError, match="channels"):
        merger.merge(Pooled(4))


def test_any_order_gives_the_same_bits(data: np.ndarray) -> None:
    parts = uneven(data, 16)
    expected = pooled(parts)
    generator = np.random.default_rng(5)
    for _ in range(20):
        found = pooled([parts[i] for i in generator.permutation(16)])
        assert found.mean.tobytes() == expected.mean.tobytes()
        assert found.variance.tobytes() == expected.variance.tobytes()


def test_a_large_offset_does_not_cancel() -> None:
    values = np.array([1e8 + 1, 1e8 + 2, 1e8 + 3, 1e8 + 4]).reshape(4, 1)
    assert pooled([values[:1], values[1:]]).variance[0] == 1.25


def test_a_batch_counts_by_its_elements() -> None:
    found = pooled([np.zeros((1, 1, 2, 2)), np.ones((3, 1, 2, 2)), np.ones((2, 1, 1, 4))])
    assert found.mean[0] == 5 / 6
    assert found.variance[0] == pytest.approx(5 / 36, rel=1e-15)


def test_constant_data_has_no_variance() -> None:
    found = pooled([np.full((3, 2, 5), 0.1, np.float32), np.full((4, 2, 5), 0.1, np.float32)])
    assert found.mean.tolist() == [float(np.float32(0.1))] * 2
    assert found.variance.tolist() == [0.0, 0.0]


def test_an_empty_batch_changes_nothing() -> None:
    some = np.random.default_rng(0).normal(size=(5, 2, 3))
    assert pooled([some, some[:0]]).variance.tobytes() == pooled([some]).variance.tobytes()


def test_the_average_over_batches_is_that_of_pytorch(data: np.ndarray) -> None:
    parts = uneven(data, 7)
    merger = Averaged(3)
    for part in parts:
        merger.add(moments_of(part))
    found = merger.statistics()
    np.testing.assert_allclose(found.mean, np.mean([p.mean((0, 2, 3)) for p in parts], 0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.variance, np.mean([p.var((0, 2, 3), ddof=1) for p in parts], 0), rtol=1e-12)


def test_what_has_no_statistics_says_so() -> None:
    with pytest.raises(ValueError, match="no data"):
        Pooled(2).statistics()
    with pytest.raises(ValueError, match="no data"):
        Averaged(2).statistics()
    with pytest.raises(ValueError, match="one value per channel"):
        Averaged(2).add(Moments(1, np.zeros(2), np.zeros(2)))
    with pytest.raises(ValueError, match="no channels"):
        moments_of(np.zeros(3))


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 4, 5), (700, 3, 50, 40)])
def test_moments_of_every_rank_and_of_more_than_one_block(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(2).normal(1000, 1, shape).astype(np.float32)
    found = moments_of(values)
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    wide = values.astype(np.float64)
    assert found.count == math.prod(shape) // shape[1]
    np.testing.assert_allclose(found.mean, wide.mean(axes), rtol=1e-14)
    np.testing.assert_allclose(found.m2 / found.count, wide.var(axes), rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    merger, batch = Pooled(16), moments_of(np.random.default_rng(0).normal(size=(8, 16, 3)))

    def peak(batches: int) -> int:
        return least_peak(lambda: deque(map(merger.add, itertools.repeat(batch, batches)), maxlen=0))

    peak(5)
    assert peak(40) <= peak(5) + 4096


def test_statistics_are_rounded_once() -> None:
    """One value per channel and batch: its moments are exact, and so is the sum of its square."""
    values = np.random.default_rng(4).normal(3, 2, (7, 5)).astype(np.float32).astype(np.float64)
    merger = Pooled(5)
    for row in values:
        merger.add(Moments(1, row, np.zeros(5)))
    found = merger.statistics()
    for channel in range(5):
        exact = [Fraction(value) for value in values[:, channel].tolist()]
        mean = sum(exact, Fraction(0)) / 7
        assert found.mean[channel] == float(mean)
        assert found.variance[channel] == float(sum(value * value for value in exact) / 7 - mean * mean)
