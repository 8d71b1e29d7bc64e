"""Run two models on the same feeds, measure every output, and say whether they are equivalent.

The reference runs with onnxruntime's own optimizations off, since a default session folds batch normalization itself;
the candidate runs without and with them, on every provider asked for. One session is alive at a time.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from bnfold.activity import doing
from bnfold.equivalence.feeds.dynamic_sizes import check_overrides
from bnfold.equivalence.judging.findings import Finding, compare, worst
from bnfold.equivalence.judging.first_divergence import compare_layers
from bnfold.equivalence.judging.judge import Appeal
from bnfold.equivalence.judging.tolerance import Tolerance
from bnfold.equivalence.options import VerifyOptions
from bnfold.equivalence.proofs.model import prove_with
from bnfold.equivalence.proofs.piece import Proof, Standing
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.providers import CPU, Placement, Precision, Provider, check, named, placement
from bnfold.equivalence.runtime.reference_answers import Answers, conditions, run_seeded_feeds, run_user_feeds
from bnfold.equivalence.runtime.references import ModelReference, Reference, Runner
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed, quiet_options, runtime
from bnfold.equivalence.structure.output_sources import Sources, behind
from bnfold.equivalence.structure.scopes import Cutter
from bnfold.equivalence.structure.signature import (
    Signature,
    Source,
    difference,
    read_structure,
    signature_of,
    weight_count,
)
from bnfold.equivalence.verdict import Verdict, Verification
from bnfold.errors import UsageError

_PROVED_WEIGHTS, _TENSOR = 40_000, 400
"""Stored numbers up to which proving every rewrite costs about as much as running both models, or less.

