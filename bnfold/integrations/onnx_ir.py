"""bnfold as a pass of onnx-ir, for a `Sequential` or a `PassManager`.

import onnx_ir as ir
from bnfold.integrations.onnx_ir import FoldBatchNorm

passes = ir.passes.Sequential(FoldBatchNorm(), ir.passes.common.RemoveUnusedNodesPass())
result = passes(ir.load("model.onnx"))
"""

from typing import Any

import onnx_ir as ir

from bnfold import api
from bnfold.options import OptimizeOptions
from bnfold.report import Report  # noqa: TC001 - the annotation of an attribute that callers read


class FoldBatchNorm(ir.passes.FunctionalPass):
    """Fold every BatchNormalization that can be, and give the model on only if it was found equivalent.

    `options` are the keyword arguments of `bnfold.optimize` that ask for no file. The model that is given is not
    modified. `report` is the `bnfold.report.Report` of the last call, None before the first.

    Raises UsageError for options that make no sense. A call raises `bnfold.VerificationError` where the result was not
    shown to be equivalent (in a `Sequential` as the cause of its `PassError`); with ``verify=False`` nothing is run.
    """

    def __init__(self, **options: Any) -> None:
        self._options = OptimizeOptions(**options)
        self.report: Report | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with what could be folded folded; `modified` says whether anything was changed."""
        result = api.optimize_with(model, None, self._options)
        self.report = result.report
        return ir.passes.PassResult(result.model, any(each["changes"] for each in result.report.passes))
