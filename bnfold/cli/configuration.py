"""Configuration: flags over ``BNFOLD_*`` over the nearest `bnfold.toml` or ``[tool.bnfold]`` of a `pyproject.toml`.

Keys are flags without dashes, at the top for every command that has the flag, or in a table named as the command:

    seed = 7

    [optimize]
    keep = ["head/*"]

A variable is named after the flag: ``BNFOLD_SEED``, ``BNFOLD_KEEP``. Paths in a file are relative to its folder.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

import click

from bnfold.cli.parameters import data_path
from bnfold.cli.sections import PROCESS, SectionedOption
from bnfold.errors import UsageError, nearest_name
from bnfold.paths import require_regular
from bnfold.records import Record

NAMES = ("bnfold.toml", "pyproject.toml")
PREFIX = "BNFOLD_"
_NOT_CONFIGURABLE = {"config", "isolated", "help", "known-sha256", "output", "quiet", "verbose"}
_OTHER_VARIABLES = {"BNFOLD_TOKEN"}
_ISOLATED, _SETTINGS, _FILE = "bnfold.isolated", "bnfold.settings", "bnfold.configuration"

Words = Mapping[str, Collection[str]]
"""The words that each command has: its flags without dashes."""


class Setting(NamedTuple):
    """A value that a flag has where the command line does not say, and where it stands: a file, or a variable."""

    flag: str
    value: Any
    origin: str


class File(Record):
    """A configuration file as it was read: `table` is what concerns bnfold."""

    path: Path
    table: Mapping[str, Any] = field(default_factory=dict)

    def check(self, known: Words) -> None:
        """Raise UsageError for a key that means nothing."""
        anywhere = {word for words in known.values() for word in words}
        for name, value in self.table.items():
            if not isinstance(value, dict):
                self._require(name, anywhere, "no command has an option")
                continue
            self._require(name, known, "there is no command")
            for word in value:
                self._require(word, known[name], f"{name} has no option")

    def settings(self, command: str, words: Collection[str]) -> Iterator[Setting]:
        """The settings of the file for a command that has these words."""
        own = self.table.get(command, {})
        for name, value in self.table.items():
            if name in words and name not in own and not isinstance(value, dict):
                yield Setting(name, value, str(self.path))
        for name, value in own.items():
            yield Setting(name, value, f"{self.path} [{command}]")

    def _require(self, name: str, known: Collection[str], what: str) -> None:
        if name in known:
            return
        meant = nearest_name(name, known)
        raise UsageError(f"{self.path}: {what} {name!r}" + ("" if meant is None else f"; did you mean {meant}?"))


def find(folder: Path) -> File | None:
    """The nearest file, from `folder` upward. Raises UsageError for one that cannot be read."""
    for place in (folder, *folder.parents):
        for name in NAMES:
            path = place / name
            if path.is_file():
                table = _table(path)
                if table is not None:
                    return File(path, table)
    return None


def nearest() -> File | None:
    """The nearest file from the working directory upward. Raises UsageError for one that cannot be read."""
    try:
        return find(Path.cwd())
    except FileNotFoundError:  # the working directory is gone
        return None


def read(path: Path) -> File:
    """Read that file. Raises UsageError where it cannot be read, or has nothing for bnfold."""
    table = _table(path)
    if table is None:
        raise UsageError(f"{path}: has no table [tool.bnfold]")
    return File(path, table)


def _table(path: Path) -> Mapping[str, Any] | None:
    """The table for bnfold; None for a `pyproject.toml` that has none."""
    require_regular(path, "the configuration")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the configuration: {error.strerror or error}") from error
    inside = path.name == "pyproject.toml"
    if inside and b"bnfold" not in content:
        return None
    import tomllib

    try:
        found: Any = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    if inside:
        found = found.get("tool", {}).get("bnfold") if isinstance(found.get("tool", {}), dict) else None
    return found if isinstance(found, dict) else None


def words_of(command: click.Command) -> dict[str, click.Option]:
    """The options that can be configured, by the word that their flag is without its dashes."""
    return {
        flag[2:]: option
        for option in command.params
        if isinstance(option, click.Option)
        for flag in option.opts
        if flag.startswith("--") and flag[2:] not in _NOT_CONFIGURABLE
    }


def settings_for(command: click.Command, file: File | None) -> dict[str, Setting]:
    """By the name of each parameter of the command: what it is where the command line does not say.

    Raises UsageError.
    """
    words = words_of(command)
    found: dict[str, Setting] = {}
    for setting in () if file is None else file.settings(command.name or "", words):
        assert file is not None
        option = words[setting.flag]
        value = _from_toml(option, setting, file.path.parent)
        found[option.name or ""] = Setting(setting.flag, value, setting.origin)
    for word, option in words.items():
        variable = _variable(word)
        text = os.environ.get(variable, "")
        if text:
            value = tuple(text.split()) if option.multiple else text
            found[option.name or ""] = Setting(word, value, variable)
    return found


def check_variables(command: click.Command, known: Callable[[], Words]) -> None:
    """Raise UsageError for a variable that means no flag of any command, and nearly one."""
    own = {_variable(word) for word in words_of(command)} | _OTHER_VARIABLES
    others = [name for name in os.environ if name.startswith(PREFIX) and name not in own]
    words = {word for each in known().values() for word in each} if others else set()
    for name in others:
        meant = nearest_name(name.removeprefix(PREFIX).lower().replace("_", "-"), words)
        if meant is not None and _variable(meant) != name:
            raise UsageError(f"no command has an option for the variable {name}; did you mean {_variable(meant)}?")


def _variable(word: str) -> str:
    return PREFIX + word.upper().replace("-", "_")


def _from_toml(option: click.Option, setting: Setting, folder: Path) -> Any:
    """A value as click takes it. Raises UsageError for one of another type than the flag's."""
    value = setting.value
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{setting.origin}: {setting.flag} is true or false, not {value!r}")
        return value
    listed = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and not option.multiple) or any(
        isinstance(each, dict | list | bool) for each in listed
    ):
        kind = "a list of texts or numbers" if option.multiple else "a text or a number"
        raise UsageError(f"{setting.origin}: {setting.flag} is {kind}, not {value!r}")
    texts = [str(each) for each in listed]
    if isinstance(option.type, click.Path) or getattr(option.type, "func", None) is data_path:
        texts = [text if text == "-" else str(folder / text) for text in texts]
    return tuple(texts) if option.multiple else texts[0]


