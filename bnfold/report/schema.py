"""The JSON Schema of the report: `schema-1.json` beside this file, and a strict form of it.

A report may gain keys within a format, so the schema lets unknown ones pass: a reader's copy outlives the next release.
What every report of the format holds is required, so a key that is misspelt is missed. The strict form knows no other
keys than those listed; bnfold's own tests use it, and whoever writes reports by other means can.
"""

import json
from importlib.resources import files
from typing import Any

from bnfold.report.report import FORMAT_VERSION


def schema(*, strict: bool = False) -> dict[str, Any]:
    """The schema of the current format, in the dialect 2020-12."""
    text = files("bnfold.report").joinpath(f"schema-{FORMAT_VERSION}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    if strict:
        content["$defs"] = {name: _closed(definition) for name, definition in content["$defs"].items()}
    return content


def _closed(part: Any) -> Any:
    """Every object that lists its properties has no others. A map of free keys lists none."""
    if isinstance(part, list):
        return [_closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    closed = {key: _closed(value) for key, value in part.items()}
    return closed | {"additionalProperties": False} if part.get("type") == "object" and "properties" in part else closed
