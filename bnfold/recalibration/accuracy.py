"""Task accuracy: the share of labels that a model answers rightly, before and after, on the same batches.

An answer is the position of the largest value along axis 1 of an output [N, K, ...], and a label a whole number from 0
to K - 1; labels have the shape [N, ...]. The output is the first whose shape fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.batches import Data, Source, can_be_read_once
from bnfold.equivalence import (
    RunFailed,
    Signature,
    answers,
    copied,
    evaluate_in_place,
    labels_in,
    make_runnable,
    signature_of,
)
from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile, read
from bnfold.passes import PassOptions, default_passes
from bnfold.progress import StageProgress

DEFAULT_LABELS = "labels"


@dataclass(frozen=True)
class Accuracy:
    """The number of `labels` that each model answers rightly by `output`.

    Models are `before` (the input in evaluation), `recalibrated` (with new statistics, before substitution), `unfitted`
    (substituted, with scale and bias of BatchNormalization) and `after` (the result). Where labels were found that
    cannot be compared, `problem` says why and the rest is empty.
    """

    output: str = ""
    labels: int = 0
    right: Mapping[str, int] | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The accuracy as the JSON report writes it."""
        right = None if self.right is None else dict(self.right)
        return {"output": self.output, "labels": self.labels, "right": right, "problem": self.problem}


class _Incomparable(Exception):  # noqa: N818 - a finding about data, which is an error only where labels were asked for
    """Labels that no output of the model can be compared with."""


def labels_of(data: Data, signature: Signature, labels: str | None) -> str:
    """The name of the labels where a batch is a mapping; "" where there are none. Reads the first batch.

    `labels` None takes those called "labels", if there are any, and "" never takes any. Raises UsageError where labels
    were asked for by name and are not there, or `data` cannot be read once more.
    """
    name = DEFAULT_LABELS if labels is None else labels
    if not name or (labels is None and can_be_read_once(data)):
        return ""
    if can_be_read_once(data):
        raise UsageError("task accuracy reads the data once more, but an iterator can be read once: give a list")
    first = next(iter(Source(data, 1).batches()), None)
    if labels_in(first, signature, name) is not None:
        return name
    if labels is None:
        return ""
    raise UsageError(f"the data has no labels called {name!r}, one for each of its rows")


def task_accuracy(
    original: OnnxFile,
    candidate: Path,
    data: Data,
    passes: PassOptions,
    labels: str | None = None,
    on_progress: StageProgress | None = None,
) -> Accuracy | None:
    """The accuracy of the model in `original`, of the one at `candidate`, and of the steps between that `passes` name.

    For `labels` see `labels_of`. `original` is edited. A model that cannot be run is a `problem`: verification judges
    it. Raises UsageError where labels were asked for by name and are not there or do not fit.
    """
    signature = signature_of(original.proto)
    name = labels_of(data, signature, labels)
    if not name:
        return None
    with TemporaryDirectory(prefix="bnfold-accuracy-") as folder:
        models = _models(original, candidate, passes, Path(folder))
        try:
            return _counted(models, signature, Source(data, 1, on_progress), name)
        except _Incomparable as why:
            if labels is None:
                return Accuracy(problem=str(why))
            raise UsageError(str(why)) from why
        except RunFailed as why:
            return Accuracy(problem=f"onnxruntime cannot run the model on the data: {why}")


def _models(original: OnnxFile, candidate: Path, passes: PassOptions, folder: Path) -> dict[str, Path]:
    """The models to compare, each under the semantics of evaluation."""
    substitute, statistics = passes.substitute, passes.statistics
    models = {"before": copied(original, folder / "before.onnx", evaluate_in_place)}
    if substitute is not None and statistics:
        models["recalibrated"] = copied(
            original, folder / "recalibrated.onnx", lambda model: evaluate_in_place(model, statistics=statistics)
        )
    models["after"] = copied(read(candidate), folder / "after.onnx", make_runnable)
    if substitute is not None and substitute.fits:
        plain = replace(passes, fold=False, explain=None, on_progress=None, substitute=replace(substitute, fits={}))
        models["unfitted"] = _passed(original, plain, folder / "unfitted.onnx")
    return models


def _passed(original: OnnxFile, options: PassOptions, target: Path) -> Path:
    model = Model(original)
    for each in default_passes(options):
        each.run(model)
    model.finish()
    return copied(model.file, target, make_runnable)


def _counted(models: Mapping[str, Path], signature: Signature, source: Source, name: str) -> Accuracy:
    right = dict.fromkeys(models, 0)
    output, count = "", 0
    for batch, outputs in answers(models, signature, source.batches()):
        labels = np.asarray(labels_in(batch, signature, name))
        output = output or _fitting(outputs["before"], labels)
        for model, values in outputs.items():
            right[model] += int((_answered(values, output, labels) == labels).sum())
        count += labels.size
    return Accuracy(output, count, right)


def _fitting(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> str:
    """The first output that answers with a choice of classes for each label."""
    if labels.dtype.kind not in "iu":
        raise _Incomparable(f"the labels are {labels.dtype}, not whole numbers")
    for name, values in outputs.items():
        if values.ndim >= 2 and values.shape[:1] + values.shape[2:] == labels.shape:
            return name
    shapes = ", ".join(f"{name!r} {list(values.shape)}" for name, values in outputs.items())
    raise _Incomparable(
        f"the labels have shape {list(labels.shape)}, and no output chooses among classes for each: {shapes}"
    )


def _answered(outputs: Mapping[str, NDArray[Any]], output: str, labels: NDArray[Any]) -> NDArray[np.intp]:
    values = outputs[output]
    if labels.dtype.kind not in "iu" or values.shape[:1] + values.shape[2:] != labels.shape:
        raise _Incomparable(f"labels of {labels.dtype}, shape {list(labels.shape)}, do not fit output {output!r}")
    if labels.size and not 0 <= labels.min() <= labels.max() < values.shape[1]:
        raise _Incomparable(
            f"the labels go from {labels.min()} to {labels.max()}, but {output!r} has {values.shape[1]} classes"
        )
    found: NDArray[np.intp] = values.argmax(1)
    return found
