"""A provider counts only where it ran the nodes; what it is asked for is checked without the hardware."""

import json
import sys
import types
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from bnfold.equivalence import Verdict, VerifyOptions, verify
from bnfold.equivalence.runtime import opening as running_module
from bnfold.equivalence.runtime import providers as module
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.providers import (
    CPU,
    CUDA,
    OPENVINO,
    PROVIDERS,
    Placement,
    Precision,
    Provider,
    check,
    named,
)
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed, quiet_options, reason
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
    with pytest.raises(ProviderError, match="is not installed; pip install onnxruntime-ep-openvino"):
        OPENVINO.attach(FakeOptions(), Precision.STRICT)


CUDA_STRICT = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT", "enable_skip_layer_norm_strict_mode": "1"}


def test_strict_asks_for_full_precision_and_deploy_for_nothing() -> None:
    assert CUDA.options(Precision.STRICT) == CUDA_STRICT
    assert json.loads(OPENVINO.options(Precision.STRICT)["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}
    for provider in PROVIDERS.values():
        assert provider.options(Precision.DEPLOY) == {}


@pytest.mark.parametrize("precision", Precision)
def test_algorithms_are_deterministic_where_the_verdict_is_made(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    seen = []
    opened = running_module.opened  # type: ignore[attr-defined]  # it imports the name

    def spy(source: Any, options: Any, providers: Any) -> Any:
        seen.append(options.use_deterministic_compute)
        return opened(source, options, providers)

    monkeypatch.setattr(running_module, "opened", spy)
    with running(conv(), Setting(precision=precision)):
        pass
    assert seen == [precision is Precision.STRICT]


class FakeOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.devices: list[Any] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.devices.append((devices, options))


def device(ep_name: str, hardware: str = "CPU") -> Any:
    return types.SimpleNamespace(
        ep_name=ep_name, device=types.SimpleNamespace(type=types.SimpleNamespace(name=hardware))
    )


class FakeRuntime:
    """Only what providers ask of onnxruntime. `offers`: the kinds of hardware a plugin brings with it."""

    def __init__(
        self, devices: list[Any], available: tuple[str, ...] = (), *, refusal: str = "", offers: tuple[str, ...] = ()
    ) -> None:
        self.devices = devices
        self.available = available
        self.registered: list[str] = []
        self.refusal = refusal
        self.offers = offers
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def get_ep_devices(self) -> list[Any]:
        return self.devices

    def register_execution_provider_library(self, name: str, _: str) -> None:
        if self.refusal:
            raise RuntimeError(self.refusal)
        self.registered.append(name)
        self.devices.extend(device(name, hardware) for hardware in self.offers)

    def preload_dlls(self) -> None:
        print("Failed to load libcublas.so")
        self.preloaded += 1


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Provider:
    library = types.ModuleType("some_plugin")
    library.get_library_path = lambda: "/somewhere/lib.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_plugin", library)
    monkeypatch.setattr(module, "_registered", set())
    return replace(OPENVINO, plugin="some_plugin", ep_name="SomeProvider")


def test_a_compiled_in_provider_is_asked_for_by_name_with_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuntime([], ("CUDAExecutionProvider", "CPUExecutionProvider"))
    monkeypatch.setattr(module, "runtime", lambda: fake)
    options = FakeOptions()
    assert CUDA.attach(options, Precision.STRICT) == [("CUDAExecutionProvider", CUDA_STRICT)]
    assert options.entries == {"session.record_ep_graph_assignment_info": "1"}
    assert CUDA.attach(options, Precision.DEPLOY) == [("CUDAExecutionProvider", {})]
    assert fake.preloaded == 2  # NVIDIA's libraries lie in Python packages
    assert capsys.readouterr().out == ""


def test_a_plugin_is_registered_once_and_asked_for_by_device(monkeypatch: pytest.MonkeyPatch, plugin: Provider) -> None:
    fake = FakeRuntime([device("CPUExecutionProvider")], offers=("CPU",))
    monkeypatch.setattr(module, "runtime", lambda: fake)
    for precision in Precision:
        options = FakeOptions()
        assert plugin.attach(options, precision) is None
        ((devices, given),) = options.devices
        assert [each.ep_name for each in devices] == ["SomeProvider"]
        assert given == plugin.options(precision)
    assert fake.registered == ["SomeProvider"]


def test_of_several_devices_the_kind_that_keeps_full_precision_is_taken(
    monkeypatch: pytest.MonkeyPatch, plugin: Provider
) -> None:
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([], offers=("NPU", "GPU", "CPU")))
    options = FakeOptions()
    assert plugin.attach(options, Precision.STRICT) is None
    assert [each.device.type.name for each in options.devices[0][0]] == ["CPU"]
    monkeypatch.setattr(module, "_registered", set())
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([], offers=("NPU", "GPU")))
    with pytest.raises(ProviderError, match="no device"):
        plugin.attach(FakeOptions(), Precision.STRICT)


