"""PyTorch in: a module, an ExportedProgram or an ONNXProgram becomes a file that is verified against the module.

torch is imported inside functions alone, by those who have it.
"""

from typing import TYPE_CHECKING

from bnfold.late_imports import resolving

if TYPE_CHECKING:
    from bnfold.torch_export.census import Finding as Finding
    from bnfold.torch_export.census import FindingCode as FindingCode
    from bnfold.torch_export.checkpoint import load_checkpoint as load_checkpoint
    from bnfold.torch_export.exporting import Exported as Exported
    from bnfold.torch_export.exporting import export as export
    from bnfold.torch_export.exporting import export_with as export_with

_HOME = {
    **dict.fromkeys(("Finding", "FindingCode"), "bnfold.torch_export.census"),
    "load_checkpoint": "bnfold.torch_export.checkpoint",
    **dict.fromkeys(("Exported", "export", "export_with"), "bnfold.torch_export.exporting"),
}

__all__ = sorted(_HOME)


__getattr__ = resolving(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
