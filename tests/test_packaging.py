"""What is built from this repository: the wheel's and the sdist's contents, and what `import bnfold` costs."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import bnfold
from bnfold.documentation import DOCUMENTATION

REPOSITORY = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "*.onnx", "*.npz"
)
HEAVY = {
    *("numpy", "onnx", "onnxruntime", "torch", "matplotlib", "jinja2", "rich", "onnx_graphsurgeon", "google.protobuf"),
}
DATA = {"bnfold/py.typed"} | {
    f"bnfold/report/{name}" for name in ("schema-1.json", "page/report.html.jinja", "page/style.css")
}
DATA |= {"bnfold/fleet/page/style.css"}
DATA |= {f"bnfold/service/page/static/{name}" for name in ("page.js", "style.css")}
DATA |= {f"bnfold/service/page/templates/{name}.html" for name in ("base", "index", "job", "missing", "sign_in")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist of this working tree and the wheel built from that sdist, as an installer would."""
    folder = tmp_path_factory.mktemp("packaging")
    # Copied, since a build leaves its folders in the tree it builds.
    shutil.copytree(REPOSITORY, folder / "tree", symlinks=True, ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "tree")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def modules_of_the_tree() -> set[str]:
    inside = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "bnfold").rglob("*.py")}
    passes = {f"bnfold/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "passes").rglob("*.py")}
    return inside | passes


def test_the_wheel_holds_bnfold_alone_with_the_passes_as_files(built: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        names = set(wheel.namelist())
        passes = {name: wheel.read(name) for name in names if name.startswith("bnfold/passes/")}
    dist_info = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - dist_info == modules_of_the_tree() | DATA
    assert len(passes) == len(list((REPOSITORY / "passes").rglob("*.py")))
    for name, content in passes.items():
        assert content == (REPOSITORY / name.removeprefix("bnfold/")).read_bytes()


def test_the_wheel_names_its_license_entry_point_and_extras(built: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        files = {name.partition("/")[2]: wheel.read(name).decode() for name in wheel.namelist() if "dist-info" in name}
    metadata = HeaderParser().parsestr(files["METADATA"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert files["licenses/LICENSE"] == (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    extras = {"cpu", "gpu", "benchmarks", "dask", "dev", "docs", "graphsurgeon", "images", "pytorch", "remote"}
    extras |= {"report", "serve"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    assert "bnfold = bnfold.__main__:run" in files["entry_points.txt"]
    assert "bnfold = bnfold.pytest_plugin" in files["entry_points.txt"]
    unconditional = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith(("onnxruntime", "torch")) for line in unconditional)


def test_the_wheel_works_away_from_the_repository(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        wheel.extractall(tmp_path)
    code = "import bnfold.passes, bnfold.cli; print(bnfold.__file__, bnfold.passes.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=True
    )
    assert done.stdout.decode().split() == [
        str(tmp_path / "bnfold/__init__.py"),
        str(tmp_path / "bnfold/passes/__init__.py"),
    ]


def test_the_sdist_holds_what_the_wheel_and_its_tests_need(built: Path) -> None:
    with tarfile.open(only(built, "*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    sources = {
        name if not name.startswith("bnfold/passes/") else name[len("bnfold/") :] for name in modules_of_the_tree()
    }
    assert sources <= names
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"} | DATA <= names


def test_the_version_stands_once_in_meaning() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == bnfold.__version__


def test_the_address_of_the_documentation_stands_once_in_meaning() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import bnfold",
        "import bnfold.cli",
        "import bnfold.report",
        "import bnfold.errors, bnfold.decisions",
        "import bnfold.pytest_plugin",
        "from bnfold.cli import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n    pass",
        "from bnfold.cli import main\ntry:\n    main(['optimize', '--help'])\nexcept SystemExit:\n    pass",
    ],
)
def test_nothing_heavy_is_imported_before_there_is_work(statement: str) -> None:
    assert loaded_after(statement) & HEAVY == set()


def test_the_api_imports_no_runtime_and_no_framework() -> None:
    loaded = loaded_after("import bnfold\nbnfold.optimize, bnfold.inspect, bnfold.verify")
    assert "numpy" in loaded
    assert loaded & {"onnxruntime", "torch", "matplotlib", "rich", "onnx_graphsurgeon"} == set()


def test_no_extra_is_needed_for_a_model_that_is_no_graph_of_graphsurgeon() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert not [name for name in project["dependencies"] if name.startswith("onnx-graphsurgeon")]
    assert project["optional-dependencies"]["graphsurgeon"]
    missing = "import sys; sys.modules['onnx_graphsurgeon'] = None\n"
    model = "from pathlib import Path\nmodel = Path('models/digits_cnn.onnx').read_bytes()\n"
    made = "import bnfold; assert isinstance(bnfold.optimize(model, verify=False).model, bytes)"
    assert "bnfold.sources" in loaded_after(missing + model + made)
