"""The census of a PyTorch module: the parts that matter for its export, by their paths."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module


class FindingCode(StrEnum):
    """The kind of a finding. The value is the name that reports and messages use."""

    TRAINING_MODE = "TRAINING_MODE"
    LAZY = "LAZY"
    BATCH_STATISTICS = "BATCH_STATISTICS"
    INITIAL_STATISTICS = "INITIAL_STATISTICS"
    SYNCHRONIZED = "SYNCHRONIZED"
    CUMULATIVE_AVERAGE = "CUMULATIVE_AVERAGE"
    PARAMETRIZED = "PARAMETRIZED"
    FROZEN = "FROZEN"


_SENTENCES = {
    FindingCode.TRAINING_MODE: "is in training mode; it is exported as evaluation mode has it, and keeps its mode",
    FindingCode.LAZY: "has parameters without a shape; call the module once on real inputs before it is exported",
    FindingCode.BATCH_STATISTICS: (
        "has no running statistics and normalizes each batch by itself, in evaluation mode too; it cannot be folded. "
        "Train it with track_running_stats=True"
    ),
    FindingCode.INITIAL_STATISTICS: (
        "has running statistics that were never updated (mean 0, variance 1, no batch seen); load the trained "
        "weights, or run it in training mode on data"
    ),
    FindingCode.SYNCHRONIZED: "is SyncBatchNorm, which is BatchNormalization in evaluation mode",
    FindingCode.CUMULATIVE_AVERAGE: "has momentum None: its statistics are the plain average over all batches",
    FindingCode.PARAMETRIZED: "computes {what} from other parameters; the file has the value that it has now",
    FindingCode.FROZEN: "is frozen while other parts are trained; it folds with the values that it has",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found at the part `module`, a path such as ``layer1.0.bn2``; "" is the whole module."""

    code: FindingCode
    module: str
    what: str = ""

    @property
    def text(self) -> str:
        """A sentence for a person."""
        return f"{self.module or 'the module'} {_SENTENCES[self.code].format(what=self.what)}"

    def to_dict(self) -> dict[str, str]:
        """The finding as JSON-able data."""
        return {"code": self.code.value, "module": self.module, "text": self.text}


def census(module: "Module") -> list[Finding]:
    """The findings on the module, in the order of its parts; a part that is used twice is found once."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return [
        finding for path, part in module.named_modules() for finding in _findings(path, part, others_trained=trained)
    ]


def _findings(path: str, part: Any, *, others_trained: bool) -> Iterator[Finding]:
    from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd
    from torch.nn.modules.lazy import LazyModuleMixin

    if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params():  # type: ignore[misc]
        yield Finding(FindingCode.LAZY, path)
        return
    if names := _parametrized(part):
        yield Finding(FindingCode.PARAMETRIZED, path, ", ".join(names))
    if isinstance(part, _BatchNorm | _DropoutNd) and part.training:
        yield Finding(FindingCode.TRAINING_MODE, path)
    if others_trained and _is_frozen(part):
        yield Finding(FindingCode.FROZEN, path)
    if not isinstance(part, _BatchNorm):
        return
    if isinstance(part, SyncBatchNorm):
        yield Finding(FindingCode.SYNCHRONIZED, path)
    if part.running_mean is None or part.running_var is None:
        yield Finding(FindingCode.BATCH_STATISTICS, path)
        return
    if _is_initial(part):
        yield Finding(FindingCode.INITIAL_STATISTICS, path)
    if part.momentum is None:
        yield Finding(FindingCode.CUMULATIVE_AVERAGE, path)


def _parametrized(part: Any) -> list[str]:
    """The parameters that are computed from others: by parametrizations, or by the hooks of older PyTorch."""
    from torch.nn.utils.parametrize import is_parametrized

    if is_parametrized(part):
        return list(part.parametrizations)
    names = dict(part.named_parameters(recurse=False))
    return [name.removesuffix("_g").removesuffix("_orig") for name in names if name.endswith(("_g", "_orig"))]


def _is_frozen(part: Any) -> bool:
    """Whether it is a normalization whose scale and shift take no gradient, or has them as buffers alone.

    The latter is FrozenBatchNorm2d of torchvision and detectron2.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    if type(part).__name__.startswith("FrozenBatchNorm"):
        return True
    own = list(part.parameters(recurse=False)) if isinstance(part, _BatchNorm) else []
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _is_initial(part: Any) -> bool:
    """Whether the statistics are those of construction, and no batch was counted."""
    counted = part.num_batches_tracked
    return (
        (counted is None or int(counted) == 0)
        and not bool(part.running_mean.any())
        and bool((part.running_var == 1).all())
    )
