"""What a user may ask of the passes as a whole; each pass has options of its own, made from these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PassOptions:
    """`keep`: shell patterns of node names that stay. `lower`: BatchNormalizations that stay become Mul and Add."""

    keep: tuple[str, ...] = ()
    lower: bool = False
