"""Usage errors: one line each, with what was probably meant."""

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from bnfold.cli.configuration import settings_of
from bnfold.errors import nearest_name

COMMANDS_MEANT = {
    "check": "verify",
    "compare": "verify",
    "convert": "optimize",
    "fold": "optimize",
    "info": "inspect",
    "list": "inspect",
    "run": "optimize",
    "server": "serve",
    "show": "inspect",
    "simplify": "optimize",
}
"""The command here for the name of one in other tools."""

OPTIONS_MEANT = {
    "--cuda": "--provider cuda",
    "--data-path": "--data",
    "--ep": "--provider",
    "--execution-provider": "--provider",
    "--force": "--overwrite",
    "--gpu": "--provider cuda",
    "--input-shapes": "--input-shape",
    "--json": "--report -",
    "--no-check": "--no-verify",
    "--out": "--output",
    "--output-file": "--output",
    "--overwrite-input-shape": "--input-shape",
    "--shape": "--input-shape",
    "--silent": "--quiet",
    "--skip-verify": "--no-verify",
    "--tolerance": "--rtol",
    "--yes": "--overwrite",
    "-f": "--overwrite",
    "-y": "--overwrite",
}
"""Options of other tools, and the ones meant. Only an option that the command has is suggested."""


_CONFIGURED = (None, click.core.ParameterSource.DEFAULT_MAP)


def say(message: str) -> None:
    """One line on standard error that names the program."""
    from bnfold.report.text import inert, one_line

    say_as_it_is(inert(f"bnfold: {one_line(message)}"))


def say_as_it_is(text: str) -> None:
    """Text on standard error. Where nobody can be told, the exit code still tells."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


class Mistake(click.ClickException):
    """A usage error that says all in one line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        """Say it on standard error."""
        say(self.message)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Raise what click finds wrong with a command line as a `Mistake`."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise Mistake(_sentence(error)) from error


def _sentence(error: click.UsageError) -> str:
    ctx = error.ctx
    path = ctx.command_path if ctx is not None else "bnfold"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message = f"{_name(ctx)} has no option {error.option_name}{_option_meant(error, ctx)}"
    message = f"{message[:1].lower()}{message[1:]}"
    if isinstance(error, click.BadParameter) and ctx is not None and error.param is not None:
        setting = settings_of(ctx).get(error.param.name or "")
        if setting is not None and ctx.get_parameter_source(error.param.name or "") in _CONFIGURED:
            return f"{setting.origin}: {message}"
    if isinstance(error, click.MissingParameter) and ctx is not None:
        return f"{message}: {path} {' '.join(ctx.command.collect_usage_pieces(ctx)[1:])}"
    return message if message.endswith(("?", "OUTPUT")) else f"{message}; {path} --help tells more"


def _name(ctx: click.Context | None) -> str:
    """The command without the program, as which the message begins already, whether `bnfold` or `python -m bnfold`."""
    if ctx is None:
        return "bnfold"
    return ctx.command_path.removeprefix(ctx.find_root().command_path).lstrip() or "bnfold"


def _option_meant(error: click.NoSuchOption, ctx: click.Context | None) -> str:
    names = [] if ctx is None else [name for param in ctx.command.params for name in param.opts if name[:1] == "-"]
    meant = OPTIONS_MEANT.get(error.option_name)
    if meant is None or meant.split()[0] not in names:
        meant = nearest_name(error.option_name, names)
    return "" if meant is None else f"; did you mean {meant}?"


class Group(click.Group):
    """Commands, of which a near miss is suggested; `help COMMAND` is `COMMAND --help`.

    `usual`: the command that is meant where a file of `suffix` stands in its place.
    """

    def __init__(self, *args: Any, usual: str, suffix: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._usual, self._suffix = usual, suffix

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first of `args` names. Raises click.UsageError."""
        name = args[0]
        if name == "help":
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
            return super().resolve_command(ctx, [*args[1:2], "--help"])
        if self.get_command(ctx, name) is None and name[:1] != "-":
            ctx.fail(self._refusal(ctx, name))
        return super().resolve_command(ctx, args)

    def _refusal(self, ctx: click.Context, name: str) -> str:
        known = self.list_commands(ctx)
        meant = COMMANDS_MEANT.get(name.lower())
        if meant not in known:
            meant = nearest_name(name.lower(), known)
        if meant is None and name.endswith(self._suffix):
            return f"a command comes before {name}: {ctx.command_path} {self._usual} {name} OUTPUT"
        suggested = "" if meant is None else f"; did you mean {meant}?"
        return f"{_name(ctx)} has no command {name!r}{suggested}"
