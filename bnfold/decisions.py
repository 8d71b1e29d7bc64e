"""What became of each normalization, and the words for it.

Every normalization of the input ends in exactly one `Decision`. One that stays carries a `Reason`: a stable code that
scripts may match on and one plain sentence. Code that finds a precondition broken raises `Refused` with the reason.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any


class Action(StrEnum):
    """What was done with a normalization."""

    FOLDED = "folded"
    FROZEN = "frozen"
    MERGED = "merged"
    SUBSTITUTED = "substituted"
    KEPT = "kept"


class Reason(Enum):
    """Why a normalization stays. The name is the stable code; the value is the sentence for people."""

    TRAIN_MODE = "It runs in training mode, so it normalizes with the statistics of each batch."
    ...

    @property
    def code(self) -> str:
        """The stable code, as in reports and on the command line: the member's name."""
        return self.name

    @property
    def sentence(self) -> str:
        """One plain sentence that says why."""
        return self.value


class Refused(Exception):
    """A precondition of a rewrite does not hold: the rewrite is not done, nothing is wrong with the model.

    `detail` names the value, node or number that broke it.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.code}: {detail}" if detail else reason.code)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Decision:
    """What became of one normalization.

    `node` is the node's name, or its first output where it has none (`label` of the graph room), `scope` the path of
    the scope that holds it ("" for the main graph), `target` the nodes whose parameters took it up.
    """

    node: str
    op_type: str
    scope: str
    action: Action
    target: tuple[str, ...] = ()
    reason: Reason | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The decision as the JSON report writes it."""
        return {
            "node": self.node,
            "op_type": self.op_type,
            "scope": self.scope,
            "action": self.action.value,
            "target": list(self.target),
            "reason": None if self.reason is None else {"code": self.reason.code, "sentence": self.reason.sentence},
            "detail": self.detail,
        }
