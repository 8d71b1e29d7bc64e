"""A pytest plugin: the fixture `assert_equivalent`, with options of the command line as its defaults.

    def test_the_deployed_model(assert_equivalent):
        assert_equivalent("trained.onnx", "deployed.onnx")

Nothing but pytest is imported until the fixture is used.
"""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.equivalence import Verification


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of bnfold."""
    group = parser.getgroup("bnfold", "defaults of the fixture assert_equivalent")
    group.addoption(
        "--bnfold-provider", action="append", metavar="NAME", help="Execution provider to verify on. Repeatable."
    )
    for name in ("rtol", "atol"):
        group.addoption(
            f"--bnfold-{name}",
            action="append",
            metavar="[OUTPUT:]NUMBER",
            help="Tolerance instead of the dtype's own, for all outputs or for one. Repeatable.",
        )
    group.addoption("--bnfold-seed", type=int, metavar="NUMBER", help="Seed of the random feeds.")
    group.addoption(
        "--bnfold-strict-placement", action="store_true", help="Not one node may run elsewhere than asked for."
    )


@pytest.fixture
def assert_equivalent(request: pytest.FixtureRequest) -> "Callable[..., Verification]":
    """`bnfold.assert_equivalent` with the options of the command line as defaults; the report is shown on failure."""
    defaults = _defaults(request.config)

    def check(reference: Any, candidate: Any, **options: Any) -> "Verification":
        __tracebackhide__ = True
        from bnfold import assertions

        chosen = defaults | options
        try:
            return assertions.assert_equivalent(reference, candidate, **chosen)
        except assertions.NotEquivalentError as error:
            request.node.add_report_section("call", "bnfold", _report(error.verification, chosen))
            raise

    return check


def _defaults(config: pytest.Config) -> dict[str, Any]:
    """The options of the command line, by the names of `bnfold.verify`. Raises pytest.UsageError."""
    found: dict[str, Any] = {}
    if config.getoption("bnfold_provider"):
        found["providers"] = tuple(config.getoption("bnfold_provider"))
    if config.getoption("bnfold_seed") is not None:
        found["seed"] = config.getoption("bnfold_seed")
    if config.getoption("bnfold_strict_placement"):
        found["strict_placement"] = True
    for name in ("rtol", "atol"):
        texts = config.getoption(f"bnfold_{name}")
        if texts:
            found[name] = _limits(f"--bnfold-{name}", texts)
    return found


def _limits(option: str, texts: list[str]) -> Any:
    import click

    from bnfold.cli.parameters import limit_per_output, output_limit

    try:
        return limit_per_output(None, None, [output_limit(text) for text in texts])
    except click.BadParameter as error:
        raise pytest.UsageError(f"{option}: {error.message}") from error


def _report(verification: "Verification", options: dict[str, Any]) -> str:
    """Every measurement, as `bnfold verify -v` prints them."""
    from bnfold.report import ComparisonReport, print_comparison
    from bnfold.report.lines import Lines

    lines = Lines(width=120)
    report = ComparisonReport.of(verification, "reference", "candidate", options)
    print_comparison(report, lines, verbosity=1)
    return lines.text
