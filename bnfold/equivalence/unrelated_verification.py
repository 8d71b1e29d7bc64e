"""Verification of two models that were made apart: outputs of other names, and the cause of a difference in words.

Outputs are paired by position where only their names differ, which exporters make up. Where the two are not
equivalent, what commonly makes such pairs differ is looked for in both, and named with the node and the remedy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx import ModelProto

from bnfold.equivalence.runtime.references import Reference
from bnfold.equivalence.runtime.torch_reference import ModuleReference
from bnfold.equivalence.structure.copies import copied
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.equivalence.structure.likely_causes import likely_causes
from bnfold.equivalence.structure.output_names import rename_outputs, renamed_outputs
from bnfold.equivalence.structure.signature import Source, signature_of
from bnfold.equivalence.verdict import Verdict, Verification
from bnfold.equivalence.verification import verify
from bnfold.options import VerifyOptions


def verify_unrelated(
    reference: GivenModel | Source | Reference, candidate: GivenModel | Source, options: VerifyOptions | None = None
) -> Verification:
    """Compare `candidate` with `reference` as `verify` does; raises what it raises.

    The explanation of a verdict that is not good ends with what is likely to have caused it.
    """
    options = options or VerifyOptions()
    candidate = GivenModel.of(candidate)
    if isinstance(reference, str | bytes | Path):
        reference = GivenModel.of(reference)
    before, after = _structure(reference), candidate.structure
    names = {} if before is None else renamed_outputs(signature_of(before), signature_of(after))
    if not names:
        found = verify(reference, candidate, options)
    else:
        with TemporaryDirectory(prefix="bnfold-verify-") as folder:
            edit = partial(rename_outputs, names=names)
            found = verify(reference, copied(candidate.file, Path(folder) / "candidate.onnx", edit), options)
        found = replace(found, notes=(*found.notes, _paired(names)))
    if found.verdict is Verdict.NOT_EQUIVALENT or (found.verdict is Verdict.NOT_VERIFIED and found.measurements):
        causes = [*_of_module(reference, found), *(likely_causes(before, after))]
        return replace(found, explanation=" ".join([found.explanation, *causes]).strip())
    return found


def _structure(reference: GivenModel | Reference) -> ModelProto | None:
    """The reference's own; None for a module, which takes the candidate's."""
    if isinstance(reference, GivenModel):
        return reference.structure
    return None if reference.given is None else reference.structure()


def _paired(names: Mapping[str, str]) -> str:
    pairs = [f"{old!r} with {new!r}" for old, new in list(names.items())[:3]]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"Outputs of other names were paired by position (candidate with reference): {', '.join(pairs)}{more}."


def _of_module(reference: GivenModel | Reference, found: Verification) -> Iterator[str]:
    """The part of a PyTorch module that runs in training mode although the module evaluates, in a sentence."""
    if isinstance(reference, ModuleReference) and found.feeds:
        parts = reference.training_parts(found.feeds[0]["shapes"])
        if parts:
            more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
            yield (
                f"The PyTorch module runs {parts[0]}{more} in training mode even after .eval(): pass "
                "training=self.training to the function, or use the layer instead."
            )
