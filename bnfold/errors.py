"""The kinds of failure, and the exit code of each in the shell."""

from collections.abc import Iterable
from typing import Any, ClassVar

LONGEST_MESSAGE = 2000  # characters: a name out of a model may have millions


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one probably means; None where none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


class BnfoldError(Exception):
    """Base of every error bnfold raises on purpose.

    The message is one line for a person: what is wrong, where, and what to do about it.
    `exit_code` is what the command line returns for it.
    """

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by what it holds, whatever arguments its constructor takes."""
        return restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        """The message, with escapes for whatever a name out of a model could break the line or a terminal with."""
        text = super().__str__()
        if len(text) > LONGEST_MESSAGE:
            half = LONGEST_MESSAGE // 2
            text = f"{text[:half]} [...] {text[-half:]}"
        return text if text.isprintable() else "".join(map(_escaped, " ".join(text.split())))


def restored(kind: type[Any], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """The exception that `__reduce__` took apart: its constructor, which may take other arguments, is not called."""
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


class UsageError(BnfoldError):
    """The request itself cannot be carried out: a wrong option value, a feed for an input that does not exist."""

    exit_code = 2


class ModelError(BnfoldError):
    """The input is not an ONNX model, is damaged, or uses something bnfold does not support."""

    exit_code = 3


class OutputError(BnfoldError):
    """The output could not be written; whatever was at its path before is untouched."""

    exit_code = 4


class ProviderError(BnfoldError):
    """A requested execution provider is missing, or did not run the nodes it was asked to run."""

    exit_code = 5


class ResourceLimitError(BnfoldError):
    """A limit on time or memory was reached before the work was done."""

    exit_code = 6


class ReportedError(BnfoldError):
    """A run ended with a finding, so that nothing was published.

    `report` is the `bnfold.report.Report` of the run.
    """

    exit_code = 1

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report


class StatisticsError(ReportedError):
    """The stored statistics of a BatchNormalization in training mode were never updated, so freezing would be wrong."""


class VerificationError(ReportedError):
    """The result was not shown to compute what the original does; the report has every measurement."""


class ModelWarning(UserWarning):
    """A model has a fault that bnfold works around."""
