"""The proof of a whole: every place where two models differ is proved on its own, and nothing else differs.

The places come from the two files alone (`correspondence`), so nothing here trusts the code that folds, nor what it
says it did.
"""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from onnx import ModelProto

from bnfold.activity import doing
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of, reads_part
from bnfold.equivalence.proofs.obligations import Correspondence, Obligation, Pair
from bnfold.equivalence.proofs.piece import (
    MALFORMED,
    Proof,
    Standing,
    confirmed,
    prove_composed,
    prove_piece,
    takes_nothing,
)
from bnfold.equivalence.structure.given_model import GivenModel, both_indexes
from bnfold.equivalence.structure.scopes import Cutter, Uncut
from bnfold.equivalence.structure.signature import difference, signature_of
from bnfold.graph import paused_collector
from bnfold.onnxfile import read
from bnfold.records import Record

_Prover: TypeAlias = Callable[[Obligation, Correspondence, int], Proof]
_MOST_ROUNDS = 20
_MANY = 40_000
_GONE = 2.0**-3
"""What cancels leaves less than this part of itself."""
_FEW, _FEW_ROUNDS = 16, 4
"""What is not composed is evaluated, which takes as long as a run of it: few pieces, a few times."""


def prove(
    reference: Path | bytes | ModelProto, candidate: Path | bytes | ModelProto, seed: int = 0
) -> tuple[Proof, ...]:
    """One proof per place where the models differ; if all hold, the models are equal up to rounding, and only then.

    What is the same in both needs no proof: none at all means that nothing was changed that the outputs depend on.
    Raises ModelError for what is not a model.
    """
    before, after = (GivenModel.of(read(model)) for model in (reference, candidate))
    return prove_with(*both_indexes(before, after, assume_constant_initializers=False), seed)


def prove_with(before: Cutter, after: Cutter, seed: int = 0) -> tuple[Proof, ...]:
    """Prove what `prove` proves, for models that were read already."""
    with doing("proving what was changed"), np.errstate(all="ignore"):
        return _proved(before, after, seed)


def _proved(before: Cutter, after: Cutter, seed: int) -> tuple[Proof, ...]:
    reason = _incomparable(before, after)
    if reason:
        return (Proof("", Standing.UNDECIDED, reason),)
    with paused_collector():
        common = Correspondence(before, after)
    found = _Round({})
    for trusting in (True, False):
        found = _few_given_up(found.holding, common, seed, trusting=trusting)
        if found.all_hold:
            break
        common.assert_all()
    else:
        found = _all_at_once(found.holding, common, seed)
    return tuple(confirmed(proof, found.obligations[pair], common, seed) for pair, proof in found.proofs.items())


class _Round(Record):
    """What is to show while some pairs are given up, and the proofs of it. `known`: those of earlier rounds as well."""

    known: dict[tuple[Pair, tuple[Pair, ...]], Proof]
    obligations: Mapping[Pair, Obligation] = field(default_factory=dict)
    fixed: Collection[Pair] = ()
    proofs: Mapping[Pair, Proof] = field(default_factory=dict)

    def again(self, common: Correspondence, seed: int, prove: _Prover = prove_piece) -> "_Round":
        with paused_collector():
            obligations, fixed = common.obligations()
        proofs: dict[Pair, Proof] = {}
        for pair, obligation in obligations.items():
            if not obligation.settled:
                key = pair, obligation.premises
                proof = self.known.get(key)
                if proof is None:
                    proof = self.known[key] = prove(obligation, common, seed)
                proofs[pair] = proof
        return _Round(self.known, obligations, fixed, proofs)

    @property
    def holding(self) -> "_Round":
        """A round to begin with, which knows what was proved, and nothing else."""
        return _Round({key: proof for key, proof in self.known.items() if proof.standing is Standing.HOLDS})

    @property
    def all_hold(self) -> bool:
        return not self.unproved

    @cached_property
    def readers(self) -> dict[Pair, list[Pair]]:
        """The pairs that rest on each."""
        found: dict[Pair, list[Pair]] = {}
        for pair, obligation in self.obligations.items():
            for premise in obligation.premises:
                found.setdefault(premise, []).append(pair)
        return found

    @cached_property
    def unproved(self) -> set[Pair]:
        return {pair for pair, proof in self.proofs.items() if proof.standing is not Standing.HOLDS}

    @cached_property
    def broken(self) -> set[Pair]:
        return {pair for pair, proof in self.proofs.items() if proof.standing is Standing.BROKEN}


