"""Where the documentation is, and which section says more of a reason or a failure: the one place for addresses."""

DOCUMENTATION = "https://bnfold.readthedocs.io/"
"""The address in ``[project.urls]`` of `pyproject.toml`; it ends with a slash."""

EXPLAINED_EXIT_CODES = (1, 3, 4, 5, 6, 70)
"""The exit codes with a section of their own. A usage error says itself what to write; a signal has no cause here."""


def page_of_reason(code: str) -> str | None:
    """The section on a `Reason` or `Diagnosis`, by its code; None for what is neither."""
    from bnfold.decisions import Diagnosis, Reason

    for page, kind in (("reasons", Reason), ("diagnoses", Diagnosis)):
        if code in kind.__members__:
            return f"{DOCUMENTATION}{page}.html#{code.lower().replace('_', '-')}"
    return None


def page_of_exit_code(exit_code: int) -> str | None:
    """The section on what ended with this exit code; None where there is none."""
    return f"{DOCUMENTATION}errors.html#exit-code-{exit_code}" if exit_code in EXPLAINED_EXIT_CODES else None
