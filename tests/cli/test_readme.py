"""What the README tells must be so."""

import re
from pathlib import Path

import click

from bnfold.cli import COMMANDS, main
from bnfold.cli.shell import INTERNAL_ERROR
from bnfold.decisions import Reason
from bnfold.errors import BnfoldError
from bnfold.signals import HUNG_UP, INTERRUPTED, TERMINATED

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    _, _, rest = README.partition(f"# {heading}\n")
    return rest.partition("\n#")[0]


def test_the_two_commands_stand_there() -> None:
    assert "\n    pip install '.[cpu]' && bnfold optimize models/digits_cnn.onnx digits_folded.onnx\n" in README
    assert "\n    pip install -e '.[dev]' && pytest\n" in section("Development")


def test_every_reason_is_explained_in_its_own_words() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section("Reasons"), re.MULTILINE)
    assert rows == [(reason.code, reason.sentence) for reason in Reason], (
        "the table of reasons in README.md has to be:\n"
        + "\n".join(f"| `{reason.code}` | {reason.sentence} |" for reason in Reason)
    )


def test_every_exit_code_is_explained() -> None:
    def codes(error: type[BnfoldError]) -> set[int]:
        return {error.exit_code}.union(*(codes(child) for child in error.__subclasses__()))

    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    assert told == {0, INTERNAL_ERROR, HUNG_UP, INTERRUPTED, TERMINATED} | codes(BnfoldError)
    assert {int(code) for code in re.findall(r"^      ?(\d+) ", main.help or "", re.MULTILINE)} == told


def test_every_option_that_is_named_exists() -> None:
    commands = [main.get_command(click.Context(main), name) for name in COMMANDS]
    parameters = [parameter for command in commands if command is not None for parameter in command.params]
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    named = set(re.findall(r"(?<!\S)`?(--[a-z][a-z-]*)", section("The command line")))
    assert named - {"--help"}
    assert named - {"--help"} <= known


def test_every_command_is_introduced() -> None:
    for name in COMMANDS:
        assert f"\n    bnfold {name} " in section("The command line")


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert section(target[1:].capitalize())
        else:
            assert (REPOSITORY / target).exists()
