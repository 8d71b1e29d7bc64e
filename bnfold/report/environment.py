"""The environment of a run: all that decides about rounding and speed, nothing that names a machine or a person."""

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino", "onnxruntime-ep-webgpu")
"""The distributions whose versions are reported, where they are installed; none of them is imported for it."""


@cache
def this_environment() -> Mapping[str, Any]:
    """Python, platform, processor and `PACKAGES`, JSON-able and the same throughout a process."""
    facts = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }
    return MappingProxyType(facts)


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and not every run writes a report

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The model's name; `platform.processor()` is empty on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