@pytest.mark.parametrize("name", ["SomeProvider", "ov"], ids=["under its own name", "under another"])
def test_a_plugin_that_somebody_else_registered_is_used(
    monkeypatch: pytest.MonkeyPatch, plugin: Provider, name: str
) -> None:
    here = [device("SomeProvider")] if name == "ov" else []
    fake = FakeRuntime(here, refusal=f"EP library is already registered under {name}")
    monkeypatch.setattr(module, "runtime", lambda: fake)
    if here:
        assert plugin.attach(FakeOptions(), Precision.STRICT) is None
    else:
        with pytest.raises(ProviderError, match="no device on this machine"):
            plugin.attach(FakeOptions(), Precision.STRICT)


def test_a_plugin_without_a_device_or_with_a_broken_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, plugin: Provider
) -> None:
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([], refusal="libOpenCL.so.1:\n cannot open"))
    with pytest.raises(ProviderError, match=r"libOpenCL\.so\.1: cannot open") as caught:
        plugin.attach(FakeOptions(), Precision.STRICT)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([device("CPUExecutionProvider")]))
    monkeypatch.setattr(module, "_registered", {"some_plugin"})
    with pytest.raises(ProviderError, match="no device on this machine"):
        plugin.attach(FakeOptions(), Precision.STRICT)


@pytest.mark.parametrize("why", ["not installed", "no device", "broken"])
def test_what_no_plugin_offers_may_be_compiled_in(monkeypatch: pytest.MonkeyPatch, plugin: Provider, why: str) -> None:
    if why == "not installed":
        monkeypatch.setitem(sys.modules, "some_plugin", None)
    fake = FakeRuntime([], ("SomeProvider",), refusal="bad ELF" if why == "broken" else "")
    monkeypatch.setattr(module, "runtime", lambda: fake)
    strict = {"device_type": "CPU", **OPENVINO.strict}
    assert plugin.attach(FakeOptions(), Precision.STRICT) == [("SomeProvider", strict)]
    assert plugin.attach(FakeOptions(), Precision.DEPLOY) == [("SomeProvider", {"device_type": "CPU"})]


def test_a_plugin_goes_before_what_is_compiled_in(monkeypatch: pytest.MonkeyPatch, plugin: Provider) -> None:
    monkeypatch.setattr(module, "runtime", lambda: FakeRuntime([], ("SomeProvider",), offers=("CPU",)))
    assert plugin.attach(FakeOptions(), Precision.STRICT) is None


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
    "a normalization elsewhere": (
        placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {"Relu": 1, "LayerNormalization": 2}}, CUDA_NAME, CPU_NAME),
        False,
        "2 LayerNormalization ran on CPUExecutionProvider instead; the provider has no kernel",
    ),
    "a fused Conv elsewhere": (
        placed({CUDA_NAME: {"Gemm": 3}, CPU_NAME: {"FusedConv": 2}}, CUDA_NAME, CPU_NAME),
        False,
        "2 FusedConv",
    ),
    "two others": (
        placed({CUDA_NAME: {"Gemm": 3}, "Third": {"Conv": 2}, CPU_NAME: {"Shape": 1}}, CUDA_NAME, "Third", CPU_NAME),
        False,
        "2 Conv ran on Third instead",
    ),
    "many, when strict": (
        placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {"Shape": 5, "Add": 4, "Mul": 3, "Div": 2, "Sub": 1}}, CUDA_NAME),
        True,
        "5 Shape, 4 Add, 3 Mul, 2 Div and 1 more operators ran on",
    ),
    "a shape node, when strict": (
        placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {"Shape": 1}}, CUDA_NAME, CPU_NAME),
        True,
        "1 Shape ran on CPUExecutionProvider instead; a strict placement allows that of no node",
    ),
}
ACCEPTED = {
    "all": (placed({CUDA_NAME: {"Conv": 3, "Relu": 2}}, CUDA_NAME, CPU_NAME), True),
    "a shape node": (placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {"Shape": 1}}, CUDA_NAME, CPU_NAME), False),
    "nothing of another's": (placed({CUDA_NAME: {"Conv": 3}, CPU_NAME: {}}, CUDA_NAME, CPU_NAME), True),
    "an empty graph": (placed({}, CUDA_NAME, CPU_NAME), True),
}


