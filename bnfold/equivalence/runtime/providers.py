"""Execution providers: how each is asked for, at which precision, and whether it really ran the nodes.

onnxruntime falls back to the CPU in silence, ignores options it does not know and lowers precision by default. So a
provider counts only where the session says that the compute nodes were assigned to it.
"""

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import field
from enum import StrEnum
from io import StringIO
from typing import Any, NamedTuple

from bnfold.equivalence.runtime.sessions import Session, reason, runtime
from bnfold.errors import ProviderError, UsageError
from bnfold.records import Record


class Precision(StrEnum):
    """STRICT: full precision and deterministic algorithms, for the verdict. DEPLOY: the provider's own defaults."""

    STRICT = "strict"
    DEPLOY = "deploy"


class Provider(Record):
    """`ep_name`: onnxruntime's name. `strict`: the options without which the provider rounds more coarsely.

    A provider comes compiled into onnxruntime or as a plugin, which is asked for by device. `by_device`: it may come as
    a plugin, which then goes first. `plugin`: the Python module that brings its library, "" for none. `hardware`: the
    one kind of device it is asked for ("CPU", "GPU" or "NPU"), "" for the first that it offers. `compiled_in`: options
    that say the same to the provider compiled in. `preload`: it needs libraries that may lie in Python packages, where
    the dynamic linker does not look.
    """

    name: str
    ep_name: str
    install: str
    strict: Mapping[str, str] = field(default_factory=dict, hash=False)
    by_device: bool = False
    plugin: str = ""
    hardware: str = ""
    compiled_in: Mapping[str, str] = field(default_factory=dict, hash=False)
    preload: bool = False

    def options(self, precision: Precision) -> dict[str, str]:
        """Provider options: none at all in DEPLOY, which is what a user gets who asks for nothing."""
        return dict(self.strict) if precision is Precision.STRICT else {}

    def attach(self, session_options: Any, precision: Precision) -> list[Any] | None:
        """Add the provider to session options; returns what `providers=` of the session must be, None for nothing.

        Raises ProviderError where onnxruntime has no such provider.
        """
        onnxruntime = runtime()
        session_options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        absence = "this onnxruntime has none"
        if self.by_device:
            devices, absence = self._devices(onnxruntime)
            if devices:
                session_options.add_provider_for_devices(devices[:1], self.options(precision))
                return None
        if self.ep_name not in onnxruntime.get_available_providers():
            raise ProviderError(f"provider {self.name}: {absence}; {self.install}.")
        if self.preload:
            with redirect_stdout(StringIO()):  # it prints what it does not find
                onnxruntime.preload_dlls()
        return [(self.ep_name, {**self.compiled_in, **self.options(precision)})]

    def _devices(self, onnxruntime: Any) -> tuple[list[Any], str]:
        """The devices that the plugin offers, and why there are none."""
        if not self._offered(onnxruntime) and self.plugin and self.plugin not in _registered:
            try:
                library = importlib.import_module(self.plugin).get_library_path()
            except ImportError:
                return [], f"{self.plugin} is not installed"
            try:
                onnxruntime.register_execution_provider_library(self.ep_name, library)
            except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no other base class
                # Somebody else in this process may have registered it.
                if "already registered" not in str(error):
                    return [], f"its library cannot be loaded ({reason(error)})"
            _registered.add(self.plugin)
        return self._offered(onnxruntime), "it offers no device on this machine"

    def _offered(self, onnxruntime: Any) -> list[Any]:
        own = [device for device in onnxruntime.get_ep_devices() if device.ep_name == self.ep_name]
        return [each for each in own if not self.hardware or each.device.type.name == self.hardware]


_registered: set[str] = set()

CPU = Provider("cpu", "CPUExecutionProvider", "pip install 'bnfold[cpu]'")

# use_tf32: TF32 keeps 10 bits of a float32's 23, and is on (onnxruntime#19357 for Gemm and MatMul, #19426 for Conv).
# cudnn_conv_algo_search: EXHAUSTIVE, the default, times the algorithms anew in each session and takes the fastest, so
# two sessions may differ (onnxruntime#4611). enable_skip_layer_norm_strict_mode: off, "accuracy improvement" where on;
# the optimizer makes such nodes of Add and LayerNormalization. The documentation of the CUDA provider lists all three.
# What else it lists is off by default (prefer_nhwc, fuse_conv_bias, tunable_op_enable) or only bounds the search.
CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    "pip install 'bnfold[gpu]' in place of bnfold[cpu], with NVIDIA's driver and the CUDA and cuDNN libraries it asks "
    "for (pip install 'onnxruntime-gpu[cuda,cudnn]' brings them)",
    strict={"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT", "enable_skip_layer_norm_strict_mode": "1"},
    preload=True,
)

