"""The report for a person: plain lines that survive a pipe, a narrow terminal and names nobody expected.

Only the small tables are laid out; sentences are never wrapped or cut, so that grep finds them whole.
Verbosity: -1 what failed, 0 the summary, 1 every decision and measurement.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnfold.decisions import Action, Decision, Reason
from bnfold.report.inspection import Inspection, NormalizationInfo
from bnfold.report.lines import Screen
from bnfold.report.report import GOOD, ComparisonReport, ModelSummary, Report
from bnfold.report.text import inert, number, one_line, printable
from bnfold.report.words import GAINS, changed, pass_verdict, place, took
from bnfold.report.words import count as _count
from bnfold.report.words import size as _deviation

if TYPE_CHECKING:
    from bnfold.report.judging import Judged

_GAP = "  "
_MOST_ALIKE = 3
"""Of so many that stay for one reason, each has a line of its own."""
_STAYS = (Action.KEPT, Action.MERGED)


def print_console(report: Report, console: Screen, verbosity: int = 0) -> None:
    """Print the report of `optimize`: before and after, every normalization that stays and why, the verdict."""
    if verbosity < 0:
        return
    if report.output is not None:
        _print_before_after(report.input, report.output, console)
    if report.decisions or _looked_for_normalizations(report):
        _print_decisions(report.decisions, console, every=verbosity > 0)
    _print_passes(report, console, every=verbosity > 0)
    _print_stored(report, console, every=verbosity > 0)
    _print_verdict(report, console, every=verbosity > 0)
    if report.recalibration is not None:
        _print_recalibration(report.recalibration, console)
    _print_fitted(report, console)
    if report.accuracy is not None:
        _line(console, _accurate(report.accuracy))
    for measurement in filter(_deviates, report.training_distance):
        _line(console, f"in training mode the input answers otherwise: {_measured(measurement)}")
    if report.weights_moved:
        _line(console, "the weights went to a file of their own: with them the model would have passed 2 GiB")
    _print_notes(report.notes, console)
    if report.published is not None:
        _line(console, f"written: {printable(report.published)}")
    elif report.options.get("dry_run"):
        _line(console, "nothing was written: this was a dry run")


def _print_fitted(report: Report, console: Screen) -> None:
    for fitted in report.fitted:
        before, after = number(fitted["before"]), number(fitted["after"])
        _line(console, f"fitted {printable(fitted['node'])}: {after} deviations from its output, {before} before")


def _looked_for_normalizations(report: Report) -> bool:
    return not report.passes or any(run["name"] == "fold-batch-norm" for run in report.passes)


def _print_passes(report: Report, console: Screen, *, every: bool) -> None:
    """Print the passes where the user chose them, or every detail is wanted."""
    if not every and report.options.get("passes") is None:
        return
    from bnfold.report.document import PassRun

    for each in (PassRun.of(run) for run in report.passes if run.get("verdict")):
        what = f": {changed(each)}" if each.counts else ""
        _line(console, f"pass {each.name} ({took(each)}){what}: {pass_verdict(each)}")


def _print_notes(notes: Iterable[str], console: Screen) -> None:
    for note in notes:
        _line(console, f"note: {one_line(note)}")


def _print_recalibration(recalibration: Mapping[str, Any], console: Screen) -> None:
    """The drift of each normalization, the largest first: what was stale shows at the top."""
    drifts = sorted(recalibration["drift"], key=lambda drift: -(drift["mean"] or 0.0))
    batches = f" from {_count(recalibration['batches'], 'batch', 'batches')}" if recalibration["batches"] else ""
    _line(console, f"{_count(len(drifts), 'normalization')} recalibrated ({recalibration['mode']}){batches}")
    if recalibration.get("repeated"):
        again = _count(recalibration["repeated"], "segment of the model was", "segments of the model were")
        _line(console, f"  {again} run again, for want of room: --spill-limit and --spill DIR give it more")
    for drift in drifts:
        place = _placed(drift["node"], drift["scope"])
        if drift["mean"] is None:
            _line(console, f"  {place}: had no statistics")
        else:
            moved, grown = number(drift["mean"]), number(drift["deviation"])
            _line(
                console, f"  {place}: means moved by up to {moved} deviations, deviations by a factor of up to {grown}"
            )
    for left in recalibration["left_out"]:
        _line(console, f"  {_placed(left['node'], left['scope'])}: not recalibrated [{left['reason']}]")


def _accurate(accuracy: Mapping[str, Any]) -> str:
    """``task accuracy of "logits" on 1,297 labels: 99.5 % before, 12.5 % unfitted, 97.3 % after``."""
    if accuracy["problem"]:
        return f"task accuracy was not measured: {one_line(accuracy['problem'])}"
    parts = [
        f"{100 * accuracy['right'][model] / max(accuracy['labels'], 1):.2f} % {model}"
        for model in ("before", "recalibrated", "unfitted", "after")
        if model in accuracy["right"]
    ]
    where = f'"{printable(accuracy["output"])}" on {_count(accuracy["labels"], "label")}'
    return f"task accuracy of {where}: {', '.join(parts)}"


def print_comparison(report: ComparisonReport, console: Screen, verbosity: int = 0) -> None:
    """Print the report of `verify`."""
    if verbosity < 0:
        return
    _print_verdict(report, console, every=verbosity > 0)


def print_inspection(inspection: Inspection, console: Screen, verbosity: int = 0) -> None:
    """Every normalization of a model in a few lines: what it is, what feeds it, what would become of it."""
    if verbosity < 0:
        return
    model = inspection.model
    _line(
        console,
        f"{printable(model.path or 'the model')}: {_count(model.nodes, 'node')}, opset {model.opset}, "
        f"IR version {model.ir_version}, {_count(model.nbytes, 'byte')}",
    )
    gains = []
    for info in inspection.normalizations:
        if info.decision.is_gain_that_stays and not info.decision.walk and verbosity <= 0:
            gains.append(info.decision)
            continue
        _line(console, "")
        for line in _described(info):
            _line(console, line)
    _line(console, "")
    for code, sentence in {
        each.code: each.sentence for info in inspection.normalizations for each in info.diagnoses
    }.items():
        _line(console, f"{code}: {sentence}")
    _print_gains(gains, "would be kept:", console)
    _print_notes(inspection.notes, console)
    decisions = [info.decision for info in inspection.normalizations]
    _line(console, _fates([each for each in decisions if not each.gain], "normalization", "normalizations"))
    if any(each.gain for each in decisions):
        _line(console, _fates([each for each in decisions if each.gain], *GAINS))


def _fates(decisions: Sequence[Decision], one: str, several: str) -> str:
    """``5 normalizations: 4 would be folded, 1 would be kept``."""
    actions = Counter(decision.outcome for decision in decisions)
    fates = ", ".join(f"{number(count)} would be {action}" for action, count in actions.items())
    return _count(len(decisions), one, several) + (f": {fates}" if fates else "")


def print_judged(judged: "Judged", console: Screen, verbosity: int = 0) -> None:
    """Print a verdict that was judged again, and the measurements that are judged otherwise."""
    if verbosity < 0:
        return
    for before, after in judged.changes:
        limit = f", at most {_deviation(after.limit)}" if after.limit else ""
        old = f"{'agreed' if before.agrees else 'DIFFERED'} ({before.rule})"
        new = f"{'agrees' if after.agrees else 'DIFFERS'} ({after.rule}{limit})"
        _line(console, f"deviation {_deviation(after.max_abs)} in {place(after)}: {old}, now {new}")
    count = _count(len(judged.changes), "comparison")
    same = judged.verdict == judged.before
    was = "as before" if same else f"it was {judged.before}"
    good = judged.exit_code == 0
    _line(console, f"{judged.verdict}: {was}; {count} judged otherwise", style="bold green" if good else "bold red")


def _print_before_after(before: ModelSummary, after: ModelSummary, console: Screen) -> None:
    rows = [
        ("", "before", "after"),
        ("nodes", number(before.nodes), number(after.nodes)),
        ("BatchNormalization", number(before.batch_normalizations), number(after.batch_normalizations)),
        ("bytes", number(before.nbytes), number(after.nbytes)),
    ]
    labels, old, new = (max(map(len, column)) for column in zip(*rows, strict=True))
    labels = max(1, min(labels, console.width - len(_GAP) * 2 - old - new))
    for label, *numbers in rows:
        # Where there is no room, the words are folded, never the numbers.
        first, *rest = [label[start : start + labels] for start in range(0, len(label), labels)] or [""]
        _line(console, _GAP.join([first.ljust(labels), numbers[0].rjust(old), numbers[1].rjust(new)]))
        for part in rest:
            _line(console, part)


def _print_decisions(decisions: Sequence[Decision], console: Screen, *, every: bool) -> None:
    """All of them where every detail is wanted; else what stays, a reason that many share in one line."""
    gains = [decision for decision in decisions if decision.is_gain_that_stays]
    if len(gains) == len(decisions):
        _line(console, "nothing to fold: the model has no BatchNormalization, and nothing that is one in disguise")
    stays = [decision for decision in decisions if decision.action in _STAYS and not decision.gain]
    groups: dict[tuple[Action, Reason | None], list[Decision]] = {}
    for decision in stays:
        groups.setdefault((decision.action, decision.reason), []).append(decision)
    for decision in decisions if every else stays:
        alike = groups.get((decision.action, decision.reason), [])
        if every or len(alike) <= _MOST_ALIKE:
            _line(console, _decided(decision))
        elif decision is alike[0]:
            _line(console, _summed_up(alike))
    if not every:
        _print_gains(gains, "kept", console)


def _print_gains(gains: Iterable[Decision], fate: str, console: Screen) -> None:
    """A line for each reason for which gains and biases stay, which are no normalizations."""
    reasons: dict[Reason | None, list[Decision]] = {}
    for decision in gains:
        reasons.setdefault(decision.reason, []).append(decision)
    for reason, alike in reasons.items():
        what = f"{_count(len(alike), *GAINS)} beside a linear operator"
        why = "" if reason is None else f": {reason.sentence} [{reason.code}]"
        names = ", ".join(_placed(decision.node, decision.scope) for decision in alike[:2])
        more = f" and {number(len(alike) - 2)} more; -v for all" if len(alike) > 2 else ""
        _line(console, f"{fate} {what}{why} {names}{more}")


def _summed_up(stays: Sequence[Decision]) -> str:
    """``kept 62: the sentence [CODE] bn1, bn2 and 60 more; -v for all``."""
    reason = stays[0].reason
    why = "" if reason is None else f": {reason.sentence} [{reason.code}]"
    names = ", ".join(_placed(decision.node, decision.scope) for decision in stays[:2])
    return f"{stays[0].outcome} {number(len(stays))}{why} {names} and {number(len(stays) - 2)} more; -v for all"


def _decided(decision: Decision) -> str:
    """``kept bn1 (body of if0): the sentence [CODE] the detail``."""
    return f"{decision.outcome} {_placed(decision.node, decision.scope)}{_outcome(decision)}"


def _outcome(decision: Decision) -> str:
    text = f" into {printable(', '.join(decision.target))}" if decision.target else ""
    if decision.reason is not None:
        text += f": {decision.reason.sentence} [{decision.reason.code}]"
    if decision.detail:
        text += f"{';' if decision.reason is None else ''} {one_line(decision.detail)}"
    return text


def _placed(node: str, scope: str) -> str:
    return f"{printable(node)} ({printable(scope)})" if scope else printable(node)


def _described(info: NormalizationInfo) -> Iterable[str]:
    what = info.kind if info.kind not in ("", info.mode) else f"{info.mode} mode"
    known = info.channels is not None or info.op_type == "BatchNormalization"
    channels = f", {number(info.channels)} channels" if known and info.kind != "branch" else ""
    yield f"{_placed(info.node, info.scope)}: {printable(info.op_type)}, {what}{channels}"
    if info.epsilon is not None:
        momentum = ""
        if info.momentum is not None:
            momentum = f", momentum {info.momentum:.6g} (PyTorch: {info.pytorch_momentum:.6g})"
        yield f"  epsilon {info.epsilon:.6g}{momentum}"
    if info.fed_by:
        yield f"  fed by {one_line(info.fed_by)}"
    yield f"  would be {info.decision.outcome}{_outcome(info.decision)}"
    yield from (f"    {'  ' * line.startswith('  ')}{one_line(line)}" for line in info.decision.walk)
    for found in info.diagnoses:
        yield f"  {found.code}{f': {one_line(found.detail)}' if found.detail else ''}"


def _deviates(measurement: Mapping[str, Any]) -> bool:
    return bool(measurement["max_abs"])


def _print_stored(report: Report, console: Screen, *, every: bool) -> None:
    """Each value that is stored, where every detail is wanted; a note says how many there are."""
    for stored in report.stored if every else ():
        _line(console, f"stored {_placed(stored['value'], stored['scope'])}")


def _print_verdict(report: Report | ComparisonReport, console: Screen, *, every: bool) -> None:
    """The verdict with the largest deviation. Why it is a failure is said with the error, not here."""
    verification = report.verification or {}
    measurements = verification.get("measurements", ())
    if every:
        for measurement in measurements:
            _line(console, f"{_measured(measurement)}{_judged(measurement)}")
        _print_notes(map(str, verification.get("notes", ())), console)
        for size in verification.get("sizes", ()):
            _line(console, f"size of {one_line(str(size))}")
    if verification.get("layers"):
        _print_layers(verification["layers"], console, every=every)
    text = str(report.verdict)
    if verification.get("largest") is not None:
        text += f": largest {_measured(verification['largest'])}; {_count(len(measurements), 'comparison')}"
    _line(console, text, style="bold green" if report.verdict in GOOD else "bold red")
    for line in (*_shown(verification, every=every), *_providers(verification, every=every)):
        _line(console, line)
    if report.explanation and report.exit_code == 0:
        _line(console, one_line(report.explanation))


def _print_layers(layers: Mapping[str, Any], console: Screen, *, every: bool) -> None:
    """Every value that was compared, where every detail is wanted, and which diverges first."""
    for layer in layers["layers"] if every else ():
        state = "agrees" if layer["agrees"] else "DIVERGES FIRST" if layer == layers["first"] else "differs"
        error = f"deviation {_deviation(layer['max_abs'])} ({_deviation(layer['relative'])} of the largest value)"
        _line(console, f"  {one_line(layer['reference'])}, {one_line(layer['node'])}: {error}: {state}")
    _line(console, one_line(layers["sentence"]))


def _shown(verification: Mapping[str, Any], *, every: bool) -> Iterable[str]:
    """The sentences on proofs: the changes that are proved, and those that were compared by running only."""
    if verification.get("measurements") and verification.get("shown"):
        yield one_line(str(verification["shown"]))
    for change in verification.get("by_running_only", ()) if every else ():
        where = _placed(change["output"] or "the whole", change["scope"])
        yield f"compared by running only: {where}: {one_line(str(change['reason']))}"


def _providers(verification: Mapping[str, Any], *, every: bool) -> Iterable[str]:
    """A line per provider: which nodes it ran. And one on what comes of its own defaults, where it has others."""
    placements: dict[str, list[Mapping[str, Any]]] = {}
    for placement in verification.get("placements", ()):
        placements.setdefault(placement["provider"], []).append(placement)
    for provider, found in placements.items():
        for placement in found if every else found[:1]:
            yield f"{_asked(placement)}, optimization {placement['optimization']}: {_placement(placement)}"
        deployed = [
            measurement
            for measurement in verification.get("measurements", ())
            if measurement.get("precision") == "deploy" and measurement["provider"] == provider
        ]
        if deployed:
            worst = max(deployed, key=_badness)
            yield f"beside the verdict: largest {_measured(worst)}{_judged(worst)}"


def _asked(where: Mapping[str, Any]) -> str:
    """The provider of a measurement or placement, and how it was asked for."""
    deployed = " at its own defaults" if where.get("precision") == "deploy" else ""
    return f"{printable(str(where['provider']))}{deployed}"


def _placement(placement: Mapping[str, Any]) -> str:
    """``17 nodes on CUDAExecutionProvider, 1 node on CPUExecutionProvider (1 Shape)``."""
    own, *rest = sorted(placement["nodes"].items(), key=lambda each: each[0] != placement["effective"][0]) or [("", {})]
    text = f"{_count(sum(own[1].values()), 'node')} on {own[0] or placement['effective'][0]}"
    for name, operators in rest:
        listed = ", ".join(f"{number(count)} {printable(operator)}" for operator, count in operators.items())
        text += f", {_count(sum(operators.values()), 'node')} on {name} ({listed})"
    return text


def _badness(measurement: Mapping[str, Any]) -> tuple[bool, float]:
    """Disagreement first, then size. A deviation that is null in a report is infinite."""
    judgement = measurement.get("judgement") or {}
    relative = measurement.get("relative", 0.0)
    return judgement.get("agrees") is False, math.inf if relative is None else relative


def _measured(measurement: Mapping[str, Any]) -> str:
    """``3.1e-07 (1.2e-07 of the largest value) in output "y", feed normal, cpu, optimization on``."""
    name = f'"{printable(str(measurement["output"]))}"'
    where = f"the value {name} behind an output" if measurement.get("stage") == "behind" else f"output {name}"
    if measurement.get("feed"):
        where += f", feed {printable(str(measurement['feed']))}"
    if measurement.get("provider"):
        where += f", {_asked(measurement)}"
    if measurement.get("optimization"):
        where += f", optimization {printable(str(measurement['optimization']))}"
    if measurement.get("problem"):
        return f"{where}: {one_line(str(measurement['problem']))}"
    error = f"deviation {_deviation(measurement['max_abs'])}"
    if measurement.get("relative"):
        error += f" ({_deviation(measurement['relative'])} of the largest value)"
    return f"{error} in {where}"


def _judged(measurement: Mapping[str, Any]) -> str:
    """``: agrees (tolerance, at most 0.000363)``."""
    judgement = measurement.get("judgement")
    if not judgement:
        return ""
    limit = f", at most {_deviation(judgement['limit'])}" if judgement.get("limit") else ""
    return f": {'agrees' if judgement['agrees'] else 'DIFFERS'} ({judgement['rule']}{limit})"


def _line(console: Screen, text: str, *, style: str | None = None) -> None:
    console.print(inert(text), style=style, soft_wrap=True, highlight=False, markup=False, emoji=False)
