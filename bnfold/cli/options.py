"""Options that several commands share, with the same words and the same meaning in each."""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold.cli.parameters import (
    data_path,
    input_shape,
    limit_per_output,
    numbers,
    one_shape_per_name,
    output_limit,
    room,
)
from bnfold.cli.sections import MESSAGES, OUTPUT, SectionedOption
from bnfold.errors import UsageError
from bnfold.options import Option, Options, options_of
from bnfold.options.kinds import (
    Address,
    DataSet,
    Feeds,
    Flag,
    Folder,
    Group,
    Kind,
    Limit,
    Names,
    Numbers,
    Passes,
    Path,
    Shapes,
    Size,
    Text,
    Weights,
    Whole,
    Word,
    commas,
)

if TYPE_CHECKING:
    from bnfold.onnxfile import Layout

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
AnyOptions = TypeVar("AnyOptions", bound=Options)

_VERBOSITY = "bnfold.verbosity"
_NO_PROGRESS = "bnfold.no_progress"
_JSON_PROGRESS = "bnfold.json_progress"
_KNOWN_HASH = "bnfold.known_hash"


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


def wants_json_progress(ctx: click.Context) -> bool:
    """Whether progress is written for a program to read, whatever standard error is."""
    return bool(ctx.meta.get(_JSON_PROGRESS, False))


def _set_progress(ctx: click.Context, _param: click.Parameter, value: str) -> None:
    ctx.meta[_JSON_PROGRESS] = value == "json"


def _set_no_progress(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[_NO_PROGRESS] = value


def known_hash_of(ctx: click.Context) -> str | None:
    """The SHA-256 of MODEL, where whoever started the command has just computed it."""
    found: str | None = ctx.meta.get(_KNOWN_HASH)
    return found


def _set_known_hash(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    ctx.meta[_KNOWN_HASH] = value


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
        cls=SectionedOption,
        section=MESSAGES,
        help="Print only what failed.",
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_set_verbosity,
        cls=SectionedOption,
        section=MESSAGES,
        help="Print every decision and measurement; -vv also the traceback of an error.",
    ),
)

REPORT_FORMATS = ("json", "html", "markdown", "junit", "github", "sarif")

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
        cls=SectionedOption,
        section=MESSAGES,
        help="Write a report, also when the run fails: .json, .html, .md, .xml for JUnit, .sarif for code scanning. "
        "- is standard output. Repeatable.",
    ),
    click.option(
        "--report-format",
        "report_form",
        type=click.Choice(REPORT_FORMATS),
        expose_value=False,
        callback=_remember(_REPORT_FORMAT),
        cls=SectionedOption,
        section=MESSAGES,
        help="Of reports whose name does not tell, json if left out; without --report of one on standard output. "
        "github adds annotations to the text there.",
    ),
)

_LAYOUT = (
    click.option(
        "--external-data",
        is_flag=False,
        flag_value="",
        metavar="[NAME]",
        cls=SectionedOption,
        section=OUTPUT,
        help="Put the weights into the file NAME beside OUTPUT, OUTPUT.data by default. Write --external-data=NAME.",
    ),
    click.option(
        "--inline",
        is_flag=True,
        cls=SectionedOption,
        section=OUTPUT,
        help="Put all weights into OUTPUT itself, which can hold 2 GiB.",
    ),
    click.option(
        "--size-threshold",
        type=click.IntRange(min=0),
        metavar="BYTES",
        cls=SectionedOption,
        section=OUTPUT,
        help="With --external-data: tensors below this size stay in OUTPUT.  [default: 1024]",
    ),
)

known_hash_option = click.option(
    "--known-sha256",
    metavar="HEX",
    expose_value=False,
    callback=_set_known_hash,
    hidden=True,
    help="The SHA-256 of MODEL, for the report: a service has computed it when it received the file.",
)

progress_option = _applied(
    click.option(
        "--progress",
        "progress_form",
        type=click.Choice(["bar", "json"]),
        default="bar",
        expose_value=False,
        callback=_set_progress,
        cls=SectionedOption,
        section=MESSAGES,
        help="Progress on standard error: a bar where that is a terminal, or lines of JSON.  [default: bar]",
    ),
    click.option(
        "--no-progress",
        is_flag=True,
        expose_value=False,
        callback=_set_no_progress,
        cls=SectionedOption,
        section=MESSAGES,
        help="Show no bar on standard error, where one would be shown to a terminal.",
    ),
)


def flags_of(options: type[Options]) -> Callable[[AnyFunction], AnyFunction]:
    """Decorate a command with one flag for each option; `values_of` turns what it is given into the options."""
    return _applied(*_flags(options))


def _flags(options: type[Options]) -> Iterator[Callable[[AnyFunction], AnyFunction]]:
    for each in options_of(options):
        match each.kind:
            case Group(inner):
                yield from _flags(inner)
            case Weights():
                yield from _LAYOUT
            case _ if each.flag:
                yield _flag(each)


