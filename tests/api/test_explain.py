"""The walk of one normalization, told to a person."""

from pathlib import Path

from click.testing import CliRunner

from bnfold.cli import main

PREACT = Path(__file__).parents[2] / "models" / "digits_preact.onnx"
NODE = "/blocks/blocks.1/residual/residual.0/BatchNormalization"


def test_inspect_explains_the_walk_of_one_node() -> None:
    result = CliRunner().invoke(main, ["inspect", str(PREACT), "--explain", NODE])
    assert result.exit_code == 0
    assert "into all operators behind it:\n      stopped: The operator beside it pads with zeros" in result.stdout
    assert "\n      /blocks/blocks.1/residual/residual.1/Conv (Conv) takes it up\n" in result.stdout
    assert result.stdout.count("into all operators behind it:") == 2  # as a whole, and its scale alone: of one node


def test_inspect_cannot_explain_what_is_not_there() -> None:
    result = CliRunner().invoke(main, ["inspect", str(PREACT), "--explain", "nobody"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no walk to explain: 'nobody'" in result.stderr
