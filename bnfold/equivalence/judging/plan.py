"""How much is run: what decides most comes first, and a large model whose changes are all proved is run once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bnfold.equivalence.runtime.opening import Setting
from bnfold.equivalence.runtime.providers import CPU, Precision, Provider
from bnfold.equivalence.runtime.sessions import Optimization


@dataclass(frozen=True)
class Plan:
    """`base`: the setting that the reference runs in first. `is_lean`: one feed, and on the CPU that setting alone.

    `is_large`: running the model costs so much that the dearer instruments are asked last.
    """

    base: Setting = field(default_factory=Setting)
    is_lean: bool = False
    is_large: bool = False

    def settings(self, providers: tuple[Provider, ...]) -> Iterator[Setting]:
        """Those that the candidate runs in."""
        for provider in providers:
            if self.is_lean and provider is CPU:
                yield self.base
                continue
            for optimization in Optimization:
                yield Setting(provider, optimization)
            if provider.options(Precision.STRICT) != provider.options(Precision.DEPLOY):
                yield Setting(provider, Optimization.ON, Precision.DEPLOY)


THOROUGH = Plan()


def plan_of(*, is_large: bool, all_proved: bool, thorough: bool) -> Plan:
    """Proofs say all of a large model but whether it runs and stays finite: one feed shows it, run as users run it."""
    if thorough or not is_large:
        return THOROUGH
    if not all_proved:
        return Plan(is_large=True)
    return Plan(Setting(optimization=Optimization.ON), is_lean=True, is_large=True)
