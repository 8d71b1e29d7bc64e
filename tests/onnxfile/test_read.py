import gc
import hashlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bnfold.errors import ModelError
from bnfold.onnxfile import PAYLOAD_KEY, Publication, Span, payload_index, read, set_payload, to_proto
from bnfold.onnxfile.source import File
from bnfold.onnxfile.tensors import tensors
from bnfold.onnxfile.wire import varint
from tests.onnxfile_models import BULKY, chain, everywhere, model, save_external, value, weight


def refusal(source: Any, **options: bool) -> str:
    with pytest.raises(ModelError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


# --- what is read


def test_every_bulky_tensor_becomes_a_payload_wherever_it_is(path: Path) -> None:
    proto = everywhere()
    onnx.save(proto, path)
    file = read(path)
    structure = file.proto.SerializeToString()
    assert len(structure) < 16_000
    bulky = [tensor for tensor, _ in tensors(proto, thorough=True) if len(tensor.raw_data) >= 4096]
    found = [payload_index(tensor) for tensor, _ in tensors(file.proto, thorough=True)]
    assert sorted(index for index in found if index is not None) == list(range(len(bulky)))
    assert len(file.payloads) == len(bulky) == 28


def test_payloads_are_ranges_of_the_file_and_hold_the_bytes(path: Path) -> None:
    proto = chain(weight("a"), weight("b"))
    onnx.save(proto, path)
    file = read(path)
    for stored, tensor in zip(file.payloads, proto.graph.initializer, strict=True):
        assert isinstance(stored.payload, Span)
        assert stored.location is None
        assert stored.payload.source == path
        assert stored.payload.view().readonly
        assert bytes(stored.payload.view()) == b"".join(stored.payload.chunks()) == tensor.raw_data
        whole = path.read_bytes()
        assert whole[stored.payload.offset :][: stored.payload.nbytes] == tensor.raw_data


@pytest.mark.parametrize("elements", [1023, 1024])
def test_a_tensor_is_bulky_from_4096_bytes_on(elements: int) -> None:
    file = read(chain(weight("w", elements)))
    assert len(file.payloads) == (elements == 1024)


def test_to_proto_gives_the_model_back(path: Path) -> None:
    proto = everywhere()
    onnx.save(proto, path)
    assert to_proto(read(path)) == proto == onnx.load(path)


def test_bytes_and_protos_are_read_like_files(path: Path) -> None:
    proto = everywhere()
    onnx.save(proto, path)
    for source in (proto, proto.SerializeToString(), str(path), os.fspath(path)):
        assert to_proto(read(source)) == proto


def test_a_given_proto_is_never_modified() -> None:
    proto = everywhere()
    before = proto.SerializeToString(deterministic=True)
    file = read(proto)
    set_payload(file.proto.graph.initializer[0], 1)
    del file.proto.graph.node[:]
    assert proto.SerializeToString(deterministic=True) == before


def test_the_hash_and_the_size_are_those_of_the_file(path: Path) -> None:
    onnx.save(everywhere(), path)
    file = read(path)
    assert file.nbytes == path.stat().st_size
    assert file.sha256() == file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read(path.read_bytes()).sha256() == file.sha256()


def test_set_payload_replaces_whatever_held_the_data() -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])
    set_payload(tensor, 7)
    assert payload_index(tensor) == 7
    set_payload(tensor, 8)
    assert payload_index(tensor) == 8
    assert len(tensor.external_data) == 1
    assert not tensor.float_data
    assert payload_index(weight("w")) is None


def test_data_location_default_survives_although_the_marker_uses_that_field(path: Path) -> None:
    proto = chain(weight("a"), weight("b"))
    proto.graph.initializer[0].data_location = TensorProto.DEFAULT
    onnx.save(proto, path)
    assert to_proto(read(path)) == proto


def test_leftover_external_entries_of_an_inline_tensor_survive(path: Path) -> None:
    proto = chain(weight("a"))
    proto.graph.initializer[0].external_data.add(key="location", value="gone.data")
    path.write_bytes(proto.SerializeToString())
    assert to_proto(read(path)) == proto


def test_unknown_fields_survive() -> None:
    proto = chain(weight("a"))
    unknown = varint(900 << 3 | 2) + b"\x05extra"
    tensor = proto.graph.initializer[0].SerializeToString() + unknown
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString() + unknown + b"\x2a" + varint(len(tensor)) + tensor
    proto.ClearField("graph")
    data = proto.SerializeToString() + unknown + b"\x3a" + varint(len(graph)) + graph
    whole = to_proto(read(data))
    assert whole.SerializeToString(deterministic=True) == ModelProto.FromString(data).SerializeToString(
        deterministic=True
    )
    assert whole.SerializeToString().count(b"\x05extra") == 3