Each tensor counts as some numbers more. Measured by `python -m benchmarks.proof_cost`.
"""


def verify(reference: Source | Reference, candidate: Source, options: VerifyOptions | None = None) -> Verification:
    """Compare `candidate` with `reference`, each a path (external data resolves beside it) or bytes.

    `reference` may also be a `Reference`, such as a `ModuleReference`.

    Raises UsageError for feeds, shapes or provider names that do not fit, ModelError for what is not a model,
    ProviderError for a provider that is missing or did not run the nodes, BnfoldError where onnxruntime is not
    installed. A model that onnxruntime cannot load or run is a verdict, not an exception.
    """
    options = options or VerifyOptions()
    runtime()
    candidate = candidate if isinstance(candidate, bytes) else Path(candidate)
    if isinstance(reference, str | os.PathLike | bytes):
        reference = ModelReference(reference if isinstance(reference, bytes) else Path(reference))
    measured = _measured(reference, candidate, options)
    return measured if reference.source is None else _with_proofs(measured, reference.source, candidate, options)


def _measured(reference: Reference, candidate: Source, options: VerifyOptions) -> Verification:
    providers = named(options.providers)
    for provider in providers:
        provider.attach(quiet_options(Optimization.OFF), Precision.STRICT)  # what is missing is said before the work
    if options.layers and reference.source is None:
        raise UsageError("the layers of a PyTorch module cannot be looked at: export it, and compare the two models.")
    if options.proof == "always" and reference.source is None:
        raise UsageError("what differs from a PyTorch module cannot be proved: export it, and compare the two models.")
    model, other = reference.structure(), read_structure(candidate)
    signature = signature_of(model)
    check_overrides(signature.inputs, options.input_shapes)
    options.tolerance.check_outputs(port.name for port in signature.outputs)
    contract = difference(signature, signature_of(other))
    if contract:
        return _stopped(Verdict.NOT_EQUIVALENT, contract, Answers(), options)
    if options.assume_constant_initializers:
        signature = signature.without_overrides()
    told = options.told or _silent
    told(0, 0)
    pairs = {} if reference.source is None else behind(model, other)
    answers, sources = _answers(reference, model, signature, pairs, options)
    answers.notes.extend(_assumed(signature))
    del model, other
    if not answers.answers:
        return _stopped(Verdict.NOT_VERIFIED, answers.refusal, answers, options)
    findings: list[Finding] = []
    placements: list[Placement] = []
    settings, feeds = list(_settings(providers)), len(answers.answers)
    for number, setting in enumerate(settings):
        told(number * feeds, len(settings) * feeds)
        try:
            found, place = _candidate(candidate, setting, answers, signature, sources, options)
        except RunFailed as failure:
            verdict, explanation = _failed(reference, setting, answers, failure)
            return _stopped(verdict, explanation, answers, options)
        findings += found
        placements += place
    appeal = Appeal(reference, candidate, options.tolerance, sources)
    findings += appeal.settle([finding for finding in findings if _decides(finding)])
    appeal.settle([finding for finding in findings if not _decides(finding)])
    answers.notes.extend(appeal.notes)
    judged = _judged(findings, placements, answers, reference, options)
    return _with_layers(judged, findings, reference, candidate, options) if options.layers else judged


def _assumed(signature: Signature) -> Iterator[str]:
    if signature.constant:
        names = ", ".join(repr(port.name) for port in signature.constant[:3])
        more = f" and {len(signature.constant) - 3} more" if len(signature.constant) > 3 else ""
        yield (
            f"Inputs with a default were taken to be constant ({names}{more}): what the models compute where a caller "
            "feeds them was not compared."
        )


def _silent(_done: int, _total: int) -> None:
    """Nobody wants to hear."""


def _with_proofs(measured: Verification, reference: Source, candidate: Source, options: VerifyOptions) -> Verification:
    """A broken proof overrules agreement; proofs of everything stand in for a run that was not possible.

    Not for one on another provider than the CPU: a proof in float64 says nothing about what that one computes.
    """
    compared = bool(measured.measurements)
    if options.proof == "never" or (options.proof == "instead" and compared) or _differs_already(measured):
        return measured
    constants = options.assume_constant_initializers
    before, after = (Cutter(source, assume_constant_initializers=constants) for source in (reference, candidate))
    if options.proof == "auto" and compared and _proof_cost(after.model) > _PROVED_WEIGHTS:
        note = "The rewrites were not proved one by one, which costs more than the comparison: pass --proof to do so."
        return replace(measured, notes=(*measured.notes, note))
    proofs = prove_with(before, after, options.seed)
    broken = [proof for proof in proofs if proof.standing is Standing.BROKEN]
    verdict, explanation = measured.verdict, measured.explanation
    if broken:
        verdict = Verdict.NOT_EQUIVALENT
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        explanation = f"The rewrite of {broken[0].name} is wrong: {broken[0].reason}{more}."
    elif verdict is Verdict.NOT_VERIFIED and not compared and set(options.providers) == {CPU.name}:
        undecided = next((proof for proof in proofs if proof.standing is Standing.UNDECIDED), None)
        verdict = verdict if undecided else Verdict.PROVED
        explanation += f" {_instead(proofs, undecided)}"
    return replace(measured, verdict=verdict, explanation=explanation, proofs=proofs)


def _proof_cost(model: ModelProto) -> int:
    return weight_count(model) + _TENSOR * len(model.graph.initializer)


def _instead(proofs: tuple[Proof, ...], undecided: Proof | None) -> str:
    if undecided is not None:
        return f"Nor is it proved: what became of {undecided.name} cannot be decided, {undecided.reason}."
    if not proofs:
        return "The two differ in nothing that their outputs depend on."
    return "Every rewrite is proved in float64 instead."


def _differs_already(measured: Verification) -> bool:
    """Whether the contract differs: there is nothing to prove."""
    return measured.verdict is Verdict.NOT_EQUIVALENT and not measured.measurements


def _settings(providers: tuple[Provider, ...]) -> Iterator[Setting]:
    for provider in providers:
        for optimization in Optimization:
            yield Setting(provider, optimization)
        if provider.options(Precision.STRICT) != provider.options(Precision.DEPLOY):
            yield Setting(provider, Optimization.ON, Precision.DEPLOY)


def _answers(
    reference: Reference,
    model: Any,
    signature: Signature,
    sources: Mapping[str, Sources],
    options: VerifyOptions,
    *,
    tapping: bool = True,
) -> tuple[Answers, Mapping[str, Sources]]:
    """Run the reference; where onnxruntime does not load it with taps, once more without."""
    outputs = {port.name for port in signature.outputs}
    inside = {pair.reference for found in sources.values() for pair in found.pairs}
    if reference.source is not None:
        inside.update(set(conditions(model)) - {port.name for port in signature.inputs})
    taps = sorted(inside - outputs) if tapping else []

    def all_feeds(session: Runner) -> Answers:
        if options.inputs is not None:
            return run_user_feeds(options.inputs, signature, session.run, taps)
        return run_seeded_feeds(model, signature, options.input_shapes, options.seed, session.run, taps)

    try:
        with reference.running(Setting(), taps) as session:
            answers = all_feeds(session)
    except RunFailed as failure:
        if taps:
            return _answers(reference, model, signature, {}, options, tapping=False)
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
    options: VerifyOptions,
) -> tuple[list[Finding], list[Placement]]:
    """All feeds in one setting. Values behind outputs are taken in the first setting alone, the others run the file."""
    outputs = {port.name for port in signature.outputs}
    taps = sorted({pair.candidate for found in sources.values() for pair in found.pairs} - outputs)
    taps = taps if setting == Setting() else []
    try:
        return _run_candidate(candidate, setting, answers, taps, sources if taps else {}, options)
    except RunFailed:
        if not taps:
            raise
        return _run_candidate(candidate, setting, answers, [], {}, options)


def _run_candidate(
    candidate: Source,
    setting: Setting,
    answers: Answers,
    taps: list[str],
    sources: Mapping[str, Sources],
    options: VerifyOptions,
) -> tuple[list[Finding], list[Placement]]:
    findings: list[Finding] = []
    with running(candidate, setting, taps) as session:
        placed = []
        if setting.provider is not CPU:
            placed = [placement(session, setting.provider, setting.optimization, setting.precision)]
            check(placed[0], setting.provider, strict_placement=options.strict_placement)
        for answer in answers.answers:
            if answer.costly and setting.optimization is Optimization.OFF:
                continue
            with doing(f"feed {answer.name}"):
                answered = session.run(answer.feed())
            findings += compare(answer, answered, setting, options.tolerance, sources)
    return findings, placed


def _failed(reference: Reference, setting: Setting, answers: Answers, failure: RunFailed) -> tuple[Verdict, str]:
    """The candidate cannot run. Whose fault that is, the reference in the same setting tells."""
    try:
        with reference.running(setting) as session:
            for answer in answers.answers:
                session.run(answer.feed())
    except RunFailed as own:
        return Verdict.NOT_VERIFIED, f"onnxruntime cannot run the reference either ({setting}): {own}."
    return Verdict.NOT_EQUIVALENT, f"onnxruntime runs the reference but not the candidate ({setting}): {failure}."


def _decides(finding: Finding) -> bool:
    return finding.setting.precision is Precision.STRICT


def _judged(
    findings: list[Finding],
    placements: list[Placement],
    answers: Answers,
    reference: Reference,
    options: VerifyOptions,
) -> Verification:
    deciding = [finding for finding in findings if _decides(finding)]
    failed = [finding for finding in deciding if not finding.judgement.agrees]
    silent = _never_compared(deciding)
    verdict, explanation = Verdict.EQUIVALENT, ""
    if failed:
        verdict, explanation = Verdict.NOT_EQUIVALENT, _sentence(worst(failed))
        if _fickle(reference, worst(failed), options.tolerance):
            verdict = Verdict.NOT_VERIFIED
            explanation = "The reference gives another answer each time it is run on the same feed: it is random."
        elif all(finding.setting.provider is not CPU for finding in failed) and _is_off(reference, worst(failed)):
            verdict = Verdict.NOT_VERIFIED
            provider = worst(failed).setting.provider.name
            explanation = f"{provider} computes the reference itself otherwise than the CPU does. {explanation}"
    elif silent:
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
        tolerance=options.tolerance,
    )


def _with_layers(
    judged: Verification, findings: list[Finding], reference: Reference, candidate: Source, options: VerifyOptions
) -> Verification:
    """Look inside where the models disagree most, with limits by dtype: the caller's are for outputs."""
    deciding = [finding for finding in findings if _decides(finding)]
    failed = [finding for finding in deciding if not finding.judgement.agrees]
    agrees = judged.verdict is Verdict.EQUIVALENT
    finding = worst(failed or deciding)
    constants = options.assume_constant_initializers
    layers = compare_layers(
        reference, candidate, finding, Tolerance(), agrees=agrees, assume_constant_initializers=constants
    )
    return replace(judged, layers=layers)


