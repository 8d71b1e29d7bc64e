"""The options of each command: the one place where an option is added."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from bnfold.options.fields import Options, option
from bnfold.options.kinds import (
    Address,
    Callback,
    DataSet,
    Feeds,
    Flag,
    Folder,
    Group,
    Limit,
    Names,
    Numbers,
    Passes,
    Path,
    Sha256,
    Shapes,
    Size,
    Text,
    Weights,
    Whole,
    Word,
)
from bnfold.progress import Progress

if TYPE_CHECKING:
    from bnfold.onnxfile import Layout

LimitByOutput = float | Mapping[str, float]
"""One number for every output, or numbers by output name, with "" for all that are not named."""

SomeData = str | os.PathLike[str] | Iterable[Any] | Callable[[], Iterable[Any]]
"""The path of a file or folder, ``script.py:function``, or an iterable of batches or a function that returns one."""

Proving = Literal["auto", "always", "never"]
OnMismatch = Literal["fail", "rollback"]

_PROOF = Word(("auto", "always", "never"), switches=(("--proof", "always"), ("--no-proof", "never")))
_SWITCHED_OFF = "Publish without running the models."


class _Calling(Options):
    """The options of every function of the library."""

    isolate: bool = option(Flag(), False, reported=False)


class _Constants(_Calling):
    """The options of what reads a model."""

    assume_constant_initializers: bool = option(
        Flag(),
        False,
        "Treat initializers that are also graph inputs as constants: no caller overrides them, nor does verification.",
    )


class _Comparing(_Constants):
    """The options of a comparison of two models."""

    SECTION: ClassVar[str] = "Verification"

    seed: int = option(Whole(), 0, "Seed of the random feeds.", metavar="NUMBER")
    input_shapes: Mapping[str, Sequence[int]] | None = option(
        Shapes(),
        None,
        "Run this input at this shape, like input:1,3,224,224. Repeatable.",
        flag="--input-shape",
        metavar="NAME:DIMS",
    )
    inputs: SomeData | None = option(
        Feeds(),
        None,
        "Compare on these inputs, not on random feeds: an .npz file, a folder of them, or script.py:function.",
        metavar="DATA",
        remote=False,
    )
    rtol: LimitByOutput | None = option(
        Limit(),
        None,
        "Relative tolerance, instead of the dtype's own, for all outputs or for one. Repeatable.",
        metavar="[OUTPUT:]NUMBER",
    )
    atol: LimitByOutput | None = option(
        Limit(),
        None,
        "Absolute tolerance, instead of the dtype's own, for all outputs or for one. Repeatable.",
        metavar="[OUTPUT:]NUMBER",
    )
    providers: Sequence[str] = option(
        Names(), ("cpu",), "Execution provider to verify on. Repeatable.", flag="--provider", metavar="NAME"
    )
    strict_placement: bool = option(Flag(), False, "Not one node may run elsewhere than on the providers asked for.")
    proof: Proving = option(
        _PROOF,
        "auto",
        "Prove in float64 that each change is rounding alone, and let a proof that fails decide whatever limits are "
        "given. By default both, but limits and data of yours decide where the outputs of foreign changes agree.",
    )

    thorough: bool = option(
        Flag(), False, "Run on all feeds in all settings, whatever that costs and whatever is proved."
    )
    threads: int = option(
        Whole(), 0, "Threads of each session; 0 leaves it to onnxruntime. Few, where runs go side by side.",
        metavar="NUMBER",
    )  # fmt: skip
    distributions: bool = option(Flag(), True, reported=False)


class VerifyOptions(_Comparing):
    """The options of `bnfold.verify`."""

    layers: bool = option(Flag(), False, "Compare values inside the models too, and name the first that diverges.")

    @classmethod
    def of(cls, options: _Comparing) -> Self:
        """The part of another command's options that concerns the comparison."""
        return cls(**options.shared_with(cls))


class _Reading(_Constants):
    """The options of reading a model, and of leaving parts of it as they are."""

    SECTION: ClassVar[str] = "Rewriting"

    keep: Sequence[str] = option(
        Names(),
        (),
        "Keep the normalizations whose node name matches this shell pattern (* and ?). Repeatable.",
        metavar="PATTERN",
    )
    keep_dropout: bool = option(
        Flag(), False, "Let Dropout in training mode go on dropping, as for Monte-Carlo dropout."
    )
    accept_initial_statistics: bool = option(
        Flag(), False, "Freeze also where the stored mean is 0 and the variance 1 everywhere, as in a new layer."
    )
    strict_external_data: bool = option(Flag(), False, "Refuse external data behind symbolic links.")


