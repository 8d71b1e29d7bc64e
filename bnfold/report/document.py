"""A report as every written form of it shows it: typed, complete, and safe to print.

The page, the Markdown, the JUnit XML and the annotations all draw this, from a run or from a saved report alike. Every
text in here has passed `printable`: a name out of a model holds no control, direction or half characters any more.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self

from bnfold.errors import UsageError
from bnfold.report.report import GOOD
from bnfold.report.reproduction import reproduction, why_none
from bnfold.report.text import one_line, printable

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A model in numbers; `path` is "" for one that was never a file."""

    path: str
    nodes: int
    batch_normalizations: int
    nbytes: int
    opset: int
    ir_version: int

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a model summary."""
        counts = (_natural(data[key]) for key in ("nodes", "batch_normalizations", "bytes", "opset", "ir_version"))
        return cls(_text(data["path"]), *counts)


@dataclass(frozen=True)
class Fate:
    """The fate of one normalization; `reason` and `sentence` are "" for one that did not stay."""

    node: str
    scope: str
    op_type: str
    action: str
    target: tuple[str, ...]
    reason: str
    sentence: str
    detail: str

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a decision."""
        reason = data["reason"] or {"code": "", "sentence": ""}
        texts = {key: _text(data[key]) for key in ("node", "scope", "op_type", "action", "detail")}
        if data.get("partly"):
            texts["action"] = f"partly {texts['action']}"
        why = {"reason": _text(reason["code"]), "sentence": _text(reason["sentence"])}
        return cls(**texts, **why, target=tuple(map(_text, data["target"])))


@dataclass(frozen=True)
class Measured:
    """One output on one feed. A number that is None is infinite, or was not measured; `agrees` None: not judged."""

    output: str
    feed: str
    provider: str
    optimization: str
    precision: str
    behind: bool
    problem: str
    max_abs: float | None
    relative: float | None
    max_ulp: float | None
    p99_abs: float | None
    snr_db: float | None
    cosine: float | None
    argmax_agreement: float | None
    reference_max_abs: float | None
    new_nonfinite: int
    different: int
    histogram: tuple[int, ...]
    agrees: bool | None = None
    rule: str = ""
    limit: float | None = None

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a measurement, with its judgement where it has one."""
        judgement = data.get("judgement") or {}
        agrees = judgement.get("agrees")
        fields: dict[str, Any] = {key: _text(data[key]) for key in _TEXTS}
        fields |= {key: _real(data[key]) for key in _REALS}
        return cls(
            **fields,
            behind=data["stage"] == "behind",
            new_nonfinite=int(data["new_nonfinite"]),
            different=int(data["different"]),
            histogram=tuple(int(count) for count in data["histogram"]),
            agrees=None if agrees is None else bool(agrees),
            rule=_text(judgement.get("rule")),
            limit=_real(judgement.get("limit")),
        )

    @property
    def badness(self) -> tuple[bool, int, float, int]:
        """For sorting: what cannot be compared, then new NaN and infinities, then the relative error."""
        return bool(self.problem), self.new_nonfinite, _size(self.relative), self.different


_TEXTS = ("output", "feed", "provider", "optimization", "precision", "problem")
_REALS = ("max_abs", "relative", "max_ulp", "p99_abs", "snr_db", "cosine", "argmax_agreement", "reference_max_abs")


@dataclass(frozen=True)
class Comparison:
    """Every feed of one output in one setting. What has precision "deploy" does not decide the verdict."""

    output: str
    provider: str
    optimization: str
    precision: str
    behind: bool
    measured: tuple[Measured, ...]

    @property
    def differing(self) -> tuple[Measured, ...]:
        """The measurements that do not agree."""
        return tuple(each for each in self.measured if not each.agrees)

    @property
    def decides(self) -> bool:
        """Whether the verdict rests on it."""
        return self.precision == "strict"

    @property
    def worst(self) -> Measured:
        """The one to look at first: of those that differ, if any do."""
        return max(self.differing or self.measured, key=lambda each: each.badness)

    @property
    def rules(self) -> str:
        """The rules that decided, the most frequent first."""
        return ", ".join(rule for rule, _ in Counter(each.rule for each in self.measured if each.rule).most_common())


@dataclass(frozen=True)
class Histogram:
    """The errors of one output on one provider, over all feeds, in the bins of `equivalence.HISTOGRAM_EDGES`.

    `limit`: the smallest |error| / magnitude that a tolerance allowed, None where none decided.
    """

    output: str
    provider: str
    precision: str
    counts: tuple[int, ...]
    limit: float | None


@dataclass(frozen=True)
class ShownDrift:
    """The saved distance of new statistics from the stored ones; both None where nothing was stored."""

    node: str
    scope: str
    channels: int
    elements: int
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Recalibration:
    """Where new statistics came from, the largest drift first, and what was left out with the code of its reason."""

    mode: str
    batches: int
    drifts: tuple[ShownDrift, ...]
    left_out: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of what `Calibration.to_dict` gives."""
        drifts = [
            ShownDrift(
                _text(each["node"]),
                _text(each["scope"]),
                int(each["channels"]),
                int(each["elements"]),
                _real(each["mean"]),
                _real(each["deviation"]),
            )
            for each in data["drift"]
        ]
        left = tuple((_text(each["node"]), _text(each["scope"]), _text(each["reason"])) for each in data["left_out"])
        drifts.sort(key=lambda drift: -(drift.mean or 0.0))
        return cls(_text(data["mode"]), int(data["batches"]), tuple(drifts), left)


