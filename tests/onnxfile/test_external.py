import os
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from bnfold.errors import ModelError
from bnfold.onnxfile import Publication, Span, read, to_proto
from bnfold.onnxfile.source import File
from tests.onnxfile_models import BULKY, chain, everywhere, loaded, save_external, weight

NBYTES = 4 * BULKY


def refusal(source: Path | bytes | ModelProto, **options: bool) -> str:
    with pytest.raises(ModelError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_model(folder: Path, entries: dict[str, str], *, size: int = NBYTES, **changes: int) -> Path:
    """A model whose one weight is external as `entries` say, and a data file of `size` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = chain(weight("w"))
    tensor = proto.graph.initializer[0]
    (folder / "w.data").write_bytes(tensor.raw_data[:size].ljust(size, b"\0"))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    for field, new in changes.items():
        setattr(tensor, field, new)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


# --- what is read


@pytest.mark.parametrize("location", ["one.data", None])
@pytest.mark.parametrize("attributes", [False, True])
def test_external_models_are_read_as_onnx_reads_them(tmp_path: Path, location: str | None, attributes: bool) -> None:
    path = tmp_path / "m.onnx"
    save_external(everywhere(), path, location, attributes=attributes, threshold=0)
    file = read(path)
    assert to_proto(file) == everywhere()
    assert {stored.location for stored in file.payloads} >= {data.path.name for data in file.data_files}
    assert len(file.data_files) == (1 if location else len({s.location for s in file.payloads} - {None}))
    assert file.nbytes == path.stat().st_size


def test_small_external_tensors_are_payloads_too(tmp_path: Path) -> None:
    save_external(chain(weight("a", 3), weight("b", 3)), tmp_path / "m.onnx", threshold=0)
    file = read(tmp_path / "m.onnx")
    assert [stored.payload.nbytes for stored in file.payloads] == [12, 12]
    assert isinstance(file.payloads[1].payload, Span)
    assert file.payloads[1].payload.offset == 12


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    assert to_proto(read(path)) == loaded(path) == chain(weight("w"))


def test_two_tensors_may_share_bytes(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    proto = ModelProto.FromString(path.read_bytes())
    proto.graph.initializer.add().CopyFrom(proto.graph.initializer[0])
    proto.graph.initializer[1].name = "tied"
    path.write_bytes(proto.SerializeToString())
    assert to_proto(read(path)) == loaded(path)


def test_an_external_tensor_deep_in_an_operator_nobody_knows_is_found(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    proto = ModelProto.FromString(path.read_bytes())
    node = proto.graph.node.add(op_type="Custom", domain="custom", output=["z"])
    node.attribute.append(helper.make_attribute("held", [proto.graph.initializer[0]]))
    path.write_bytes(proto.SerializeToString())
    assert len(read(path).payloads) == 2


# --- the rules


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "names no file"),
        ({"location": ""}, "names no file"),
        ({"offset": "0"}, "names no file"),
        ({"location": "missing.data"}, "No such file"),
        ({"location": "/etc/hostname"}, "absolute path"),
        ({"location": "../outside.data"}, "outside the model's directory"),
        ({"location": "../m/../outside.data"}, "outside the model's directory"),
        ({"location": "."}, "is a directory"),
        ({"location": "w.data/x"}, "Not a directory"),
        ({"location": "w\0.data"}, "zero byte"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096", "length": str(NBYTES)}, "No such file"),
        ({"location": "w.data", "offset": "1"}, "which has only 4400"),
        ({"location": "w.data", "offset": str(2**62)}, "which has only 4400"),
        ({"location": "w.data", "offset": str(2**64)}, "not a byte count"),
        ({"location": "w.data", "offset": "-4"}, "not a byte count"),
        ({"location": "w.data", "offset": "four"}, "not a byte count"),
        ({"location": "w.data", "offset": "٤"}, "not a byte count"),
        ({"location": "w.data", "length": str(2**60)}, "where its shape and type need 4400"),
        ({"location": "w.data", "length": "4396"}, "where its shape and type need 4400"),
        ({"location": "w.data", "length": "-1"}, "not a byte count"),
        ({"location": "w.data", "length": ""}, "not a byte count"),
    ],
)
def test_what_external_data_may_not_say(tmp_path: Path, entries: dict[str, str], words: str) -> None:
    (tmp_path / "outside.data").write_bytes(bytes(NBYTES))
    path = write_model(tmp_path / "m", entries)
    message = refusal(path)
    assert words in message
    assert message.startswith(f"{path}: ")
    assert "'w'" in message


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    proto = ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].external_data.add(key="location", value="w.data")
    path.write_bytes(proto.SerializeToString())
    assert "location twice" in refusal(path)


@pytest.mark.parametrize(
    ("size", "changes", "words"),
    [
        (NBYTES - 1, {}, "which has only 4399"),
        (0, {}, "which has only 0"),
        (NBYTES, {"data_type": TensorProto.DOUBLE}, "which has only 4400"),
        (NBYTES, {"data_type": TensorProto.STRING}, "cannot be stored externally"),
        (NBYTES, {"data_type": TensorProto.UNDEFINED}, "cannot be stored externally"),
    ],
)
def test_the_file_must_hold_what_shape_and_type_ask(
    tmp_path: Path, size: int, changes: dict[str, int], words: str
) -> None:
    assert words in refusal(write_model(tmp_path, {"location": "w.data"}, size=size, **changes))


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-1], [2**62]])
def test_dims_that_overflow_are_refused_before_the_file_is_looked_at(tmp_path: Path, dims: list[int]) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    proto = ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].dims[:] = dims
    path.write_bytes(proto.SerializeToString())
    assert "'w'" in refusal(path)


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "fifo"})
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refusal(path)
    (tmp_path / "fifo").unlink()
    (tmp_path / "fifo").mkdir()
    assert "is a directory" in refusal(path)


def test_a_symlink_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {"location": "w.data"})
    (tmp_path / "m" / "w.data").rename(tmp_path / "secret")
    (tmp_path / "m" / "w.data").symlink_to(tmp_path / "secret")
    assert "outside the model's directory" in refusal(path)
    (tmp_path / "m" / "w.data").unlink()
    (tmp_path / "m" / "up").symlink_to(tmp_path)
    assert "outside the model's directory" in refusal(write_model(tmp_path / "m", {"location": "up/secret"}))


def cache(tmp_path: Path) -> Path:
    """A model as the Hugging Face cache stores it: links into a directory of blobs."""
    made = write_model(tmp_path / "made", {"location": "w.data"})
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for source, blob in ((made, "1f"), (made.with_name("w.data"), "2e")):
        source.rename(blobs / blob)
        (snapshot / source.name).symlink_to(Path("..", "..", "blobs", blob))
    return snapshot / "m.onnx"


def test_a_symlinked_cache_is_read_where_onnxruntime_reads_it(tmp_path: Path) -> None:
    path = cache(tmp_path)
    onnxruntime.InferenceSession(path)
    assert to_proto(read(path)) == chain(weight("w"))


def test_strict_refuses_symlinks(tmp_path: Path) -> None:
    assert "symlink" in refusal(cache(tmp_path), strict_external_data=True)


def test_strict_refuses_hard_links_and_steps_up(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {"location": "w.data"})
    assert len(read(path, strict_external_data=True).payloads) == 1
    os.link(tmp_path / "m" / "w.data", tmp_path / "link")
    assert len(read(path).payloads) == 1
    assert "hard links" in refusal(path, strict_external_data=True)
    (tmp_path / "m" / "sub").mkdir()
    path = write_model(tmp_path / "m", {"location": "sub/../w.data"})
    assert len(read(path).payloads) == 1
    assert "'..'" in refusal(path, strict_external_data=True)


def test_a_model_from_memory_has_no_directory(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    data = path.read_bytes()
    assert "pass the model's path" in refusal(data)
    assert "pass the model's path" in refusal(ModelProto.FromString(data))


def test_a_data_file_replaced_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write_model(tmp_path, {"location": "w.data"})
    file = read(path)
    with (tmp_path / "w.data").open("r+b") as data:
        data.write(b"other")
    os.utime(tmp_path / "w.data", ns=(1, 1))
    with Publication(tmp_path / "o.onnx") as output, pytest.raises(ModelError, match="changed while it was being read"):
        output.write(file, untouched=False)
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.onnx", "w.data"}


def test_a_data_file_that_shrinks_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    big = chain(weight("w", 100_000))
    save_external(big, tmp_path / "m.onnx", "w.data")
    file = read(tmp_path / "m.onnx")
    os.truncate(tmp_path / "w.data", 1000)
    with Publication(tmp_path / "o.onnx") as output, pytest.raises(ModelError, match="became shorter"):
        output.write(file, untouched=False)
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.onnx", "w.data"}


def test_onnx_refuses_what_only_the_strict_rule_refuses(tmp_path: Path) -> None:
    path = cache(tmp_path)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.load(path)


def test_a_link_that_is_put_there_after_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "in", {"location": "w.data"})
    outside = tmp_path / "outside"
    outside.write_bytes((path.parent / "w.data").read_bytes())

    class Replaced(File):
        def __init__(self, place: Path, *, what: str) -> None:
            place.unlink()
            place.symlink_to(outside)
            super().__init__(place, what=what)

    monkeypatch.setattr("bnfold.onnxfile.external.File", Replaced)
    with pytest.raises(ModelError, match="is being replaced; run again"):
        read(path)