@pytest.mark.parametrize(("found", "strict", "why"), REFUSED.values(), ids=REFUSED)
def test_a_provider_that_did_not_run_the_nodes_is_refused(found: Placement, strict: bool, why: str) -> None:
    with pytest.raises(ProviderError, match=why):
        check(found, CUDA, strict_placement=strict)


@pytest.mark.parametrize(("found", "strict"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_provider_that_ran_the_nodes_is_accepted(found: Placement, strict: bool) -> None:
    check(found, CUDA, strict_placement=strict)


UNKNOWN = {
    "abacus": "'abacus' is not known; known are cpu, cuda, openvino, webgpu",
    "": "'' is not known",
    "OpenVINO": "is not a name of bnfold's: say openvino",
    "gpu": "say cuda",
    "tensorrt": "is not supported: it cannot be asked for full precision; cuda runs on the same device",
    "TensorrtExecutionProvider": "cuda runs on the same device",
    "DmlExecutionProvider": "is not supported: webgpu",
    "directml": "webgpu",
    "coreml": "webgpu",
}


@pytest.mark.parametrize(("name", "advice"), UNKNOWN.items(), ids=[name or "nothing" for name in UNKNOWN])
def test_another_name_is_a_usage_error_that_advises(name: str, advice: str) -> None:
    with pytest.raises(UsageError, match="known are cpu, cuda, openvino, webgpu") as caught:
        named(("cpu", name))
    assert advice in str(caught.value)


def test_the_names_of_onnxruntime_are_names_too() -> None:
    assert named(("CPUExecutionProvider", "cpu", "OpenVINOExecutionProvider")) == (CPU, OPENVINO)


def test_names_are_checked_before_any_work_and_repeated_ones_count_once() -> None:
    assert named(("cpu", "cpu")) == (CPU,)
    with pytest.raises(UsageError, match="no provider"):
        verify(b"", b"", VerifyOptions(providers=()))
    with pytest.raises(UsageError, match="tensorrt"):
        verify(b"", b"", VerifyOptions(providers=("tensorrt",)))


def test_the_gpu_wheel_without_its_libraries_is_no_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime then lists CUDA as available and goes on with the CPU, as here for a name it does not have."""
    if not startable(CUDA):
        pytest.skip("this machine has CUDA")
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_NAME, CPU_NAME])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime's own, which the gpu wheel does not give
        with pytest.raises(ProviderError, match=r"dropped it and would have run on CPUExecutionProvider; pip install"):
            verify(conv(), conv(), VerifyOptions(providers=("cuda",)))


def test_an_onnxruntime_that_cannot_tell_who_ran_a_node_verifies_on_the_cpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 1.24 onnxruntime does not record the placement of nodes."""
    import onnxruntime

    newer = "get_provider_graph_assignment_info"
    owner = next(each for each in onnxruntime.InferenceSession.__mro__ if newer in vars(each))
    monkeypatch.delattr(owner, newer)
    assert verify(conv(), conv()).verdict is Verdict.EQUIVALENT
    monkeypatch.setitem(module.PROVIDERS, "device", Provider("device", CPU_NAME, "", by_device=True))
    with pytest.raises(ProviderError, match=r"does not say which provider ran a node; install version 1\.24"):
        verify(conv(), conv(), VerifyOptions(providers=("device",)))


@pytest.mark.parametrize("broken", ["the provider", "the model"])
@pytest.mark.usefixtures("cpu_by_device")
def test_a_provider_that_cannot_be_started_is_told_from_a_model_it_cannot_load(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    opened = running_module.opened  # type: ignore[attr-defined]  # it imports the name

    def fragile(source: Any, options: Any, providers: Any) -> Any:
        by_device = providers is None
        if by_device and (broken == "the provider" or source == conv(2.0)):
            raise RunFailed("no driver")
        return opened(source, options, providers)

    monkeypatch.setattr(running_module, "opened", fragile)
    if broken == "the provider":
        with pytest.raises(ProviderError, match=r"device: it cannot be started here \(no driver\); install it"):
            verify(conv(2.0), conv(2.0), VerifyOptions(providers=("device",)))
    else:
        found = verify(conv(2.0), conv(2.0), VerifyOptions(providers=("device",)))
        assert found.verdict is Verdict.NOT_VERIFIED
        assert "no driver" in found.explanation


def test_one_conv_on_the_cpu_is_no_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session runs on two providers, and the one asked for did not run the Conv."""
    monkeypatch.setitem(module.PROVIDERS, "device", Provider("device", CPU_NAME, "", by_device=True))
    from bnfold.equivalence import verification

    def elsewhere(*given: Any) -> Placement:
        found = module.placement(*given)
        return found._replace(nodes={CPU_NAME: Counter({"Relu": 1}), "Other": Counter({"Conv": 1})})

    monkeypatch.setattr(verification, "placement", elsewhere)
    with pytest.raises(ProviderError, match="1 Conv ran on Other instead") as caught:
        verify(conv(), conv(), VerifyOptions(providers=("cpu", "device")))
    assert caught.value.exit_code == 5


ALIKE = conv(1 + 2**-23)
"""Another file that computes the same."""


@pytest.fixture
def cpu_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime offers its CPU provider by device as well: the plugin way with a real session."""
    other = Provider("device", CPU_NAME, "install it", strict={"some.option": "1"}, by_device=True)
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


@pytest.mark.parametrize("wrong", ["the provider", "the candidate"])
@pytest.mark.usefixtures("cpu_by_device")
def test_a_provider_that_computes_the_reference_otherwise_is_not_held_against_the_candidate(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Seen with CUDA: some kernels are wrong, and then a model does not even equal itself there."""
    from bnfold.equivalence import verification
    from bnfold.equivalence.runtime import references

    run = references.running  # type: ignore[attr-defined]  # it imports the name

    def coarse(source: bytes, setting: Setting, taps: tuple[str, ...] = ()) -> Any:
        there = setting.provider is not CPU
        return run(conv(1.01) if there and (wrong == "the provider" or source == conv(2.0)) else source, setting, taps)

    monkeypatch.setattr(verification, "running", coarse)
    monkeypatch.setattr(references, "running", coarse)
    candidate = ALIKE if wrong == "the provider" else conv(2.0)
    found = verify(conv(), candidate, VerifyOptions(providers=("device",)))
    if wrong == "the provider":
        assert found.verdict is Verdict.EQUIVALENT
        assert any("answers the reference itself otherwise in this setting" in note for note in found.notes)
    else:
        assert found.verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.usefixtures("cpu_by_device")
def test_what_deploys_otherwise_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.equivalence import verification

    run = verification.running  # type: ignore[attr-defined]  # it imports the name

    def coarse(source: bytes, setting: Setting, taps: tuple[str, ...] = ()) -> Any:
        return run(conv(1.01) if setting.precision is Precision.DEPLOY else source, setting, taps)

    monkeypatch.setattr(verification, "running", coarse)
    found = verify(conv(), ALIKE, VerifyOptions(providers=("device",)))
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


SAID = {
    "a place and all that the compiler calls a function": (
        (
            "[ONNXRuntimeError] : 11 : EP_FAIL : /src/core/plugin/interfaces.cc:393 virtual std::unique_ptr<IProvider> "
            "ort::Factory::CreateProvider(const Options&, const OrtLogger&) [ONNXRuntimeError] : 11 : EP_FAIL : "
            "/src/core/webgpu/context.cc:136 ort::Context::Initialize(const Config&)::<lambda()> No supported adapters"
        ),
        "No supported adapters",
    ),
    "a method of a template": (
        (
            "Exception during initialization: /src/cuda/nn/batch_norm.h:43 ort::cuda::BatchNorm<T>::BatchNorm(const "
            "ort::OpKernelInfo&) [with T = float] Training mode does not support BN opset 14 (or higher) yet."
        ),
        "Exception during initialization: Training mode does not support BN opset 14 (or higher) yet",
    ),
    "a bare name": ("/src/api.cc:1 CreateEpFactories Failed to load (libx)", "Failed to load (libx)"),
    "several lines": ("one\n  two", "one two"),
}


@pytest.mark.parametrize(("text", "sentence"), SAID.values(), ids=SAID)
def test_what_onnxruntime_says_is_told_without_its_source_code(text: str, sentence: str) -> None:
    assert reason(RuntimeError(text)) == sentence
