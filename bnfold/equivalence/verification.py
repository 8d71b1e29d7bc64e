"""Run two models on the same feeds, measure every output, and say whether they are equivalent.

The reference runs with onnxruntime's own optimizations off, since a default session folds batch normalization itself;
the candidate runs without and with them, on every provider asked for. Of each model one session is alive at a time, and
of two large models one.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from onnx import ModelProto

from bnfold.activity import doing
from bnfold.equivalence.feeds.dynamic_sizes import check_overrides
from bnfold.equivalence.judging.changes import Changes, are_same_files, find_changes
from bnfold.equivalence.judging.evidence import ProofRule, overrules
from bnfold.equivalence.judging.findings import Comparing, Finding, compare, worst
from bnfold.equivalence.judging.judge import Judge
from bnfold.equivalence.judging.run_plan import LEAN, THOROUGH, RunPlan, planning
from bnfold.equivalence.judging.sentences import sentence
from bnfold.equivalence.judging.tolerance import Tolerance
from bnfold.equivalence.numbers.element_types import Outputs, rounding_named
from bnfold.equivalence.numbers.precision import coarsest
from bnfold.equivalence.proofs.piece import Proof
from bnfold.equivalence.runtime.opening import Ahead, Setting, running
from bnfold.equivalence.runtime.providers import CPU, Placement, Precision, check, named, placement
from bnfold.equivalence.runtime.reference_answers import Answer, Answers, conditions, run_seeded_feeds, run_user_feeds
from bnfold.equivalence.runtime.references import ModelReference, Reference, Runner
from bnfold.equivalence.runtime.sessions import LoadFailed, Optimization, RunFailed, quiet_options, runtime
from bnfold.equivalence.runtime.spending import estimate, few_threads, spending
from bnfold.equivalence.structure.given_model import GivenModel, both_indexes
from bnfold.equivalence.structure.output_sources import Sources, behind
from bnfold.equivalence.structure.signature import Signature, Source, difference, signature_of
from bnfold.equivalence.verdict import Verdict, Verification
from bnfold.errors import UsageError
from bnfold.options import VerifyOptions
from bnfold.progress import StageProgress

_MERGED = (
    " There onnxruntime answers the same feed otherwise each time it runs the candidate, as where its optimizer stores "
    "equal initializers once and a normalization in training mode writes into one: freeze it, or keep them apart."
)
_IN_FLOAT32 = 2.0**-24


class _Lean(NamedTuple):
    """What the reference answered in a lean plan, and what the candidate did, on the CPU, or why it could not."""

    answers: Answers
    outputs: tuple[Outputs, ...] = ()
    failure: RunFailed | None = None

    def compared(self, comparing: Comparing) -> list[Finding]:
        """The candidate's outputs beside the reference's. Raises RunFailed."""
        if self.failure is not None:
            raise self.failure
        found = zip(self.answers.answers, self.outputs, strict=True)
        return [each for answer, outputs in found for each in compare(answer, outputs, LEAN, comparing, {})]


def verify(
    reference: GivenModel | Source | Reference,
    candidate: GivenModel | Source,
    options: VerifyOptions | None = None,
    *,
    on_progress: StageProgress | None = None,
) -> Verification:
    """Compare `candidate` with `reference`, each a path (external data resolves beside it), bytes, or what was read.

    `reference` may also be a `Reference`, such as a `ModuleReference`. `on_progress` is called with how many feeds were
    compared, and how many there are in all settings.

    Raises UsageError for feeds, shapes or provider names that do not fit, ModelError for what is not a model,
    ProviderError for a provider that is missing or did not run the nodes, BnfoldError where onnxruntime is not
    installed. A model that onnxruntime cannot load or run is a verdict, not an exception.
    """
    options = options or VerifyOptions()
    runtime()
    with spending(options.threads) as counted:
        found = _verified(_as_reference(reference), GivenModel.of(candidate), options, on_progress or _ignore_progress)
    counts = {"proofs": len(found.proofs)} if found.proofs else {}
    return replace(found, spent={**counts, **counted})


def _as_reference(reference: GivenModel | Source | Reference) -> Reference:
    if isinstance(reference, GivenModel | str | os.PathLike | bytes):
        return ModelReference(GivenModel.of(reference))
    return reference


def _tolerance(options: VerifyOptions) -> Tolerance:
    return Tolerance.of(options.rtol, options.atol)


def _verified(
    reference: Reference, candidate: GivenModel, options: VerifyOptions, on_progress: StageProgress
) -> Verification:
    providers = named(options.providers)
    for provider in providers:
        provider.attach(quiet_options(Optimization.OFF), Precision.STRICT)  # what is missing is said before the work
    if options.layers and reference.source is None:
        raise UsageError("the layers of a PyTorch module cannot be looked at: export it, and compare the two models.")
    if options.proof == "always" and reference.source is None:
        raise UsageError("what differs from a PyTorch module cannot be proved: export it, and compare the two models.")
    with Ahead() as ahead:
        model, other = _structures(reference, candidate)
        signature = signature_of(model)
        check_overrides(signature.inputs, options.input_shapes or {})
        _tolerance(options).check_outputs(port.name for port in signature.outputs)
        contract = difference(signature, signature_of(other))
        if contract:
            return _stopped(Verdict.NOT_EQUIVALENT, contract, Answers(), options)
        changes, plan, lean = _read(reference, candidate, model, other, options, ahead)
        if not plan.is_lean:
            ahead.drop()
        with few_threads(plan.threads):
            measured = _measured(reference, candidate, model, other, changes, plan, lean, options, on_progress)
        estimate(plan.work.session, plan.work.run)
    return _with_changes(measured, changes, options, model)


def _structures(reference: Reference, candidate: GivenModel) -> tuple[ModelProto, ModelProto]:
    """Both structures: the same one where both are the same file."""
    model = reference.structure()
    same = reference.given is not None and are_same_files(reference.given.source, candidate.source)
    return model, model if same else candidate.structure


def _read(
    reference: Reference,
    candidate: GivenModel,
    model: ModelProto,
    other: ModelProto,
    options: VerifyOptions,
    ahead: Ahead,
) -> tuple[Changes, RunPlan, _Lean | None]:
    """What the files alone tell of the changes between them, how much to run, and what both answered in a lean plan.

    Where proofs can make it enough to run the models as users do, they run beside the proofs. Small models are loaded
    together. A large reference is gone when the candidate is loaded: never are both in memory.
    """
    if reference.given is None:
        return Changes(), THOROUGH, None
    planned = planning(reference.given, options)
    if other is model:
        return Changes(known=True), planned(all_proved=True), None
    if options.proof == "never":
        return Changes(), planned(all_proved=False), None
    lean, run = planned(all_proved=True), None
    if lean.is_lean:
        ahead.begin(reference.given.source, LEAN)
        if lean.loads_both and CPU in named(options.providers):
            ahead.begin(candidate.source, LEAN)
        run = ahead.work(partial(_run_lean, reference, candidate, model, other, lean, options))
    constants = options.assume_constant_initializers
    before, after = both_indexes(reference.given, candidate, assume_constant_initializers=constants)
    changes = find_changes(before, after, options.seed)
    for index in (before, after):
        index.file.release()
    plan = planned(all_proved=changes.all_proved)
    return changes, plan, run() if plan.is_lean and run is not None else None


def _run_lean(
    reference: Reference,
    candidate: GivenModel,
    model: ModelProto,
    other: ModelProto,
    plan: RunPlan,
    options: VerifyOptions,
) -> _Lean:
    """Run the reference, and on the same feeds the candidate, as users do."""
    answers, _ = _answers(reference, model, _fed(model, options), {}, options, plan, beside=other)
    if not answers.answers or CPU not in named(options.providers):
        return _Lean(answers)
    try:
        with running(candidate.source, LEAN) as session:
            return _Lean(answers, tuple(_outputs(session, answers.answers)))
    except RunFailed as failure:
        return _Lean(answers, failure=failure)


def _fed(model: ModelProto, options: VerifyOptions) -> Signature:
    """The signature of a model, without the defaults of inputs that are taken to be constant."""
    signature = signature_of(model)
    return signature.without_overrides() if options.assume_constant_initializers else signature


def _measured(
    reference: Reference,
    candidate: GivenModel,
    model: ModelProto,
    other: ModelProto,
    changes: Changes,
    plan: RunPlan,
    lean: _Lean | None,
    options: VerifyOptions,
    on_progress: StageProgress,
) -> Verification:
    """Run both models on all feeds in all settings, and judge what they answer. `lean`: what they have answered."""
    signature = _fed(model, options)
    on_progress(0, 0)
    pairs: Mapping[str, Sources] = {}
    if reference.given is not None and not plan.is_lean:
        constants = options.assume_constant_initializers
        pairs = behind(*both_indexes(reference.given, candidate, assume_constant_initializers=constants))
    if lean is not None:
        answers, sources = lean.answers, pairs
    else:
        answers, sources = _answers(reference, model, signature, pairs, options, plan, beside=other)
    if plan.is_lean and not answers.answers:
        plan, lean = THOROUGH, None
        answers, sources = _answers(reference, model, signature, pairs, options, plan, beside=other)
    answers.notes.extend(_assumed(signature))
    if not answers.answers:
        return _stopped(Verdict.NOT_VERIFIED, answers.refusal, answers, options)
    types = {} if reference.source is None else coarsest(model)
    comparing = Comparing(_tolerance(options), changes, types, options.distributions)
    findings: list[Finding] = []
    placements: list[Placement] = []
    settings, feeds = list(plan.settings(named(options.providers))), len(answers.answers)
    for number, setting in enumerate(settings):
        on_progress(number * feeds, len(settings) * feeds)
        try:
            if lean is not None and setting == LEAN:
                findings += lean.compared(comparing)
                continue
            found, place = _candidate(candidate.source, setting, answers, signature, sources, comparing, options)
        except RunFailed as failure:
            verdict, explanation = _unanswered(failure, reference, setting, answers, compared=bool(findings))
            excused = changes.none
            if verdict is Verdict.NOT_VERIFIED:
                excused = changes.all_proved and setting.provider is CPU and bool(findings)
            if not excused:
                return _stopped(verdict, explanation, answers, options)
            answers.notes.append(explanation)
            continue
        findings += found
        placements += place
    findings = _where_steady(findings, reference, plan, answers)
    judge = Judge(reference, candidate.source, comparing, sources, plan=plan)
    findings += judge.settle([finding for finding in findings if _decides(finding)])
    judge.settle([finding for finding in findings if not _decides(finding)])
    answers.notes += [*judge.notes, *judge.truths.notes, *judge.conditioning(findings)]
    judged = _judged(findings, placements, answers, reference, candidate.source, comparing, plan, options)
    return _with_layers(judged, findings, reference, candidate, comparing, options) if options.layers else judged


def _assumed(signature: Signature) -> Iterator[str]:
    if signature.constant:
        names = ", ".join(repr(port.name) for port in signature.constant[:3])
        more = f" and {len(signature.constant) - 3} more" if len(signature.constant) > 3 else ""
        yield (
            f"Inputs with a default were taken to be constant ({names}{more}): what the models compute where a caller "
            "feeds them was not compared."
        )


def _ignore_progress(_done: int, _total: int) -> None:
    """The callback where the caller gave none."""


def _coarsest_unit(model: ModelProto) -> float:
    """The roundoff of the coarsest type that a model computes in."""
    found = (rounding_named(name) for name in coarsest(model).values())
    return max((facts.unit for facts in found if facts is not None), default=0.0)


def _slack(proof: Proof, coarsest_unit: float) -> float:
    """How many times more may be rounded than storing rounds: new constants in float32 may stand for numbers that the
    model rounds to float16.
    """
    return max(coarsest_unit / (proof.unit or _IN_FLOAT32), 1.0)


def _with_changes(measured: Verification, changes: Changes, options: VerifyOptions, model: ModelProto) -> Verification:
    """A broken proof overrules agreement; proofs of everything stand in for a run that was not possible.

    Not for one on another provider than the CPU: a proof in float64 says nothing about what that one computes.
    """
    verdict, explanation, notes = measured.verdict, measured.explanation, list(measured.notes)
    compared = bool(measured.measurements)
    rule = _proof_rule(options)
    differs = verdict is not Verdict.EQUIVALENT
    coarse, limits = _coarsest_unit(model) if changes.broken else 0.0, _tolerance(options)
    overruling = [
        each for each in changes.broken if differs or overrules(each.used / _slack(each, coarse), rule, limits)
    ]
    if overruling:
        verdict = Verdict.NOT_EQUIVALENT
        more = f" (and {len(overruling) - 1} more)" if len(overruling) > 1 else ""
        explanation = (
            f"The rewrite of {overruling[0].name} is wrong: {overruling[0].reason}{more}. {explanation}".strip()
        )
    elif verdict is Verdict.NOT_VERIFIED and not compared and set(options.providers) == {CPU.name} and changes.known:
        if options.proof != "never":
            verdict = Verdict.PROVED if changes.all_proved else verdict
            explanation += f" {_instead(changes)}"
    elif changes.broken and verdict is Verdict.EQUIVALENT:
        notes += [f"The rewrite of {proof.name} is no rounding: {proof.reason}." for proof in changes.broken]
    return replace(
        measured,
        verdict=verdict,
        explanation=explanation,
        notes=tuple(notes),
        proofs=changes.proofs,
        shown=changes.sentence,
        proof_rule=rule,
    )


def _proof_rule(options: VerifyOptions) -> ProofRule:
    """The rule for a broken proof: data of the caller says where models must agree, unless proofs were asked for."""
    if options.proof == "always":
        return ProofRule.ALWAYS
    return ProofRule.BESIDE if options.inputs is not None else ProofRule.WITHOUT_LIMITS


def _instead(changes: Changes) -> str:
    if changes.none:
        return changes.sentence
    if changes.all_proved:
        return "Every rewrite is proved in float64 instead."
    undecided = next(iter(changes.open), None)
    if undecided is None:
        return "Nor is it proved."
    return f"Nor is it proved: what became of {undecided.name} cannot be decided, {undecided.reason}."


def _answers(
    reference: Reference,
    model: Any,
    signature: Signature,
    sources: Mapping[str, Sources],
    options: VerifyOptions,
    plan: RunPlan,
    *,
    beside: ModelProto,
    tapping: bool = True,
) -> tuple[Answers, Mapping[str, Sources]]:
    """Run the reference; where onnxruntime does not load it with taps, once more without."""
    tapping = tapping and not plan.is_lean
    outputs = {port.name for port in signature.outputs}
    sources = sources if tapping else {}
    inside = {pair.reference for found in sources.values() for pair in found.pairs}
    if reference.source is not None:
        inside.update(set(conditions(model)) - {port.name for port in signature.inputs})
    taps = sorted(inside - outputs) if tapping else []

    def all_feeds(session: Runner) -> Answers:
        if options.inputs is not None:
            return run_user_feeds(options.inputs, signature, session.run, taps)
        shapes, seed, purse = options.input_shapes or {}, options.seed, plan.purse
        return run_seeded_feeds(model, signature, shapes, seed, session.run, taps, [beside], purse=purse)

    try:
        with reference.running(plan.base, taps) as session:
            answers = all_feeds(session)
    except RunFailed as failure:
        if taps:
            return _answers(reference, model, signature, {}, options, plan, beside=beside, tapping=False)
        return Answers(refusal=f"onnxruntime cannot load the reference: {failure}."), {}
    if not answers.answers:
        answers.refusal = f"The reference runs on none of the feeds tried ({answers.refusal}): {answers.advice}."
    return answers, sources


def _candidate(
    candidate: Source,
    setting: Setting,
    answers: Answers,
    signature: Signature,
    sources: Mapping[str, Sources],
    comparing: Comparing,
    options: VerifyOptions,
) -> tuple[list[Finding], list[Placement]]:
    """All feeds in one setting. Values behind outputs are taken in the first setting alone, the others run the file."""
    outputs = {port.name for port in signature.outputs}
    taps = sorted({pair.candidate for found in sources.values() for pair in found.pairs} - outputs)
    taps = taps if setting == Setting() and sources else []
    try:
        return _run_candidate(candidate, setting, answers, taps, sources if taps else {}, comparing, options)
    except RunFailed:
        if not taps:
            raise
        return _run_candidate(candidate, setting, answers, [], {}, comparing, options)


def _run_candidate(
    candidate: Source,
    setting: Setting,
    answers: Answers,
    taps: list[str],
    sources: Mapping[str, Sources],
    comparing: Comparing,
    options: VerifyOptions,
) -> tuple[list[Finding], list[Placement]]:
    findings: list[Finding] = []
    with running(candidate, setting, taps) as session:
        placed = []
        if setting.provider is not CPU:
            placed = [placement(session, setting.provider, setting.optimization, setting.precision)]
            check(placed[0], setting.provider, strict_placement=options.strict_placement)
        asked = [each for each in answers.answers if not (each.costly and setting.optimization is Optimization.OFF)]
        for answer, answered in zip(asked, _outputs(session, asked), strict=True):
            findings += compare(answer, answered, setting, comparing, sources)
    return findings, placed


def _outputs(session: Runner, answers: Iterable[Answer]) -> Iterator[Outputs]:
    """What a model makes of the feeds that the reference has answered."""
    for answer in answers:
        with doing(f"feed {answer.name}"):
            yield session.run(answer.feed())


def _unanswered(
    failure: RunFailed, reference: Reference, setting: Setting, answers: Answers, *, compared: bool
) -> tuple[Verdict, str]:
    """The verdict on a candidate that does not run in a setting, and why. `compared`: whether it ran in another."""
    own = _own_failure(reference, setting, answers)
    if own is not None:
        return Verdict.NOT_VERIFIED, f"onnxruntime cannot run the reference either ({setting}): {own}."
    if reference.given is not None:
        explanation = f"onnxruntime runs the reference but not the candidate ({setting}): {failure}."
        return Verdict.NOT_EQUIVALENT, explanation
    if isinstance(failure, LoadFailed) and not compared:
        explanation = f"onnxruntime cannot load the candidate ({setting}), so that it could not be compared: {failure}."
        return Verdict.NOT_VERIFIED, explanation
    return Verdict.NOT_EQUIVALENT, f"The module runs but not the candidate ({setting}): {failure}."


def _own_failure(reference: Reference, setting: Setting, answers: Answers) -> RunFailed | None:
    """Why the reference cannot run in a setting in which the candidate cannot; None where it can."""
    try:
        with reference.running(setting) as session:
            for answer in answers.answers:
                session.run(answer.feed())
    except RunFailed as own:
        return own
    return None


def _decides(finding: Finding) -> bool:
    return finding.setting.precision is Precision.STRICT


def _judged(
    findings: list[Finding],
    placements: list[Placement],
    answers: Answers,
    reference: Reference,
    candidate: Source,
    comparing: Comparing,
    plan: RunPlan,
    options: VerifyOptions,
) -> Verification:
    if not findings:
        return _stopped(Verdict.NOT_VERIFIED, answers.notes.pop(), answers, options)
    deciding = [finding for finding in findings if _decides(finding)]
    failed = [finding for finding in deciding if not finding.judgement.agrees]
    silent = _never_compared(deciding, comparing.changes)
    verdict, explanation = Verdict.EQUIVALENT, ""
    if failed:
        verdict, explanation = Verdict.NOT_EQUIVALENT, sentence(worst(failed))
        if worst(failed).setting != plan.base and _drifts(partial(running, candidate), worst(failed), answers):
            explanation += _MERGED
        if _fickle(reference, worst(failed), plan.base):
            verdict = Verdict.NOT_VERIFIED
            explanation = "The reference gives another answer each time it is run on the same feed: it is random."
        elif all(finding.setting.provider is not CPU for finding in failed):
            provider = worst(failed).setting.provider.name
            if _is_off(reference, worst(failed)):
                verdict = Verdict.NOT_VERIFIED
                explanation = f"{provider} computes the reference itself otherwise than the CPU does. {explanation}"
            elif comparing.changes.all_proved and not worst(failed).measurement.new_nonfinite:
                verdict = Verdict.NOT_VERIFIED
                explanation = f"Every change is proved, but {provider} computes the two otherwise. {explanation}"
    elif silent and not comparing.changes.none:
        verdict = Verdict.NOT_VERIFIED
        explanation = (
            f"No finite value of output {silent!r} could be compared on any feed: pass --inputs with real data."
        )
    return Verification(
        verdict,
        measurements=tuple(finding.measurement for finding in findings),
        judgements=tuple(finding.judgement for finding in findings),
        noises=tuple(finding.noise for finding in findings),
        explanation=explanation,
        largest=worst(failed or deciding).measurement,
        notes=tuple(dict.fromkeys(answers.notes)),
        feeds=tuple(answer.to_dict() for answer in answers.answers),
        sizes=tuple(answers.sizes),
        placements=tuple(placements),
        seed=options.seed,
        tolerance=comparing.tolerance,
    )


def _with_layers(
    judged: Verification,
    findings: list[Finding],
    reference: Reference,
    candidate: GivenModel,
    comparing: Comparing,
    options: VerifyOptions,
) -> Verification:
    """Look inside where the models disagree most, with limits by dtype: the caller's are for outputs."""
    from bnfold.equivalence.judging.first_divergence import compare_layers

    deciding = [finding for finding in findings if _decides(finding)]
    failed = [finding for finding in deciding if not finding.judgement.agrees]
    layers = compare_layers(
        reference,
        candidate,
        worst(failed or deciding),
        replace(comparing, tolerance=Tolerance()),
        agrees=judged.verdict is Verdict.EQUIVALENT,
        assume_constant_initializers=options.assume_constant_initializers,
    )
    return replace(judged, layers=layers)


