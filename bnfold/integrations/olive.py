"""bnfold as a pass of Olive, for a workflow or a call.

A workflow knows a pass by the package configuration that it is run with:

    {"passes": {"FoldBatchNorm": {
        "module_path": "bnfold.integrations.olive.FoldBatchNorm",
        "supported_providers": ["*"], "supported_accelerators": ["*"], "supported_precisions": ["*"]}}}
"""

from pathlib import Path
from typing import Any

from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from bnfold import api
from bnfold.options import OptimizeOptions


class FoldBatchNorm(Pass):  # type: ignore[misc]  # Olive has no types
    """Fold every BatchNormalization that can be, and give the model on only if it was found equivalent.

    `options` are the keyword arguments of `bnfold.optimize`, as plain JSON. Raises what `bnfold.optimize` raises.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:  # noqa: ARG003 - Olive's signature
        return {
            "options": PassConfigParam(
                type_=dict[str, Any], default_value={}, description="Keyword arguments of bnfold.optimize."
            )
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        source = Path(model.model_path)
        target = Path(resolve_onnx_path(output_model_path, source.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Olive runs a step again in the place that it ran in before.
        options = OptimizeOptions(**{"overwrite": True, **config.options})
        api.optimize_with(str(source), str(target), options)
        return ONNXModelHandler(model_path=str(target.parent), onnx_file_name=target.name)
