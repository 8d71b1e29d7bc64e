"""Recalibrated statistics are those of the data: against PyTorch in float64, in any order, in bounded memory."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

import bnfold
from bnfold.decisions import Action, Reason
from bnfold.errors import BnfoldError, ModelError, UsageError
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.options import CalibrationOptions
from bnfold.progress import Stage
from bnfold.recalibration import calibrate
from tests.architectures import IMAGE, exported, exported_in_train_mode, normalizations, trained
from tests.fold_models import Row
from tests.passes.test_freeze_digits import MODELS, TRAIN, logits, without_statistics
from tests.peak_memory import least_peak

SHAPES = ((16, *IMAGE), (5, *IMAGE), (11, *IMAGE), (2, *IMAGE))


def data() -> list[np.ndarray]:
    """Uneven batches whose scale grows, so that weighting and order would show."""
    generator = np.random.default_rng(3)
    return [
        (generator.normal(size=shape) * (1 + index) + index).astype(np.float32) for index, shape in enumerate(SHAPES)
    ]


def inference(module: nn.Module) -> nn.Module:
    """A copy in float64, in eval mode, where Dropout is nothing."""
    return copy.deepcopy(module).double().eval()


def by_pytorch(module: nn.Module, batches: list[np.ndarray], *, exact: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Population statistics of each BatchNorm: level by level, or with every BatchNorm using its batch."""
    network = inference(module)
    layers = list(normalizations(network))
    seen: dict[int, list[torch.Tensor]] = {}
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda _, inputs, index=index: seen[index].append(inputs[0].clone()))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for index in range(len(layers)):
        seen.update({other: [] for other in range(len(layers))})
        for layer in layers:
            layer.train(mode=not exact)
            layer.momentum = 0.0
        with torch.no_grad():
            for batch in batches:
                network(torch.from_numpy(batch).double())
        values = torch.cat([each.transpose(0, 1).flatten(1) for each in seen[index]], 1)
        mean, variance = values.mean(1), values.var(1, unbiased=False)
        if exact:
            layers[index].running_mean.copy_(mean)
            layers[index].running_var.copy_(variance)
        found.append((mean.numpy(), variance.numpy()))
    return found


def calibrated(
    model: bytes | ModelProto | Path, batches: object, **options: object
) -> list[tuple[np.ndarray, np.ndarray]]:
    file = read(model)
    result = calibrate(file, Model(file), batches, CalibrationOptions(**options))  # type: ignore[arg-type]  # from a table
    return [(found.mean, found.variance) for found in result.statistics.values()]


def assert_close(found: list[tuple[np.ndarray, np.ndarray]], expected: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """1e-6 of the size of what was measured: a mean is compared on the scale of its deviation."""
    assert len(found) == len(expected)
    for (mean, variance), (true_mean, true_variance) in zip(found, expected, strict=True):
        scale = np.sqrt(true_variance) + np.abs(true_mean)
        assert (np.abs(mean - true_mean) / scale).max() < 1e-6
        assert np.abs(variance / true_variance - 1).max() < 1e-6


FORMS = {
    "inference": lambda: exported("small_cnn").model,
    "training mode, opset 13": lambda: exported_in_train_mode("torchscript", 13).model,
    "training mode, opset 17": lambda: exported_in_train_mode("torchscript", 17).model,
    "dynamo, training Dropout": lambda: exported_in_train_mode("dynamo", 18).model,
}


@pytest.mark.parametrize("form", FORMS)
def test_exact_statistics_are_those_of_pytorch(form: str) -> None:
    expected = by_pytorch(trained("small_cnn"), data(), exact=True)
    assert_close(calibrated(FORMS[form](), data()), expected)


def test_fast_statistics_are_those_of_batch_mode() -> None:
    model = exported_in_train_mode("torchscript", 17).model
    expected = by_pytorch(trained("small_cnn"), data(), exact=False)
    found = calibrated(model, data(), mode="fast")
    assert_close(found, expected)
    exact = by_pytorch(trained("small_cnn"), data(), exact=True)
    assert max(np.abs(f[0] - e[0]).max() for f, e in zip(found, exact, strict=True)) > 1e-3


def test_torch_statistics_are_those_of_update_bn() -> None:
    network = copy.deepcopy(trained("small_cnn")).double()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.optim.swa_utils.update_bn([torch.from_numpy(batch).double() for batch in data()], network)
    expected = [(layer.running_mean.numpy(), layer.running_var.numpy()) for layer in normalizations(network)]
    found = calibrated(exported_in_train_mode("torchscript", 17).model, data(), statistics="torch")
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["unet", "densenet", "preact_resnet"])
def test_levels_follow_the_graph_and_not_the_order_of_nodes(name: str) -> None:
    model = exported(name)
    feeds = [{key: value * (1 + i) for key, value in model.feeds.items()} for i in range(3)]
    file = read(model.model)
    result = calibrate(file, Model(file), feeds)
    network, layers = inference(trained(name)), []
    network = network.eval()
    layers = list(normalizations(network))
    # Exactness is a fixed point: with the new statistics, each layer sees data that has just these statistics.
    for layer, new in zip(layers, result.statistics.values(), strict=True):
        layer.running_mean.copy_(torch.from_numpy(new.mean))
        layer.running_var.copy_(torch.from_numpy(new.variance))
    seen: list[list[torch.Tensor]] = [[] for _ in layers]
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda _, inputs, index=index: seen[index].append(inputs[0]))
    with torch.no_grad():
        for feed in feeds:
            network(*(torch.from_numpy(value).double() for value in feed.values()))
    for values, new in zip(seen, result.statistics.values(), strict=True):
        flat = torch.cat([each.transpose(0, 1).flatten(1) for each in values], 1)
        np.testing.assert_allclose(new.variance, flat.var(1, unbiased=False).numpy(), rtol=2e-5)
    assert result.passes == 1
    assert 1 < result.levels <= len(layers)


