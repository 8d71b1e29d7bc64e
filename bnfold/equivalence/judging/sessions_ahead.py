"""The sessions of both models, made beside what comes before their verification."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from bnfold.equivalence.judging.run_plan import LEAN, RunPlan, planning
from bnfold.equivalence.runtime.opening import Ahead
from bnfold.equivalence.runtime.providers import CPU, named
from bnfold.equivalence.runtime.sessions import runtime
from bnfold.equivalence.runtime.spending import few_threads
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.errors import BnfoldError
from bnfold.options import VerifyOptions


@contextmanager
def sessions_ahead(reference: GivenModel, options: VerifyOptions) -> Iterator[Callable[[GivenModel], None]]:
    """What begins to load a model, beside the rest of the block, if `verify` may begin with running it there.

    To be called with `reference` once it is known to be sound, and with the candidate once it is written. Whoever
    verifies otherwise in the block makes other sessions.
    """

    @cache
    def plan() -> RunPlan:
        return planning(reference, options)(all_proved=True)

    with Ahead() as ahead, few_threads(options.threads):

        def begin(model: GivenModel) -> None:
            if options.proof == "never" or not plan().is_lean:
                return
            if model is reference or (plan().loads_both and CPU in named(options.providers)):
                with suppress(BnfoldError):  # that onnxruntime is missing is said where it is needed
                    runtime()
                    ahead.begin(model.source, LEAN)

        yield begin
