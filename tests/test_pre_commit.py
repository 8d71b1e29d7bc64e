"""The hook of .pre-commit-hooks.yaml for real: pre-commit installs bnfold from this checkout and judges commits."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.passes.test_freeze_digits import MODELS

REPOSITORY = MODELS.parent
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("pre-commit") is None, reason="pre-commit is not installed"),
    pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="not a checkout"),
]
IDENTITY = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")


def git(folder: Path, *arguments: str, fails: bool = False, **environment: str) -> str:
    done = subprocess.run(
        ["git", *IDENTITY, *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(done.returncode) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_commit_of_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    source, mine = tmp_path / "bnfold", tmp_path / "mine"
    git(REPOSITORY, "checkout-index", "--all", f"--prefix={source}/")
    for folder in (source, mine):
        folder.mkdir(exist_ok=True)
        git(folder, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "as it is")
    revision = git(source, "rev-parse", "HEAD").strip()
    (mine / ".pre-commit-config.yaml").write_text(
        f"repos:\n  - repo: {source}\n    rev: {revision}\n    hooks:\n      - id: bnfold-inspect\n"
    )
    cache = {"PRE_COMMIT_HOME": str(tmp_path / "cache")}
    subprocess.run(["pre-commit", "install"], cwd=mine, env=os.environ | cache, check=True, capture_output=True)
    shutil.copy(MODELS / "digits_cnn_train.onnx", mine / "bad.onnx")
    shutil.copy(MODELS / "digits_cnn.onnx", mine / "good.onnx")
    git(mine, "add", "--all")
    said = git(mine, "commit", "--message", "both", fails=True, **cache)
    assert "bnfold: bad.onnx: EXPORTED_IN_TRAINING_MODE" in said
    assert "good.onnx" not in said
    git(mine, "rm", "--cached", "--quiet", "bad.onnx")
    assert "Passed" in git(mine, "commit", "--message", "the good one", **cache)