def with_configuration(command: click.Command, known: Callable[[], Words]) -> click.Command:
    """The command with `--config` and `--isolated`; `known` imports every command to answer."""

    def isolate(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and _SETTINGS in ctx.meta:
            raise UsageError("--config and --isolated contradict each other")
        ctx.meta[_ISOLATED] = value

    def configure(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if ctx.meta.get(_ISOLATED) or ctx.resilient_parsing:
            if value is not None:
                raise UsageError("--config and --isolated contradict each other")
            return
        file = nearest() if value is None else read(Path(value))
        if file is not None:
            file.check(known())
        check_variables(command, known)
        ctx.meta[_FILE] = file
        ctx.meta[_SETTINGS] = found = settings_for(command, file)
        ctx.default_map = {name: setting.value for name, setting in found.items()}

    command.params += [
        SectionedOption(
            ["--isolated"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=isolate,
            section=PROCESS,
            help="Read no configuration: no bnfold.toml, no [tool.bnfold], no variables BNFOLD_*.",
        ),
        SectionedOption(
            ["--config"],
            type=click.Path(),
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=configure,
            section=PROCESS,
            help="The configuration to read, in place of the nearest bnfold.toml or [tool.bnfold].",
        ),
    ]
    return command


def file_of(ctx: click.Context) -> File | None:
    """The file that was read for the command."""
    found: File | None = ctx.meta.get(_FILE)
    return found


def settings_of(ctx: click.Context) -> Mapping[str, Setting]:
    """The settings that configuration gave the command, by the name of the parameter."""
    found: Mapping[str, Setting] = ctx.meta.get(_SETTINGS, {})
    return found
