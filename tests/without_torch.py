"""A pytest plugin, `-p tests.without_torch`: PyTorch cannot be imported, as where it is not installed."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]  # how Python itself marks what must not be imported
