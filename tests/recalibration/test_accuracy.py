"""Task accuracy: counted by hand on small models, on real digits, and told or refused where labels do not fit."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper

import bnfold
from bnfold import recalibration
from bnfold.api import Result
from bnfold.errors import UsageError
from bnfold.onnxfile import read
from bnfold.options import CalibrationOptions
from bnfold.passes import PassOptions
from tests.fold_models import Row
from tests.passes.test_freeze_digits import MODELS, TRAIN, logits, run, without_statistics

HELD_OUT = MODELS / "digits.npz"
IMAGES, LABELS = (np.load(HELD_OUT)[name] for name in ("images", "labels"))


@pytest.fixture
def trained_on(tmp_path: Path) -> Path:
    """The training images with the answers of digits_cnn as labels: the repository has no others for them."""
    with np.load(MODELS / "digits_train.npz") as file:
        images = file["images"]
    answers = logits(MODELS / "digits_cnn.onnx", images, 64).argmax(1)
    np.savez(tmp_path / "train.npz", images=images, labels=answers)
    return tmp_path / "train.npz"


def right(model: ModelProto | Path) -> int:
    return int((logits(model, IMAGES, 50).argmax(1) == LABELS).sum())


def accuracy_of(result: Result) -> dict[str, object]:
    return result.report.to_dict()["accuracy"]


def test_substitution_before_without_fitting_and_after() -> None:
    cnn = MODELS / "digits_cnn.onnx"
    result = bnfold.optimize(cnn, substitute="group-norm", data=HELD_OUT)
    unfitted = bnfold.optimize(cnn, substitute="group-norm", verify=False)
    expected = {"before": 494, "after": right(result.model), "unfitted": right(unfitted.model)}
    assert accuracy_of(result) == {"output": "logits", "labels": 500, "right": expected, "problem": ""}
    assert expected["unfitted"] < expected["after"] < 494


def test_substitution_after_recalibration_has_four_steps() -> None:
    result = bnfold.optimize(
        without_statistics(), recalibrate=MODELS / "digits_train.npz", substitute="layer-norm", data=HELD_OUT
    )
    recalibrated = bnfold.recalibrate(without_statistics(), MODELS / "digits_train.npz").model
    found = accuracy_of(result)["right"]
    assert list(found) == ["before", "recalibrated", "after", "unfitted"]
    assert found["recalibrated"] == right(recalibrated)
    assert found["before"] == right(bnfold.freeze(without_statistics(), accept_initial_statistics=True).model)
    assert found["after"] == right(result.model)


def test_recalibration_before_and_after(trained_on: Path, tmp_path: Path) -> None:
    onnx.save(without_statistics(), tmp_path / "in.onnx")
    result = run("recalibrate", tmp_path / "in.onnx", tmp_path / "out.onnx", "--data", trained_on, "--report", "-")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["accuracy"]
    assert (found["labels"], list(found["right"])) == (1297, ["before", "after"])
    assert found["right"]["before"] < 1000 < 1290 <= found["right"]["after"]


def test_optimize_tells_accuracy_of_recalibration_too(tmp_path: Path) -> None:
    result = run("optimize", TRAIN, tmp_path / "o.onnx", "--recalibrate", HELD_OUT, "--mode", "fast")
    assert result.exit_code == 0, result.stderr
    assert f'task accuracy of "logits" on 500 labels: 98.80 % before, {right(tmp_path / "o.onnx") / 5:.2f} % after' in (
        result.stdout
    )


# ---------------------------------------------------------------------- where labels are found

X = np.random.default_rng(0).normal(size=(6, 4, 6, 7)).astype(np.float32)
Y = np.arange(6) % 4
FORMS: dict[str, Callable[[], object]] = {
    "pairs": lambda: [(X[:4], Y[:4]), [X[4:], Y[4:]]],
    "an entry of a mapping": lambda: [{"c": X, "labels": Y}],
    "a mapping and labels": lambda: [({"c": X}, Y)],
    "a DataLoader": lambda: torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=4
    ),
    "a function": lambda: lambda: iter([(X, Y.astype(np.uint8))]),
}


def pooled(batch: str = "N") -> ModelProto:
    """Averages over space, so that each row has one value per channel; the second output is no choice of classes."""
    text = "k = BatchNormalization(c, g, h, m, v) p = GlobalAveragePool(k) y = Flatten(p)"
    return Row(text, inputs={"c": f"float[{batch},4,6,7]"}, outputs=("k", "y"), opset=17).model()


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize("form", FORMS)
def test_labels_in_every_form(form: str, batch: str) -> None:
    """A model of a fixed batch is run part by part, and its answers are compared as one."""
    result = bnfold.recalibrate(pooled(batch), FORMS[form](), verify=False)
    session = onnx.reference.ReferenceEvaluator(result.model)
    after = sum(int((session.run(None, {"c": X[i : i + 2]})[1].argmax(1) == Y[i : i + 2]).sum()) for i in (0, 2, 4))
    found = accuracy_of(result)
    assert (found["output"], found["labels"], found["right"]["after"]) == ("y", 6, after)
    assert found["right"]["before"] != after, "or this could not tell before from after"


def test_every_pixel_can_have_a_label() -> None:
    model = Row("y = BatchNormalization(c, g, h, m, v)", inputs={"c": "float[N,4,6,7]"}, opset=17).model()
    labels = np.random.default_rng(1).integers(0, 4, (6, 6, 7))
    result = bnfold.recalibrate(model, [(X, labels)])
    after = onnx.reference.ReferenceEvaluator(result.model).run(None, {"c": X})[0].argmax(1)
    found = accuracy_of(result)
    assert (found["labels"], found["right"]["after"]) == (6 * 42, int((after == labels).sum()))


def test_labels_are_chosen_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=np.zeros(500, np.int64), answers=LABELS)
    zeros = int((logits(MODELS / "digits_cnn.onnx", IMAGES, 50).argmax(1) == 0).sum())
    for name, expected in (((), zeros), (("--labels", "answers"), 494)):
        result = run("recalibrate", TRAIN, tmp_path / "o.onnx", "--data", tmp_path / "d.npz", *name, "--report", "-")
        assert json.loads(result.stdout)["accuracy"]["right"]["before"] == expected, result.stderr


def test_a_folder_of_shards_and_a_script_have_labels(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for start in (0, 300):
        part = slice(start, start + 300)
        np.savez(tmp_path / "shards" / f"{start}.npz", images=IMAGES[part], labels=LABELS[part])
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\ndef batches():\n    file = np.load({str(HELD_OUT)!r})\n"
        "    yield {'images': file['images']}, file['labels']\n"
    )
    for data in (tmp_path / "shards", f"{tmp_path / 'mine.py'}:batches"):
        result = run("recalibrate", TRAIN, tmp_path / "o.onnx", "--data", data, "--report", "-")
        found = json.loads(result.stdout)["accuracy"]
        assert (found["labels"], found["right"]["before"]) == (500, 494), result.stderr


# ---------------------------------------------------------------------- labels that are none, or do not fit

NOT_LABELS: dict[str, tuple[object, str]] = {
    "no numbers": (["a"] * 6, "not whole numbers"),
    "fractions": (np.zeros(6), "not whole numbers"),
    "another count": (np.zeros(5, int), "shape [5]"),
    "too large": (np.full(6, 4), "from 4 to 4, but 'y' has 4 classes"),
    "negative": (np.array([0, 1, 2, 3, 0, -100]), "from -100 to 3"),
}


@pytest.mark.parametrize("kind", NOT_LABELS)
def test_labels_that_do_not_fit_are_told_and_refused_where_asked_for(kind: str) -> None:
    labels, words = NOT_LABELS[kind]
    result = bnfold.recalibrate(pooled(), [{"c": X, "labels": labels}], verify=False)
    found = accuracy_of(result)
    assert words in found["problem"]
    assert (found["right"], found["labels"]) == (None, 0)
    with pytest.raises(UsageError) as refused:
        bnfold.recalibrate(pooled(), [{"c": X, "labels": labels}], labels="labels", verify=False)
    assert words in str(refused.value)


def test_labels_that_fit_in_the_first_batch_only() -> None:
    result = bnfold.recalibrate(pooled(), [(X, Y), (X, Y[:, None])], verify=False)
    assert "do not fit" in accuracy_of(result)["problem"]


def test_the_console_tells_of_labels_that_do_not_fit(tmp_path: Path) -> None:
    result = run(
        "optimize", MODELS / "digits_autoencoder.onnx", tmp_path / "o.onnx", "--recalibrate", HELD_OUT, "--mode", "fast"
    )
    assert result.exit_code == 0, result.stderr
    assert "task accuracy was not measured: the labels have shape [64]" in result.stdout


WITHOUT: dict[str, tuple[object, str | None]] = {
    "no labels": ([X], None),
    "labels of another name": ([{"c": X, "answers": Y}], None),
    "switched off": ([{"c": X, "labels": Y}], ""),
    "pairs, switched off": ([(X, Y)], ""),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_no_labels_no_accuracy(case: str) -> None:
    data, labels = WITHOUT[case]
    assert accuracy_of(bnfold.recalibrate(pooled(), data, labels=labels, verify=False)) is None


def test_an_input_is_no_label() -> None:
    model = pooled()
    model.graph.input.append(helper.make_tensor_value_info("labels", onnx.TensorProto.INT64, ["N"]))
    result = bnfold.recalibrate(model, [{"c": X, "labels": Y}], verify=False)
    assert accuracy_of(result) is None


def test_an_iterator_is_not_read_again() -> None:
    assert accuracy_of(bnfold.recalibrate(pooled(), iter([(X, Y)]), mode="fast", verify=False)) is None
    with pytest.raises(UsageError, match="an iterator can be read once"):
        bnfold.recalibrate(pooled(), iter([(X, Y)]), mode="fast", labels="labels", verify=False)


@pytest.mark.parametrize("place", ["missing", "of classes", "of an image"])
def test_labels_that_were_asked_for_and_are_not_there(place: str, tmp_path: Path) -> None:
    arrays = {"images": IMAGES[:64], "classes": np.arange(10)}
    np.savez(tmp_path / "d.npz", **arrays)
    name = {"missing": "answers", "of classes": "classes", "of an image": "images"}[place]
    with pytest.raises(UsageError, match=f"has no labels called '{name}'"):
        bnfold.recalibrate(TRAIN, tmp_path / "d.npz", labels=name, verify=False)


def test_missing_labels_are_told_before_any_work() -> None:
    read: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for number in range(5):
            read.append(number)
            yield X

    with pytest.raises(UsageError, match="has no labels called 'answers'"):
        bnfold.recalibrate(pooled(), batches, labels="answers", verify=False)
    assert read == [0]


def test_only_the_data_of_substitution_needs_the_labels() -> None:
    calibration = CalibrationOptions(labels="answers")
    given = {"recalibrate": [X], "data": [{"c": X, "answers": Y}], "calibration": calibration}
    assert accuracy_of(bnfold.optimize(pooled(), substitute="instance-norm", verify=False, **given))["labels"] == 6


def test_a_result_that_cannot_be_run_is_for_verification_to_judge(tmp_path: Path) -> None:
    broken = pooled()
    broken.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(broken, tmp_path / "broken.onnx")
    found = recalibration.accuracy(read(pooled()), tmp_path / "broken.onnx", [(X, Y)], PassOptions())
    assert found is not None
    assert "cannot run the model on the data" in found.problem
    assert found.right is None


def test_labels_do_not_need_an_array_named_like_the_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", data=IMAGES, labels=LABELS)
    result = bnfold.optimize(
        TRAIN,
        recalibrate=tmp_path / "d.npz",
        calibration=CalibrationOptions(mode="fast", labels="labels"),
        verify=False,
    )
    assert accuracy_of(result)["labels"] == 500
