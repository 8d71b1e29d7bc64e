"""A provider counts only where it ran the nodes; what it is asked for is checked without the hardware."""

import sys
import types
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from bnfold.equivalence import Verdict, VerifyOptions, verify
from bnfold.equivalence import providers as module
from bnfold.equivalence.providers import CPU, CUDA, OPENVINO, PROVIDERS, Placement, Precision, Provider, check, named
from bnfold.equivalence.running import Setting, running
from bnfold.equivalence.sessions import Optimization, quiet_options
from bnfold.errors import ProviderError, UsageError


def conv(scale: float = 1.0) -> bytes:
    proto = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> agraph (float[N,3,H,W] x) => (float[N,4,H,W] y) '
        "{ c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"
    )
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) * np.float32(scale)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return proto.SerializeToString()


def startable(provider: Provider) -> str:
    """Why this provider cannot be started here, or "" where it can."""
    try:
        with running(conv(), Setting(provider)) as session:
            found = module.placement(session, provider, "off", Precision.STRICT)
        check(found, provider, strict_placement=False)
    except ProviderError as error:
        return str(error)
    return ""


def test_cuda_on_the_cpu_wheel_is_never_equivalent_and_says_what_to_install() -> None:
    if not startable(CUDA):
        pytest.skip("this machine has CUDA")
    with pytest.raises(ProviderError, match="bnfold\\[gpu\\]") as caught:
        verify(conv(), conv(), VerifyOptions(providers=("cpu", "cuda")))
    assert caught.value.exit_code == 5


def test_missing_plugins_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    monkeypatch.setattr(module, "_registered", set())
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([]))
    with pytest.raises(ProviderError, match="pip install onnxruntime-ep-openvino"):
        OPENVINO.attach(FakeOptions(), Precision.STRICT)


def test_strict_asks_for_full_precision_and_deploy_for_nothing() -> None:
    assert CUDA.options(Precision.STRICT) == {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
    assert "f32" in OPENVINO.options(Precision.STRICT)["load_config"]
    for provider in PROVIDERS.values():
        assert provider.options(Precision.DEPLOY) == {}


class FakeOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.devices: list[Any] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.devices.append((devices, options))


class FakeRuntime:
    """Only what providers ask of onnxruntime."""

    def __init__(self, devices: list[str], available: tuple[str, ...] = (), *, broken: bool = False) -> None:
        self.devices = [types.SimpleNamespace(ep_name=name) for name in devices]
        self.available = available
        self.registered: list[str] = []
        self.broken = broken

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def get_ep_devices(self) -> list[Any]:
        return self.devices

    def register_execution_provider_library(self, name: str, _: str) -> None:
        if self.broken:
            raise RuntimeError("libOpenCL.so.1:\n cannot open")
        self.registered.append(name)
        self.devices.append(types.SimpleNamespace(ep_name=name))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Provider:
    library = types.ModuleType("some_plugin")
    library.get_library_path = lambda: "/somewhere/lib.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_plugin", library)
    monkeypatch.setattr(module, "_registered", set())
    return replace(OPENVINO, plugin="some_plugin", ep_name="SomeProvider")


def test_a_classic_provider_is_asked_for_by_name_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([], ("CUDAExecutionProvider", "CPUExecutionProvider")))
    options = FakeOptions()
    asked = CUDA.attach(options, Precision.STRICT)
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"})]
    assert options.entries == {"session.record_ep_graph_assignment_info": "1"}
    assert CUDA.attach(options, Precision.DEPLOY) == [("CUDAExecutionProvider", {})]


def test_a_plugin_is_registered_once_and_asked_for_by_device(monkeypatch: pytest.MonkeyPatch, plugin: Provider) -> None:
    fake = FakeRuntime(["CPUExecutionProvider"])
    monkeypatch.setattr(module, "runtime", lambda: fake)
    for precision in Precision:
        options = FakeOptions()
        assert plugin.attach(options, precision) is None
        ((devices, given),) = options.devices
        assert [device.ep_name for device in devices] == ["SomeProvider"]
        assert given == plugin.options(precision)
    assert fake.registered == ["SomeProvider"]


def test_a_plugin_without_a_device_or_with_a_broken_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, plugin: Provider
) -> None:
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([], broken=True))
    with pytest.raises(ProviderError, match=r"libOpenCL\.so\.1: cannot open") as caught:
        plugin.attach(FakeOptions(), Precision.STRICT)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime(["CPUExecutionProvider"]))
    monkeypatch.setattr(module, "_registered", {"some_plugin"})
    with pytest.raises(ProviderError, match="no device on this machine"):
        plugin.attach(FakeOptions(), Precision.STRICT)


def placed(nodes: dict[str, dict[str, int]], *effective: str) -> Placement:
    return Placement("cuda", "on", "strict", effective, {name: Counter(ops) for name, ops in nodes.items()})


