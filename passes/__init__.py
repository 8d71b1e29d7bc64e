"""The algebra and the passes: rewrites that are exact in real arithmetic, each with the condition under which it is.

`default_passes` is the one table of their order.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bnfold.passes.assume_spatial import AssumeSpatial
from bnfold.passes.fold_batch_norm import FoldBatchNorm, FoldBatchNormOptions
from bnfold.passes.fold_constants import FoldConstants
from bnfold.passes.freeze_batch_norm import FreezeBatchNorm, FreezeBatchNormOptions
from bnfold.passes.merge_branches import MergeBranches, MergeBranchesOptions
from bnfold.passes.options import PassOptions
from bnfold.passes.protocol import Pass, Preserves
from bnfold.passes.recalibrate_batch_norm import RecalibrateBatchNorm, RecalibrateBatchNormOptions
from bnfold.passes.substitute_batch_norm import Fit, SubstituteBatchNorm, SubstituteBatchNormOptions
from bnfold.passes.unpack_sequences import UnpackSequences

__all__ = [
    "ORDER",
    "AssumeSpatial",
    "Fit",
    "FoldBatchNorm",
    "FoldBatchNormOptions",
    "FoldConstants",
    "FreezeBatchNorm",
    "FreezeBatchNormOptions",
    "MergeBranches",
    "MergeBranchesOptions",
    "Pass",
    "PassOptions",
    "Preserves",
    "RecalibrateBatchNorm",
    "RecalibrateBatchNormOptions",
    "SubstituteBatchNorm",
    "SubstituteBatchNormOptions",
    "UnpackSequences",
    "default_passes",
]


def _assume_spatial(options: PassOptions) -> Pass | None:
    return AssumeSpatial() if options.assume_spatial else None


def _freeze(options: PassOptions) -> Pass | None:
    if not options.freeze:
        return None
    return FreezeBatchNorm(
        FreezeBatchNormOptions(
            keep=options.keep,
            keep_dropout=options.keep_dropout,
            accept_initial_statistics=options.accept_initial_statistics,
        )
    )


def _fold(options: PassOptions) -> Pass | None:
    return FoldBatchNorm(_fold_options(options)) if options.fold else None


def _fold_options(options: PassOptions) -> FoldBatchNormOptions:
    lower = options.lower and not options.merge_branches  # what stays may be a branch
    return FoldBatchNormOptions(
        options.keep, lower, options.explain, options.on_progress, options.forbidden, options.bias_adds
    )


def _merge(options: PassOptions) -> Pass | None:
    """Beside folding only, which goes on behind what was merged."""
    if not options.fold or not options.merge_branches:
        return None
    fold = replace(_fold_options(options), lower=options.lower)
    return MergeBranches(MergeBranchesOptions(options.keep, options.forbidden), fold)


def _unpack(options: PassOptions) -> Pass | None:
    """Before folding, which goes on behind a Split."""
    return UnpackSequences() if options.fold and options.fold_constants else None


def _constants(options: PassOptions) -> Pass | None:
    """Last: folding sees through expressions of constants as they are, and leaves fewer of them."""
    return FoldConstants() if options.fold and options.fold_constants else None


def _recalibrate(options: PassOptions) -> Pass | None:
    return RecalibrateBatchNorm(RecalibrateBatchNormOptions(options.statistics)) if options.statistics else None


def _substitute(options: PassOptions) -> Pass | None:
    return SubstituteBatchNorm(options.substitute) if options.substitute is not None else None


# In the order in which they run, by their classes; None where the options do not ask for a pass.
ORDER: dict[type[Any], Callable[[PassOptions], Pass | None]] = {
    AssumeSpatial: _assume_spatial,
    RecalibrateBatchNorm: _recalibrate,
    FreezeBatchNorm: _freeze,
    SubstituteBatchNorm: _substitute,
    UnpackSequences: _unpack,
    FoldBatchNorm: _fold,
    MergeBranches: _merge,
    FoldConstants: _constants,
}


def default_passes(options: PassOptions | None = None) -> list[Pass]:
    """The passes that `options` asks for, in order."""
    made = [make(options or PassOptions()) for make in ORDER.values()]
    return [each for each in made if each is not None]
