"""One model of a batch: what is to be done with it, and what became of it. Both travel as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

COMMANDS = ("optimize", "freeze", "inspect", "verify", "recalibrate")

ORDER = (70, 4, 6, 5, 3, 1, 0)
"""Exit codes of models from the worst kind on: the batch has the first that occurs."""


@dataclass(frozen=True)
class Task:
    """`relative`: the model by its path in the tree, its name in every report. Paths are absolute.

    `output`: where the result goes; "" for a command that writes none. `reference`: for `verify`. `report`: where the
    JSON report of this model goes. `key`: the key of the job, by which a later run knows that it is done.
    """

    command: str
    relative: str
    source: str
    output: str
    report: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""
    key: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Row:
    """The outcome of one model. `seconds`: of work, in its worker. `attempts`: how often it was begun.

    `nodes` and `normalizations`: before and after, None where that is not known.
    """

    relative: str
    key: str
    command: str
    exit_code: int
    verdict: str = ""
    message: str = ""
    seconds: float = 0.0
    attempts: int = 1
    nodes: tuple[int | None, int | None] = (None, None)
    normalizations: tuple[int | None, int | None] = (None, None)
    report: str = ""

    @property
    def good(self) -> bool:
        """Whether the command ended as one wants it to."""
        return self.exit_code == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises TypeError and KeyError for something else."""
        values = dict(saved)
        values["nodes"] = tuple(values["nodes"])
        values["normalizations"] = tuple(values["normalizations"])
        return cls(**values)


def worst(codes: Mapping[int, int]) -> int:
    """The exit code of a batch from how often each occurred; one that is not in `ORDER` counts as the worst."""
    strange = [code for code, number in codes.items() if number and code not in ORDER]
    return strange[0] if strange else next((code for code in ORDER if codes.get(code)), 0)
