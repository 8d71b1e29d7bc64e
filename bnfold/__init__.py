"""bnfold turns an exported ONNX model into the inference graph its author meant, and proves it.

>>> import bnfold
>>> result = bnfold.optimize("in.onnx", "out.onnx")
>>> print(result)
equivalent: 5 normalizations folded; 18 -> 13 nodes; written to out.onnx
>>> result.report.verdict
'equivalent'
>>> print(bnfold.inspect("out.onnx"))
out.onnx: 13 nodes; no normalization
>>> print(bnfold.verify("in.onnx", "out.onnx").verdict)
equivalent

What this module lists in `__all__` is the interface, and so are the attributes of those things, `bnfold.errors`,
`bnfold.report`, `bnfold.options`, `bnfold.passes`, `bnfold.graph` and `bnfold.testing` as far as they list names. Every
other module is internal.
"""

from typing import TYPE_CHECKING

from bnfold.late_imports import resolving

if TYPE_CHECKING:
    from bnfold.api import Result as Result
    from bnfold.api import freeze as freeze
    from bnfold.api import inspect as inspect
    from bnfold.api import optimize as optimize
    from bnfold.api import recalibrate as recalibrate
    from bnfold.api import verify as verify
    from bnfold.assertions import NotEquivalentError as NotEquivalentError
    from bnfold.assertions import assert_equivalent as assert_equivalent
    from bnfold.decisions import Action as Action
    from bnfold.decisions import Decision as Decision
    from bnfold.decisions import Reason as Reason
    from bnfold.equivalence import Measurement as Measurement
    from bnfold.equivalence import Verdict as Verdict
    from bnfold.equivalence import Verification as Verification
    from bnfold.errors import BnfoldError as BnfoldError
    from bnfold.errors import ModelError as ModelError
    from bnfold.errors import ModelWarning as ModelWarning
    from bnfold.errors import OutputError as OutputError
    from bnfold.errors import ProviderError as ProviderError
    from bnfold.errors import ReportedError as ReportedError
    from bnfold.errors import ResourceLimitError as ResourceLimitError
    from bnfold.errors import StatisticsError as StatisticsError
    from bnfold.errors import UsageError as UsageError
    from bnfold.errors import VerificationError as VerificationError
    from bnfold.fleet.batch import Batch as Batch
    from bnfold.fleet.batch import batch as batch
    from bnfold.fleet.task import Row as Row
    from bnfold.onnxfile import Layout as Layout
    from bnfold.onnxfile import Weights as Weights
    from bnfold.options import CalibrationOptions as CalibrationOptions
    from bnfold.options import FreezeOptions as FreezeOptions
    from bnfold.options import InspectOptions as InspectOptions
    from bnfold.options import OptimizeOptions as OptimizeOptions
    from bnfold.options import RecalibrateOptions as RecalibrateOptions
    from bnfold.options import VerifyOptions as VerifyOptions
    from bnfold.progress import Stage as Stage
    from bnfold.report import Inspection as Inspection
    from bnfold.report import NormalizationInfo as NormalizationInfo
    from bnfold.report import Report as Report
    from bnfold.report import render as render
    from bnfold.service.client import Client as Client
    from bnfold.service.client import RemoteJob as RemoteJob
    from bnfold.service.client import ServiceError as ServiceError
    from bnfold.torch_export import Exported as Exported
    from bnfold.torch_export import Finding as Finding
    from bnfold.torch_export import export as export

__version__ = "0.1.0"

# Where each name is. Resolved on first use, so that `import bnfold` and `bnfold --help` stay fast.
_HOME = {
    **dict.fromkeys(("Result", "freeze", "inspect", "optimize", "recalibrate", "verify"), "bnfold.api"),
    **dict.fromkeys(("NotEquivalentError", "assert_equivalent"), "bnfold.assertions"),
    **dict.fromkeys(("Action", "Decision", "Reason"), "bnfold.decisions"),
    **dict.fromkeys(("Measurement", "Verdict", "Verification"), "bnfold.equivalence"),
    **dict.fromkeys(("BnfoldError", "ModelError", "ModelWarning", "OutputError"), "bnfold.errors"),
    **dict.fromkeys(("ProviderError", "ReportedError", "ResourceLimitError", "StatisticsError"), "bnfold.errors"),
    **dict.fromkeys(("UsageError", "VerificationError"), "bnfold.errors"),
    **dict.fromkeys(("Layout", "Weights"), "bnfold.onnxfile"),
    **dict.fromkeys(("CalibrationOptions", "FreezeOptions", "InspectOptions", "OptimizeOptions"), "bnfold.options"),
    **dict.fromkeys(("RecalibrateOptions", "VerifyOptions"), "bnfold.options"),
    **dict.fromkeys(("Exported", "Finding", "export"), "bnfold.torch_export"),
    "Stage": "bnfold.progress",
    **dict.fromkeys(("Inspection", "NormalizationInfo", "Report", "render"), "bnfold.report"),
    "Batch": "bnfold.fleet.batch",
    "batch": "bnfold.fleet.batch",
    "Row": "bnfold.fleet.task",
    **dict.fromkeys(("Client", "RemoteJob", "ServiceError"), "bnfold.service.client"),
}

__all__ = ["__version__", *sorted(_HOME)]


__getattr__ = resolving(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
