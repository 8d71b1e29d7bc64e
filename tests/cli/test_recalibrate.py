"""`bnfold recalibrate` and `optimize --recalibrate` from the shell, on every kind of data."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from tests.fold_models import Row
from tests.passes.test_freeze_digits import MODELS, TRAIN, operators, run, without_statistics

DATA = MODELS / "digits_train.npz"
OPTIONS = ("--no-verify", "--mode", "fast")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(DATA) as file:
        return file["images"]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    onnx.save(without_statistics(), tmp_path / "empty.onnx")
    return tmp_path / "empty.onnx"


def statistics(path: Path) -> list[np.ndarray]:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    return [tensors[value] for node in nodes for value in node.input[3:5]]


def drift(report: Path) -> list[dict[str, float]]:
    return json.loads(report.read_text())["recalibration"]["drift"]


def test_recalibrate_then_optimize_is_optimize_with_recalibrate(empty: Path, tmp_path: Path) -> None:
    first = run("recalibrate", empty, tmp_path / "r.onnx", "--data", DATA, "--report", tmp_path / "r.json")
    assert first.exit_code == 0, first.stderr
    assert "5 normalizations recalibrated (exact) from 21 batches" in first.stdout
    assert len(drift(tmp_path / "r.json")) == 5
    assert operators(onnx.load(tmp_path / "r.onnx")).count("BatchNormalization") == 5
    assert run("inspect", tmp_path / "r.onnx", "-q", "--fail-on", "INITIAL_STATISTICS").exit_code == 0
    second = run("optimize", tmp_path / "r.onnx", tmp_path / "two.onnx")
    assert second.exit_code == 0, second.stderr
    both = run("optimize", empty, tmp_path / "one.onnx", "--recalibrate", DATA)
    assert both.exit_code == 0, both.stderr
    assert onnx.load(tmp_path / "one.onnx").graph.node == onnx.load(tmp_path / "two.onnx").graph.node
    assert onnx.load(tmp_path / "one.onnx").graph.initializer == onnx.load(tmp_path / "two.onnx").graph.initializer


def write_npz(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / "d.npz", images=images, labels=np.arange(len(images)))
    return folder / "d.npz"


def write_unnamed(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / "d.npz", images)
    return folder / "d.npz"


def write_shards(folder: Path, images: np.ndarray) -> Path:
    (folder / "shards").mkdir()
    np.save(folder / "shards" / "a.npy", images[:64])
    np.savez(folder / "shards" / "b.npz", images=images[64:])
    return folder / "shards"


def write_script(folder: Path, images: np.ndarray) -> str:
    np.save(folder / "d.npy", images)
    (folder / "mine.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        f"    images = np.load({str(folder / 'd.npy')!r})\n"
        "    for start in range(0, len(images), 64):\n"
        "        yield images[start : start + 64], 'a label'\n"
    )
    return f"{folder / 'mine.py'}:batches"


def write_pictures(folder: Path, images: np.ndarray) -> Path:
    (folder / "pictures" / "deeper").mkdir(parents=True)
    for index, image in enumerate(images):
        place = folder / "pictures" / ("deeper" if index % 2 else ".") / f"{index:04}.png"
        Image.fromarray(np.round(image[0] * 255).astype(np.uint8)).save(place)
    return folder / "pictures"


def write_compressed(folder: Path, images: np.ndarray) -> Path:
    np.savez_compressed(folder / "d.npz", images=images)
    return folder / "d.npz"


def write_column_by_column(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / "d.npz", images=np.asfortranarray(images))
    return folder / "d.npz"


def write_array(folder: Path, images: np.ndarray) -> Path:
    np.save(folder / "d.npy", images.astype(">f8"))
    return folder / "d.npy"


def write_script_with_neighbours(folder: Path, images: np.ndarray) -> str:
    np.save(folder / "d.npy", images)
    (folder / "beside_it.py").write_text("SIZE = 64\n")
    (folder / "json.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from beside_it import SIZE\n"
        "@dataclass\n"
        "class Part:\n"
        "    start: int\n"
        "def batches():\n"
        "    images = np.load(Path(__file__).with_name('d.npy'))\n"
        "    for part in map(Part, range(0, len(images), SIZE)):\n"
        "        yield images[part.start : part.start + SIZE]\n"
    )
    return f"{folder / 'json.py'}:batches"


WRITERS = [
    write_npz,
    write_unnamed,
    write_compressed,
    write_column_by_column,
    write_array,
    write_shards,
    write_script,
    write_script_with_neighbours,
]


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_data_in_any_form_gives_the_same_statistics(
    write: object, empty: Path, tmp_path: Path, images: np.ndarray
) -> None:
    some = images[:200]
    expected = run("recalibrate", empty, tmp_path / "e.onnx", "--data", write_npz(tmp_path, some), *OPTIONS)
    assert expected.exit_code == 0, expected.stderr
    (tmp_path / "other").mkdir()
    place = write(tmp_path / "other", some)  # type: ignore[operator]  # one of the functions above
    result = run("recalibrate", empty, tmp_path / "o.onnx", "--data", place, *OPTIONS)
    assert result.exit_code == 0, result.stderr
    for one, other in zip(statistics(tmp_path / "e.onnx"), statistics(tmp_path / "o.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_are_data(empty: Path, tmp_path: Path, images: np.ndarray) -> None:
    some = images[:100]
    run("recalibrate", empty, tmp_path / "e.onnx", "--data", write_npz(tmp_path, (some - 0.5) / 0.25), "--mode", "fast")
    pictures = write_pictures(tmp_path, some)
    for options, near in ((("--mean", "0.5", "--std", "0.25"), True), ((), False)):
        result = run("recalibrate", empty, tmp_path / "p.onnx", "--data", pictures, *options, *OPTIONS)
        assert result.exit_code == 0, result.stderr
        pairs = zip(statistics(tmp_path / "e.onnx"), statistics(tmp_path / "p.onnx"), strict=True)
        differences = [np.abs(one - other).max() / np.abs(one).max() for one, other in pairs]
        assert bool(max(differences[:4]) < 0.02) is near  # 256 grey levels, other batches


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("size", [(7, 6), (15, 9)])
def test_colours_become_numbers_as_they_do_in_pytorch(layout: str, size: tuple[int, int], tmp_path: Path) -> None:
    """((value / 255) - mean) / std per channel, resized where the size is another; a normalization of it sees that."""
    shape, text = {
        "NCHW": ("float[N,3,6,7]", "y = BatchNormalization(x, g3, h3, m3, v3)"),
        "NHWC": ("float[N,6,7,3]", "t = Transpose<perm=[0,3,1,2]>(x) y = BatchNormalization(t, g3, h3, m3, v3)"),
    }[layout]
    onnx.save(Row(text, inputs={"x": shape}, opset=17).model(), tmp_path / "in.onnx")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    (tmp_path / "pictures").mkdir()
    pixels = []
    for index, mode in enumerate(("RGB", "RGB", "L", "RGBA", "P")):
        colours = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), np.uint8)
        image = Image.fromarray(colours).convert(mode)
        image.save(tmp_path / "pictures" / f"{index}.png")
        small = image.convert("RGB").resize((7, 6), Image.Resampling.BILINEAR)
        pixels.append((np.asarray(small, np.float64) / 255 - mean) / std)
    colours_of = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    options = (*colours_of, "--image-layout", layout, "--batch-size", "2")
    report = tmp_path / "r.json"
    source = tmp_path / "in.onnx"
    arguments = ("--data", tmp_path / "pictures", *options, "--report", report)
    result = run("recalibrate", source, tmp_path / "o.onnx", *arguments)
    assert result.exit_code == 0, result.stderr
    found_mean, found_variance = statistics(tmp_path / "o.onnx")
    np.testing.assert_allclose(found_mean, np.stack(pixels).mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found_variance, np.stack(pixels).var((0, 1, 2)), rtol=1e-5)
    assert drift(report)[0]["elements"] == 5 * 42


@pytest.mark.parametrize(
    ("option", "words"), [(("--std", "0"), "--std holds a 0"), (("--mean", "1,2,3"), "--mean has 3 numbers")]
)
def test_numbers_that_images_cannot_be_scaled_by(
    option: tuple[str, str], words: str, empty: Path, tmp_path: Path, images: np.ndarray
) -> None:
    pictures = write_pictures(tmp_path, images[:2])
    result = run("recalibrate", empty, tmp_path / "o.onnx", "--data", pictures, *option, *OPTIONS)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@pytest.mark.parametrize("write", [write_npz, write_pictures])
def test_rows_that_do_not_fill_a_fixed_batch(write: object, tmp_path: Path, images: np.ndarray) -> None:
    model = onnx.load(TRAIN)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(model, tmp_path / "in.onnx")
    for count, code in ((24, 0), (29, 2)):
        (tmp_path / str(count)).mkdir()
        data = write(tmp_path / str(count), images[:count])  # type: ignore[operator]  # one of the functions above
        result = run("recalibrate", tmp_path / "in.onnx", tmp_path / "o.onnx", "--data", data, *OPTIONS)
        assert result.exit_code == code, result.stderr
    assert "the model runs 8 rows at a time, so of 29 the last 5 cannot run" in result.stderr


def broken(folder: Path) -> Path:
    (folder / "bad.npz").write_bytes(b"PK nothing")
    return folder / "bad.npz"


def truncated(folder: Path) -> Path:
    np.savez(folder / "whole.npz", images=np.zeros((64, 1, 8, 8), np.float32))
    (folder / "bad.npz").write_bytes((folder / "whole.npz").read_bytes()[:5000])
    return folder / "bad.npz"


def truncated_array(folder: Path) -> Path:
    np.save(folder / "whole.npy", np.zeros((64, 1, 8, 8), np.float32))
    (folder / "bad.npy").write_bytes((folder / "whole.npy").read_bytes()[:5000])
    return folder / "bad.npy"


def damaged(folder: Path) -> Path:
    np.savez(folder / "bad.npz", images=np.random.default_rng(0).random((64, 1, 8, 8), np.float32))
    content = bytearray((folder / "bad.npz").read_bytes())
    content[3000] ^= 255
    (folder / "bad.npz").write_bytes(content)
    return folder / "bad.npz"


def of_objects(folder: Path) -> Path:
    np.save(folder / "bad.npy", np.array([{}, []], object), allow_pickle=True)
    return folder / "bad.npy"


def a_scalar(folder: Path) -> Path:
    np.savez(folder / "bad.npz", images=np.float32(1))
    return folder / "bad.npz"


def raises(folder: Path) -> str:
    (folder / "mine.py").write_text("def batches():\n    yield 1 / 0\n")
    return f"{folder / 'mine.py'}:batches"


def raises_at_once(folder: Path) -> str:
    (folder / "mine.py").write_text("import not_there_at_all\n")
    return f"{folder / 'mine.py'}:batches"


def yields_nothing_to_read(folder: Path) -> str:
    (folder / "mine.py").write_text("def batches():\n    return 5\n")
    return f"{folder / 'mine.py'}:batches"


def no_pictures(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    (folder / "nothing" / "readme.txt").write_text("x")
    return folder / "nothing"


def broken_picture(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"no image")
    return folder / "pictures"


def other_name(folder: Path) -> Path:
    np.savez(folder / "d.npz", image=np.zeros((2, 1, 8, 8), np.float32), other=np.zeros(2))
    return folder / "d.npz"


def other_shape(folder: Path) -> Path:
    np.savez(folder / "d.npz", images=np.zeros((2, 3, 8, 8), np.float32))
    return folder / "d.npz"


def no_function(folder: Path) -> str:
    (folder / "mine.py").write_text("x = 1\n")
    return f"{folder / 'mine.py'}:batches"


MISTAKES = {
    "nowhere": (lambda folder: folder / "missing.npz", "does not exist"),
    "broken": (broken, "cannot be read"),
    "truncated": (truncated, "bad.npz: cannot be read as an array"),
    "a truncated array": (truncated_array, "ends in the middle of an array"),
    "damaged": (damaged, "bad.npz: cannot be read as an array"),
    "objects": (of_objects, "Python objects"),
    "a scalar": (a_scalar, "same number of rows"),
    "a script that raises": (raises, "mine.py: raised ZeroDivisionError: division by zero"),
    "a script that cannot be imported": (raises_at_once, "mine.py: raised ModuleNotFoundError"),
    "a function of no batches": (yields_nothing_to_read, "mine.py: raised TypeError"),
    "a folder of something else": (no_pictures, "holds no .npy, .npz or image file"),
    "a broken picture": (broken_picture, "cannot be read as an image"),
    "another name": (other_name, "no array for input 'images'"),
    "another shape": (other_shape, "has shape"),
    "no such function": (no_function, "has no function 'batches'"),
    "no such script": (lambda folder: f"{folder}/none.py:f", "does not exist"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_data_that_cannot_be_used(kind: str, empty: Path, tmp_path: Path) -> None:
    make, words = MISTAKES[kind]
    result = run("recalibrate", empty, tmp_path / "out.onnx", "--data", make(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("arguments", [(), ("--data", DATA, "--statistics-from", "x.safetensors"), ("--data",)])
def test_where_statistics_come_from_has_to_be_said_once(arguments: tuple[object, ...], tmp_path: Path) -> None:
    assert run("recalibrate", TRAIN, tmp_path / "out.onnx", *arguments).exit_code == 2


# ---------------------------------------------------------------------- statistics from a file of weights


def weights(prefix: str = "") -> dict[str, np.ndarray]:
    return {
        f"{prefix}{tensor.name}": numpy_helper.to_array(tensor).copy() for tensor in onnx.load(TRAIN).graph.initializer
    }


def prefix_all(model: onnx.ModelProto, prefix: str) -> None:
    names = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = f"{prefix}{tensor.name}"
    for node in model.graph.node:
        for index, value in enumerate(node.input):
            node.input[index] = f"{prefix}{value}" if value in names else value


def renamed() -> onnx.ModelProto:
    """Every initializer under a name that says nothing."""
    model = without_statistics()
    names = {tensor.name: f"p{index}" for index, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}".replace("/", "_")
        for index, value in enumerate(node.input):
            node.input[index] = names.get(value, value)
    return model


@pytest.mark.parametrize("case", ["by name", "behind a prefix", "without a prefix", "by values"])
def test_statistics_of_a_file_of_weights(case: str, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    model = renamed() if case == "by values" else without_statistics()
    arrays = weights("model.features." if case == "behind a prefix" else "")
    if case == "without a prefix":  # of "module.a.7" the weights hold "a.7", and an unrelated "7"
        prefix_all(model, "module.a.")
        arrays = weights("a.") | {f"7.{name}": np.full(24, 9.0, np.float32) for name in ("running_mean", "running_var")}
    onnx.save(model, source)
    save_file(arrays, tmp_path / "w.safetensors")
    result = run("recalibrate", source, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == 0, result.stderr
    for found, wanted in zip(statistics(tmp_path / "out.onnx"), statistics(TRAIN), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_name_of_the_data_is_no_name_of_the_layer(tmp_path: Path) -> None:
    """What feeds the second normalization is named after the first, which has the same number of channels."""
    source = tmp_path / "in.onnx"
    model = renamed()
    first, second = [node for node in model.graph.node if node.op_type == "BatchNormalization"][:2]
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == second.input[0]:
                    values[index] = "1.output"
    assert second.input[0] == "1.output" != first.input[0]
    onnx.save(model, source)
    save_file(weights(), tmp_path / "w.safetensors")
    result = run("recalibrate", source, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == 0, result.stderr
    for found, wanted in zip(statistics(tmp_path / "out.onnx"), statistics(TRAIN), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["F64", "F16", "BF16"])
def test_weights_of_other_types(name: str, empty: Path, tmp_path: Path) -> None:
    dtype = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    arrays = {key: torch.from_numpy(array).to(dtype) for key, array in weights().items()}
    save_torch_file(arrays, tmp_path / "w.safetensors")
    result = run("recalibrate", empty, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == 0, result.stderr
    for found, wanted in zip(statistics(tmp_path / "out.onnx"), statistics(TRAIN), strict=True):
        np.testing.assert_array_equal(found, torch.from_numpy(wanted.copy()).to(dtype).float().numpy())


def test_optimize_takes_statistics_from_weights(empty: Path, tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    result = run("optimize", empty, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "BatchNormalization" not in operators(onnx.load(tmp_path / "out.onnx"))


def test_a_layer_that_is_not_in_the_file_is_still_refused(empty: Path, tmp_path: Path) -> None:
    some = {name: array for name, array in weights().items() if not name.startswith("15.")}
    save_file(some, tmp_path / "w.safetensors")
    assert (
        run("recalibrate", empty, tmp_path / "r.onnx", "--statistics-from", tmp_path / "w.safetensors").exit_code == 1
    )
    arguments = ("--statistics-from", tmp_path / "w.safetensors", "--accept-initial-statistics")
    accepted = run("recalibrate", empty, tmp_path / "r.onnx", *arguments, "--report", tmp_path / "r.json")
    assert accepted.exit_code == 0, accepted.stderr
    (left,) = json.loads((tmp_path / "r.json").read_text())["recalibration"]["left_out"]
    assert (left["node"], left["reason"]) == ("/15/BatchNormalization", "STATISTICS_NOT_FOUND")
    result = run("optimize", empty, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == 1
    assert "/15/BatchNormalization" in result.stderr
    assert not (tmp_path / "out.onnx").exists()


FILES = {
    "empty": (b"", 2),
    "text": (b"not a safetensors file at all", 2),
    "a header that lies": ((5).to_bytes(8, "little") + b"{}", 2),
    "no object": ((2).to_bytes(8, "little") + b"[]", 2),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_weights(kind: str, tmp_path: Path) -> None:
    content, code = FILES[kind]
    (tmp_path / "w.safetensors").write_bytes(content)
    result = run("recalibrate", TRAIN, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == code
    assert "safetensors" in result.stderr


def test_weights_of_another_network(tmp_path: Path) -> None:
    save_file({"a.running_mean": np.zeros(3), "a.running_var": np.ones(3)}, tmp_path / "w.safetensors")
    result = run("recalibrate", TRAIN, tmp_path / "out.onnx", "--statistics-from", tmp_path / "w.safetensors")
    assert result.exit_code == 3
    assert "no BatchNormalization of the model is found" in result.stderr


def test_an_array_file_has_no_labels(empty: Path, tmp_path: Path, images: np.ndarray) -> None:
    """The name of the lone array of an .npy file is empty, and so is the name of labels that are switched off."""
    place = write_array(tmp_path, images[:64])
    result = run("recalibrate", empty, tmp_path / "o.onnx", "--data", place, "--labels", "", *OPTIONS)
    assert result.exit_code == 0, result.stderr


def test_a_script_leaves_the_path_of_modules_alone(empty: Path, tmp_path: Path, images: np.ndarray) -> None:
    before = list(sys.path)
    run("recalibrate", empty, tmp_path / "o.onnx", "--data", write_script(tmp_path, images[:64]), *OPTIONS)
    assert sys.path == before
