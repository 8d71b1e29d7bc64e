"""The options of the passes as a whole; each pass has options of its own, made from these."""

from collections.abc import Mapping
from dataclasses import field

from bnfold.passes.substitute_batch_norm import SubstituteBatchNormOptions
from bnfold.progress import StageProgress
from bnfold.records import Record
from bnfold.statistics import Statistics


class PassOptions(Record):
    """`keep`: shell patterns of node names that stay. `lower`: BatchNormalizations that stay become Mul and Add.

    `explain`: the name of a node whose walk is to be told. `fold`, `freeze`: which passes run. `statistics`: new
    ones, by scope and label. `substitute`: another normalization for BatchNormalization. `keep_dropout`: Dropout in
    training mode goes on dropping. `accept_initial_statistics`: statistics that were never updated are frozen too.
    `on_progress`: is called now and then with how many places of a scope were looked at, and how many there are.
    `forbidden`: folds that were found to be wrong, by scope and label of the normalization: it stays, and what stands
    in one run with it. `bias_adds`: a constant gain or bias goes into the linear operator beside it.
    `merge_branches`, `fold_constants`: parallel linear branches become one operator, and expressions of constants are
    stored, where anything is folded at all.
    `assume_spatial`: spatial = 0 with one parameter per channel is read as spatial = 1.
    """

    keep: tuple[str, ...] = ()
    lower: bool = False
    fold: bool = True
    freeze: bool = False
    statistics: Mapping[tuple[str, str], Statistics] = field(default_factory=dict)
    keep_dropout: bool = False
    accept_initial_statistics: bool = False
    explain: str | None = None
    substitute: SubstituteBatchNormOptions | None = None
    on_progress: StageProgress | None = None
    forbidden: frozenset[tuple[str, str]] = frozenset()
    bias_adds: bool = True
    merge_branches: bool = True
    fold_constants: bool = True
    assume_spatial: bool = False