@dataclass(frozen=True)
class ShownFit:
    """The distance of a substitute from its normalization, in standard deviations of the output."""

    node: str
    groups: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class ShownAttribution:
    """The folds, as (node, scope), and the passes without which the result agrees (`cleared`); `tried`: how many models
    it took.
    """

    guilty: tuple[tuple[str, str], ...]
    cleared: bool
    tried: int
    rolled_back: bool
    passes: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of an attribution."""
        guilty = tuple((_text(each["node"]), _text(each["scope"])) for each in data["guilty"])
        passes = tuple(map(_text, data.get("passes", ())))
        return cls(guilty, bool(data["cleared"]), int(data["tried"]), bool(data["rolled_back"]), passes)


@dataclass(frozen=True)
class PassRun:
    """One pass: its time, what it changed (how many of each kind, and the first names), and its part in the verdict."""

    name: str
    preserves: str
    seconds: float | None
    counts: Mapping[str, int]
    names: tuple[str, ...]
    verdict: str
    detail: str

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a pass that has a verdict."""
        changes = data.get("changes", {})
        counts = {_text(kind): _natural(each["count"]) for kind, each in changes.items()}
        names = tuple(_text(name) for each in changes.values() for name in each["names"])
        texts = {key: _text(data.get(key)) for key in ("name", "preserves", "verdict")}
        return cls(
            **texts,
            seconds=_real(data.get("seconds")),
            counts=counts,
            names=names,
            detail=one_line(str(data.get("detail", ""))),
        )


@dataclass(frozen=True)
class ShownAccuracy:
    """Right answers by model ("before", "after", ...) out of `labels`; `problem` where they could not be compared."""

    output: str
    labels: int
    right: Mapping[str, int]
    problem: str

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of the task accuracy."""
        right = {_text(model): int(count) for model, count in (data["right"] or {}).items()}
        return cls(_text(data["output"]), int(data["labels"]), right, _text(data["problem"]))

    def shares(self) -> Mapping[str, float]:
        """By model, the part of the labels that it answered rightly."""
        return {model: count / max(self.labels, 1) for model, count in self.right.items()}


@dataclass(frozen=True)
class ShownLayer:
    """One value inside both models, by its name in the reference and the node that makes it there."""

    value: str
    node: str
    agrees: bool
    max_abs: float | None
    relative: float | None
    problem: str

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of one layer."""
        texts = {"value": _text(data["reference"]), "node": _text(data["node"]), "problem": _text(data["problem"])}
        return cls(
            **texts, agrees=bool(data["agrees"]), max_abs=_real(data["max_abs"]), relative=_real(data["relative"])
        )


@dataclass(frozen=True)
class Proved:
    """One proof: "holds", "broken" or "undecided" with the reason; `used` is the share of the allowed rounding.

    `value`, `scope`: what the change ends in. One that is undecided was compared by running only.
    """

    rewrites: tuple[str, ...]
    standing: str
    reason: str
    used: float | None
    value: str = ""
    scope: str = ""

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a proof: called after its normalizations, or else after the value that it ends in."""
        names = data.get("rewrites") or data.get("normalizations") or [data.get("output")]
        rewrites = tuple(_text(name) for name in names)
        where = _text(data.get("output")), _text(data.get("scope"))
        return cls(rewrites, _text(data["standing"]), _text(data["reason"]), _real(data["used"]), *where)


@dataclass(frozen=True)
class Placed:
    """The placement of one session: how many nodes ran where, and of which operators."""

    provider: str
    optimization: str
    precision: str
    nodes: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a placement; per provider the count of nodes and the operators, the most frequent first."""
        nodes = []
        for name, operators in data["nodes"].items():
            counts = Counter({_text(operator): int(count) for operator, count in operators.items()}).most_common()
            listed = ", ".join(f"{count} {operator}" for operator, count in counts)
            nodes.append((_text(name), sum(count for _, count in counts), listed))
        return cls(_text(data["provider"]), _text(data["optimization"]), _text(data["precision"]), tuple(nodes))