# ---------------------------------------------------------------------- shards, order, memory


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_shards_in_any_order_give_the_same_bits(mode: str) -> None:
    model = exported_in_train_mode("torchscript", 17).model
    expected = calibrated(model, data(), mode=mode)
    for order in itertools.islice(itertools.permutations(range(4)), 1, 24, 5):
        found = calibrated(model, [data()[i] for i in order], mode=mode)
        for one, other in zip(found, expected, strict=True):
            assert one[0].tobytes() == other[0].tobytes()
            assert one[1].tobytes() == other[1].tobytes()


@pytest.mark.parametrize("shards", [1, 2, 16])
def test_shards_agree_with_the_whole(shards: int) -> None:
    """The first normalization's data are what the shards hold; in float64 they agree to 1e-12."""
    text = "y = BatchNormalization(c, g, h, m, v)"
    model = Row(text, inputs={"c": "float[N,4,6,7]"}, opset=17).model()
    values = np.random.default_rng(2).normal(3, 2, (64, 4, 6, 7)).astype(np.float32)
    cuts = np.sort(np.random.default_rng(shards).choice(np.arange(1, 64), shards - 1, replace=False))
    ((mean, variance),) = calibrated(model, np.split(values, cuts))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(variance, wide.var((0, 2, 3)), rtol=1e-12)


def test_shards_agree_with_the_whole_through_a_network() -> None:
    """Uneven shards, and the same ones in another order; five normalizations behind convolutions."""
    with np.load(MODELS / "digits_train.npz") as file:
        images = file["images"]
    whole = calibrated(without_statistics(), [images])
    for shards in (2, 16):
        cuts = np.sort(np.random.default_rng(shards).choice(np.arange(1, len(images)), shards - 1, replace=False))
        parts = np.split(images, cuts)
        found = calibrated(without_statistics(), parts)
        for (mean, variance), (true_mean, true_variance) in zip(found, whole, strict=True):
            np.testing.assert_allclose(mean, true_mean, rtol=1e-12, atol=1e-12 * np.sqrt(true_variance.max()))
            np.testing.assert_allclose(variance, true_variance, rtol=1e-12)
        again = calibrated(without_statistics(), parts[::-1])
        assert [(m.tobytes(), v.tobytes()) for m, v in again] == [(m.tobytes(), v.tobytes()) for m, v in found]


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    model = exported_in_train_mode("torchscript", 17).model
    batch = data()[0]

    def peak(batches: int) -> int:
        return least_peak(lambda: calibrated(model, lambda: itertools.repeat(batch, batches), mode="fast"))

    peak(3)
    few = peak(3)
    assert peak(12) <= few + 20_000


# ---------------------------------------------------------------------- what is not plain