CPU_NAME, CUDA_NAME = "CPUExecutionProvider", "CUDAExecutionProvider"
REFUSED = {
    "dropped": (placed({CPU_NAME: {"Conv": 3}}, CPU_NAME), False, "dropped it"),
    "one Conv elsewhere": (
        placed({CUDA_NAME: {"Conv": 52}, CPU_NAME: {"Conv": 1}}, CUDA_NAME, CPU_NAME),
        False,
        "1 Conv",
    ),
    "no node at all": (placed({CPU_NAME: {"Relu": 3}}, CUDA_NAME, CPU_NAME), False, "no node"),
    "a shape node, when strict": (
        placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {"Shape": 1}}, CUDA_NAME, CPU_NAME),
        True,
        "1 Shape",
    ),
}
ACCEPTED = {
    "all": (placed({CUDA_NAME: {"Conv": 3, "Relu": 2}}, CUDA_NAME, CPU_NAME), True),
    "a shape node": (placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {"Shape": 1}}, CUDA_NAME, CPU_NAME), False),
    "an empty graph": (placed({}, CUDA_NAME, CPU_NAME), True),
}


@pytest.mark.parametrize(("found", "strict", "why"), REFUSED.values(), ids=REFUSED)
def test_a_provider_that_did_not_run_the_nodes_is_refused(found: Placement, strict: bool, why: str) -> None:
    with pytest.raises(ProviderError, match=why):
        check(found, CUDA, strict_placement=strict)


@pytest.mark.parametrize(("found", "strict"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_provider_that_ran_the_nodes_is_accepted(found: Placement, strict: bool) -> None:
    check(found, CUDA, strict_placement=strict)


def test_names_are_checked_and_repeated_ones_count_once() -> None:
    assert named(("cpu", "cpu")) == (CPU,)
    with pytest.raises(UsageError, match="openvino"):
        named(("tensorrt",))


@pytest.fixture
def cpu_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime offers its CPU provider by device as well: the plugin way with a real session."""
    other = Provider("device", CPU_NAME, "", strict={"some.option": "1"}, by_device=True)
    monkeypatch.setitem(module.PROVIDERS, "device", other)


@pytest.mark.usefixtures("cpu_by_device")
def test_a_provider_by_device_really_runs_is_reported_and_deploy_stands_beside() -> None:
    found = verify(conv(), conv(), VerifyOptions(providers=("device",), strict_placement=True))
    assert found.verdict is Verdict.EQUIVALENT
    assert [place.optimization for place in found.placements] == ["off", "on", "on"]
    assert found.placements[0].nodes[CPU_NAME]["Conv"] == 1
    assert {m.where.precision for m in found.measurements} == {"strict", "deploy"}
    assert found.to_dict()["placements"][0]["nodes"][CPU_NAME] == {"Conv": 1, "Relu": 1}
    assert verify(conv(), conv(1.01), VerifyOptions(providers=("device",))).verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.usefixtures("cpu_by_device")
def test_what_deploys_otherwise_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.equivalence import verification

    run = verification.running

    def coarse(source: bytes, setting: Setting, taps: tuple[str, ...] = ()) -> Any:
        return run(conv(1.01) if setting.precision is Precision.DEPLOY else source, setting, taps)

    monkeypatch.setattr(verification, "running", coarse)
    found = verify(conv(), conv(), VerifyOptions(providers=("device",)))
    assert found.verdict is Verdict.EQUIVALENT
    judged = {(m.where.precision, j.agrees) for m, j in zip(found.measurements, found.judgements, strict=True)}
    assert ("deploy", False) in judged
    assert ("strict", False) not in judged
    assert found.largest is not None
    assert found.largest.where.precision == "strict"


def test_session_options_are_quiet_and_deterministic() -> None:
    for optimization in Optimization:
        options = quiet_options(optimization)
        assert options.log_severity_level == 4
        assert options.use_deterministic_compute
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    assert quiet_options(Optimization.OFF).graph_optimization_level == levels.ORT_DISABLE_ALL
    assert quiet_options(Optimization.ON).graph_optimization_level == levels.ORT_ENABLE_ALL


@pytest.mark.cuda
def test_cuda_runs_for_real() -> None:
    why = startable(CUDA)
    if why:
        pytest.skip(why)
    found = verify(conv(), conv(), VerifyOptions(providers=("cuda",)))
    assert found.verdict is Verdict.EQUIVALENT
    assert found.placements[0].nodes[CUDA_NAME]["Conv"] == 1
    assert verify(conv(), conv(1.01), VerifyOptions(providers=("cuda",))).verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.parametrize("name", ["openvino", "webgpu"])
def test_a_plugin_runs_for_real(name: str) -> None:
    why = startable(PROVIDERS[name])
    if why:
        pytest.skip(why)
    found = verify(conv(), conv(), VerifyOptions(providers=(name,)))
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    assert found.placements[0].nodes[PROVIDERS[name].ep_name]["Conv"] == 1
    assert verify(conv(), conv(1.01), VerifyOptions(providers=(name,))).verdict is Verdict.NOT_EQUIVALENT
