"""PyTorch modules as references: float16 inside, roundings to steps, and exports that onnxruntime cannot load."""

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser

import bnfold
from bnfold.equivalence import Verdict
from bnfold.equivalence.judging.noise import are_jumps
from bnfold.equivalence.runtime.torch_reference import ModuleReference


class Network(torch.nn.Module):
    """Two convolutions that compute in `kind`, or between roundings to steps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kind = kind
        self.first, self.second = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 8, 3)
        if kind != "steps":
            self.to(getattr(torch, kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "steps":
            inner = torch.relu(self.first(torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)))
            return torch.fake_quantize_per_tensor_affine(self.second(inner), 0.01, 0, -128, 127)
        narrow: torch.Tensor = self.second(torch.relu(self.first(x.to(self.first.weight.dtype))))
        return narrow.float()


def exported(network: Network, factor: float = 1.0) -> ModelProto:
    """The network in ONNX; with a `factor`, one weight is wrong by it."""
    if network.kind == "steps":
        before = "q = QuantizeLinear(x, fine, zero) a = DequantizeLinear(q, fine, zero)"
        after = "r = QuantizeLinear(d, coarse, zero) y = DequantizeLinear(r, coarse, zero)"
    else:
        narrow = 10 if network.kind == "float16" else 16
        before, after = f"a = Cast <to: int = {narrow}> (x)", "y = Cast <to: int = 1> (d)"
    proto = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,9] x) => (float[N,8,6,7] y) {'
        f"{before} b = Conv <pads = [1, 1, 1, 1]> (a, w1, b1) c = Relu(b) d = Conv(c, w2, b2) {after} }}"
    )
    for name, parameter in zip(("w1", "b1", "w2", "b2"), network.parameters(), strict=True):
        array = parameter.detach().float().numpy().copy()
        if name == "w2":
            array[3] *= factor
        tensor = numpy_helper.from_array(array.astype(np.float16) if network.kind == "float16" else array, name)
        if network.kind == "bfloat16":
            bits = parameter.detach().contiguous().view(torch.int16).numpy().tobytes()
            tensor.data_type, tensor.raw_data = 16, bits
        proto.graph.initializer.append(tensor)
    steps = {"fine": np.float32(0.05), "coarse": np.float32(0.01), "zero": np.int8(0)}
    if network.kind == "steps":
        proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(step), name) for name, step in steps.items())
    return proto


@pytest.mark.parametrize("kind", ["float16", "steps"])
def test_a_module_with_coarse_numbers_inside_equals_its_export_and_no_wrong_one(kind: str) -> None:
    network = Network(kind)
    assert bnfold.verify(network, exported(network)).verdict is Verdict.EQUIVALENT
    assert bnfold.verify(network, exported(network, 1.2)).verdict is Verdict.NOT_EQUIVALENT


def test_a_model_that_onnxruntime_cannot_load_is_not_called_wrong() -> None:
    network = Network("bfloat16")
    found = bnfold.verify(network, exported(network))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "onnxruntime cannot load the candidate" in found.explanation


def test_a_shaken_module_is_a_copy_each_of_whose_floats_moved_to_a_neighbour() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4).half(), torch.nn.BatchNorm1d(4))
    torch.nn.init.uniform_(network[1].weight)  # a few whole numbers would be taken for counts
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with ModuleReference(network, exported(Network("steps"))).shaken(1) as shaken:
        assert shaken is not None
        moved = shaken.module.state_dict()
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value)
        now = moved[name]
        assert now.dtype == value.dtype
        if not value.is_floating_point() or torch.equal(value, value.round()):
            assert torch.equal(now, value)
            continue
        was, is_now = value.numpy(), now.numpy()
        above, below = (np.nextafter(was, was.dtype.type(end)) for end in (np.inf, -np.inf))
        assert np.all((is_now == above) | (is_now == below))


def test_a_module_that_cannot_be_copied_is_not_shaken() -> None:
    network = Network("steps")
    network.kept = (number for number in range(3))  # type: ignore[assignment]  # a generator refuses to be copied
    with ModuleReference(network, exported(network)).shaken(1) as shaken:
        assert shaken is None


def test_few_elements_that_are_far_off_have_jumped_and_many_have_not() -> None:
    values = np.linspace(-1, 1, 1000, dtype=np.float32)
    jumped, drifted = values.copy(), values * np.float32(1.01)
    jumped[[3, 500]] += np.float32(0.1)
    assert are_jumps(values, jumped)
    assert not are_jumps(values, drifted)
    assert not are_jumps(values, values[:10])
    assert not are_jumps(np.full(4, np.inf, np.float32), np.zeros(4, np.float32))
