"""The machine-readable rendering: standard JSON, ASCII only, keys in a fixed order."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from bnfold.report.inspection import Inspection
from bnfold.report.report import AnyReport


def to_json(report: AnyReport | Inspection | Mapping[str, Any]) -> str:
    """The report, or its data, as one JSON document that ends in a line break."""
    return json.dumps(to_data(report), indent=2, allow_nan=False) + "\n"


def to_data(report: AnyReport | Inspection | Mapping[str, Any]) -> dict[str, Any]:
    """The report as JSON holds it: dicts, lists, strings, numbers, booleans and None.

    JSON has no NaN and no infinities: they are written as the strings "NaN", "Infinity" and "-Infinity".
    """
    data: dict[str, Any] = _plain(report if isinstance(report, Mapping) else report.to_dict())
    return data


def _plain(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return _number(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case os.PathLike():
            return os.fspath(value)
        case _ if hasattr(value, "tolist"):  # a numpy scalar or array
            return _plain(value.tolist())
        case _:
            raise TypeError(f"a report cannot hold a {type(value).__name__}")


def _number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(value)
