"""The pages of reasons and diagnoses are what the code says: every example has what it stands under."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bnfold.decisions import Diagnosis, Reason

DOCS = Path(__file__).parents[1] / "docs"


def load(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    if str(DOCS) not in sys.path:
        sys.path.append(str(DOCS))
    return importlib.import_module(name)


make_reasons, make_diagnoses = load("make_reasons"), load("make_diagnoses")


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_every_reason_has_an_example_that_has_it(reason: Reason) -> None:
    example = make_reasons.EXAMPLES[reason]
    assert example.advice
    assert example.elsewhere or reason in make_reasons.asked(reason)


@pytest.mark.parametrize("diagnosis", Diagnosis, ids=lambda diagnosis: diagnosis.code)
def test_every_diagnosis_has_an_example_that_has_it(diagnosis: Diagnosis) -> None:
    assert make_diagnoses.EXAMPLES[diagnosis].advice
    assert diagnosis.code in make_diagnoses.asked(diagnosis)


@pytest.mark.parametrize("name", ["reasons", "diagnoses"])
def test_the_page_is_up_to_date(name: str) -> None:
    written = load(f"make_{name}").page()
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == written, f"run python docs/make_{name}.py"
