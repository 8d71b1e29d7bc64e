"""Reports as data, and the renderers that show them."""

from bnfold.report.console import print_comparison, print_console, print_inspection, print_judged
from bnfold.report.formats import Format, render
from bnfold.report.inspection import Diagnosed, Inspection, NormalizationInfo
from bnfold.report.json_report import to_json
from bnfold.report.judging import Judged, judge_report
from bnfold.report.report import FORMAT_VERSION, GOOD, AnyReport, ComparisonReport, FailureReport, ModelSummary, Report
from bnfold.report.saved import read_report

__all__ = [
    "FORMAT_VERSION",
    "GOOD",
    "AnyReport",
    "ComparisonReport",
    "Diagnosed",
    "FailureReport",
    "Format",
    "Inspection",
    "Judged",
    "ModelSummary",
    "NormalizationInfo",
    "Report",
    "judge_report",
    "print_comparison",
    "print_console",
    "print_inspection",
    "print_judged",
    "read_report",
    "render",
    "to_json",
]