_SETTINGS: dict[type[Kind], Callable[[Option], dict[str, Any]]] = {
    Names: lambda each: {"multiple": True, "show_default": bool(each.default)},
    Passes: lambda _: {"multiple": True, "default": (), "callback": lambda _ctx, _param, value: value or None},
    Shapes: lambda _: {"type": input_shape, "multiple": True, "default": (), "callback": one_shape_per_name},
    Limit: lambda _: {"type": output_limit, "multiple": True, "default": (), "callback": limit_per_output},
    Numbers: lambda each: {"type": numbers, "default": commas(each.default), "show_default": True},
    DataSet: lambda _: {"type": data_path},
    Feeds: lambda _: {"type": data_path},
    Path: lambda _: {"type": click.Path()},
    Folder: lambda _: {"type": click.Path(exists=True, file_okay=False)},
    Text: lambda _: {},
    Address: lambda _: {},
}
"""The settings of click for each kind of option."""


def _flag(each: Option) -> Callable[[AnyFunction], AnyFunction]:
    settings: dict[str, Any] = {"help": each.help, "metavar": each.metavar or None, "default": each.default}
    flag = each.flag
    match each.kind:
        case Flag():
            settings |= {"is_flag": True, "default": False}
            if each.default:
                settings["callback"] = lambda _ctx, _param, value: not value
        case Size():
            settings |= {"type": room, "default": str(each.default)}
        case Whole(least):
            settings |= {"type": click.IntRange(min=least), "show_default": True}
        case Word(words, ()):
            settings |= {"type": click.Choice(words), "show_default": True}
        case Word(_, ((on, first), (off, second))):
            flag = f"{on}/{off}"
            chosen = {None: each.default, True: first, False: second}
            settings |= {"default": None, "callback": lambda _ctx, _param, value: chosen[value]}
        case kind:
            settings |= _SETTINGS[type(kind)](each)
    return click.option(flag, each.name, cls=SectionedOption, section=each.section, **settings)


def values_of(options: type[AnyOptions], given: Mapping[str, Any]) -> AnyOptions:
    """The options, from the values that a command was called with. Raises UsageError."""
    values = {each.name: given[each.name] for each in options_of(options) if each.name in given}
    if any(isinstance(each.kind, Weights) for each in options_of(options)):
        values["layout"] = _layout(given["external_data"], given["size_threshold"], inline=given["inline"])
    for each in options_of(options):
        if isinstance(each.kind, Group):
            values[each.name] = values_of(each.kind.options, given)
    return options(**values)


def _layout(external_data: str | None, size_threshold: int | None, *, inline: bool) -> "Layout | None":
    """Where the weights go; None for where the input has them. Raises UsageError for a contradiction."""
    if external_data is None:
        if size_threshold is not None:
            raise UsageError("--size-threshold says what --external-data moves: add that, or leave it out")
        if not inline:
            return None
    elif inline:
        raise UsageError("--external-data and --inline contradict each other")
    from bnfold import onnxfile

    if inline:
        return onnxfile.Layout(onnxfile.Weights.INLINE)
    threshold = onnxfile.SIZE_THRESHOLD if size_threshold is None else size_threshold
    return onnxfile.Layout(onnxfile.Weights.EXTERNAL, external_data or None, threshold)


def given_flags(ctx: click.Context, options: type[Options]) -> list[str]:
    """The flags of `options` that the command line holds."""
    given = click.core.ParameterSource.COMMANDLINE
    return [each.flag for each in options_of(options) if ctx.get_parameter_source(each.name) is given]


_OUTPUT = "bnfold.output"


def _place_of_output(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """OUTPUT, or --output; in a folder, there or not, the file of the model's name."""
    named: str | None = ctx.meta.get(_OUTPUT)
    if named is not None and value is not None:
        raise click.BadParameter("it is given twice, as OUTPUT and with --output", ctx=ctx)
    place = value if named is None else named
    if place is None or place == "-" or not (place.endswith(("/", os.sep)) or pathlib.Path(place).is_dir()):
        return place
    model = ctx.params.get("model")
    if model is None or model == "-" or ".py:" in model:
        raise click.BadParameter(f"{place} is a folder: name the file in it", ctx=ctx)
    from bnfold.addresses import is_address

    if is_address(place):
        return place + pathlib.PurePosixPath(model).name
    inside = pathlib.Path(place, pathlib.Path(model).name)
    if inside.exists() and inside.samefile(model):
        raise click.BadParameter(f"{place} is the folder of {model} itself: name the file in it", ctx=ctx)
    return str(inside)


model_and_output = _applied(
    click.argument("model", type=click.Path(allow_dash=True)),
    click.argument("output", type=click.Path(allow_dash=True), required=False, callback=_place_of_output),
    click.option(
        "-o",
        "--output",
        "named_output",
        type=click.Path(allow_dash=True),
        metavar="OUTPUT",
        is_eager=True,
        expose_value=False,
        callback=_remember(_OUTPUT),
        cls=SectionedOption,
        section=OUTPUT,
        help="The same as OUTPUT: a file, a folder for a file of the model's name, or - for standard output.",
    ),
)