def test_batch_statistics_become_stored_ones() -> None:
    model = exported("batch_statistics", "dynamo", 18).proto
    result = bnfold.recalibrate(model, data())
    operators = [node.op_type for node in result.model.graph.node]
    assert "ReduceMean" not in operators
    assert operators.count("BatchNormalization") == 1
    (decision,) = (d for d in result.report.decisions if d.op_type == "BatchNormalization")
    assert decision.action is Action.RECALIBRATED
    assert result.report.verdict == "equivalent"
    folded = bnfold.optimize(result.model)
    assert "BatchNormalization" not in [node.op_type for node in folded.model.graph.node]


def test_kept_normalizations_keep_their_statistics() -> None:
    model = exported("small_cnn").proto
    names = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    result = bnfold.recalibrate(model, data(), keep=(names[0],))
    assert [drift["node"] for drift in result.report.recalibration["drift"]] == names[1:]
    kept = next(node for node in result.model.graph.node if node.name == names[0])
    assert list(kept.input) == list(next(node for node in model.graph.node if node.name == names[0]).input)


def test_a_model_without_normalization() -> None:
    model = Row("y = Relu(c)", inputs={"c": "float[N,4,6,7]"}).model()
    with pytest.raises(ModelError, match="no BatchNormalization"):
        bnfold.recalibrate(model, [np.zeros((1, 4, 6, 7), np.float32)])


@pytest.mark.parametrize("field", ["input", "output"])
def test_a_normalization_that_lacks_its_operands_is_left_out_and_said(field: str) -> None:
    model = Row("n = BatchNormalization(c, g, h, m, v) y = Relu(c)", inputs={"c": "float[N,4,6,7]"}).model()
    del getattr(model.graph.node[0], field)[:]
    with pytest.raises(ModelError, match=r"no BatchNormalization to recalibrate \(.*: MALFORMED"):
        bnfold.recalibrate(model, [np.zeros((1, 4, 6, 7), np.float32)])


def test_overridable_statistics_are_left_out_and_said() -> None:
    model = exported("small_cnn").proto
    node = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[3])
    model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    result = bnfold.recalibrate(model, data())
    (left,) = result.report.recalibration["left_out"]
    assert (left["node"], left["reason"]) == (node.name, Reason.OVERRIDABLE_PARAMETER.code)


def test_a_normalization_of_the_graph_input() -> None:
    model = Row("y = BatchNormalization(c, g, h, m, v)", inputs={"c": "float[N,4,6,7]"}, opset=17).model()
    values = np.random.default_rng(0).normal(5, 2, (9, 4, 6, 7)).astype(np.float32)
    result = bnfold.recalibrate(model, [values])
    after = ort.InferenceSession(result.model.SerializeToString()).run(None, {"c": values})[0]
    g, h = (numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)) for name in "gh")
    np.testing.assert_allclose(after.mean((0, 2, 3)), h, atol=1e-4)
    np.testing.assert_allclose(after.std((0, 2, 3)), np.abs(g), rtol=1e-4)


# ---------------------------------------------------------------------- batches and their mistakes

ONE = np.ones((2, *IMAGE), np.float32)
ACCEPTED = {
    "arrays": lambda: [ONE, ONE],
    "mappings": lambda: [{"input_0": ONE}, {"input_0": ONE, "label": np.zeros(2)}],
    "pairs with labels": lambda: [(ONE, np.zeros(2)), [ONE, np.zeros(2)]],
    "tensors": lambda: [torch.from_numpy(ONE).requires_grad_()] * 2,
    "a DataLoader": lambda: torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.ones(4, *IMAGE), torch.zeros(4)), batch_size=2
    ),
    "a function": lambda: lambda: iter([ONE, ONE]),
    "float64": lambda: [ONE.astype(np.float64)] * 2,
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_is_a_batch(kind: str) -> None:
    expected = calibrated(exported("small_cnn").model, [ONE, ONE])
    found = calibrated(exported("small_cnn").model, ACCEPTED[kind]())
    assert all((one[1] == other[1]).all() for one, other in zip(found, expected, strict=True))


