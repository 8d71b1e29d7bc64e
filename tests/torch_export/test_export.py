"""From PyTorch to a verified file: names, modes, mistakes, and the module as the judge."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from click.testing import CliRunner
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn

import bnfold
from bnfold.cli import main
from bnfold.errors import ModelError, OutputError, UsageError, VerificationError
from bnfold.torch_export import exporting, load_checkpoint
from bnfold.torch_export.program import name_by_modules


def trained(module: nn.Module) -> nn.Module:
    """The module with statistics as training leaves them."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            assert part.running_var is not None
            assert part.num_batches_tracked is not None
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            part.num_batches_tracked += 10
    return module


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, value: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(value)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layers = nn.ModuleList([Block(4), Block(4)])
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor, scale: float = 1.0, *, offset: Tensor) -> dict[str, Tensor]:
        value = self.stem(image)
        for layer in self.layers:
            value = layer(value)
        pooled = value.mean((2, 3))
        return {"logits": self.head(self.drop(pooled)) * scale + offset, "features": pooled}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """In training mode, but for one part."""
    module = trained(Net()).train()
    module.layers[1].eval()  # type: ignore[index, union-attr]
    return module


ARGS, KWARGS = (torch.zeros(2, 3, 12, 10),), {"offset": torch.ones(5)}


@pytest.fixture(scope="module")
def exported(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, list[bool]]:
    """The result, its file, and the modes of all parts before."""
    modes = [part.training for part in net.modules()]
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    batch = torch.export.Dim("batch")
    shapes = {"image": {0: batch}, "offset": None}
    return bnfold.export(net, ARGS, KWARGS, path, dynamic_shapes=shapes, strip_traces=True), path, modes


def test_the_file_is_folded_and_equivalent_to_the_module(exported: tuple[Any, Path, list[bool]]) -> None:
    result, path, _ = exported
    assert (result.report.verdict, result.verification.verdict) == ("equivalent", "equivalent")
    assert result.report.published == str(path)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


def test_every_part_keeps_its_mode(net: nn.Module, exported: tuple[Any, Path, list[bool]]) -> None:
    assert [part.training for part in net.modules()] == exported[2]