def _never_compared(findings: list[Finding]) -> str:
    """The first output of which no value was compared on any feed, or "" if there is none."""
    compared: dict[str, int] = {}
    for finding in findings:
        if finding.measurement.where.stage == "output":
            compared[finding.value] = compared.get(finding.value, 0) + finding.measurement.compared
    if not compared:
        return "(none)"
    return next((name for name, count in compared.items() if not count), "")


def _fickle(reference: Reference, finding: Finding, tolerance: Tolerance) -> bool:
    """Whether the reference does not even agree with itself where the candidate disagrees with it."""
    try:
        with reference.running(Setting()) as session:
            again = [session.run(finding.answer.feed()) for _ in range(2)]
    except RunFailed:
        return False
    return any(
        other.judgement.agrees is not True
        for outputs in again
        for other in compare(finding.answer, outputs, Setting(), tolerance, {})
    )


def _is_off(reference: Reference, finding: Finding) -> bool:
    """Whether the reference, run where the candidate disagrees with it, disagrees with itself as well."""
    tolerance = Tolerance()
    try:
        with reference.running(finding.setting) as session:
            outputs = session.run(finding.answer.feed())
    except RunFailed:
        return True
    found = compare(finding.answer, outputs, finding.setting, tolerance, {})
    return any(not tolerance.judge_without_truth(other.measurement).agrees for other in found)


