"""The changes between two models, as far as the files alone tell, and the proofs of them."""

import filecmp
from collections.abc import Iterable

from bnfold.equivalence.judging.tolerance import owners_of
from bnfold.equivalence.proofs.model import prove_with
from bnfold.equivalence.proofs.piece import Proof, Standing
from bnfold.equivalence.structure.dependence import reached
from bnfold.equivalence.structure.scopes import Cutter
from bnfold.equivalence.structure.signature import Source
from bnfold.records import Record


class Changes(Record):
    """`proofs`: one per change. `known`: whether anybody looked; where not, everything may have changed.

    `values`: those of the reference's main graph. `changed`, `unproved`: the ones that depend on any change, and on one
    that is not proved. `unseen`: those of the latter that depend on nothing but differences that no output shows.
    `everywhere`: it could not be told where the models differ.
    """

    proofs: tuple[Proof, ...] = ()
    known: bool = False
    values: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    unproved: frozenset[str] = frozenset()
    unseen: frozenset[str] = frozenset()
    everywhere: bool = False

    def is_untouched(self, value: str) -> bool:
        """Whether a value depends on nothing that was changed: it is the same by definition."""
        return self.none or self._is_free_of(self.changed, value)

    def is_proved(self, value: str) -> bool:
        """Whether everything is proved that a value depends on and that was changed."""
        return self.none or self._is_free_of(self.unproved, value)

    def _is_free_of(self, reached_values: frozenset[str], value: str) -> bool:
        """A value that the main graph does not have is a part of one that it has, or nothing that is known."""
        owner = next((name for name in owners_of(value) if name in self.values), None)
        return self.known and not self.everywhere and owner is not None and owner not in reached_values

    @property
    def none(self) -> bool:
        """Whether the models differ in nothing that their outputs depend on."""
        return self.known and not self.proofs and not self.changed

    @property
    def broken(self) -> tuple[Proof, ...]:
        """Changes that are wrong."""
        return tuple(proof for proof in self.proofs if proof.standing is Standing.BROKEN)

    @property
    def open(self) -> tuple[Proof, ...]:
        """Changes that could be neither proved nor refuted: running alone compares them."""
        return tuple(proof for proof in self.proofs if proof.standing is Standing.UNDECIDED)

    @property
    def all_proved(self) -> bool:
        """Whether nothing is left to show; also where nothing was changed."""
        return self.known and not self.everywhere and not self.unproved

    @property
    def sentence(self) -> str:
        """For people: how many changes there are, and what of them is shown. Empty where nobody looked."""
        if not self.known:
            return ""
        if self.none:
            return "The two differ in nothing that their outputs depend on."
        held, total = len(self.proofs) - len(self.open) - len(self.broken), len(self.proofs)
        if held == total:
            return "The one change is proved." if total == 1 else f"All {total} changes are proved."
        text = f"{held} of {total} changes {'is' if held == 1 else 'are'} proved."
        if self.broken:
            text += f" {len(self.broken)} {'is' if len(self.broken) == 1 else 'are'} no rounding."
        if self.open:
            ends = [proof.output or "the whole" for proof in self.open]
            more = f" and {len(ends) - 3} more" if len(ends) > 3 else ""
            text += f" Compared by running only: what became of {', '.join(ends[:3])}{more}."
        return text


def find_changes(before: Cutter, after: Cutter, seed: int) -> Changes:
    """Prove every change. An output that is a sparse initializer is not looked at, so it counts as changed."""
    proofs = prove_with(before, after, seed)
    graph = before.model.graph
    unread = [value.name for value in graph.output if before.resolve(0, value.name) is None]
    values = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    everywhere = any(not proof.output for proof in proofs)
    unproved = [proof for proof in proofs if proof.standing is not Standing.HOLDS]
    seen = reached(before, _ends(proof for proof in unproved if not proof.unseen))
    return Changes(
        proofs,
        known=True,
        values=frozenset(values.union(*(node.output for node in graph.node))),
        changed=frozenset(reached(before, [*_ends(proofs), *(("", name) for name in unread)])),
        unproved=frozenset(reached(before, [*_ends(unproved), *(("", name) for name in unread)])),
        unseen=frozenset(reached(before, _ends(proof for proof in unproved if proof.unseen)) - seen),
        everywhere=everywhere,
    )


def are_same_files(reference: Source, candidate: Source) -> bool:
    """Whether two models are the same bytes in the same place, or the same bytes that name no other file."""
    if isinstance(reference, bytes) or isinstance(candidate, bytes):
        return isinstance(reference, bytes) and reference == candidate
    try:
        if reference.samefile(candidate):
            return True
        alone = reference.resolve().parent == candidate.resolve().parent
        return alone and filecmp.cmp(reference, candidate, shallow=False)
    except OSError:
        return False


def _ends(proofs: Iterable[Proof]) -> list[tuple[str, str]]:
    return [(proof.scope, proof.output) for proof in proofs]
