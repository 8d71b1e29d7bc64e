"""Reports as data, and the renderers that show them."""

from bnfold.report.inspection import Inspection, NormalizationInfo
from bnfold.report.report import FORMAT_VERSION, AnyReport, ComparisonReport, FailureReport, ModelSummary, Report

__all__ = [
    "FORMAT_VERSION",
    "AnyReport",
    "ComparisonReport",
    "FailureReport",
    "Inspection",
    "ModelSummary",
    "NormalizationInfo",
    "Report",
]