def test_names_are_those_of_the_module(exported: tuple[Any, Path, list[bool]]) -> None:
    graph = onnx.load(exported[1]).graph
    assert [value.name for value in graph.input] == ["image", "offset"]
    assert [value.name for value in graph.output] == ["logits", "features"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    nodes = {node.name for node in graph.node}
    assert {"stem/conv2d", "head/linear"} <= {name.rpartition("_")[0] or name for name in nodes} | nodes
    assert [decision.node.split("/")[0] for decision in exported[0].report.decisions if "bn" in decision.node] == [
        "layers.0.bn",
        "layers.1.bn",
    ]


def test_what_matters_is_found_by_path(exported: tuple[Any, Path, list[bool]]) -> None:
    found = [(finding.code, finding.module) for finding in exported[0].findings]
    assert found == [("TRAINING_MODE", "layers.0.bn"), ("TRAINING_MODE", "drop")]
    assert exported[0].findings[0].text.startswith("layers.0.bn is in training mode")


def test_nothing_of_the_source_stays(exported: tuple[Any, Path, list[bool]]) -> None:
    assert b"pkg.torch" not in exported[1].read_bytes()
    assert b"test_export.py" not in exported[1].read_bytes()


# ---------------------------------------------------------------------- mistakes


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Block(3)

    def forward(self, value: Tensor) -> Tensor:
        bn = self.inner.bn
        return F.batch_norm(value, bn.running_mean, bn.running_var, training=True)


class Dropping(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return F.dropout(value, 0.5)


class Inside(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, value: Tensor) -> Tensor:
        return self.part(value)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (Functional(), "part normalizes with the statistics of its batch: batch_norm is called with training=True"),
        (Dropping(), "part drops at random: dropout is called with training=True"),
    ],
)
def test_what_trains_whatever_its_mode_is_refused_by_name(part: nn.Module, told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=told):
        bnfold.export(Inside(trained(part)), (torch.zeros(2, 3, 8, 8),), output=tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_a_program_that_was_captured_in_training_mode_is_refused_by_name() -> None:
    program = torch.export.export(Inside(trained(Block(3))).train(), (torch.zeros(2, 3, 8, 8),))
    with pytest.raises(ModelError, match=r"part\.bn normalizes with the statistics of its batch.*call \.eval\(\)"):
        bnfold.export(program)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the exporter
def test_a_program_is_taken_as_it_is(tmp_path: Path) -> None:
    program = torch.export.export(Inside(trained(Block(3))).eval(), (torch.zeros(2, 3, 8, 8),))
    made = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    for given in (program, made):
        result = bnfold.export(given, output=tmp_path / "o.onnx", overwrite=True)
        assert result.report.verdict == "equivalent"
        assert result.verification is not None
        assert result.findings == ()
    assert isinstance(bnfold.optimize(made).model, ModelProto)


def test_statistics_that_were_never_updated_are_refused_by_name() -> None:
    module = Inside(Block(3))
    with pytest.raises(ModelError, match=r"part\.bn has running statistics that were never updated"):
        bnfold.export(module, (torch.zeros(2, 3, 8, 8),))
    result = bnfold.export(module, (torch.zeros(2, 3, 8, 8),), accept_initial_statistics=True)
    assert result.report.verdict == "equivalent"
    assert isinstance(result.model, ModelProto)


def test_a_lazy_module_is_refused_before_it_is_captured() -> None:
    with pytest.raises(ModelError, match="part has parameters without a shape; call the module once"):
        bnfold.export(Inside(nn.LazyConv2d(4, 3)), (torch.zeros(2, 3, 8, 8),))


def test_what_a_normalization_lacks_is_found(tmp_path: Path) -> None:
    parts = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
        nn.SyncBatchNorm(3),
    )
    found = exporting.census(trained(parts).eval())  # type: ignore[attr-defined]  # it imports the name
    codes = [(finding.code, finding.module) for finding in found]
    assert codes == [
        ("BATCH_STATISTICS", "0"),
        ("CUMULATIVE_AVERAGE", "1"),
        ("PARAMETRIZED", "2"),
        ("SYNCHRONIZED", "3"),
    ]
    result = bnfold.export(parts[:3].eval(), (torch.randn(2, 3, 8, 8),), output=tmp_path / "o.onnx")
    assert result.report.verdict == "equivalent"


def test_what_is_frozen_while_the_rest_is_trained_is_found() -> None:
    class FrozenBatchNorm2d(nn.Module):
        pass

    parts = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3), FrozenBatchNorm2d())
    for parameter in parts[1].parameters():
        parameter.requires_grad_(False)
    found = exporting.census(trained(parts[:3]).eval())  # type: ignore[attr-defined]  # it imports the name
    assert [(finding.code, finding.module) for finding in found] == [("FROZEN", "1")]
    assert exporting.census(parts)[-1].code == "FROZEN"  # type: ignore[attr-defined]
    assert exporting.census(parts[:3].requires_grad_(False).eval()) == []  # type: ignore[attr-defined]


def test_a_tensor_that_is_given_twice_is_two_inputs(tmp_path: Path) -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = trained(Block(3))

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.part(left) - 2 * self.part(right)

    image = torch.randn(2, 3, 8, 8)
    result = bnfold.export(Difference(), (image,), {"right": image}, output=tmp_path / "o.onnx")
    assert result.report.verdict == "equivalent"
    assert [each.name for each in onnx.load(tmp_path / "o.onnx").graph.input] == ["left", "right"]