def test_the_last_raw_data_of_a_tensor_counts() -> None:
    first, last = weight("a"), weight("b")
    proto = chain(first)
    tensor = first.SerializeToString() + b"\x4a" + varint(len(last.raw_data)) + last.raw_data
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString() + b"\x2a" + varint(len(tensor)) + tensor
    proto.ClearField("graph")
    data = proto.SerializeToString() + b"\x3a" + varint(len(graph)) + graph
    assert to_proto(read(data)) == ModelProto.FromString(data)
    assert to_proto(read(data)).graph.initializer[0].raw_data == last.raw_data


def test_a_graph_stored_in_two_pieces_is_merged_as_protobuf_does() -> None:
    one, two = chain(weight("a")), chain(weight("b"))
    data = one.SerializeToString() + b"\x3a" + varint(two.graph.ByteSize()) + two.graph.SerializeToString()
    assert len(read(data).payloads) == 2
    assert to_proto(read(data)) == ModelProto.FromString(data)


def test_a_tensor_stored_in_two_pieces_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=weight("a"))], "g", [], [value("y", BULKY)]
    )
    attribute = graph.node[0].attribute[0].SerializeToString()
    second = b"\x2a\x05\x42\x03new"
    node = b"\x2a" + varint(len(attribute) + len(second)) + attribute + second
    data = b"\x0a" + varint(len(node)) + node
    assert "stored in two pieces" in refusal(b"\x08\x0a\x3a" + varint(len(data)) + data)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_reading_and_writing_leaves_no_file_open_and_no_thread(tmp_path: Path) -> None:
    proto = chain(weight("w", 3_000_000))
    save_external(proto, tmp_path / "e.onnx")
    onnx.save(proto, tmp_path / "i.onnx")
    gc.collect()
    before, threads = open_files(), threading.active_count()
    for name in ("e.onnx", "i.onnx"):
        file = read(tmp_path / name)
        for untouched in (True, False):
            with Publication(tmp_path / "o.onnx") as output:
                output.write(file, untouched=untouched)
        del file, output
    gc.collect()
    assert open_files() == before
    assert threading.active_count() == threads


def test_reading_many_data_files_keeps_few_of_them_open(tmp_path: Path) -> None:
    save_external(chain(*(weight(f"w{i}") for i in range(150))), tmp_path / "m.onnx", None)
    before = open_files()
    file = read(tmp_path / "m.onnx")
    assert len(file.data_files) == 150
    assert open_files() - before <= 2 * File.MAX_OPEN  # a map has a descriptor of its own
    assert to_proto(file) == chain(*(weight(f"w{i}") for i in range(150)))


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    sizes = draw(st.lists(st.sampled_from([1, 7, 1023, 1024, 1025, 5000, 40_000]), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    kind = draw(st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_]))

    def tensor(index: int, size: int) -> TensorProto:
        return numpy_helper.from_array((rng.random(size) * 9).astype(kind), f"t{index}")

    nodes = []
    for index, size in enumerate(sizes):
        held = tensor(index, size)
        where = draw(st.integers(0, 2))
        node = helper.make_node(
            "Constant", [], [f"c{index}"], value=held, doc_string="d" * draw(st.sampled_from([0, 200, 5000]))
        )
        body = helper.make_graph([node], "b", [], [value(f"c{index}")], [tensor(100 + index, size)])
        nodes.append(
            node if where else helper.make_node("If", ["x"], [f"c{index}"], then_branch=body, else_branch=body)
        )
    graph = helper.make_graph(nodes, "g", [], [], [tensor(200 + i, size) for i, size in enumerate(sizes)])
    return model(graph)


@given(models())
@settings(deadline=None, max_examples=60)
def test_any_model_comes_back_equal(proto: ModelProto) -> None:
    assert to_proto(read(proto)) == proto