def _few_given_up(found: _Round, common: Correspondence, seed: int, *, trusting: bool) -> _Round:
    """The last of rounds in which only that is given up which is off although all it rests on is not.

    Of two values in a row that are off, the second may be right and make up for the first, as where the scale of a
    normalization moved across a Relu into the next Conv. All is composed first, which takes no time to speak of.
    """
    with paused_collector():
        found = _one_after_the_other(found, common, seed, prove_composed, _MANY, trusting=trusting)
    if 0 < len(found.unproved) <= _FEW:
        most = _FEW_ROUNDS * len(found.obligations)
        found = _one_after_the_other(found.holding, common, seed, prove_piece, most, trusting=trusting)
    return found


def _one_after_the_other(
    found: _Round, common: Correspondence, seed: int, prove: _Prover, most: int, *, trusting: bool
) -> _Round:
    """`most`: how many pairs may be looked at in all rounds together."""
    while most > 0:
        found = found.again(common, seed, prove)
        most -= len(found.obligations)
        first = _foremost(found, common, trusting=trusting)
        if not first or not first <= _movable(found, common):
            break
        common.give_up(first)
    return found


def _all_at_once(found: _Round, common: Correspondence, seed: int) -> _Round:
    """The last of rounds in which everything is given up that is off, or lies behind what is, and may be."""
    for _ in range(_MOST_ROUNDS):
        found = found.again(common, seed)
        if found.all_hold:
            break
        wrong = _carried(found, common) or _carried(found, common, guessed=True)
        if not wrong:
            return _beyond_what_cancels(found, common, seed)
        common.give_up(wrong)
    return found


def _beyond_what_cancels(found: _Round, common: Correspondence, seed: int) -> _Round:
    """The round in which all that is broken is given up, if the larger pieces hold: x - x takes out what differs.

    What is broken then is given up as well, as a sum in between where a bias moved from one of its terms to what is
    added behind it. They have to hold weight by weight: at numbers that are tried, int8 is as good as int32. And what
    differed has to be gone, not to be small beside the terms of a larger piece.
    """
    if not found.broken.isdisjoint(found.fixed):
        return found
    farther, given_up, differed = found, set[Pair](), math.inf
    for _ in range(_FEW_ROUNDS):
        broken = farther.broken.difference(farther.fixed)
        if not broken:
            break
        differed = min([differed, *(farther.proofs[pair].max_abs for pair in broken)])
        common.give_up(broken)
        given_up |= broken
        farther = replace(found, known=dict(found.known)).again(common, seed, prove_composed)
        if all(
            (proof.standing is Standing.HOLDS and proof.max_abs <= _GONE * differed) or found.proofs.get(pair) == proof
            for pair, proof in farther.proofs.items()
        ):
            return farther
    common.take_back(given_up)
    return found


def _incomparable(before: Cutter, after: Cutter) -> str:
    contract = difference(signature_of(before.model), signature_of(after.model))
    if contract:
        return contract.rstrip(".")
    was, now = (
        {"" if each.domain in DEFAULT_DOMAINS else each.domain: each.version for each in cutter.model.opset_import}
        for cutter in (before, after)
    )
    if any(was.get(domain, version) != version for domain, version in now.items()):
        return "the models import different operator sets"
    return ""


def _movable(found: _Round, common: Correspondence, *, guessed: bool = False) -> set[Pair]:
    """Pairs that need not be equal: whatever reads them is open as well, and may make up for it.

    What takes equal values to equal ones cannot make up for unequal ones, unless the map that makes the difference
    crosses it and is made up for behind it. With `guessed`, pairs that were made by use alone may be wrong as well.
    """
    obligations, readers, unproved = found.obligations, found.readers, found.unproved
    movable: set[Pair] = set()
    for pair in reversed(list(obligations)):
        makes_up = (
            reader in unproved
            or _is_blind(reader, found, common)
            or _takes_part(reader, pair, obligations[reader], common)
            or ((reader in movable or (guessed and _is_guessed(pair))) and _is_crossed(obligations[reader], common))
            for reader in readers.get(pair, ())
        )
        if pair not in found.fixed and pair in readers and all(makes_up):
            movable.add(pair)
    return movable


