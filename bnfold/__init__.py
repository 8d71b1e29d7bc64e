"""bnfold turns an exported ONNX model into the inference graph its author meant, and proves it.

>>> import bnfold
>>> result = bnfold.optimize("in.onnx", "out.onnx")  # doctest: +SKIP
>>> result.report.verdict  # doctest: +SKIP
<Verdict.EQUIVALENT: 'equivalent'>
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Resolved on first use, so that `import bnfold` and `bnfold --help` stay fast.
_HOME = {
    "optimize": "bnfold.api",
    "freeze": "bnfold.api",
    "recalibrate": "bnfold.api",
    "inspect": "bnfold.api",
    "verify": "bnfold.api",
    "assert_equivalent": "bnfold.assertions",
    "NotEquivalentError": "bnfold.assertions",
    "BnfoldError": "bnfold.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
