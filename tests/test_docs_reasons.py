"""The page of reasons is what the code says: every example was put to bnfold and has the reason it stands under."""

import importlib.util
from pathlib import Path

import pytest

from bnfold.decisions import Reason

DOCS = Path(__file__).parents[1] / "docs"
_spec = importlib.util.spec_from_file_location("make_reasons", DOCS / "make_reasons.py")
assert _spec is not None
assert _spec.loader is not None
make_reasons = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_reasons)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_every_reason_has_an_example_that_has_it(reason: Reason) -> None:
    example = make_reasons.EXAMPLES[reason]
    assert example.advice
    assert example.elsewhere or reason in make_reasons.asked(reason)


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "reasons.md").read_text(encoding="utf-8") == make_reasons.page()
