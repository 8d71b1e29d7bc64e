"""The options of a verification."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bnfold.equivalence.feeds.user_data import Inputs
from bnfold.equivalence.judging.tolerance import Tolerance
from bnfold.equivalence.runtime.providers import named
from bnfold.progress import StageProgress

Proving = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class VerifyOptions:
    """`input_shapes`: sizes for dynamic inputs by name. `inputs`: the caller's own data instead of seeded feeds.

    `proof`: whether every difference between the models is proved in float64 to be a rounding. "auto": where the
    reference is a model file; a broken proof then overrules outputs that agree, unless `inputs` or `tolerance` say what
    agreement is, or the difference may be the rounding of another tool. "always": a broken proof always does, and a
    PyTorch module is an error. "never". Where nothing could be run, proofs that all hold give the verdict PROVED.
    `on_progress`: is called with how many feeds were compared, and how many there are in all settings.
    `layers`: also look at values inside the models, and say which diverges first. `assume_constant_initializers`: no
    caller replaces an initializer that is also an input, so none is replaced in any feed.
    `thorough`: run on all feeds in all settings, whatever that costs and whatever is proved. `threads`: of each
    session, 0 as onnxruntime sees fit, one for a tiny model. `distributions`: whether more is measured than the verdict
    rests on. `providers`: cpu, cuda, openvino, webgpu. `strict_placement`: not one node
    may run on another provider.
    """

    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Inputs | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    providers: tuple[str, ...] = ("cpu",)
    strict_placement: bool = False
    proof: Proving = "auto"
    on_progress: StageProgress | None = None
    layers: bool = False
    assume_constant_initializers: bool = False
    thorough: bool = False
    threads: int = 0
    distributions: bool = True

    def __post_init__(self) -> None:
        """Keep what an iterator gives: the feeds are read more than once. Raises UsageError for unknown providers."""
        named(self.providers)
        if isinstance(self.inputs, Iterator):
            object.__setattr__(self, "inputs", list(self.inputs))