def _never_compared(findings: list[Finding], changes: Changes) -> str:
    """The first output of which no value was compared on any feed, or "" if there is none.

    Where everything that an output depends on is proved or untouched, nothing need be compared.
    """
    compared: dict[str, int] = {}
    for finding in findings:
        if finding.measurement.where.stage == "output":
            compared[finding.value] = compared.get(finding.value, 0) + finding.measurement.compared
    if not compared:
        return "(none)"
    return next((name for name, count in compared.items() if not count and not changes.is_proved(name)), "")


def _fickle(reference: Reference, finding: Finding, base: Setting) -> bool:
    """Whether the reference does not even agree with itself where the candidate disagrees with it."""
    try:
        with reference.running(base) as session:
            again = [session.run(finding.answer.feed()) for _ in range(2)]
    except RunFailed:
        return False
    return any(
        other.value == finding.value and not other.judgement.agrees
        for outputs in again
        for other in compare(finding.answer, outputs, base, Comparing(Tolerance()), {})
    )


def _where_steady(findings: list[Finding], reference: Reference, plan: RunPlan, answers: Answers) -> list[Finding]:
    """Without those of a setting in which the reference answers otherwise from run to run, though not in its first.

    With its optimizations on, onnxruntime may store equal initializers once, and a BatchNormalization in training mode
    writes its running statistics into what another operator reads (onnxruntime#29790).
    """
    doubtful: dict[Setting, list[Finding]] = {}
    for finding in findings:
        if finding.setting != plan.base and not finding.judgement.agrees:
            doubtful.setdefault(finding.setting, []).append(finding)
    for setting, some in doubtful.items():
        if _drifts(reference.running, worst(some), answers):
            answers.notes.append(
                f"onnxruntime answers the same feed otherwise each time it runs the reference ({setting}), as where "
                "normalizations in training mode write into what its optimizer has merged: there nothing was compared."
            )
            findings = [finding for finding in findings if finding.setting != setting]
    return findings


