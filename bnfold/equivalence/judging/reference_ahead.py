"""The reference, loaded beside what comes before its verification."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bnfold.equivalence.judging.run_plan import LEAN, planning
from bnfold.equivalence.runtime.opening import Ahead
from bnfold.equivalence.runtime.sessions import runtime
from bnfold.equivalence.runtime.spending import few_threads
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.errors import BnfoldError
from bnfold.options import VerifyOptions


@contextmanager
def reference_ahead(reference: GivenModel, options: VerifyOptions) -> Iterator[Callable[[], None]]:
    """What begins to load `reference`, beside the rest of the block, if `verify` may begin with running it there.

    To be called once the model is known to be sound. Whoever verifies otherwise in the block makes other sessions.
    """
    with Ahead() as ahead, few_threads(options.threads):

        def begin() -> None:
            if options.proof == "never" or not planning(reference.structure, options)(all_proved=True).is_lean:
                return
            with suppress(BnfoldError):  # that onnxruntime is missing is said where it is needed
                runtime()
                ahead.begin(reference.source, LEAN)

        yield begin
