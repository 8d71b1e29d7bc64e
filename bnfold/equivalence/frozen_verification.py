"""Verification of what was frozen: against the input model with evaluation semantics, not against what it ran as.

Both sides are written anew where that is needed and compared as any two models are. How far the input's own training
mode is from that, on the same feeds, is measured as information, and decides nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bnfold.decisions import NodeKey
from bnfold.equivalence.judging.measurement import Measurement, Where, measure
from bnfold.equivalence.numbers.batch_statistics import places_with_their_own_statistics
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.reference_answers import Answer, run_seeded_feeds, run_user_feeds
from bnfold.equivalence.runtime.sessions import RunFailed, Session
from bnfold.equivalence.structure.copies import copied
from bnfold.equivalence.structure.evaluation_semantics import evaluate_in_place, make_runnable
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.equivalence.structure.scopes import Scopes
from bnfold.equivalence.structure.signature import Source, signature_of
from bnfold.equivalence.structure.training_mode import (
    has_training_nodes,
    is_batch_norm,
    trains,
    visible_scopes,
)
from bnfold.equivalence.verdict import Verification
from bnfold.equivalence.verification import verify
from bnfold.options import VerifyOptions
from bnfold.progress import StageProgress
from bnfold.statistics import Statistics


class FrozenVerification(NamedTuple):
    """`verification` is the verdict; `training_distance` the largest difference per output to training mode.

    `training_distance` is empty where nothing ran in training mode or it could not be run.
    """

    verification: Verification
    training_distance: tuple[Measurement, ...] = ()


def verify_frozen(
    reference: GivenModel | Source,
    candidate: GivenModel | Source,
    options: VerifyOptions | None = None,
    *,
    stays: Collection[NodeKey] = (),
    statistics: Mapping[NodeKey, Statistics] | None = None,
    assume_spatial: bool = False,
    on_progress: StageProgress | None = None,
) -> FrozenVerification:
    """Compare `candidate` with `reference` under evaluation semantics.

    `stays` are the normalizations that were left in training mode; `statistics` those that were computed anew;
    `assume_spatial`: what says spatial = 0 was meant to say 1. `on_progress` and what is raised: as of `verify`.
    """
    options = options or VerifyOptions()
    constants = options.assume_constant_initializers
    reference, candidate = GivenModel.of(reference), GivenModel.of(candidate)
    index = reference.index(assume_constant_initializers=constants)
    in_training = has_training_nodes(index)
    if not in_training and not statistics and not assume_spatial:
        return FrozenVerification(verify(reference, candidate, options, on_progress=on_progress))
    result = candidate.index(assume_constant_initializers=constants)
    own = _with_own_statistics(index, result) & frozenset(stays)
    with TemporaryDirectory(prefix="bnfold-evaluation-") as folder:
        runnable = partial(make_runnable, assume_constant_initializers=constants)
        as_it_stands = partial(runnable, own=own, dropping=options.seed)
        trained = copied(reference.file, Path(folder) / "training.onnx", as_it_stands) if in_training else None
        evaluate = partial(
            evaluate_in_place,
            stays=stays,
            own=own,
            statistics=statistics,
            assume_constant_initializers=constants,
            assume_spatial=assume_spatial,
        )
        evaluated = GivenModel(copied(reference.file, Path(folder) / "evaluation.onnx", evaluate))
        new = " and the new statistics" if statistics else ""
        notes = [f"The reference is the input model with evaluation semantics{new}."]
        if own:
            notes.append(
                "Statistics that the model computes of the batch itself were taken for those of training mode."
            )
        if has_training_nodes(result):
            candidate = GivenModel(copied(candidate.file, Path(folder) / "candidate.onnx", runnable))
            notes.append(
                "What stays in training mode was compared with the statistics of the batch computed by operators, "
                "and with Dropout switched off."
            )
        verification = verify(evaluated, candidate, options, on_progress=on_progress)
        measured = bool(verification.measurements)
        distance = training_distance(evaluated, trained, options) if trained and measured else ()
    return FrozenVerification(replace(verification, notes=(*verification.notes, *notes)), distance)


def _with_own_statistics(reference: Scopes, candidate: Scopes) -> frozenset[NodeKey]:
    """Where the candidate reads, as stored statistics, what training mode computes in the reference."""
    trained = frozenset(
        scope.key(node)
        for scope in visible_scopes(candidate)
        for node in scope.body.node
        if is_batch_norm(node) and trains(node, scope.opset)
    )
    return places_with_their_own_statistics(reference) - trained


def training_distance(evaluated: GivenModel, trained: Path, options: VerifyOptions) -> tuple[Measurement, ...]:
    """The distance of the outputs in training mode from those in evaluation: the largest measurement of each output.

    This is information, not the verdict: where onnxruntime cannot run one of the two it is empty, and where
    training mode makes no difference. A Dropout drops by the seed.
    """
    model = evaluated.structure
    signature = signature_of(model)
    if options.assume_constant_initializers:
        signature = signature.without_overrides()
    largest: dict[str, Measurement] = {}
    try:
        with running(evaluated.source, Setting()) as session:
            if options.inputs is not None:
                answers = run_user_feeds(options.inputs, signature, session.run).answers
            else:
                answers = run_seeded_feeds(
                    model, signature, options.input_shapes or {}, options.seed, session.run
                ).answers
        with running(trained, Setting()) as session:
            for answer in answers:
                for found in _distances(answer, session):
                    name = found.where.output
                    if name not in largest or found.relative > largest[name].relative:
                        largest[name] = found
    except RunFailed:
        return ()
    return tuple(found for found in largest.values() if found.different or found.problem)


def _distances(answer: Answer, session: Session) -> list[Measurement]:
    try:
        outputs = session.run(answer.feed())
    except RunFailed:  # as where training mode needs more than one value per channel
        return []
    return [
        measure(Where(name, answer.name, "cpu", "off", "output", "strict"), answer.outputs[name], outputs[name])
        for name in sorted(set(outputs) & set(answer.contract))
    ]