def _drifts(loaded: Callable[[Setting], AbstractContextManager[Runner]], finding: Finding, answers: Answers) -> bool:
    """Whether a model answers otherwise after other feeds than before, where the two models disagree."""
    try:
        with loaded(finding.setting) as session:
            first = session.run(finding.answer.feed())
            for other in answers.answers:
                session.run(other.feed())
            again = session.run(finding.answer.feed())
    except RunFailed:
        return False
    answer = finding.answer._replace(outputs=first, contract=frozenset(first))
    found = compare(answer, again, finding.setting, Comparing(Tolerance()), {})
    return any(not other.judgement.agrees for other in found)


def _is_off(reference: Reference, finding: Finding) -> bool:
    """Whether the reference, run where the candidate disagrees with it, disagrees with itself as well."""
    tolerance = Tolerance()
    try:
        with reference.running(finding.setting) as session:
            outputs = session.run(finding.answer.feed())
    except RunFailed:
        return True
    found = compare(finding.answer, outputs, finding.setting, Comparing(tolerance), {})
    return any(not tolerance.judge_without_truth(other.measurement).agrees for other in found)


def _stopped(verdict: Verdict, explanation: str, answers: Answers, options: VerifyOptions) -> Verification:
    return Verification(
        verdict,
        explanation=explanation,
        notes=tuple(answers.notes),
        seed=options.seed,
        tolerance=_tolerance(options),
    )