# --- what is refused


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not a model at all, just some text\n", "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX model"),
        (b"<html><body>404</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"PK\x03\x04" + bytes(50), "PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(50), "torch.onnx.export(module.eval(), (example_input,), 'model.onnx')"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9" + bytes(50), "is a pickle, as a PyTorch checkpoint is"),
        (b'\x40\0\0\0\0\0\0\0{"weight":' + bytes(80), "--statistics-from"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\x1f\x8b\x08\x00" + bytes(50), "decompress"),
        (b"\x08\x0a", "no graph"),
        (b"\x08\x0a\x3a\x05abc", "announces 5 bytes but only 3 are left"),
        (b"\x0b\x0c", "damaged or not an ONNX model"),
        (b"\x08\x0a\x3a\x04\x0a\x05\x1a\x01", "damaged"),
        (bytes(1000), "field number"),
        (b"\xff" * 1000, "damaged"),
    ],
)
def test_what_is_not_a_model_is_refused_by_name(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert words in refusal(data)


def reads(data: bytes) -> ModelProto | None:
    """The model, or None if it is refused in one line; any other exception is a failure."""
    try:
        return to_proto(read(data))
    except ModelError as error:
        message = str(error)
    assert "\n" not in message
    return None


def test_every_truncation_is_an_error_or_a_model() -> None:
    data = chain(weight("w")).SerializeToString()
    models = [length for length in range(len(data)) if reads(data[:length]) is not None]
    assert len(models) < 10  # a cut behind the graph, between two fields


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=400)
def test_any_bytes_are_an_error_or_a_model(data: bytes) -> None:
    reads(data)


SEED = everywhere().SerializeToString()


@given(st.integers(0, len(SEED) - 1), st.binary(min_size=1, max_size=6))
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_any_damage_to_a_model_is_an_error_or_the_same_model(position: int, damage: bytes) -> None:
    data = SEED[:position] + damage + SEED[position + len(damage) :]
    whole = reads(data)
    assert whole is None or whole == ModelProto.FromString(data)


def test_a_missing_file_a_directory_and_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.onnx")
    assert "is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refusal(tmp_path / "fifo")
    assert "not a regular file" in refusal("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert "cannot read" in refusal(tmp_path / "socket")
    assert "cannot read" in refusal("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def with_tensor(**changes: dict[str, Any]) -> bytes:
    tensor = weight("w")
    for field, new in changes.items():
        if isinstance(new, list):
            del getattr(tensor, field)[:]
            getattr(tensor, field).extend(new)
        else:
            setattr(tensor, field, new)
    proto = chain(weight("w"))
    proto.graph.initializer[0].CopyFrom(tensor)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": [BULKY + 1]}, "4400 bytes of data where its shape [1101] of FLOAT needs 4404"),
        ({"dims": [2**40, 2**40]}, "more elements than a 64-bit number can count"),
        ({"dims": [-1]}, "negative dimension (-1)"),
        ({"dims": [0]}, "needs 0"),
        ({"dims": []}, "needs 4"),
        ({"data_type": TensorProto.DOUBLE}, "DOUBLE needs 8800"),
        ({"data_type": TensorProto.STRING}, "strings as raw data"),
        ({"raw_data": bytes(8)}, "8 bytes of data where its shape"),
        ({"raw_data": b""}, "0 bytes of data"),
        ({"data_location": TensorProto.EXTERNAL}, "both in the model and in another file"),
    ],
)
def test_a_tensor_whose_shape_type_and_bytes_disagree_is_refused(changes: dict[str, Any], words: str) -> None:
    message = refusal(with_tensor(**changes))
    assert words in message
    assert "'w'" in message


@pytest.mark.parametrize("kind", [1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 22, 26, 23])
@pytest.mark.parametrize("missing", [0, 1])
def test_typed_data_must_have_as_many_values_as_the_shape(kind: int, missing: int) -> None:
    values = [b"s"] * 5 if kind == TensorProto.STRING else [1] * 5
    tensor = helper.make_tensor("t", kind, [5], values)
    tensor.dims[0] += 4 * missing
    source = model(helper.make_graph([], "g", [], [], [tensor]))
    if missing:
        assert "where its shape [9] needs" in refusal(source)
    else:
        assert to_proto(read(source)) == source


def test_a_tensor_in_a_node_is_named_by_its_node() -> None:
    bad = weight("", 3)
    bad.dims[0] = 4
    node = helper.make_node("Constant", [], ["out"], value=bad)
    assert "node 'out' (Constant)" in refusal(model(helper.make_graph([node], "g", [], [])))


@pytest.mark.parametrize("hide", ["name", "doc_string"])
def test_a_model_that_carries_the_marker_already_is_refused(hide: str) -> None:
    proto = chain(weight("w"))
    setattr(proto.graph, hide, f"x{PAYLOAD_KEY}y")
    assert PAYLOAD_KEY in refusal(proto)


def test_a_forged_marker_is_refused() -> None:
    proto = chain(weight("w"))
    set_payload(proto.graph.initializer[0], 0)
    assert PAYLOAD_KEY in refusal(proto.SerializeToString())


