"""`bnfold config`: what configuration says."""

from pathlib import Path

import click

from bnfold.cli.configuration import check_variables, nearest, read, settings_for, words_of
from bnfold.cli.delivery import write_out
from bnfold.cli.mistakes import Group
from bnfold.cli.shell import Shell


@click.group("config", cls=Group, usual="show", suffix=".toml", short_help="Show what configuration says, and where.")
def command() -> None:
    """Show the values that flags have where the command line does not say: from the nearest bnfold.toml or
    [tool.bnfold] of a pyproject.toml, and from variables BNFOLD_*, which go before it.
    """


@command.command("show", short_help="Show each value and where it comes from.")
@click.argument("name", metavar="[COMMAND]", required=False)
@click.option("--config", type=click.Path(), metavar="FILE", help="The file to read, in place of the nearest.")
@click.pass_context
def show_command(ctx: click.Context, /, name: str | None, config: str | None) -> None:
    """Show what each flag of COMMAND is and where that comes from; without COMMAND, what is configured of any."""
    from bnfold.report.text import inert, one_line

    shell = ctx.find_root().command
    assert isinstance(shell, Shell)
    names = shell.list_commands(ctx) if name is None else [name]
    commands = {each: shell.get_command(ctx, each) for each in names}
    file = nearest() if config is None else read(Path(config))
    if file is not None:
        file.check(shell.known())
    check_variables(shell, shell.known)
    lines = [f"file: {'none' if file is None else file.path}"]
    for each, found in commands.items():
        if found is None:
            raise click.BadParameter(f"there is no command {each!r}", ctx=ctx)
        if isinstance(found, click.Group):
            continue
        settings = settings_for(found, file)
        for word, option in words_of(found).items():
            setting = settings.get(option.name or "")
            if setting is not None:
                lines.append(f"{each} --{word}: {_shown(setting.value)} ({setting.origin})")
            elif name is not None:
                lines.append(f"{each} --{word}: {_shown(option.to_info_dict()['default'])} (default)")
    write_out("".join(inert(one_line(line)) + "\n" for line in lines))


def _shown(value: object) -> str:
    if value is None or value == ():
        return "not given"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
