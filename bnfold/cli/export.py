"""`bnfold export`: a PyTorch module to a verified file."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli.mistakes import say
from bnfold.cli.options import flags_of, model_and_output, progress_option, report_option, verbosity_options
from bnfold.cli.sections import SectionedCommand
from bnfold.cli.writing import delivered, prepared
from bnfold.errors import UsageError
from bnfold.options import OptimizeOptions

if TYPE_CHECKING:
    from bnfold.torch_export import Finding

_MOST_ALIKE = 3
_MAKES = "it makes the module and the arguments of one call: (module, args) or (module, args, kwargs)"


@click.command(
    "export",
    cls=SectionedCommand,
    short_help="Export a PyTorch module, optimize it, and verify the file against the module.",
)
@model_and_output
@click.option("--checkpoint", type=click.Path(), metavar="FILE", help="Weights for it: .safetensors, or a state_dict.")
@click.option("--opset", type=click.IntRange(min=18), metavar="NUMBER", help="Of the file; the exporter's if left out.")
@click.option("--input-name", "input_names", multiple=True, metavar="NAME", help="In order; as in forward if left out.")
@click.option("--output-name", "output_names", multiple=True, metavar="NAME", help="In order. Repeatable.")
@click.option("--as-is", is_flag=True, help="Leave the mode of each part alone, where evaluation mode is the default.")
@click.option("--strip-traces", is_flag=True, help="Leave out what PyTorch notes of the source code, such as paths.")
@flags_of(OptimizeOptions)
@report_option
@progress_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    output: str | None,
    checkpoint: str | None,
    opset: int | None,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    as_is: bool,
    strip_traces: bool,
    **given: Any,
) -> None:
    """Export the PyTorch module that MODEL makes, script.py:function, optimize it, and write it to OUTPUT.

    The function takes nothing and returns the module and the arguments of one call: (module, args) or
    (module, args, kwargs). OUTPUT is written only after it was run against the module itself. The script is run.
    """
    options = prepared(ctx, OptimizeOptions, given)
    module, args, kwargs = _made(model)
    from bnfold import torch_export

    if checkpoint is not None:
        torch_export.load_checkpoint(module, Path(checkpoint))

    def make(place: str | None, asked: OptimizeOptions) -> Any:
        made = torch_export.export_with(
            module,
            args,
            kwargs,
            place,
            asked,
            input_names=input_names or None,
            output_names=output_names or None,
            opset=opset,
            mode="as-is" if as_is else "eval",
            strip_traces=strip_traces,
        )
        for line in _told(made.findings):
            say(line)
        return made.report

    delivered(ctx, model, output, options, make)


def _told(findings: Iterable["Finding"]) -> Iterator[str]:
    """A line for each finding; for many of one kind, one with the first, and how many there are."""
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(finding.code, []).append(finding)
    for code, some in alike.items():
        each = some if len(some) <= _MOST_ALIKE else some[:1]
        more = f" ({len(some) - 1} more like it)" if len(each) < len(some) else ""
        yield from (f"{code}: {finding.text}{more}" for finding in each)


def _made(script: str) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    """The result of the script's function. Raises UsageError."""
    from bnfold.batches import beside, load_script, script_of

    found = script_of(script)
    if found is None:
        raise UsageError(f"{script}: name a function of a script, like model.py:make_model; {_MAKES}")
    function = load_script(*found)
    if not callable(function):
        raise UsageError(f"{found[0]}: has no function {found[1]!r}")
    try:
        with beside(found[0]):
            made = function()
    except Exception as error:  # whatever the script of a user raises
        raise UsageError(f"{script}: raises {type(error).__name__}: {error}") from error
    match made:
        case (module, tuple(args)):
            return module, args, {}
        case (module, tuple(args), dict(kwargs)):
            return module, args, kwargs
    raise UsageError(f"{script}: gives a {type(made).__name__}; {_MAKES}")