def _sentence(finding: Finding) -> str:
    measured, judged = finding.measurement, finding.judgement
    subject = str(measured.where)
    subject = subject[0].upper() + subject[1:]
    if measured.problem:
        return f"{subject}: {measured.problem}."
    if measured.new_nonfinite:
        return (
            f"{subject}: {measured.new_nonfinite} of {measured.count} values are NaN or infinite, the reference's not."
        )
    if measured.lost_nonfinite and not finding.noise:
        return (
            f"{subject}: {measured.lost_nonfinite} of {measured.count} values are finite where the reference's are not."
        )
    if not judged.limit:
        return f"{subject}: {measured.different} of {measured.count} values differ."
    text = (
        f"{subject}: differs by {measured.max_abs:.3g} at {list(measured.worst_at)} "
        f"(reference {measured.worst_reference:.6g}, candidate {measured.worst_candidate:.6g})"
    )
    if finding.noise:
        noise = finding.noise
        return (
            f"{text}; its error against float64 is {noise.candidate_max:.3g} (rms {noise.candidate_rms:.3g}), "
            f"the reference's own {noise.original_max:.3g} (rms {noise.original_rms:.3g})."
        )
    return f"{text}; at most {judged.limit:.3g} is rounding."


def _stopped(verdict: Verdict, explanation: str, answers: Answers, options: VerifyOptions) -> Verification:
    notes = tuple(answers.notes)
    return Verification(verdict, explanation=explanation, notes=notes, seed=options.seed, tolerance=options.tolerance)
