import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from onnx import ModelProto, TensorProto

from bnfold.errors import ModelError, OutputError
from bnfold.onnxfile import (
    Layout,
    OnnxFile,
    Payload,
    Publication,
    Span,
    Stored,
    Weights,
    Written,
    payload_index,
    read,
    set_payload,
    to_proto,
)
from tests.onnxfile.test_read import models
from tests.onnxfile_models import chain, everywhere, loaded, names, save_external, weight


def write(file: OnnxFile, target: Path, layout: Layout | None = None, *, untouched: bool = False) -> Written:
    with Publication(target) as output:
        written = output.write(file, untouched=untouched, layout=layout)
        assert written.path == output.path
        assert written.nbytes == output.path.stat().st_size
        assert written.sha256 == hashlib.sha256(output.path.read_bytes()).hexdigest()
        output.publish()
    return written


class Doubled:
    """A computed payload: float32 values times two, in chunks of `step` bytes."""

    def __init__(self, payload: Payload, step: int = 100_000) -> None:
        self.payload = payload
        self.nbytes = payload.nbytes
        self.step = step

    def chunks(self) -> Iterator[memoryview]:
        data = np.frombuffer(b"".join(self.payload.chunks()), np.float32) * np.float32(2)
        for start in range(0, len(data), self.step // 4):
            yield memoryview(data[start : start + self.step // 4])


def external_of(path: Path) -> dict[str, tuple[str, int, int]]:
    """Location, offset and length of each external initializer."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location == TensorProto.EXTERNAL:
            found[tensor.name] = entries["location"], int(entries["offset"]), int(entries["length"])
    return found


# --- the bytes


def test_the_output_is_what_protobuf_would_serialize(tmp_path: Path) -> None:
    proto = everywhere()
    onnx.save(proto, tmp_path / "in.onnx")
    write(read(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == proto.SerializeToString(deterministic=True)


@given(models())
@settings(deadline=None, max_examples=40)
def test_any_model_is_written_as_protobuf_would(tmp_path_factory: pytest.TempPathFactory, proto: ModelProto) -> None:
    folder = tmp_path_factory.mktemp("any")
    write(read(proto), folder / "out.onnx")
    assert (folder / "out.onnx").read_bytes() == proto.SerializeToString(deterministic=True)
    assert onnx.load(folder / "out.onnx") == proto


@pytest.mark.parametrize("location", ["one.data", None, "a+b"])
@pytest.mark.parametrize("untouched", [False, True])
def test_an_external_model_stays_external_in_the_same_files(
    tmp_path: Path, location: str | None, untouched: bool
) -> None:
    proto = chain(*(weight(f"w{i}", 1100) for i in range(6)))
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = tmp_path / "in" / "m.onnx"
    save_external(proto, path, None if location == "a+b" else location)
    if location == "a+b":
        several(path)
    write(read(path), tmp_path / "out" / "m.onnx", untouched=untouched)
    assert names(tmp_path / "out") == names(tmp_path / "in")
    assert external_of(tmp_path / "out" / "m.onnx") == external_of(path)
    assert loaded(tmp_path / "out" / "m.onnx") == loaded(path) == proto
    for name in names(tmp_path / "in"):
        assert (tmp_path / "in" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    onnxruntime.InferenceSession(tmp_path / "out" / "m.onnx")


def several(path: Path) -> None:
    """Rearrange one file per tensor into two files, one of them in a directory, and one inline tensor."""
    proto = onnx.load(path)
    del proto.graph.initializer[0].external_data[:]
    (path.parent / "part").mkdir()
    for index, tensor in enumerate(proto.graph.initializer):
        (path.parent / tensor.name).unlink()
        if index:
            place = path.parent / ("part/b.bin" if index % 2 else "a.bin")
            onnx.external_data_helper.set_external_data(
                tensor, place.relative_to(path.parent).as_posix(), place.stat().st_size if place.exists() else 0, 4400
            )
            with place.open("ab") as data:
                data.write(tensor.raw_data)
            tensor.ClearField("raw_data")
    path.write_bytes(proto.SerializeToString(deterministic=True))


def test_an_untouched_model_is_copied_byte_for_byte_even_where_protobuf_would_write_it_otherwise(
    tmp_path: Path,
) -> None:
    proto = chain(weight("w"))
    data = b"\x88\x00\x0a" + proto.SerializeToString()  # a field number in two bytes where one would do
    (tmp_path / "in.onnx").write_bytes(data)
    file = read(tmp_path / "in.onnx")
    write(file, tmp_path / "copy.onnx", untouched=True)
    write(file, tmp_path / "rewritten.onnx", untouched=False)
    assert (tmp_path / "copy.onnx").read_bytes() == data != (tmp_path / "rewritten.onnx").read_bytes()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    save_external(everywhere(), tmp_path / "in.onnx")
    outputs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write(read(tmp_path / "in.onnx"), tmp_path / name / "out.onnx")
        outputs.append({file: (tmp_path / name / file).read_bytes() for file in names(tmp_path / name)})
    assert outputs[0] == outputs[1]


# --- edits


def test_computed_payloads_are_streamed_in_their_chunks(tmp_path: Path) -> None:
    onnx.save(chain(weight("a"), weight("b")), tmp_path / "in.onnx")
    file = read(tmp_path / "in.onnx")
    file.payloads.append(Stored(Doubled(file.payloads[1].payload)))
    set_payload(file.proto.graph.initializer[1], 2)
    write(file, tmp_path / "out.onnx")
    a, b = (onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer)
    np.testing.assert_array_equal(a, onnx.numpy_helper.to_array(weight("a")))
    np.testing.assert_array_equal(b, onnx.numpy_helper.to_array(weight("b")) * 2)


@pytest.mark.parametrize("inline", [True, False])
def test_dead_payloads_are_not_written_and_double_ones_are(tmp_path: Path, inline: bool) -> None:
    proto = chain(weight("a", 100_000), weight("b", 100_000))
    if inline:
        onnx.save(proto, tmp_path / "in.onnx")
    else:
        save_external(proto, tmp_path / "in.onnx")
    file = read(tmp_path / "in.onnx")
    del file.proto.graph.initializer[0]
    file.proto.graph.initializer.add().CopyFrom(file.proto.graph.initializer[0])
    file.proto.graph.initializer[1].name = "a"
    (tmp_path / "out").mkdir()
    write(file, tmp_path / "out" / "m.onnx")
    size = sum((tmp_path / "out" / name).stat().st_size for name in names(tmp_path / "out"))
    assert 400_000 * (2 if inline else 1) < size < 400_000 * (2 if inline else 1) + 2000
    whole = loaded(tmp_path / "out" / "m.onnx")
    assert [tensor.raw_data for tensor in whole.graph.initializer] == [weight("b", 100_000).raw_data] * 2


def test_a_payload_that_lies_about_its_size_is_not_published(tmp_path: Path) -> None:
    file = read(chain(weight("a")))
    short = Doubled(file.payloads[0].payload)
    short.nbytes += 4
    file.payloads[0] = Stored(short)
    with Publication(tmp_path / "o.onnx") as output, pytest.raises(AssertionError):
        output.write(file, untouched=False)
    assert names(tmp_path) == set()


def test_writing_twice_leaves_one_output(tmp_path: Path) -> None:
    save_external(chain(weight("a")), tmp_path / "in.onnx")
    file = read(tmp_path / "in.onnx")
    (tmp_path / "out").mkdir()
    with Publication(tmp_path / "out" / "m.onnx") as output:
        output.write(file, untouched=False)
        file.payloads.append(Stored(Doubled(file.payloads[0].payload), "weights.data"))
        set_payload(file.proto.graph.initializer[0], 1)
        output.write(file, untouched=False)
        onnxruntime.InferenceSession(output.path)
        output.publish()
    assert names(tmp_path / "out") == {"m.onnx", "weights.data"}
    assert loaded(tmp_path / "out" / "m.onnx") != chain(weight("a"))


# --- layouts


@pytest.mark.parametrize("source", ["inline", "external"])
def test_everything_can_go_inline_or_external(tmp_path: Path, source: str) -> None:
    path = tmp_path / "in.onnx"
    if source == "inline":
        onnx.save(everywhere(), path)
    else:
        save_external(everywhere(), path)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "m.onnx"
    write(read(path), out, Layout(Weights.INLINE))
    assert out.read_bytes() == everywhere().SerializeToString(deterministic=True)
    assert write(read(path), out, Layout(Weights.EXTERNAL)).data_files == (tmp_path / "out" / "m.onnx.data",)
    assert to_proto(read(out)) == everywhere()
    assert {place[0] for place in external_of(out).values()} == {"m.onnx.data"}
    assert set(external_of(out)) == {"initializer"}  # "tiny" is below the threshold
    assert names(tmp_path / "out") == {"m.onnx", "m.onnx.data"}


@pytest.mark.parametrize(("threshold", "expected"), [(0, 3), (401, 2), (400, 3), (4400, 2), (400_001, 0)])
def test_the_size_threshold_is_in_bytes_and_inclusive(tmp_path: Path, threshold: int, expected: int) -> None:
    proto = chain(weight("a", 1100), weight("b", 1100), weight("c", 1100))
    proto.graph.initializer[2].CopyFrom(weight("c", 100))
    write(read(proto), tmp_path / "m.onnx", Layout(Weights.EXTERNAL, "named.bin", threshold))
    assert len(external_of(tmp_path / "m.onnx")) == expected
    assert loaded(tmp_path / "m.onnx") == proto
    assert names(tmp_path) == ({"m.onnx", "named.bin"} if expected else {"m.onnx"})


def test_attributes_stay_inline_because_onnxruntime_wants_them_there(tmp_path: Path) -> None:
    constant = onnx.helper.make_node("Constant", [], ["k"], value=weight("k"))
    proto = chain(weight("w"))
    proto.graph.node.insert(0, constant)
    proto.graph.node[1].input[1] = "k"
    write(read(proto), tmp_path / "m.onnx", Layout(Weights.EXTERNAL, size_threshold=0))
    onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert set(external_of(tmp_path / "m.onnx")) == {"w"}


def test_what_would_pass_two_gigabytes_goes_external_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = chain(weight("a"), weight("b"))
    file = read(proto)
    assert not write(file, tmp_path / "in.onnx").moved
    monkeypatch.setattr("bnfold.onnxfile.weight_layout.MAX_INLINE", 8000)
    written = write(file, tmp_path / "out.onnx")
    assert written.moved
    assert written.data_files == (tmp_path / "out.onnx.data",)
    assert loaded(tmp_path / "out.onnx") == proto
    with Publication(tmp_path / "x.onnx") as output, pytest.raises(OutputError, match="2 GiB"):
        output.write(file, untouched=False, layout=Layout(Weights.INLINE))


# --- alignment


@pytest.mark.parametrize("alignment", [1, 64, 4096, 65536])
def test_the_alignment_of_offsets_is_kept(tmp_path: Path, alignment: int) -> None:
    proto = chain(*(weight(f"w{i}", 1100) for i in range(5)))
    data = bytearray()
    for tensor in proto.graph.initializer:
        data += bytes(-len(data) % alignment)
        onnx.external_data_helper.set_external_data(tensor, "w.bin", len(data), len(tensor.raw_data))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(data)
    file = read(tmp_path / "in.onnx")
    (tmp_path / "out").mkdir()
    write(file, tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "w.bin").read_bytes() == data
    del file.proto.graph.initializer[1]
    write(file, tmp_path / "out" / "less.onnx")
    offsets = [place[1] for place in external_of(tmp_path / "out" / "less.onnx").values()]
    assert offsets == [index * -(-4400 // alignment) * alignment for index in range(4)]


def test_new_external_data_is_aligned_to_pages_where_it_is_big(tmp_path: Path) -> None:
    proto = chain(weight("a", 300_001), weight("b", 300_001))
    proto.graph.initializer.add().CopyFrom(weight("small", 1001))
    write(read(proto), tmp_path / "m.onnx", Layout(Weights.EXTERNAL))
    offsets = {name: place[1] for name, place in external_of(tmp_path / "m.onnx").items()}
    assert offsets == {"a": 0, "b": 293 * 4096, "small": 2_400_192}


# --- names of data files


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    save_external(chain(weight("a")), tmp_path / "in.onnx", "in.onnx.data")
    (tmp_path / "out.onnx.data").write_bytes(b"precious")
    written = write(changed(read(tmp_path / "in.onnx")), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"precious"
    assert loaded(tmp_path / "in.onnx") == chain(weight("a"))
    (data,) = written.data_files
    assert data.name == f"out.onnx-{hashlib.sha256(data.read_bytes()).hexdigest()[:12]}.data"


def test_beside_its_input_an_output_takes_its_own_name(tmp_path: Path) -> None:
    save_external(chain(weight("a")), tmp_path / "in.onnx", "in.onnx.data")
    (data,) = write(changed(read(tmp_path / "in.onnx")), tmp_path / "out.onnx").data_files
    assert data.name == "out.onnx.data"


def changed(file: OnnxFile) -> OnnxFile:
    file.payloads.append(Stored(Doubled(file.payloads[0].payload), file.payloads[0].location))
    set_payload(file.proto.graph.initializer[0], len(file.payloads) - 1)
    return file


def test_repeated_runs_never_append_and_give_the_same_files(tmp_path: Path) -> None:
    save_external(chain(weight("a")), tmp_path / "in.onnx", "in.onnx.data")
    states = []
    for _ in range(3):
        write(changed(read(tmp_path / "in.onnx")), tmp_path / "out.onnx")
        states.append({name: (tmp_path / name).read_bytes() for name in names(tmp_path)})
    assert states[0] == states[1] == states[2]
    assert len(states[0]) == 4


@pytest.mark.parametrize("location", ["out.onnx", ".hidden/w.bin", "sub/.profile", ".bashrc"])
def test_a_model_may_not_choose_any_name_for_the_files_that_are_written(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "in.onnx"
    (path.parent / location).parent.mkdir(exist_ok=True)
    save_external(chain(weight("a")), path, location)
    (tmp_path / "out").mkdir()
    for untouched in (False, True):
        write(read(path), tmp_path / "out" / "out.onnx", untouched=untouched)
        assert names(tmp_path / "out") == {"out.onnx", "out.onnx.data"}
        assert loaded(tmp_path / "out" / "out.onnx") == chain(weight("a"))


def test_a_symlinked_directory_at_the_output_does_not_lead_data_elsewhere(tmp_path: Path) -> None:
    for name in ("in/part", "out", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    save_external(chain(weight("a")), tmp_path / "in" / "m.onnx", "part/w.bin")
    (tmp_path / "out" / "part").symlink_to(tmp_path / "elsewhere")
    for untouched in (False, True):
        write(read(tmp_path / "in" / "m.onnx"), tmp_path / "out" / "m.onnx", untouched=untouched)
        assert not names(tmp_path / "elsewhere")
        onnxruntime.InferenceSession(tmp_path / "out" / "m.onnx")


def test_an_untouched_model_is_changed_only_where_its_data_file_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    save_external(chain(weight("a"), weight("b")), tmp_path / "in" / "m.onnx", None)
    (tmp_path / "out" / "b").write_bytes(b"precious")
    write(read(tmp_path / "in" / "m.onnx"), tmp_path / "out" / "m.onnx", untouched=True)
    assert (tmp_path / "out" / "b").read_bytes() == b"precious"
    assert len(names(tmp_path / "out")) == 4
    assert loaded(tmp_path / "out" / "m.onnx") == chain(weight("a"), weight("b"))


# --- in place


@pytest.mark.parametrize("untouched", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_input_and_output_may_be_the_same(tmp_path: Path, untouched: bool, external: bool) -> None:
    path = tmp_path / "m.onnx"
    if external:
        save_external(chain(weight("a"), weight("b")), path)
    else:
        onnx.save(chain(weight("a"), weight("b")), path)
    file = read(path)
    write(file if untouched else changed(file), path, untouched=untouched)
    result = [tensor.raw_data for tensor in loaded(path).graph.initializer]
    doubled = (onnx.numpy_helper.to_array(weight("a")) * 2).tobytes()
    assert result == [weight("a").raw_data if untouched else doubled, weight("b").raw_data]


# --- ways of copying


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL])
@pytest.mark.parametrize("broken", ["copy_file_range", "copy_file_range sendfile"])
def test_where_the_kernel_cannot_copy_bytes_are_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, broken: str
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    for name in broken.split():
        monkeypatch.setattr(os, name, refuse)
    proto = chain(weight("a", 700_000), weight("b", 700_000))
    onnx.save(proto, tmp_path / "in.onnx")
    write(read(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_short_copies_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = chain(weight("a", 700_000))
    onnx.save(proto, tmp_path / "in.onnx")
    copy, store = os.copy_file_range, os.pwrite
    monkeypatch.setattr(os, "copy_file_range", lambda src, dst, n, **at: copy(src, dst, min(n, 99_999), **at))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: store(descriptor, data[:77], place))
    write(read(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_payload_indices_beyond_the_list_cannot_be_forgotten(tmp_path: Path) -> None:
    file = read(chain(weight("a")))
    set_payload(file.proto.graph.initializer[0], 5)
    assert payload_index(file.proto.graph.initializer[0]) == 5
    with Publication(tmp_path / "o.onnx") as output, pytest.raises(IndexError):
        output.write(file, untouched=False)
    assert names(tmp_path) == set()


# --- two threads


class Slow(Doubled):
    """A computed payload that takes its time, or raises `error` in the helper, for which this thread then waits."""

    def __init__(self, payload: Payload, error: Exception | None = None) -> None:
        super().__init__(payload, 5_000)
        self.error = error
        self.threads: set[str] = set()

    def chunks(self) -> Iterator[memoryview]:
        here = threading.current_thread() is threading.main_thread()
        if self.error is not None:
            if not here:
                raise self.error
            time.sleep(0.2)
        for chunk in super().chunks():
            self.threads.add(threading.current_thread().name)
            time.sleep(0.001)
            yield chunk


@dataclass(frozen=True)
class Block:
    """A payload that reads a file block by block, as the tensors of the graph do."""

    span: Span

    @property
    def nbytes(self) -> int:
        return self.span.nbytes

    def chunks(self) -> Iterator[memoryview]:
        memory = memoryview(bytearray(5_000))
        for start in range(0, self.nbytes, 5_000):
            part = memory[: min(5_000, self.nbytes - start)]
            self.span.read_into(part, start)
            yield part


def many_pieces(tmp_path: Path) -> OnnxFile:
    """Computed, copied and small pieces, in turns."""
    sizes = [30_000, 10, 20_000, 3, 1_000, 40_000, 7, 25_000, 50_000, 9_000]
    onnx.save(chain(*(weight(f"w{n}", size) for n, size in enumerate(sizes))), tmp_path / "in.onnx")
    file = read(tmp_path / "in.onnx")
    for number, tensor in enumerate(file.proto.graph.initializer):
        index = payload_index(tensor)
        if index is not None and number % 3 != 1:
            file.payloads.append(Stored(Slow(file.payloads[index].payload)))
            set_payload(tensor, len(file.payloads) - 1)
    return file


def with_a_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"THREAD_FROM": 0, "PIECE_FROM": 2_000, "COPY_STEP": 30_000, "WRITEBACK_STEP": 10_000}.items():
        monkeypatch.setattr(f"bnfold.onnxfile.stream.{name}", value)


@pytest.mark.parametrize("copier", ["copy_file_range", "sendfile", "neither"])
@pytest.mark.parametrize("external", [False, True])
def test_two_threads_write_what_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, copier: str
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    layout = Layout(Weights.EXTERNAL, size_threshold=0) if external else Layout()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write(many_pieces(tmp_path), tmp_path / "one/o.onnx", layout=layout)
    with_a_helper(monkeypatch)
    for name in {"copy_file_range": (), "sendfile": ("copy_file_range",)}.get(copier, ("copy_file_range", "sendfile")):
        monkeypatch.setattr(os, name, refuse)
    file = many_pieces(tmp_path)
    written = write(file, tmp_path / "two/o.onnx", layout=layout)
    threads = {name for stored in file.payloads if isinstance(stored.payload, Slow) for name in stored.payload.threads}
    assert threads == {"MainThread", "bnfold-writer"}
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    assert written.sha256 == hashlib.sha256((tmp_path / "two/o.onnx").read_bytes()).hexdigest()


def test_what_waits_for_the_helper_at_the_end_is_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces: the helper has one and would get the other as well."""
    with_a_helper(monkeypatch)
    onnx.save(chain(weight("a", 60_000), weight("b", 60_000)), tmp_path / "in.onnx")
    file = read(tmp_path / "in.onnx")
    slow = [Slow(file.payloads[index].payload) for index in (0, 1)]
    for tensor, payload in zip(file.proto.graph.initializer, slow, strict=True):
        file.payloads.append(Stored(payload))
        set_payload(tensor, len(file.payloads) - 1)
    write(file, tmp_path / "o.onnx")
    assert {"MainThread"} in [payload.threads for payload in slow]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ModelError("gone")])
def test_what_fails_in_the_helper_is_raised_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with_a_helper(monkeypatch)
    file = many_pieces(tmp_path)
    for stored in file.payloads:
        if isinstance(stored.payload, Slow):
            stored.payload.error = error
    with pytest.raises(OutputError if isinstance(error, OSError) else ModelError, match=str(error.args[-1])):
        write(file, tmp_path / "o.onnx")
    assert names(tmp_path) == {"in.onnx"}
    assert not [thread for thread in threading.enumerate() if thread.name == "bnfold-writer"]


def test_many_files_are_read_by_two_threads_while_few_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_helper(monkeypatch)
    monkeypatch.setattr("bnfold.onnxfile.source.File.MAX_OPEN", 2)
    proto = chain(*(weight(f"w{n}", 30_000) for n in range(12)))
    onnx.save(proto, tmp_path / "in.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    file = read(tmp_path / "in.onnx")
    for index, stored in enumerate(file.payloads[:]):
        if index % 2:
            file.payloads[index] = Stored(Block(stored.payload), stored.location)
    write(file, tmp_path / "o.onnx", layout=Layout(Weights.INLINE))
    assert loaded(tmp_path / "o.onnx") == loaded(tmp_path / "in.onnx")