class _Rewriting(_Reading):
    """The options of the rewrites, which `optimize` does and `inspect` predicts."""

    freeze: bool = option(Flag(), True, "Leave what runs in training mode as it is, Dropout included.")
    bias_adds: bool = option(
        Flag(), True, "Leave a constant gain or bias beside a linear operator where it is: fold normalizations alone."
    )
    merge_branches: bool = option(Flag(), True, "Leave parallel linear branches (RepVGG, ACNet) as they are.")
    fold_constants: bool = option(
        Flag(), True, "Leave expressions of constants as they are, and sequences that are split and taken apart."
    )
    assume_spatial: bool = option(
        Flag(), False, "Read spatial = 0 with one parameter per channel as spatial = 1, as MXNet's exporter meant it."
    )
    lower: bool = option(
        Flag(),
        False,
        "Turn a normalization that stays into Mul and Add, for targets without BatchNormalization.",
    )


class InspectOptions(_Rewriting):
    """The options of `bnfold.inspect`."""

    explain: str | None = option(
        Text(), None, "Tell the walk of this normalization: what was tried and where it stopped.", metavar="NODE"
    )


class CalibrationOptions(Options):
    """The use of data: for statistics, for fitting substitutes, for the task accuracy.

    `mode` "exact" lets each normalization see what the final ones before it make, "fast" lets each use its batch. Exact
    runs the model in segments and keeps what the next one needs: `spill_limit` bytes in memory, beyond them at most
    `spill_budget` bytes in a temporary file in the folder `spill`, where that is given; what does not fit is computed
    again, with the same bits. `scheduler` is the address of a dask cluster whose workers do that, each with some of the
    files, with the same bits; paths mean the same there. `statistics` "torch" gives what
    `torch.optim.swa_utils.update_bn` does. `batch_size` is for files and images. `mean`, `std` and `image_layout` say
    how images become numbers. `labels`: the array that holds labels (None: "labels", where there is one; "": none).
    """

    SECTION: ClassVar[str] = "Data"

    mode: str = option(
        Word(("exact", "fast")),
        "exact",
        "Let each normalization see what the final ones before it make, or let each use its batch.",
    )
    statistics: str = option(
        Word(("population", "torch")),
        "population",
        "Over all values, or as torch.optim.swa_utils.update_bn: averages over batches, unbiased.",
    )
    spill: str | os.PathLike[str] | None = option(
        Folder(),
        None,
        "Keep what exceeds --spill-limit in a temporary file in this folder, instead of computing it again.",
        metavar="DIR",
        remote=False,
    )
    spill_limit: int = option(
        Size(),
        1 << 30,
        "Bytes of values that --mode exact keeps in memory.  [default: 1G]",
        metavar="SIZE",
        remote=False,
    )
    spill_budget: int = option(
        Size(), 16 << 30, "The most bytes of the file in --spill.  [default: 16G]", metavar="SIZE", remote=False
    )
    scheduler: str | None = option(
        Address(),
        None,
        "A dask cluster computes the statistics, from some of the files on each worker; like tcp://host:8786.",
        metavar="ADDRESS",
        remote=False,
    )
    batch_size: int = option(Whole(1), 64, "Rows of a file, or images, that run together.", metavar="NUMBER")
    mean: Sequence[float] = option(Numbers(), (0.0,), "Of images, per channel, in [0, 1].", metavar="A,B,C")
    std: Sequence[float] = option(Numbers(), (1.0,), "Of images, per channel, in [0, 1].", metavar="A,B,C")
    image_layout: str = option(Word(("NCHW", "NHWC")), "NCHW", "Of images: channels first or last.")
    labels: str | None = option(
        Text(),
        None,
        "The array of DATA that holds the right answers, for the task accuracy; '' for none.  [default: labels]",
        metavar="NAME",
    )


