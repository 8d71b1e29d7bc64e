"""The request of one optimization, and its result."""

import os
from collections.abc import Callable
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.onnxfile import OnnxFile, Publication
from bnfold.options import OptimizeOptions
from bnfold.passes import PassOptions
from bnfold.paths import Use, failed_copy, is_same, refuse_conflicts, uses_of
from bnfold.progress import Stage
from bnfold.records import Record
from bnfold.report import Report
from bnfold.sources import AnyModel, is_path

if TYPE_CHECKING:
    from bnfold import equivalence


class Request(Record):
    """One optimization: `output` is a path, or None where the result goes back to the caller.

    `check` compares the written file with what `model` was made from; what it finds against the result decides.
    """

    model: AnyModel
    output: str | os.PathLike[str] | None
    options: OptimizeOptions = field(default_factory=OptimizeOptions)
    check: "Callable[[os.PathLike[str]], equivalence.Verification] | None" = None

    @property
    def target(self) -> str | os.PathLike[str] | None:
        """Where the result will be published, if it is good."""
        return None if self.options.dry_run else self.output

    @property
    def failed_copy(self) -> Path | None:
        """Where a result that failed is kept, NAME.failed.onnx beside the output; None where none is asked for."""
        if self.target is None or not self.options.keep_failed:
            return None
        return failed_copy(self.target)

    @property
    def passes(self) -> PassOptions:
        """The options of the passes, without those that depend on data."""
        options = self.options
        shared = options.shared_with(PassOptions, without=("substitute",))
        return PassOptions(**shared, on_progress=self.stage(Stage.NORMALIZATIONS))

    def stage(self, stage: Stage) -> Callable[[int, int], None] | None:
        """Progress callback for `stage`."""
        progress = self.options.progress
        return None if progress is None else partial(progress, stage)


def refuse_output(output: str | os.PathLike[str] | None, options: OptimizeOptions) -> None:
    """Raise OutputError for an output that can never be written, UsageError for one that is read.

    For whoever makes the model first, which may take minutes: `refuse_overwriting` knows what the model itself reads.
    """
    if output is not None and not options.dry_run:
        refuse_conflicts(uses_of(options), [Use("OUTPUT", Path(output))])
        Publication(output)


def refuse_overwriting(request: Request, file: OnnxFile) -> None:
    """Raise UsageError where the result would be written over a file that is read. In place, over MODEL, it may.

    `file` is the input, as it was read.
    """
    target = request.target
    if target is None:
        return
    reads = [Use("external data of MODEL", data.path) for data in file.data_files]
    reads += uses_of(request.options)
    writes = [Use("OUTPUT", Path(target))]
    model = Use("MODEL", Path(request.model)) if is_path(request.model) else None
    in_place = model is not None and is_same(model.path, Path(target))
    layout = request.options.layout
    if layout is not None and layout.name is not None and not in_place:
        writes.append(Use("the data of OUTPUT", Path(target).parent / layout.name))
    if model is not None and not in_place:
        reads.append(model)
    refuse_conflicts(reads, writes)
    if request.failed_copy is not None:
        refuse_conflicts(reads if model is None else [*reads, model], [Use("the failed result", request.failed_copy)])


class Result(Record):
    """The result of `optimize`: `model` of the kind that was given, or None where it went to a file; and the report.

    A path that was given without an output path gives a ModelProto.
    """

    model: AnyModel
    report: Report

    def __str__(self) -> str:
        """One line: the verdict, what became of the normalizations, and where the model went."""
        return str(self.report)

    def __repr__(self) -> str:
        return f"<Result {self.report}>"

    def _repr_html_(self) -> str:
        """A notebook's view of it."""
        return self.report._repr_html_()
