"""What the README and the pages of docs/ tell must be so."""

import re
from pathlib import Path

import click
import pytest

from bnfold.cli import COMMANDS, main
from bnfold.cli.shell import INTERNAL_ERROR
from bnfold.documentation import EXPLAINED_EXIT_CODES
from bnfold.errors import BnfoldError
from bnfold.signals import HUNG_UP, INTERRUPTED, TERMINATED

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def test_the_two_commands_stand_there() -> None:
    assert "\n    pip install '.[cpu]' && bnfold optimize models/digits_cnn.onnx digits_folded.onnx\n" in README
    assert "\n    pip install -e '.[dev]' && pytest\n" in README.partition("# Development\n")[2]


def test_the_readme_is_one_screen() -> None:
    assert len(README.splitlines()) < 70


def test_every_exit_code_is_explained() -> None:
    def codes(error: type[BnfoldError]) -> set[int]:
        return {error.exit_code}.union(*(codes(child) for child in error.__subclasses__()))

    told = {int(code) for code in re.findall(r"^\| (\d+) \|", page("errors.md"), re.MULTILINE)}
    assert told == {0, INTERNAL_ERROR, HUNG_UP, INTERRUPTED, TERMINATED} | codes(BnfoldError)
    assert {int(code) for code in re.findall(r"^      ?(\d+) ", main.help or "", re.MULTILINE)} == told
    sections = {int(code) for code in re.findall(r"^## Exit code (\d+)$", page("errors.md"), re.MULTILINE)}
    assert sections == set(EXPLAINED_EXIT_CODES)


def test_every_option_that_is_named_exists() -> None:
    commands = [main.get_command(click.Context(main), name) for name in COMMANDS]
    parameters = [parameter for command in commands if command is not None for parameter in command.params]
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    named = set(re.findall(r"(?<!\S)`?(--[a-z][a-z-]*)", page("cli.md") + page("cookbook.md")))
    assert named - {"--help"}
    assert named - {"--help"} <= known


def test_every_command_is_introduced() -> None:
    for name in COMMANDS:
        assert f"\nbnfold {name} " in page("cli.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = {
        re.sub(r"[^\w]+", "-", each.lower()).strip("-") for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (path.parent / target.partition("#")[0]).exists(), target
