"""Execution providers: how each is asked for, at which precision, and whether it really ran the nodes.

onnxruntime falls back to the CPU in silence, ignores options it does not know and lowers precision by default. So a
provider counts only where the session says that the compute nodes were assigned to it.
"""

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bnfold.equivalence.sessions import Session, runtime
from bnfold.errors import ProviderError, UsageError


class Precision(StrEnum):
    """STRICT: full precision and deterministic algorithms, for the verdict. DEPLOY: the provider's own defaults."""

    STRICT = "strict"
    DEPLOY = "deploy"


@dataclass(frozen=True)
class Provider:
    """`ep_name`: onnxruntime's name. `strict`: the options without which the provider rounds more coarsely.

    `plugin`: the module that brings the provider as a library, "" for one compiled into onnxruntime. `by_device`: asked
    for by device, as plugins are; of several devices the first is used.
    """

    name: str
    ep_name: str
    install: str
    strict: Mapping[str, str] = field(default_factory=dict, hash=False)
    plugin: str = ""
    by_device: bool = False

    def options(self, precision: Precision) -> dict[str, str]:
        """Provider options: none at all in DEPLOY, which is what a user gets who asks for nothing."""
        return dict(self.strict) if precision is Precision.STRICT else {}

    def attach(self, session_options: Any, precision: Precision) -> list[Any] | None:
        """Add the provider to session options; returns what `providers=` of the session must be, None for nothing.

        Raises ProviderError where onnxruntime has no such provider.
        """
        onnxruntime = runtime()
        session_options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not self.by_device:
            if self.ep_name not in onnxruntime.get_available_providers():
                raise ProviderError(f"provider {self.name}: this onnxruntime has none; {self.install}.")
            return [(self.ep_name, self.options(precision))]
        devices = self._devices(onnxruntime)
        if not devices:
            raise ProviderError(f"provider {self.name}: it offers no device on this machine; {self.install}.")
        session_options.add_provider_for_devices(devices[:1], self.options(precision))
        return None

    def _devices(self, onnxruntime: Any) -> list[Any]:
        def own() -> list[Any]:
            return [device for device in onnxruntime.get_ep_devices() if device.ep_name == self.ep_name]

        if own() or not self.plugin or self.plugin in _registered:
            return own()
        try:
            module = importlib.import_module(self.plugin)
        except ImportError as error:
            raise ProviderError(f"provider {self.name}: {self.plugin} is not installed; {self.install}.") from error
        try:
            onnxruntime.register_execution_provider_library(self.ep_name, module.get_library_path())
        except Exception as error:  # onnxruntime's exceptions share no other base class
            text = " ".join(str(error).split())
            raise ProviderError(
                f"provider {self.name}: its library cannot be loaded ({text}); {self.install}."
            ) from error
        _registered.add(self.plugin)
        return own()


_registered: set[str] = set()

CPU = Provider("cpu", "CPUExecutionProvider", "pip install 'bnfold[cpu]'")
# TF32 keeps 10 bits of a float32's 23; EXHAUSTIVE search, the default, may pick another algorithm on every run.
CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    "pip install 'bnfold[gpu]' in place of bnfold[cpu], with the CUDA and cuDNN libraries it asks for",
    strict={"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"},
)
# On CPUs with AMX or bfloat16 instructions OpenVINO computes in bfloat16 unless told otherwise.
OPENVINO = Provider(
    "openvino",
    "OpenVINOExecutionProvider",
    "pip install onnxruntime-ep-openvino beside onnxruntime, on a machine with an Intel processor",
    strict={"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'},
    plugin="onnxruntime_ep_openvino",
    by_device=True,
)
WEBGPU = Provider(
    "webgpu",
    "WebGpuExecutionProvider",
    "pip install onnxruntime-ep-webgpu beside onnxruntime, with a Vulkan driver",
    plugin="onnxruntime_ep_webgpu",
    by_device=True,
)
PROVIDERS = {provider.name: provider for provider in (CPU, CUDA, OPENVINO, WEBGPU)}

COMPUTE = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
}


def named(names: tuple[str, ...]) -> tuple[Provider, ...]:
    """Providers by the names of `--provider`. Raises UsageError for a name bnfold does not know."""
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown:
        raise UsageError(f"provider {unknown[0]!r} is not known; known are {', '.join(PROVIDERS)}.")
    if not names:
        raise UsageError("no provider is asked for; pass at least one, for example cpu.")
    return tuple(PROVIDERS[name] for name in dict.fromkeys(names))


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one session ran: operator counts by onnxruntime's name of the provider."""

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
    """Read it from a session that was opened with `Provider.attach`."""
    nodes: dict[str, Counter[str]] = {}
    for part in session.raw.get_provider_graph_assignment_info():
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
    elsewhere = {name: operators for name, operators in found.nodes.items() if name != provider.ep_name}
    bypassed = Counter[str]()
    for operators in elsewhere.values():
        bypassed.update({op: n for op, n in operators.items() if strict_placement or op in COMPUTE})
    mine = found.nodes.get(provider.ep_name, {})
    if bypassed:
        listed = ", ".join(f"{n} {op}" for op, n in bypassed.most_common(4))
        raise ProviderError(
            f"provider {provider.name}: {listed} ran on {', '.join(sorted(elsewhere))} instead; "
            "the provider has no kernel for them here, so nothing about it would be verified."
        )
    if not mine and elsewhere:
        raise ProviderError(f"provider {provider.name}: no node of the model ran on it.")
