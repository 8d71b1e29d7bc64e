"""Reports as data, and the renderers that show them."""

from bnfold.report.console import print_comparison, print_console, print_inspection
from bnfold.report.inspection import Diagnosed, Inspection, NormalizationInfo
from bnfold.report.json_report import to_json
from bnfold.report.report import FORMAT_VERSION, AnyReport, ComparisonReport, FailureReport, ModelSummary, Report

__all__ = [
    "FORMAT_VERSION",
    "AnyReport",
    "ComparisonReport",
    "Diagnosed",
    "FailureReport",
    "Inspection",
    "ModelSummary",
    "NormalizationInfo",
    "Report",
    "print_comparison",
    "print_console",
    "print_inspection",
    "to_json",
]
