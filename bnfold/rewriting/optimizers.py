"""Other optimizers as passes: each an adapter of a few lines, which imports its package when it runs.

The fields of an adapter are its options: ``--pass onnxsim:skip_shape_inference=true``. What these tools drop without
meaning to (names, descriptions, notes, the freedom to replace an initializer) is put back; what they compute is judged.
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from onnx import ModelProto

from bnfold.errors import UsageError
from bnfold.onnxfile import OnnxFile
from bnfold.passes import Preserves
from bnfold.rewriting.function_pass import FunctionPass


@dataclass(frozen=True)
class Optimizer:
    """Another optimizer. `distribution` is what to install, `module` what is imported: where empty, the name."""

    name: ClassVar[str]
    distribution: ClassVar[str] = ""
    module: ClassVar[str] = ""
    preserves: ClassVar[Preserves] = Preserves.ALGEBRAIC

    def rewrite(self, file: OnnxFile) -> OnnxFile:
        """The model as the optimizer makes it. Raises UsageError where it is not installed, and for what it raises."""
        problem = missing(type(self))
        if problem:
            raise UsageError(f"the pass {self.name} {problem}")
        return self._as_function().rewrite(file)

    def cost(self, file: OnnxFile) -> str:
        """The cost of giving the optimizer a large model, in a sentence; "" where that is little."""
        return self._as_function().cost(file)

    def _as_function(self) -> FunctionPass:
        return FunctionPass(self.optimized, self.name, self.preserves, forgetful=True)

    def optimized(self, model: Any) -> Any:
        """The model after the optimizer; None where it edited the one it was given."""
        raise NotImplementedError


def missing(optimizer: type[Optimizer]) -> str:
    """The advice to install an optimizer that is missing; "" for one that is installed."""
    if importlib.util.find_spec(optimizer.module or optimizer.name) is not None:
        return ""
    return f"needs the package {distribution_of(optimizer)}: pip install {distribution_of(optimizer)}"


def distribution_of(optimizer: type[Optimizer]) -> str:
    """The package to install for an optimizer."""
    return optimizer.distribution or optimizer.name


@dataclass(frozen=True)
class OnnxSim(Optimizer):
    """onnxsim: constant folding with onnxruntime, and the passes of onnxoptimizer."""

    name: ClassVar = "onnxsim"
    skip_fuse_bn: bool = False
    skip_constant_folding: bool = False
    skip_shape_inference: bool = False
    perform_optimization: bool = True

    def optimized(self, model: ModelProto) -> ModelProto:
        """`onnxsim.simplify` without its own check."""
        import onnxsim

        made, _ = onnxsim.simplify(
            model,
            perform_optimization=self.perform_optimization,
            skip_fuse_bn=self.skip_fuse_bn,
            skip_constant_folding=self.skip_constant_folding,
            skip_shape_inference=self.skip_shape_inference,
        )
        return _proto(made)


@dataclass(frozen=True)
class OnnxSlim(Optimizer):
    """onnxslim: fusions, constant folding and shape inference."""

    name: ClassVar = "onnxslim"
    no_shape_infer: bool = False
    skip_fusion_patterns: tuple[str, ...] = ()

    def optimized(self, model: ModelProto) -> ModelProto:
        """`onnxslim.slim`."""
        import onnxslim

        chosen: dict[str, Any] = {"no_shape_infer": self.no_shape_infer}
        if self.skip_fusion_patterns:
            chosen["skip_fusion_patterns"] = list(self.skip_fusion_patterns)
        return _proto(onnxslim.slim(model, **chosen))


@dataclass(frozen=True)
class OnnxScript(Optimizer):
    """onnxscript: its optimizer, and the rewrite rules that it applies by default."""

    name: ClassVar = "onnxscript"
    rewrites: bool = True
    inline: bool = True

    def optimized(self, model: ModelProto) -> ModelProto:
        """`onnxscript.optimizer.optimize`, then `onnxscript.rewriter.rewrite`."""
        from onnxscript import optimizer, rewriter

        made = optimizer.optimize(model, inline=self.inline)
        return _proto(rewriter.rewrite(made) if self.rewrites else made)


@dataclass(frozen=True)
class OnnxOptimizer(Optimizer):
    """onnxoptimizer: its fusions and eliminations."""

    name: ClassVar = "onnxoptimizer"
    passes: tuple[str, ...] = ()
    fixed_point: bool = False

    def optimized(self, model: ModelProto) -> ModelProto:
        """`onnxoptimizer.optimize` with the `passes` named, or with those that it runs by default."""
        import onnxoptimizer

        return _proto(onnxoptimizer.optimize(model, list(self.passes) or None, self.fixed_point))


@dataclass(frozen=True)
class OnnxRuntime(Optimizer):
    """onnxruntime: its offline graph optimizations, of level "basic" or "extended"."""

    name: ClassVar = "onnxruntime"
    level: str = "basic"

    def optimized(self, model: ModelProto) -> ModelProto:
        """The model that onnxruntime writes as optimized. Raises UsageError for a level that it does not have."""
        import onnx
        import onnxruntime

        levels = {
            "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        }
        if self.level not in levels:
            raise UsageError(f"--pass onnxruntime: level is basic or extended, not {self.level!r}")
        with tempfile.TemporaryDirectory(prefix="bnfold-onnxruntime-") as folder:
            path = Path(folder) / "optimized.onnx"
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = levels[self.level]
            options.optimized_model_filepath = str(path)
            options.log_severity_level = 4
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return _proto(onnx.load(path))


@dataclass(frozen=True)
class Aimet(Optimizer):
    """AIMET: its folding of BatchNormalization into weights."""

    name: ClassVar = "aimet"
    distribution: ClassVar = "aimet-onnx"
    module: ClassVar = "aimet_onnx"

    def optimized(self, model: ModelProto) -> None:
        """`aimet_onnx.batch_norm_fold.fold_all_batch_norms_to_weight`, which edits the model."""
        from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

        fold_all_batch_norms_to_weight(model)


def _proto(made: Any) -> ModelProto:
    if not isinstance(made, ModelProto):
        raise TypeError(f"it gave back {type(made).__name__} instead of a model")
    return made


OPTIMIZERS: dict[str, type[Optimizer]] = {
    each.name: each for each in (OnnxSim, OnnxSlim, OnnxScript, OnnxOptimizer, OnnxRuntime, Aimet)
}
