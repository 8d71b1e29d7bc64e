"""What is kept comes back as it was, within the room that it was given."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.recalibration.kept_values import Kept, KeptValues


def filled(number: int, count: int = 25) -> NDArray[np.float32]:
    """`count` times 4 bytes."""
    return np.full(count, number, np.float32)


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_arrays_of_every_type_come_back(limit: int, tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {
        "matrix": np.arange(12.0).reshape(3, 4).T,
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((2, 0, 3), np.float16),
        "flags": np.array([True, False]),
        "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16),
    }
    with KeptValues(limit, tmp_path, 1 << 20) as kept:
        places = kept.put(arrays)
        assert places is not None
        for name, array in arrays.items():
            found = kept.get(places[name])
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found, array)


def test_texts_are_kept_in_memory_alone(tmp_path: Path) -> None:
    texts = {"texts": np.array(["a", "b"], object)}
    with KeptValues(1000, tmp_path, 1000) as kept:
        places = kept.put(texts)
        assert places is not None
        assert list(kept.get(places["texts"])) == ["a", "b"]
        assert kept.most_in_memory > 2 * 8
    with KeptValues(20, tmp_path, 1000) as kept:
        assert kept.put(texts) is None


def test_all_fit_or_none_is_kept(tmp_path: Path) -> None:
    with KeptValues(100, tmp_path, 100) as kept:
        assert kept.put({"a": filled(1), "b": filled(2), "c": filled(3)}) is None
        assert kept.put({"a": filled(1), "b": filled(2)}) is not None
        assert kept.put({"c": filled(3, 1)}) is None
        assert (kept.most_in_memory, kept.most_in_file) == (100, 100)


def test_what_goes_makes_room(tmp_path: Path) -> None:
    with KeptValues(100, tmp_path, 200) as kept:
        first = kept.put({"memory": filled(0), "file": filled(1), "also": filled(2)})
        assert first is not None
        second = kept.put({"memory": filled(3)}, instead_of=[first["memory"]])
        assert second is not None
        assert kept.put({"no": filled(4)}) is None
        kept.drop([first["file"]])
        third = kept.put({"file": filled(5)})
        assert third is not None
        found = {name: kept.get(place)[0] for name, place in {**first, **second, **third}.items()}
        assert found == {"memory": 3, "file": 5, "also": 2}
        assert kept.most_in_file == 200


def test_neighbours_in_the_file_become_one_hole(tmp_path: Path) -> None:
    with KeptValues(0, tmp_path, 400) as kept:
        places = kept.put({str(i): filled(i) for i in range(4)})
        assert places is not None
        kept.drop([places["2"], places["0"], places["1"]])
        wide = kept.put({"wide": filled(9, 60), "narrow": filled(8, 15)})
        assert wide is not None
        assert kept.get(wide["wide"]).tolist() == [9.0] * 60
        assert kept.get(wide["narrow"]).tolist() == [8.0] * 15
        assert kept.get(places["3"])[0] == 3
        kept.drop([places["3"], *wide.values()])
        assert kept.put({"all": filled(7, 100)}) is not None
        assert kept.most_in_file == 400


def test_random_comings_and_goings(tmp_path: Path) -> None:
    """Never more than the room, and never another array than the one that was put there."""
    generator = np.random.default_rng(0)
    with KeptValues(500, tmp_path, 2000) as kept:
        held: list[tuple[Kept, NDArray[np.float32]]] = []
        refused = 0
        for number in range(600):
            array = filled(number, int(generator.integers(1, 60)))
            leaving = [held.pop(int(generator.integers(len(held))))] if held and generator.random() < 0.4 else []
            places = kept.put({"it": array}, instead_of=[place for place, _ in leaving])
            if places is None:
                refused += 1
                held += leaving
                if held and generator.random() < 0.7:
                    kept.drop([held.pop(0)[0]])
            else:
                held.append((places["it"], array))
            for place, expected in held:
                np.testing.assert_array_equal(kept.get(place), expected)
        assert refused > 50
        assert kept.most_in_memory <= 500
        assert 1000 < kept.most_in_file <= 2000
        kept.drop([place for place, _ in held])
        assert kept.put({"whole": filled(1, 500)}) is not None


def test_a_full_disk_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with KeptValues(0, tmp_path, 1000) as kept:
        first = kept.put({"a": filled(1)})
        assert first is not None
        assert kept.put({"b": filled(2)}) is None
        assert kept.get(first["a"])[0] == 1
        kept.drop(first.values())
        assert kept.put({"b": filled(2)}) is not None


def test_the_file_has_no_name(tmp_path: Path) -> None:
    with KeptValues(0, tmp_path, 1000) as kept:
        assert kept.put({"a": filled(1)}) is not None
        assert list(tmp_path.iterdir()) == []