REFUSED = {
    "nothing": (list, "no batch"),
    "another shape": (lambda: [np.ones((2, 4, 8, 6), np.float32)], "has shape"),
    "another name": (lambda: [{"image": ONE}], "no input 'image'"),
    "not finite": (lambda: [np.full_like(ONE, np.nan)], "not finite"),
    "integers": (lambda: [ONE.astype(np.int64)], "int64"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_batch(kind: str) -> None:
    batches, words = REFUSED[kind]
    with pytest.raises(UsageError, match=words):
        calibrated(exported("small_cnn").model, batches())


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_an_iterator_is_enough(mode: str) -> None:
    expected = calibrated(exported("small_cnn").model, [ONE, ONE * 2], mode=mode)
    found = calibrated(exported("small_cnn").model, iter([ONE, ONE * 2]), mode=mode)
    assert all((one[1] == other[1]).all() for one, other in zip(found, expected, strict=True))


def test_one_value_per_channel_has_no_unbiased_variance() -> None:
    with pytest.raises(UsageError, match="one value per channel"):
        calibrated(exported("small_cnn").model, [ONE[:1]], statistics="torch")


@pytest.mark.parametrize("options", [{"mode": "slow"}, {"statistics": "biased"}])
def test_options_that_do_not_exist(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"(mode is one of exact, fast|statistics is one of population, torch), not "):
        bnfold.recalibrate(exported("small_cnn").proto, [ONE], **options)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing_behind(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield ONE
        raise error

    with pytest.raises(error):
        bnfold.recalibrate(exported("small_cnn").model, interrupted, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


LENGTHS = {
    "a list": ([ONE, ONE], [6] * 6),
    "a function": (lambda: iter([ONE, ONE]), [0, 0, 6, 6, 6, 6]),
}


@pytest.mark.parametrize("kind", LENGTHS)
def test_progress_is_told(kind: str) -> None:
    data, totals = LENGTHS[kind]
    heard: list[tuple[Stage, int, int]] = []
    bnfold.recalibrate(exported("small_cnn").model, data, progress=lambda *at: heard.append(at))
    told = [(done, total) for stage, done, total in heard if stage is Stage.BATCHES]
    assert told == list(zip(range(1, 7), totals, strict=True))
    assert {stage for stage, _, _ in heard} > {Stage.BYTES, Stage.FEEDS}


def test_progress_of_fitting_is_told() -> None:
    heard: list[tuple[Stage, int, int]] = []
    model = exported("small_cnn").model
    bnfold.optimize(model, substitute="group-norm", data=[ONE] * 3, progress=lambda *at: heard.append(at))
    assert [at for at in heard if at[0] is Stage.BATCHES] == [(Stage.BATCHES, done, 3) for done in (1, 2, 3)]


def test_a_model_that_cannot_run_says_so() -> None:
    model = Row("k = Relu(c) y = BatchNormalization(k, g, h, m, v)", inputs={"c": "float[N,4,6,7]"}).model()
    model.graph.node[0].domain = "nobody.knows"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    with pytest.raises(BnfoldError, match="cannot run the model on the data"):
        calibrated(model, [np.zeros((1, 4, 6, 7), np.float32)])


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_model_whose_inputs_name_its_constants(mode: str) -> None:
    """As IR version 3 wants it; what is not run must not be asked for."""
    text, data = "k = Relu(c) y = BatchNormalization(k, g, h, m, v)", np.ones((3, 4, 6, 7), np.float32)
    ((mean, _),) = calibrated(Row(text, inputs={"c": "float[N,4,6,7]"}, opset=8, ir=3).model(), [data], mode=mode)
    assert mean.tolist() == [1.0] * 4


# ---------------------------------------------------------------------- a real network


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_digits_without_statistics_are_as_good_as_before(mode: str) -> None:
    with np.load(MODELS / "digits_train.npz") as file:
        images = file["images"]
    with np.load(MODELS / "digits.npz") as file:
        held_out, labels, golden = file["images"], file["labels"], file["digits_cnn_logits"]
    batches = [images[start : start + 64] for start in range(0, len(images), 64)]
    result = bnfold.recalibrate(without_statistics(), batches, mode=mode)
    right = int((logits(result.model, held_out, 64).argmax(1) == labels).sum())
    assert abs(right - int((golden.argmax(1) == labels).sum())) <= len(labels) / 200
    folded = bnfold.optimize(result.model).model
    assert "BatchNormalization" not in [node.op_type for node in folded.graph.node]
    assert int((logits(folded, held_out, 64).argmax(1) == labels).sum()) == right


def test_stale_statistics_show() -> None:
    with np.load(MODELS / "digits_train.npz") as file:
        images = file["images"]
    fresh = bnfold.recalibrate(TRAIN, [images]).report.recalibration["drift"]
    stale = bnfold.recalibrate(TRAIN, [images * 3 + 1]).report.recalibration["drift"]
    assert max(drift["mean"] for drift in fresh) < 1
    assert max(drift["mean"] for drift in stale) > 5