class _Writing(_Comparing, _Reading):
    """The options of every command that writes a model."""

    SECTION: ClassVar[str] = "Output"

    verify: bool = option(Flag(), True, _SWITCHED_OFF, section="Verification")
    dry_run: bool = option(Flag(), False, "Do everything but write OUTPUT, which may then be left out.")
    overwrite: bool = option(Flag(), False, "Replace OUTPUT also where it is a model that was not made from MODEL.")
    allow_unverified: bool = option(
        Flag(), False, "Publish also what could not be run and so not compared.", section="Verification"
    )
    keep_failed: bool = option(Flag(), False, "Write a result that failed beside OUTPUT, as NAME.failed.onnx.")
    layout: "Layout | None" = option(Weights(), None)
    checksums: bool = option(Flag(), True, reported=False)
    known_sha256: str | None = option(Sha256(), None, reported=False)
    progress: Progress | None = option(Callback(), None, reported=False)


class FreezeOptions(_Writing):
    """The options of `bnfold.freeze`."""


class DataOptions(CalibrationOptions, _Writing):
    """The options of `bnfold.recalibrate` beside its data."""


class RecalibrateOptions(DataOptions):
    """The options of the command `bnfold recalibrate`: statistics from `data`, or from the file `statistics_from`."""

    SECTION: ClassVar[str] = "Data"

    data: SomeData | None = option(
        DataSet(),
        None,
        "An .npz file, a folder of .npy, .npz or image files, or script.py:function, which returns batches.",
        metavar="DATA",
        remote=False,
    )
    statistics_from: str | os.PathLike[str] | None = option(
        Path(), None, "Take them from a safetensors file instead.", metavar="FILE", remote=False
    )


class OptimizeOptions(_Rewriting, _Writing):
    """The options of `bnfold.optimize`. `freeze` and `recalibrate` are this with `fold` off."""

    SECTION: ClassVar[str] = "Data"

    passes: Sequence[Any] | None = option(
        Passes(),
        None,
        "Run this pass: a name of bnfold passes, script.py:function, or default for the built-in order. NAME:a=1,b=2 "
        "gives it options. Repeatable, in order.  [default: default]",
        flag="--pass",
        metavar="NAME",
        remote=False,
        section="Rewriting",
    )
    fold: bool = option(Flag(), True)
    on_mismatch: OnMismatch = option(
        Word(("fail", "rollback")),
        "fail",
        "Where the result differs: publish nothing, or take back the guilty folds and publish the rest.",
        section="Verification",
    )
    recalibrate: SomeData | None = option(
        DataSet(),
        None,
        "Compute new statistics from data first; for DATA and the options of images see bnfold recalibrate.",
        metavar="DATA",
        remote=False,
    )
    calibration: CalibrationOptions | None = option(Group(CalibrationOptions), None)
    statistics_from: str | os.PathLike[str] | None = option(
        Path(), None, "Take statistics from a safetensors file.", metavar="FILE", remote=False
    )
    substitute: str | None = option(
        Text(),
        None,
        "Another normalization instead: group-norm, group-norm:G, instance-norm or layer-norm. Changes the function.",
        metavar="KIND",
        section="Rewriting",
    )
    substitute_only: Sequence[str] = option(
        Names(),
        (),
        "Substitute only the normalizations whose node name matches this shell pattern. Repeatable.",
        metavar="PATTERN",
        section="Rewriting",
    )
    data: SomeData | None = option(
        DataSet(),
        None,
        "Fit the substitutes to what BatchNormalization gives out on this data.",
        metavar="DATA",
        remote=False,
    )

    @classmethod
    def of(cls, options: FreezeOptions | RecalibrateOptions | Self) -> Self:
        """These options as options of `optimize`."""
        if isinstance(options, cls):
            return options
        shared = options.shared_with(cls)
        if isinstance(options, RecalibrateOptions):
            group = None
            if options.data is not None:
                group = CalibrationOptions(**options.shared_with(CalibrationOptions))
            shared |= {"data": None, "recalibrate": options.data, "calibration": group}
        return cls(**shared, fold=False)


COMMANDS: dict[str, type[Options]] = {
    "optimize": OptimizeOptions,
    "freeze": FreezeOptions,
    "recalibrate": RecalibrateOptions,
    "inspect": InspectOptions,
    "verify": VerifyOptions,
}
"""The class of options of each command."""