# INFERENCE_PRECISION_HINT: where the processor has bfloat16 instructions or AMX, OpenVINO computes in bfloat16 unless
# told otherwise (docs.openvino.ai, "Precision Control"); the provider compiled into onnxruntime-openvino asks for
# float32 by itself. Its GPU computes in float16 by default and its NPU cannot do otherwise: the CPU alone is asked for.
OPENVINO = Provider(
    "openvino",
    "OpenVINOExecutionProvider",
    "pip install onnxruntime-ep-openvino beside onnxruntime on an Intel processor, or onnxruntime-openvino in place of "
    "onnxruntime on any x86-64",
    strict={"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'},
    by_device=True,
    plugin="onnxruntime_ep_openvino",
    hardware="CPU",
    compiled_in={"device_type": "CPU"},
)

WEBGPU = Provider(
    "webgpu",
    "WebGpuExecutionProvider",
    "pip install onnxruntime-ep-webgpu beside onnxruntime, with a Vulkan driver",
    by_device=True,
    plugin="onnxruntime_ep_webgpu",
)
PROVIDERS = {provider.name: provider for provider in (CPU, CUDA, OPENVINO, WEBGPU)}

# What people type who mean something near it. TensorRT: its use of TF32 cannot be switched off for a session
# (onnxruntime#26029).
_UNSUPPORTED = {
    "tensorrt": "it cannot be asked for full precision; cuda runs on the same device",
    "nvtensorrtrtx": "cuda runs on the same device",
    "directml": "webgpu runs on the same devices",
    "coreml": "webgpu runs on the same devices",
    "rocm": "webgpu runs on the same devices",
    "migraphx": "webgpu runs on the same devices",
}
_ALIASES = {"gpu": "cuda", "nvidia": "cuda", "intel": "openvino", "dml": "directml", "trt": "tensorrt"}

COMPUTE = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv"),
    *("NhwcConv", "TransposeMatMul", "QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "GroupNorm"),
    *("SkipLayerNormalization", "SkipGroupNorm", "SimplifiedLayerNormalization", "RMSNormalization"),
    *("SkipSimplifiedLayerNormalization", "MeanVarianceNormalization", "LpNormalization"),
}
"""Operators that a provider must have run to count, under ONNX's names and those of onnxruntime's fusions."""


def named(names: Sequence[str]) -> tuple[Provider, ...]:
    """Providers by the names of `--provider` or by onnxruntime's own. Raises UsageError for an unknown name."""
    if not names:
        raise UsageError("no provider is asked for; pass at least one, for example cpu.")
    by_ep_name = {provider.ep_name: name for name, provider in PROVIDERS.items()}
    known = [by_ep_name.get(name, name) for name in names]
    for name in known:
        if name not in PROVIDERS:
            raise UsageError(f"provider {name!r} is not {_advice(name)}; known are {', '.join(PROVIDERS)}.")
    return tuple(PROVIDERS[name] for name in dict.fromkeys(known))


def _advice(name: str) -> str:
    """The words behind "is not": the name that was meant, or why there is no such provider."""
    plain = name.strip().lower().removesuffix("executionprovider")
    plain = _ALIASES.get(plain, plain)
    if plain in PROVIDERS:
        return f"a name of bnfold's: say {plain}"
    return f"supported: {_UNSUPPORTED[plain]}" if plain in _UNSUPPORTED else "known"


class Placement(NamedTuple):
    """Where the nodes of one session ran: operator counts by onnxruntime's name of the provider.

    `provider` is the one asked for by its name in bnfold, `effective` what onnxruntime kept, by its own names.
    """

    provider: str
    optimization: str
    precision: str
    effective: tuple[str, ...]
    nodes: Mapping[str, Mapping[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "provider": self.provider,
            "optimization": self.optimization,
            "precision": self.precision,
            "effective": list(self.effective),
            "nodes": {name: dict(operators) for name, operators in self.nodes.items()},
        }


def placement(session: Session, provider: Provider, optimization: str, precision: Precision) -> Placement:
    """Read it from a session that was opened with `Provider.attach`. Raises ProviderError before onnxruntime 1.24."""
    assigned = getattr(session.raw, "get_provider_graph_assignment_info", None)
    if assigned is None:
        version = runtime().__version__
        raise ProviderError(
            f"provider {provider.name}: onnxruntime {version} does not say which provider ran a node; "
            "install version 1.24 or newer."
        )
    nodes: dict[str, Counter[str]] = {}
    for part in assigned():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    effective = tuple(session.raw.get_providers())
    return Placement(provider.name, str(optimization), precision.value, effective, nodes)


def check(found: Placement, provider: Provider, *, strict_placement: bool) -> None:
    """Raises ProviderError unless the provider is effective and ran every compute node (with `strict_placement` all).

    A model without compute nodes must have had at least one node on the provider.
    """
    if provider.ep_name not in found.effective:
        raise ProviderError(
            f"provider {provider.name}: onnxruntime dropped it and would have run on "
            f"{', '.join(found.effective)}; {provider.install}."
        )
    elsewhere = {name: operators for name, operators in found.nodes.items() if name != provider.ep_name and operators}
    bypassed = {
        name: counted
        for name, operators in elsewhere.items()
        if (counted := {op: n for op, n in operators.items() if strict_placement or op in COMPUTE})
    }
    if bypassed:
        total = sum((Counter(counted) for counted in bypassed.values()), Counter[str]())
        listed = ", ".join(f"{n} {op}" for op, n in total.most_common(4))
        if len(total) > 4:
            listed += f" and {len(total) - 4} more operators"
        why = "a strict placement allows that of no node"
        if total.keys() & COMPUTE:
            why = "the provider has no kernel for them here, so nothing about it would be verified"
        hosts = ", ".join(sorted(bypassed))
        raise ProviderError(f"provider {provider.name}: {listed} ran on {hosts} instead; {why}.")
    if elsewhere and not found.nodes.get(provider.ep_name):
        raise ProviderError(f"provider {provider.name}: no node of the model ran on it.")
