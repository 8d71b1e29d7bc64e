"""Several models side by side on the same batches: each batch is read once, whatever made it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.equivalence.feeds.batches import inputs_of
from bnfold.equivalence.feeds.user_data import checked
from bnfold.equivalence.numbers.element_types import Outputs
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.sessions import Optimization
from bnfold.equivalence.structure.signature import Signature


def answers(
    models: Mapping[str, Path], signature: Signature, batches: Iterable[Any]
) -> Iterator[tuple[Any, dict[str, Outputs]]]:
    """Each batch with the outputs of every model of that `signature`, on the CPU, by the names of `models`.

    Where the model's batch is fixed, what it gives out for the parts of a batch is joined. Raises UsageError for
    batches that do not fit, RunFailed where onnxruntime cannot run a model.
    """
    setting = Setting(optimization=Optimization.ON)
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(running(path, setting)) for name, path in models.items()}
        for number, batch in enumerate(batches):
            feeds = [feed for _, feed in checked(inputs_of(batch, signature, number), signature)]
            results = {name: [session.run(feed) for feed in feeds] for name, session in sessions.items()}
            yield batch, {name: _joined(parts) for name, parts in results.items()}


def _joined(parts: list[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if parts[0][name].ndim}
