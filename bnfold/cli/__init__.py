"""The command line: parse, call the api, print, exit. Each command is one file, loaded when it is asked for."""

import click

from bnfold import __version__
from bnfold.cli.shell import Shell

COMMANDS = {
    "optimize": "bnfold.cli.optimize",
    "export": "bnfold.cli.export",
    "freeze": "bnfold.cli.freeze",
    "recalibrate": "bnfold.cli.recalibrate",
    "inspect": "bnfold.cli.inspect",
    "verify": "bnfold.cli.verify",
    "passes": "bnfold.cli.passes",
    "report": "bnfold.cli.report",
    "schema": "bnfold.cli.schema",
    "batch": "bnfold.cli.batch",
    "config": "bnfold.cli.config",
    "serve": "bnfold.cli.serve",
}


@click.group("bnfold", cls=Shell, commands_in=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bnfold", message="%(prog)s %(version)s")
def main() -> None:
    """Fold BatchNormalization into an ONNX model, explain what stays, and prove
    the result equivalent.

    \b
    bnfold optimize in.onnx out.onnx   freeze, fold, verify, write
    bnfold export model.py:make out.onnx   from PyTorch, verified against it
    bnfold freeze in.onnx out.onnx     only undo a forgotten .eval()
    bnfold recalibrate in.onnx out.onnx --data folder   new statistics
    bnfold inspect in.onnx             list every normalization
    bnfold verify a.onnx b.onnx        compare two models
    bnfold passes                      list what --pass knows
    bnfold report render r.json r.html   show a saved report
    bnfold report judge r.json         judge it again, run nothing

    \b
    Exit codes:
      0    equivalent, or done
      1    not equivalent, or not verified
      2    wrong usage
      3    bad or unsupported model, or one that a runtime crashes on
      4    the output could not be written
      5    an execution provider is missing or was bypassed
      6    a limit on time or memory was reached
      70   a bug in bnfold
      129  stopped by SIGHUP
      130  interrupted
      143  stopped by SIGTERM
    """  # noqa: D301 - click marks text it must not wrap with a real backspace
