"""The plan of runs: the runs that decide most come first, and a budget of work ends them.

The budget counts estimated work, never time: a run is the same on every machine. What is proved is run to see that it
runs and stays finite: at the price of both sessions once, on more feeds as far as a floor lasts that small models never
reach. What is compared by running only may cost four times as much.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import field
from functools import partial

from bnfold.equivalence.runtime.opening import Setting
from bnfold.equivalence.runtime.providers import CPU, Precision, Provider
from bnfold.equivalence.runtime.sessions import Optimization
from bnfold.equivalence.runtime.spending import Purse
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.equivalence.structure.signature import signature_of
from bnfold.equivalence.structure.work import HEAVY_ELEMENTS, Work
from bnfold.options import VerifyOptions
from bnfold.records import Record

LEAN = Setting(optimization=Optimization.ON)
"""Where a model runs whose changes are all proved: as users run it."""
FLOOR = 4e9
"""The work that every verification may do: about 0.3 s, since small operators do not reach the speed of large ones."""
BY_RUNNING = 4
"""A comparison by running alone may do this many times the work of both sessions once."""
_LARGE_RUN, _LARGE_SESSION = 1e9, 2e9
_ONE_THREAD = 2e8
"""Below this a second thread takes longer to wake than it saves."""
_SESSIONS = 3
"""The reference's and the candidate's, without the runtime's optimizations, and the candidate's with them."""
_FEW_ROWS, _MANY_ROWS = 4, 24
"""All feeds together in rows, of a model with large inputs and of another."""


class RunPlan(Record):
    """`base`: the setting that the reference runs in first. `is_lean`: on the CPU that setting alone is compared.

    `is_large`: running the model costs so much that the dearer instruments are asked last. `allowance`: the work that
    feeds beside the first may take. `price`: what one of them takes. `threads`: of each session, 0 as it sees fit.
    `work`: the estimate that all this follows from.
    """

    base: Setting = field(default_factory=Setting)
    is_lean: bool = False
    is_large: bool = False
    allowance: float = math.inf
    price: float = 0.0
    threads: int = 0
    work: Work = field(default_factory=Work)

    @property
    def loads_both(self) -> bool:
        """Whether the sessions of both models may be in memory at once, since they are small."""
        return self.work.session < _LARGE_SESSION

    @property
    def purse(self) -> Purse:
        """The full purse that pays for feeds."""
        return Purse(self.allowance, self.price)

    def settings(self, providers: tuple[Provider, ...]) -> Iterator[Setting]:
        """The settings that the candidate runs in."""
        for provider in providers:
            if self.is_lean and provider is CPU:
                yield self.base
                continue
            for optimization in Optimization:
                yield Setting(provider, optimization)
            if provider.options(Precision.STRICT) != provider.options(Precision.DEPLOY):
                yield Setting(provider, Optimization.ON, Precision.DEPLOY)


THOROUGH = RunPlan()


def plan_of(work: Work, *, heavy: bool, all_proved: bool, thorough: bool) -> RunPlan:
    """The plan that fits into the budget; everything where that is asked for, or fits into the floor.

    `heavy`: the model's inputs are large, so that feeds are few.
    """
    if thorough:
        return RunPlan(work=work)
    if _SESSIONS * (work.session + (_FEW_ROWS if heavy else _MANY_ROWS) * work.run) <= FLOOR:
        return RunPlan(work=work, threads=1 if work.both_once < _ONE_THREAD else 0)
    if all_proved:
        return RunPlan(LEAN, work=work, is_lean=True, is_large=True,
                    allowance=FLOOR - work.both_once, price=2 * work.run)  # fmt: skip
    return RunPlan(
        work=work,
        is_large=work.run >= _LARGE_RUN or work.session >= _LARGE_SESSION,
        allowance=max(FLOOR, BY_RUNNING * work.both_once) - _SESSIONS * work.session,
        price=_SESSIONS * work.run,
    )


def planning(model: GivenModel, options: VerifyOptions) -> Callable[..., RunPlan]:
    """`plan_of` for this model, that needs to know yet whether all is proved."""
    ports = signature_of(model.structure).inputs
    sizes = [math.prod(dim if isinstance(dim, int) else 1 for dim in port.dims or ()) for port in ports]
    thorough = options.thorough or options.layers or options.inputs is not None
    return partial(plan_of, model.work, heavy=sum(sizes) >= HEAVY_ELEMENTS, thorough=thorough)
