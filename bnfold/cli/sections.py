"""The options of `bnfold COMMAND --help` in sections, which the option table names."""

from typing import Any

import click

from bnfold.options.fields import SECTIONS

OUTPUT, MESSAGES, PROCESS = "Output", "Reports and messages", "Process"
_OWN = "Options"


class SectionedOption(click.Option):
    """An option that knows its section."""

    def __init__(self, *args: Any, section: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help has a heading for each section that it has options of."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write first what is the command's own, then the sections in the order of `SECTIONS`."""
        rows: dict[str, list[tuple[str, str]]] = {section: [] for section in (_OWN, *SECTIONS)}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None and isinstance(param, click.Option):
                section = PROCESS if param.name == "help" else getattr(param, "section", _OWN)
                rows[section].append(row)
        for section, found in rows.items():
            if found:
                with formatter.section(section):
                    formatter.write_dl(found)