def test_a_file_that_differs_from_the_module_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter writes another weight: the fold is right, and the file still is not the module."""
    right = exporting.to_onnx  # type: ignore[attr-defined]  # it imports the name

    def wrong(*args: Any, **how: Any) -> ModelProto:
        model = right(*args, **how)
        weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
        array = numpy_helper.to_array(weight) + np.float32(0.01)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return model

    monkeypatch.setattr(exporting, "to_onnx", wrong)
    with pytest.raises(VerificationError):
        bnfold.export(Inside(trained(Block(3))), (torch.randn(2, 3, 8, 8),), output=tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_each_node_has_a_name_of_its_own() -> None:
    """A part that is called twice: PyTorch numbers its operators, and one of them may become two nodes."""
    nodes = [helper.make_node("Relu", [f"v{each}"], [f"v{each + 1}"]) for each in range(4)]
    for node, operator in zip(nodes, ("conv2d", "conv2d", "conv2d_1", "conv2d_1"), strict=True):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', 'part', 'part.0', '{operator}']")
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    name_by_modules(model)
    names = [node.name for node in model.graph.node]
    assert names[0] == "part.0/conv2d"
    assert len(set(names)) == 4


def test_an_output_that_cannot_be_written_is_refused_before_the_module_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnfold.torch_export.exporting.captured", lambda *_: pytest.fail("it was captured"))
    data = tmp_path / "x.npz"
    np.savez(data, x=np.zeros((1, 3), np.float32))
    for output, error in ((tmp_path / "no" / "o.onnx", OutputError), ("s3://b/o.onnx", UsageError), (data, UsageError)):
        with pytest.raises(error):
            bnfold.export(nn.Linear(3, 2), (torch.zeros(1, 3),), output=output, inputs=data)


def test_what_is_no_module_and_no_mode_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"not str; bnfold\.optimize takes models that are ONNX already"):
        bnfold.export("m.onnx")
    with pytest.raises(UsageError, match="mode is eval or as-is, not 'train'"):
        bnfold.export(Block(3), mode="train")


def test_a_module_that_cannot_be_captured_is_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot capture the module"):
        bnfold.export(trained(Block(3)), (torch.zeros(2, 4, 8, 8),))


# ---------------------------------------------------------------------- weights, and the command


@pytest.mark.parametrize("form", ["safetensors", "pth", "nested", "parallel"])
def test_weights_come_from_a_file(tmp_path: Path, form: str) -> None:
    from safetensors.torch import save_file

    saved = trained(Block(3)).state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(saved, path)
    elif form == "parallel":
        torch.save({f"module.{name}": value for name, value in saved.items()}, path)
    else:
        torch.save({"epoch": 3, "state_dict": saved} if form == "nested" else saved, path)
    module = Block(3)
    load_checkpoint(module, path)
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(Block(3), tmp_path / "whole.pth")
    torch.save(Block(4).state_dict(), tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for name, told in (("whole", "holds more than weights"), ("other", "does not fit"), ("list", "no state_dict")):
        with pytest.raises(UsageError, match=told):
            load_checkpoint(Block(3), tmp_path / f"{name}.pth")
    with pytest.raises(UsageError, match="is no file"):
        load_checkpoint(Block(3), tmp_path / "none.pth")


SCRIPT = """
import torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (torch.zeros(1, 3, 8, 8),)

def nothing():
    return 3

def broken():
    raise KeyError("x")
"""


def test_the_command_exports_what_a_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(SCRIPT)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(trained(module).state_dict(), "w.pth")
    run = CliRunner().invoke
    done = run(main, ["export", "model.py:make_model", "o.onnx", "--checkpoint", "w.pth", "--output-name", "logits"])
    assert done.exit_code == 0, done.stderr
    assert "bnfold: TRAINING_MODE: 1 is in training mode" in done.stderr
    assert "written: o.onnx" in done.stdout
    assert onnx.load("o.onnx").graph.output[0].name == "logits"
    for name, told in (
        ("nothing", "gives a int"),
        ("broken", "raises KeyError"),
        ("none", "has no function 'none'"),
        ("make_model", "running statistics that were never updated"),
    ):
        done = run(main, ["export", f"model.py:{name}", "p.onnx"])
        assert done.exit_code in {2, 3}
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not Path("p.onnx").exists()