def test_deep_nesting_is_refused_whatever_its_size() -> None:
    body = helper.make_graph([], "b", [], [])
    bulky = helper.make_graph([helper.make_node("Constant", [], ["k"], value=weight("w"))], "b", [], [])
    for inner in (body, bulky):
        data = inner.SerializeToString()
        for _ in range(60):
            for tag in (b"\x32", b"\x2a", b"\x0a"):
                data = tag + varint(len(data)) + data
        assert "damaged" in refusal(b"\x08\x0a\x3a" + varint(len(data)) + data)


def test_a_proto_nested_too_deeply_is_refused() -> None:
    proto = chain(weight("w"))
    graph = proto.graph
    for _ in range(60):
        attribute = graph.node.add().attribute.add(type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
        graph.name = "deeper"
    assert "damaged" in refusal(proto)


def test_a_file_that_changes_while_it_is_read_is_noticed(path: Path) -> None:
    onnx.save(chain(weight("w")), path)
    file = read(path)
    path.write_bytes(path.read_bytes() + b"\x08\x0a")
    with pytest.raises(ModelError, match="changed while it was being read"):
        file.check_unchanged()


# --- text


NOT_UTF8 = b"caf\xe9"
CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def named_everywhere(text: str) -> dict[str, ModelProto]:
    """By place: a sound model with `text` there."""
    made = {}
    for place, change in {
        "graph.node[1].output[0]": lambda m: m.graph.node[1].output.__setitem__(0, text),
        "graph.node[0].input[0]": lambda m: m.graph.node[0].input.__setitem__(0, text),
        "graph.node[0].name": lambda m: setattr(m.graph.node[0], "name", text),
        "graph.node[0].op_type": lambda m: setattr(m.graph.node[0], "op_type", text),
        "graph.node[0].domain": lambda m: setattr(m.graph.node[0], "domain", text),
        "graph.node[0].attribute[0].name": lambda m: m.graph.node[0].attribute.add(name=text),
        "graph.node[0].attribute[0].g.name": lambda m: setattr(m.graph.node[0].attribute.add().g, "name", text),
        "graph.initializer[0].name": lambda m: setattr(m.graph.initializer[0], "name", text),
        "graph.initializer[0].external_data[0].key": lambda m: m.graph.initializer[0].external_data.add(key=text),
        "graph.input[0].name": lambda m: setattr(m.graph.input[0], "name", text),
        "graph.input[0].type.tensor_type.shape.dim[0].dim_param": lambda m: setattr(
            m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", text),
        "graph.doc_string": lambda m: setattr(m.graph, "doc_string", text),
        "doc_string": lambda m: setattr(m, "doc_string", text),
        "producer_name": lambda m: setattr(m, "producer_name", text),
        "metadata_props[0].value": lambda m: m.metadata_props.add(key="k", value=text),
        "opset_import[0].domain": lambda m: setattr(m.opset_import[0], "domain", text),
        "functions[0].input[0]": lambda m: m.functions.add(name="f", input=[text]),
    }.items():  # fmt: skip
        proto = chain(weight("w", 4), weight("v", 2000))
        change(proto)
        made[place] = proto
    return made


@pytest.mark.parametrize("place", named_everywhere(""))
def test_a_text_that_is_not_utf8_is_refused_wherever_it_is(place: str) -> None:
    data = named_everywhere(CAFE)[place].SerializeToString()
    wrong = data.replace(CAFE.encode(), NOT_UTF8 + b" ")  # as long
    assert refusal(wrong) == (
        f"the model: {place} is not UTF-8 (b'caf\\xe9 '), which every name and text of a model must be; export it again"
    )


def test_text_in_utf8_and_bytes_that_are_no_text_are_welcome() -> None:
    proto = chain(weight("w", 4))
    proto.doc_string = CAFE
    proto.graph.node[0].attribute.append(helper.make_attribute("bytes", NOT_UTF8))
    proto.graph.initializer.append(
        TensorProto(name="s", data_type=TensorProto.STRING, dims=[1], string_data=[NOT_UTF8])
    )
    assert to_proto(read(proto.SerializeToString())) == proto


def test_of_a_long_text_what_is_wrong_is_shown() -> None:
    proto = chain(weight("w", 4))
    proto.doc_string = 5000 * "a" + CAFE + 5000 * "b"
    data = proto.SerializeToString().replace(CAFE.encode(), NOT_UTF8 + b" ")
    assert "doc_string is not UTF-8 (b'aaaaaaaaaaaacaf\\xe9 bbbbbbbbbbbbb')" in refusal(data)
