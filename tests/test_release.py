"""What a release is made with: the same bytes twice, the tag, the action, the workflow and the images."""

import gzip
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MOMENT = 1_700_000_000


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", REPOSITORY / ".ci/release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sdist(moment: int, owner: str, *, turned: bool) -> bytes:
    """Three files as setuptools packs them: with times, owners and an order of their own."""
    files = {"p/a.py": b"a", "p/run": b"b", "p/z.txt": b"c" * 1000}
    written = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=written, mode="wb", mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in sorted(files.items(), reverse=turned):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(content), moment, owner
            member.mode = 0o775 if name == "p/run" else 0o664
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def test_an_sdist_that_is_packed_anew_says_nothing_of_its_machine(release: ModuleType) -> None:
    one, other = sdist(1_600_000_000, "me", turned=False), sdist(1_650_000_000, "you", turned=True)
    assert one != other
    packed = release.packed_anew(one, MOMENT)
    assert packed == release.packed_anew(other, MOMENT)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = [(each.name, each.mode, each.mtime, each.uname, each.uid) for each in tar.getmembers()]
        assert found == [
            ("p/a.py", 0o644, MOMENT, "", 0),
            ("p/run", 0o755, MOMENT, "", 0),
            ("p/z.txt", 0o644, MOMENT, "", 0),
        ]
        content = tar.extractfile("p/z.txt")
        assert content is not None
        assert content.read() == b"c" * 1000


@pytest.mark.soak
def test_the_same_tree_gives_the_same_files_twice(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        ignored = shutil.ignore_patterns(".git", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
        shutil.copytree(REPOSITORY, tmp_path / name, symlinks=True, ignore=ignored, copy_function=shutil.copy)
        command = [sys.executable, ".ci/release.py", str(tmp_path / f"dist-{name}"), "--no-isolation"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(MOMENT)}
        subprocess.run(command, cwd=tmp_path / name, env=environment, check=True, capture_output=True)
        made.append({path.name: path.read_bytes() for path in (tmp_path / f"dist-{name}").iterdir()})
    assert len(made[0]) == 2
    assert made[0] == made[1]


def test_a_tag_has_to_be_that_of_the_version(release: ModuleType) -> None:
    release.require_tag(f"v{PROJECT['version']}")
    for tag in (PROJECT["version"], "v0.0.0", "main"):
        with pytest.raises(SystemExit):
            release.require_tag(tag)


# ---------------------------------------------------------------------- the action

# What GitHub's "Metadata syntax for GitHub Actions" allows of a composite action.
ACTION_KEYS = {"name", "author", "description", "inputs", "outputs", "runs", "branding"}
STEP_KEYS = {"run", "shell", "if", "name", "id", "env", "working-directory", "uses", "with", "continue-on-error"}


def read(name: str) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
    return content


def test_the_action_is_a_composite_one() -> None:
    action = read("action.yml")
    assert set(action) <= ACTION_KEYS
    assert {"name", "description", "runs"} <= set(action)
    assert set(action["runs"]) == {"using", "steps"}
    assert action["runs"]["using"] == "composite"
    for value in action["inputs"].values():
        assert set(value) <= {"description", "required", "default", "deprecationMessage"}
        assert isinstance(value.get("default", ""), str)
    for value in action["outputs"].values():
        assert set(value) == {"description", "value"}
    for step in action["runs"]["steps"]:
        assert set(step) <= STEP_KEYS
        assert ("run" in step) != ("uses" in step)
        assert "run" not in step or step["shell"] == "bash"


def test_what_the_action_refers_to_exists() -> None:
    action, text = read("action.yml"), (REPOSITORY / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])
    ids = {step["id"] for step in action["runs"]["steps"] if "id" in step}
    assert {name for name, _ in re.findall(r"steps\.([\w-]+)\.outputs\.([\w-]+)", text)} <= ids
    assert set(action["inputs"]["extra"]["description"].split()) & {"cpu", "gpu"} <= set(
        PROJECT["optional-dependencies"]
    )


def test_no_expression_is_written_into_a_script() -> None:
    """What comes from outside reaches a script as a variable: written into it, it could be a command."""
    workflow = read(".github/workflows/publish.yml")
    steps = [
        *read("action.yml")["runs"]["steps"],
        *(step for job in workflow["jobs"].values() for step in job["steps"]),
    ]
    assert [step for step in steps if "${{" in step.get("run", "")] == []


def test_the_script_of_the_action_runs(tmp_path: Path) -> None:
    """The step that runs bnfold, with the command in the place where the step before would have installed it."""
    [step] = [each for each in read("action.yml")["runs"]["steps"] if each.get("id") == "run"]
    folder = tmp_path / "bnfold/bin"
    folder.mkdir(parents=True)
    (folder / "bnfold").write_text(f'#!/bin/sh\nexec {sys.executable} -m bnfold "$@"\n')
    (folder / "bnfold").chmod(0o755)
    arguments = f"{REPOSITORY}/models/digits_cnn.onnx 'a folded.onnx' --keep '/1/*'"
    environment = os.environ | {
        **{name: str(tmp_path / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")},
        "RUNNER_TEMP": str(tmp_path),
        "COMMAND": "optimize",
        "ARGUMENTS": arguments,
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a folded.onnx").exists()
    assert "::notice" in done.stdout
    assert "exit-code=0\n" in (tmp_path / "github_output").read_text()
    assert (tmp_path / "github_step_summary").read_text().startswith("###")
    assert {path.name for path in (tmp_path / "bnfold-reports").iterdir()} == {
        "report.json",
        "report.md",
        "report.sarif",
    }


# ---------------------------------------------------------------------- the workflow and the images


def test_only_a_person_publishes() -> None:
    workflow = read(".github/workflows/publish.yml")
    assert workflow[True] == {"workflow_dispatch": None}  # YAML reads the key `on` as true
    assert workflow["permissions"] == {}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert build["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}
    assert any(step.get("uses", "").startswith("actions/attest-build-provenance@") for step in build["steps"])
    assert any('.ci/release.py dist --tag "$TAG"' in step.get("run", "") for step in build["steps"])
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/Dockerfile"])
def test_an_image_names_what_exists_and_runs_as_nobody(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    [extras] = re.findall(r"'/source\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    lines = [line.split()[0] for line in text.splitlines() if line and line[0].isupper()]
    assert lines[0] == "FROM"
    assert "USER bnfold" in text
    assert lines.index("USER") > lines.index("RUN")


def test_an_image_is_built_of_what_a_wheel_needs() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", "tests"} <= set(ignored)
    needed = {"bnfold", "passes", "pyproject.toml", PROJECT["readme"], "LICENSE"}
    assert not needed & set(ignored)
    assert all((REPOSITORY / name).exists() for name in needed)


def test_metadata_and_licence() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
    assert (REPOSITORY / PROJECT["readme"]).exists()
    assert not [name for name in PROJECT["classifiers"] if name.startswith("License ::")]  # PEP 639: one or the other
