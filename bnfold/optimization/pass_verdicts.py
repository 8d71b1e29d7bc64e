"""The entry of each pass in the report: its time, its changes, and its part in the verdict."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bnfold.optimization.attempt import Attempt, Suspect
from bnfold.pipeline import Ran
from bnfold.report import GOOD

if TYPE_CHECKING:
    from bnfold.equivalence import Attribution, Proof

_MOST_NAMED = 20
"""Values that are named as compared by running only; the others are counted."""


def passes_of(
    made: Attempt, attribution: "Attribution[Suspect] | None", *, takes_back: bool
) -> tuple[Mapping[str, Any], ...]:
    """Each pass in order: name, preserves, seconds, changes, its verdict and a detail.

    The verdict of a pass is "unchanged" where it changed nothing; "proved" where all that it changed is; "compared"
    where some of it was compared by running only, which `detail` names; "guilty" where the result agrees without it, or
    its result is no sound model, and "taken-back" where it was therefore left out; "not-verified" where nothing is
    known; and "open" where the whole differs and the pass was not found guilty.
    """
    guilty = {} if attribution is None else dict.fromkeys(attribution.guilty)
    proofs = () if made.verification is None else made.verification.proofs
    shares = _shared_out(made.ran, proofs)
    verdicts = []
    for each, own in zip(made.ran, shares, strict=True):
        blamed = each.step in guilty or each.step in made.unsound or any(_key(one) in guilty for one in each.decisions)
        if each.skipped or each.step in made.unsound:
            verdict, detail = "taken-back" if takes_back else "guilty", made.unsound.get(each.step, "")
        elif blamed:
            verdict, detail = "guilty", ""
        else:
            verdict, detail = _verdict(made, each, own)
        verdicts.append(
            {
                "name": each.step.name,
                "preserves": each.preserves,
                "seconds": round(each.seconds, 3),
                "changes": each.changes.to_dict(),
                "verdict": verdict,
                "detail": detail,
            }
        )
    return tuple(verdicts)


def _key(decision: Any) -> tuple[str, str]:
    return decision.scope, decision.node


def _verdict(made: Attempt, each: Ran, proofs: "list[Proof]") -> tuple[str, str]:
    if not each.changes:
        return "unchanged", ""
    if made.verification is None or made.verdict == "not-verified":
        return "not-verified", ""
    if made.verdict == "substituted":
        return "compared", "another function, on purpose"
    if made.verdict not in GOOD:
        return "open", ""
    ends = list(dict.fromkeys(proof.output or "the whole" for proof in proofs if proof.standing != "holds"))
    if not made.verification.shown:  # nobody proved anything
        return "compared", ""
    if not ends:
        return "proved", ""
    more = f" and {len(ends) - _MOST_NAMED} more" if len(ends) > _MOST_NAMED else ""
    return "compared", f"compared by running only: {', '.join(ends[:_MOST_NAMED])}{more}"


def _shared_out(ran: tuple[Ran, ...], proofs: "tuple[Proof, ...]") -> "Iterator[list[Proof]]":
    """The proofs of what each pass changed: those whose piece holds a name that it touched; of what nobody touched by
    name, every pass has a share.
    """
    names = [{proof.output, *proof.nodes, *proof.normalizations} - {""} for proof in proofs]
    owners = [[each for each in ran if each.changes.touched & about and not each.skipped] for about in names]
    for each in ran:
        yield [proof for proof, owned in zip(proofs, owners, strict=True) if each in owned or not owned]
