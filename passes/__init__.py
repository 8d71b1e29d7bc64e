"""The algebra and the passes: rewrites that are exact in real arithmetic, each with the condition under which it is.

`default_passes` is the one table of their order.
"""

from collections.abc import Callable

from bnfold.passes.fold_batch_norm import FoldBatchNorm, FoldBatchNormOptions
from bnfold.passes.options import PassOptions
from bnfold.passes.protocol import Pass, Preserves

__all__ = ["FoldBatchNorm", "FoldBatchNormOptions", "Pass", "PassOptions", "Preserves", "default_passes"]

# In the order in which they run.
ORDER: tuple[Callable[[PassOptions], Pass], ...] = (
    lambda options: FoldBatchNorm(FoldBatchNormOptions(keep=options.keep, lower=options.lower)),
)


def default_passes(options: PassOptions | None = None) -> list[Pass]:
    """The passes of `optimize`, in order, as `options` asks."""
    return [make(options or PassOptions()) for make in ORDER]