def _carried(found: _Round, common: Correspondence, *, guessed: bool = False) -> set[Pair]:
    """Pairs that are not equal and need not be, and what lies between them."""
    obligations, readers, unproved = found.obligations, found.readers, found.unproved
    movable = _movable(found, common, guessed=guessed)
    broken = found.broken
    before_broken: set[Pair] = set()
    for pair in reversed(list(obligations)):
        if any(reader in broken or reader in before_broken for reader in readers.get(pair, ())):
            before_broken.add(pair)
    wrong = movable & (broken | (unproved & before_broken))
    for pair, obligation in obligations.items():  # what lies between is wrong with them
        if pair in movable and pair not in unproved and any(premise in wrong for premise in obligation.premises):
            wrong.add(pair)
    return wrong


def _foremost(found: _Round, common: Correspondence, *, trusting: bool) -> set[Pair]:
    """The broken pairs in front of which there are none, as far as a map per channel goes back from them.

    `trusting`: what is unproved behind one of them is taken to make up for it, so that more are found at once.
    """
    broken, unproved, first = found.broken, found.unproved, set[Pair]()
    behind: set[Pair] = set()  # what a map may have reached that made one of them
    for pair, obligation in found.obligations.items():
        reached = not behind.isdisjoint(obligation.premises)
        if pair in broken and not reached:
            first.add(pair)
            behind.add(pair)
        elif pair in unproved:
            if reached and not trusting:
                behind.add(pair)
        elif reached and _is_crossed(obligation, common) and not _has_weights(pair, common):
            behind.add(pair)
    return first


def _has_weights(pair: Pair, common: Correspondence) -> bool:
    place = common.before.producer(pair.old)
    return place is not None and operator_of(common.before.node(place)).weighted


def _is_guessed(pair: Pair) -> bool:
    """Whether two values are paired by their use alone: their readers are still paired by name if these are not."""
    return pair.old.name != pair.new.name


def _takes_part(reader: Pair, value: Pair, obligation: Obligation, common: Correspondence) -> bool:
    """Whether only the shape, the type or a part of a value is read: that may be right where the whole is not."""
    maker = common.before.producer(reader.old)
    places = obligation.before.nodes if obligation.before is not None else [maker] if maker is not None else []
    reads = [
        (node, at)
        for node in map(common.before.node, places)
        for at, name in enumerate(node.input)
        if name == value.old.name
    ]
    return bool(reads) and all(reads_part(node, at) for node, at in reads)


def _is_blind(reader: Pair, found: _Round, common: Correspondence) -> bool:
    """Whether a value is the same whatever entered, as behind a scale of zero: then it makes up for anything."""
    if reader in found.proofs:
        return found.proofs[reader].blind
    obligation = found.obligations[reader]
    if not obligation.settled or not _may_be_blind(reader, common):
        return False
    try:
        return takes_nothing(common.opened(reader), common)
    except Uncut:
        return False


def _may_be_blind(reader: Pair, common: Correspondence) -> bool:
    """Whether the operator that makes a value has a constant that begins with zeros, which takes no time to see."""
    cutter, place = common.before, common.before.producer(reader.old)
    if place is None or not operator_of(cutter.node(place)).crossed:
        return False
    for value in cutter.inputs(place):
        if value is not None and value in cutter.constants:
            with suppress(Unknowable, *MALFORMED):
                if not common.old_constants.weights(value).rows(0, 1).any():
                    return True
    return False


def _is_crossed(obligation: Obligation, common: Correspondence) -> bool:
    """Whether a map per channel may pass every operator that makes a pair."""
    sides = [(common.before, obligation.before), (common.after, obligation.after)]
    places = [(cutter, place) for cutter, piece in sides if piece is not None for place in piece.nodes]
    if obligation.settled:
        place = common.before.producer(obligation.pair.old)
        places = [] if place is None else [(common.before, place)]
    nodes = [cutter.node(place) for cutter, place in places if not cutter.makes_constants(place)]
    return bool(places) and all(operator_of(node).crossed for node in nodes)
