"""Options that several commands share, with the same words and the same meaning in each."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bnfold.cli.parameters import data_path, input_shape, limit_per_output, numbers, one_shape_per_name, output_limit

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

_VERBOSITY = "bnfold.verbosity"
_NO_PROGRESS = "bnfold.no_progress"


def verbosity_of(ctx: click.Context) -> int:
    """-1 quiet, 0 normal, 1 every detail, 2 tracebacks as well."""
    level: int = ctx.meta.get(_VERBOSITY, 0)
    return level


def _set_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> None:
    if not value:
        return
    if _VERBOSITY in ctx.meta:
        raise click.BadParameter("-q and -v contradict each other", ctx=ctx, param=param)
    ctx.meta[_VERBOSITY] = value


def wants_progress(ctx: click.Context) -> bool:
    """Whether bars may be shown: neither --no-progress nor -q was given."""
    return not ctx.meta.get(_NO_PROGRESS, False) and verbosity_of(ctx) >= 0


def _set_no_progress(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[_NO_PROGRESS] = value


def _applied(*options: Callable[[AnyFunction], AnyFunction]) -> Callable[[AnyFunction], AnyFunction]:
    def decorate(function: AnyFunction) -> AnyFunction:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


verbosity_options = _applied(
    click.option(
        "-q",
        "--quiet",
        type=int,
        flag_value=-1,
        default=0,
        expose_value=False,
        callback=_set_verbosity,
        help="Print only what failed.",
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_set_verbosity,
        help="Print every decision and measurement; -vv also the traceback of an error.",
    ),
)

REPORT_FORMATS = ("json", "html", "markdown", "junit", "github")

_REPORT_PATHS, _REPORT_FORMAT = "bnfold.report.paths", "bnfold.report.format"


def asked_reports(ctx: click.Context) -> tuple[tuple[str, ...], str | None]:
    """The files of `--report`, and `--report-format`."""
    return ctx.meta.get(_REPORT_PATHS, ()), ctx.meta.get(_REPORT_FORMAT)


def _remember(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def remember(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        ctx.meta[key] = value

    return remember


report_option = _applied(
    click.option(
        "--report",
        "report_paths",
        multiple=True,
        type=click.Path(allow_dash=True),
        metavar="FILE",
        expose_value=False,
        callback=_remember(_REPORT_PATHS),
        help="Write a report, also when the run fails: .json, .html, .md, or .xml for JUnit. - is standard output. "
        "Repeatable.",
    ),
    click.option(
        "--report-format",
        "report_form",
        type=click.Choice(REPORT_FORMATS),
        expose_value=False,
        callback=_remember(_REPORT_FORMAT),
        help="Of reports whose name does not tell, json if left out; without --report of one on standard output. "
        "github adds annotations to the text there.",
    ),
)

output_options = _applied(
    click.option("--dry-run", is_flag=True, help="Do everything but write OUTPUT, which may then be left out."),
    click.option("--no-verify", is_flag=True, help="Publish without running the models."),
    click.option("--allow-unverified", is_flag=True, help="Publish also what could not be run and so not compared."),
    click.option("--keep-failed", is_flag=True, help="Write a result that failed beside OUTPUT, as NAME.failed.onnx."),
)

keep_option = click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Keep the normalizations whose node name matches this shell pattern (* and ?). Repeatable.",
)

constants_option = click.option(
    "--assume-constant-initializers",
    is_flag=True,
    help="Treat initializers that are also graph inputs as constants: no caller overrides them, nor does verification.",
)

freeze_options = _applied(
    click.option(
        "--keep-dropout",
        is_flag=True,
        help="Let Dropout in training mode go on dropping, as for Monte-Carlo dropout.",
    ),
    click.option(
        "--accept-initial-statistics",
        is_flag=True,
        help="Freeze also where the stored mean is 0 and the variance 1 everywhere, as in a new layer.",
    ),
)

layout_options = _applied(
    click.option(
        "--external-data",
        is_flag=False,
        flag_value="",
        metavar="[NAME]",
        help="Put the weights into the file NAME beside OUTPUT, OUTPUT.data by default. Write --external-data=NAME.",
    ),
    click.option("--inline", is_flag=True, help="Put all weights into OUTPUT itself, which can hold 2 GiB."),
    click.option(
        "--size-threshold",
        type=click.IntRange(min=0),
        metavar="BYTES",
        help="With --external-data: tensors below this size stay in OUTPUT.  [default: 1024]",
    ),
)

progress_option = click.option(
    "--no-progress",
    is_flag=True,
    expose_value=False,
    callback=_set_no_progress,
    help="Show no bar on standard error, where one would be shown to a terminal.",
)

lower_option = click.option(
    "--lower",
    is_flag=True,
    help="Turn a normalization that stays into Mul and Add, for targets without BatchNormalization.",
)

rewrite_options = _applied(keep_option, constants_option, lower_option)

data_options = _applied(
    click.option(
        "--mode",
        type=click.Choice(["exact", "fast"]),
        default="exact",
        show_default=True,
        help="Read the data once per level of normalizations, or once with each using its batch.",
    ),
    click.option(
        "--statistics",
        type=click.Choice(["population", "torch"]),
        default="population",
        show_default=True,
        help="Over all values, or as torch.optim.swa_utils.update_bn: averages over batches, unbiased.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="NUMBER",
        help="Rows of a file, or images, that run together.",
    ),
    click.option("--mean", type=numbers, default="0", metavar="A,B,C", help="Of images, per channel, in [0, 1]."),
    click.option("--std", type=numbers, default="1", metavar="A,B,C", help="Of images, per channel, in [0, 1]."),
    click.option(
        "--layout",
        "image_layout",
        type=click.Choice(["NCHW", "NHWC"]),
        default="NCHW",
        show_default=True,
        help="Of images.",
    ),
    click.option(
        "--labels",
        metavar="NAME",
        help="The array of DATA that holds the right answers, for the task accuracy; '' for none.  [default: labels]",
    ),
)
_DATA_OPTIONS = ("mode", "statistics", "batch_size", "mean", "std", "image_layout", "labels")


def given_data_options(ctx: click.Context) -> list[str]:
    """Those of `data_options` that the command line holds, as they are spelled there."""
    spelled = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    given = click.core.ParameterSource.COMMANDLINE
    return [spelled[name] for name in _DATA_OPTIONS if ctx.get_parameter_source(name) is given]


proof_option = click.option(
    "--proof/--no-proof",
    "proof",
    default=None,
    callback=lambda _ctx, _param, value: {None: "auto", True: "always", False: "never"}[value],
    help="Prove in float64 that each change is rounding alone. By default: where the models cannot be run, and where "
    "bnfold changed a small one.",
)

mismatch_option = click.option(
    "--on-mismatch",
    type=click.Choice(["fail", "rollback"]),
    default="fail",
    show_default=True,
    help="Where the result differs: publish nothing, or take back the guilty folds and publish the rest.",
)

external_data_option = click.option(
    "--strict-external-data",
    is_flag=True,
    help="Refuse external data behind symbolic links.",
)

feed_options = _applied(
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="NUMBER",
        help="Seed of the random feeds.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        type=input_shape,
        multiple=True,
        callback=one_shape_per_name,
        metavar="NAME:DIMS",
        help="Run this input at this shape, like input:1,3,224,224. Repeatable.",
    ),
    click.option(
        "--inputs",
        type=data_path,
        metavar="DATA",
        help="Compare on these inputs, not on random feeds: an .npz file, a folder of them, or script.py:function.",
    ),
    *(
        click.option(
            f"--{name}",
            type=output_limit,
            multiple=True,
            callback=limit_per_output,
            metavar="[OUTPUT:]NUMBER",
            help=f"{kind} tolerance, instead of the dtype's own, for all outputs or for one. Repeatable.",
        )
        for name, kind in (("rtol", "Relative"), ("atol", "Absolute"))
    ),
    click.option(
        "--provider",
        "providers",
        multiple=True,
        default=("cpu",),
        show_default=True,
        metavar="NAME",
        help="Execution provider to verify on. Repeatable.",
    ),
    click.option(
        "--strict-placement", is_flag=True, help="Not one node may run elsewhere than on the providers asked for."
    ),
)

# MODEL, OUTPUT and what every command that writes a model takes; `bnfold.cli.writing` turns it into what the api takes.
writing_options = _applied(
    click.argument("model", type=click.Path()),
    click.argument("output", type=click.Path(), required=False),
    output_options,
    report_option,
    freeze_options,
    keep_option,
    constants_option,
    external_data_option,
    layout_options,
    feed_options,
    proof_option,
    progress_option,
    verbosity_options,
)
