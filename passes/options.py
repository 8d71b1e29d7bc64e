"""What a user may ask of the passes as a whole; each pass has options of its own, made from these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PassOptions:
    """`keep`: shell patterns of node names that stay. `lower`: BatchNormalizations that stay become Mul and Add.

    `fold`, `freeze`: which passes run. `keep_dropout`: Dropout in training mode goes on dropping.
    `accept_initial_statistics`: statistics that were never updated are frozen too.
    """

    keep: tuple[str, ...] = ()
    lower: bool = False
    fold: bool = True
    freeze: bool = False
    keep_dropout: bool = False
    accept_initial_statistics: bool = False