@dataclass(frozen=True)
class Document:
    """A whole report. `verdict` is "" for an inspection, which compares nothing.

    `subject` names the model or models, `file` is the path of the one that the verdict is about. `before` and `after`
    are None where there is none. `largest` is the worst measurement. `command` reproduces the run, "" where no command
    can; `no_command` says why, where passes are the cause. `actions` counts the fates, which are those of
    normalizations; `gains` are those of constant gains and biases beside linear operators. `divergence` says which of
    the `layers`, the values inside the models, is the first that diverges.
    """

    kind: str
    version: str
    verdict: str
    exit_code: int
    explanation: str
    subject: str
    file: str = ""
    before: Model | None = None
    after: Model | None = None
    published: str = ""
    fates: tuple[Fate, ...] = ()
    gains: tuple[Fate, ...] = ()
    measured: tuple[Measured, ...] = ()
    largest: Measured | None = None
    training_distance: tuple[Measured, ...] = ()
    recalibration: Recalibration | None = None
    fitted: tuple[ShownFit, ...] = ()
    attribution: ShownAttribution | None = None
    passes: tuple[PassRun, ...] = ()
    accuracy: ShownAccuracy | None = None
    proofs: tuple[Proved, ...] = ()
    shown: str = ""
    placements: tuple[Placed, ...] = ()
    layers: tuple[ShownLayer, ...] = ()
    divergence: str = ""
    notes: tuple[str, ...] = ()
    feeds: tuple[tuple[str, str], ...] = ()
    sizes: tuple[str, ...] = ()
    seed: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    command: str = ""
    no_command: str = ""
    error: str = ""
    actions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Data) -> Self:
        """Of a report's data, unknown keys ignored. Raises UsageError for what is no report of this format."""
        try:
            return cls(**_fields(data))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(f"the report is damaged: {one_line(f'{type(error).__name__}: {error}')[:200]}") from error

    @property
    def good(self) -> bool:
        """Whether the result was shown to compute what the original does."""
        return self.verdict in GOOD

    @property
    def failed(self) -> bool:
        """Whether the run failed. What was not verified, or another function, on purpose is neither good nor failed."""
        return self.exit_code != 0

    @property
    def kept(self) -> tuple[Fate, ...]:
        """The normalizations that stay."""
        return tuple(fate for fate in self.fates if fate.action == "kept")

    @property
    def gains_kept(self) -> tuple[Fate, ...]:
        """The gains and biases that stay."""
        return tuple(fate for fate in self.gains if fate.action == "kept")

    @property
    def gain_actions(self) -> Mapping[str, int]:
        """The number of gains and biases of each fate."""
        return Counter(fate.action for fate in self.gains)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The measurements by output and setting, in the order they were made."""
        groups: dict[tuple[str, str, str, str, bool], list[Measured]] = {}
        for each in self.measured:
            key = (each.output, each.provider, each.optimization, each.precision, each.behind)
            groups.setdefault(key, []).append(each)
        return tuple(Comparison(*key, tuple(found)) for key, found in groups.items())

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        """One for each output and provider that had errors to count, the worst first."""
        groups: dict[tuple[str, str, str], list[Measured]] = {}
        for each in self.measured:
            if sum(each.histogram) and not each.behind:
                groups.setdefault((each.output, each.provider, each.precision), []).append(each)
        found = sorted(groups.items(), key=lambda item: -max(_size(each.relative) for each in item[1]))
        return tuple(Histogram(*key, _summed(group), _tightest(group)) for key, group in found)

    @property
    def by_running_only(self) -> tuple[Proved, ...]:
        """The changes that are neither proved nor refuted."""
        return tuple(proof for proof in self.proofs if proof.standing == "undecided")

    @property
    def standings(self) -> Mapping[str, int]:
        """The number of proofs of each standing."""
        return Counter(proof.standing for proof in self.proofs)


def _fields(data: Data) -> dict[str, Any]:
    kind = str(data["kind"])
    found: dict[str, Any] = {
        "kind": kind,
        "version": _text(data["bnfold"]),
        "verdict": _text(data.get("verdict")),
        "exit_code": int(data.get("exit_code", 0)),
        "explanation": one_line(str(data.get("explanation", ""))),
        "subject": _subject(data),
        "file": _text(data["candidate"]) if kind == "verify" else _subject(data),
        "environment": (*_environment(data.get("environment") or {}), *_passes(data.get("passes") or ())),
        "published": _text(data.get("published")),
        "command": one_line(reproduction(data)),
        "no_command": one_line(why_none(data)),
        "error": _text(data.get("error")),
    }
    decisions = data.get("decisions", ())
    if kind == "optimize":
        found["before"] = Model.of(data["input"])
        found["after"] = Model.of(data["output"]) if data["output"] else None
    elif kind == "inspect":
        found["before"] = Model.of(data["model"])
        decisions = [each["decision"] for each in data["normalizations"]]
    found["fates"] = tuple(Fate.of(each) for each in decisions if not each.get("gain"))
    found["gains"] = tuple(Fate.of(each) for each in decisions if each.get("gain"))
    found["actions"] = dict(Counter(fate.action for fate in found["fates"]).most_common())
    found["training_distance"] = tuple(map(Measured.of, data.get("training_distance", ())))
    found["recalibration"] = Recalibration.of(data["recalibration"]) if data.get("recalibration") else None
    found["fitted"] = tuple(
        ShownFit(_text(each["node"]), int(each["groups"]), _real(each["before"]), _real(each["after"]))
        for each in data.get("fitted", ())
    )
    found["passes"] = tuple(PassRun.of(each) for each in data.get("passes") or () if each.get("verdict"))
    found["attribution"] = ShownAttribution.of(data["attribution"]) if data.get("attribution") else None
    found["accuracy"] = ShownAccuracy.of(data["accuracy"]) if data.get("accuracy") else None
    found |= _verified(data.get("verification") or {})
    found["notes"] = (*(one_line(str(note)) for note in data.get("notes", ())), *found["notes"])
    return found


def _verified(data: Data) -> dict[str, Any]:
    layers = data.get("layers") or {"layers": (), "sentence": ""}
    return {
        "layers": tuple(map(ShownLayer.of, layers["layers"])),
        "divergence": one_line(str(layers["sentence"])),
        "measured": tuple(map(Measured.of, data.get("measurements", ()))),
        "largest": Measured.of(data["largest"]) if data.get("largest") else None,
        "proofs": tuple(map(Proved.of, data.get("proofs", ()))),
        "shown": one_line(str(data.get("shown", ""))),
        "placements": tuple(map(Placed.of, data.get("placements", ()))),
        "notes": tuple(one_line(str(note)) for note in data.get("notes", ())),
        "feeds": tuple((_text(feed["name"]), _shapes(feed["shapes"])) for feed in data.get("feeds", ())),
        "sizes": tuple(one_line(str(size)) for size in data.get("sizes", ())),
        "seed": int(data["seed"]) if "seed" in data else None,
    }


def _subject(data: Data) -> str:
    if data["kind"] == "verify":
        return f"{_text(data['candidate'])} against {_text(data['reference'])}"
    model = data.get("input") or data.get("model") or {}
    return _text(model.get("path"))


def _passes(passes: Iterable[Data]) -> Iterator[tuple[str, str]]:
    """The passes that ran, as one more thing that the result was made with."""
    listed = [f"{_text(each['name'])} (preserves {_text(each['preserves'])})" for each in passes]
    if listed:
        yield "passes", ", ".join(listed)


def _environment(data: Data) -> tuple[tuple[str, str], ...]:
    facts = {key: value for key, value in data.items() if isinstance(value, str)} | dict(data.get("packages", {}))
    return tuple((_text(key), _text(value)) for key, value in facts.items())


def _shapes(shapes: Mapping[str, Iterable[int]]) -> str:
    return ", ".join(f"{_text(name)} {list(map(int, dims))}" for name, dims in shapes.items())


def _summed(group: Iterable[Measured]) -> tuple[int, ...]:
    histograms = [each.histogram for each in group]
    return tuple(map(sum, zip_longest(*histograms, fillvalue=0)))


def _tightest(group: Iterable[Measured]) -> float | None:
    ratios = [
        each.limit / each.reference_max_abs
        for each in group
        if each.rule in ("tolerance", "user") and each.limit and each.reference_max_abs
    ]
    return min(ratios, default=None)


def _text(value: Any) -> str:
    return "" if value is None else printable(str(value))


def _natural(value: Any) -> int:
    if not 0 <= int(value) < 1 << 63:
        raise ValueError(f"{value} counts nothing")
    return int(value)


def _real(value: Any) -> float | None:
    """None where it is not known or not finite: the strings that JSON has for NaN and infinities included."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _size(relative: float | None) -> float:
    return math.inf if relative is None else relative
