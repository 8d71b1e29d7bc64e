"""The findings of `inspect`: every normalization of a model, and what `optimize` would do with it."""

from dataclasses import dataclass
from typing import Any

from bnfold import __version__
from bnfold.decisions import Decision
from bnfold.records import Record
from bnfold.report.brief import inspection_line, inspection_table
from bnfold.report.report import FORMAT_VERSION, ModelSummary


@dataclass(frozen=True)
class Diagnosed:
    """A symptom of one normalization: its stable code, what it means, and where it shows ("" where that is all)."""

    code: str
    sentence: str
    detail: str = ""

    def to_dict(self) -> dict[str, str]:
        """The symptom as `inspect --json` writes it."""
        return {"code": self.code, "sentence": self.sentence, "detail": self.detail}


@dataclass(frozen=True)
class NormalizationInfo:
    """One normalization as it stands in the model.

    `mode` is "inference" or "train"; `channels` is None where the parameters do not tell; `epsilon` and `momentum`
    are the attributes' values, `momentum` in the convention of ONNX (the share of the old statistic that stays) and
    None where the operator has none. `fed_by` says what makes its input: an operator and its node, or a graph input.
    A linear operator that has others beside it is listed as well, with the kind "branch" and nothing to be fed by, and
    a constant gain or bias beside a linear operator, whose decision says that it is one.
    `kind` says what it really is, where `mode` is not the whole truth; `diagnoses` what a person should know of it.
    """

    node: str
    op_type: str
    scope: str
    mode: str
    channels: int | None
    epsilon: float | None
    momentum: float | None
    fed_by: str
    decision: Decision
    kind: str = ""
    diagnoses: tuple[Diagnosed, ...] = ()

    @property
    def pytorch_momentum(self) -> float | None:
        """The momentum as PyTorch counts it: the share of the new batch, 1 - `momentum`."""
        return None if self.momentum is None else 1.0 - self.momentum

    def to_dict(self) -> dict[str, Any]:
        """The normalization as `inspect --json` writes it."""
        return {
            "node": self.node,
            "op_type": self.op_type,
            "scope": self.scope,
            "mode": self.mode,
            "kind": self.kind or self.mode,
            "channels": self.channels,
            "epsilon": self.epsilon,
            "momentum": {"onnx": self.momentum, "pytorch": self.pytorch_momentum},
            "fed_by": self.fed_by,
            "decision": self.decision.to_dict(),
            "diagnoses": [diagnosed.to_dict() for diagnosed in self.diagnoses],
        }


class Inspection(Record):
    """A model and its normalizations, in the order of the graph; `notes` as in a `Report`."""

    model: ModelSummary
    normalizations: tuple[NormalizationInfo, ...]
    version: str = __version__
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        return inspection_line(self)

    def __repr__(self) -> str:
        return f"<Inspection {self}>"

    def _repr_html_(self) -> str:
        """A notebook's view of it."""
        return inspection_table(self)

    @property
    def codes(self) -> frozenset[str]:
        """The codes of every diagnosis, and of every reason for which a normalization would be kept."""
        decisions = (info.decision for info in self.normalizations if not info.decision.gain)
        reasons = {decision.reason.code for decision in decisions if decision.reason is not None}
        return frozenset(reasons | {found.code for info in self.normalizations for found in info.diagnoses})

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON-able data."""
        return {
            "format": FORMAT_VERSION,
            "bnfold": self.version,
            "kind": "inspect",
            "model": self.model.to_dict(),
            "notes": list(self.notes),
            "normalizations": [info.to_dict() for info in self.normalizations],
        }
