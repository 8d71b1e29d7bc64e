"""Who may import whom. The imports are read from the source, so an import inside a function counts as well."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# A room imports from rooms with a smaller number, and from itself.
LAYERS = {
    "atomic": 0,
    "errors": -1,
    "cluster": 1,
    "late_imports": -1,
    "lifetime": -1,
    "records": -1,
    "activity": 0,
    "streams": 0,
    "supervision": 1,
    "process": 0,
    "progress": 0,
    "running_hash": 0,
    "writeback": 0,
    "decisions": 0,
    "addresses": 2,
    "documentation": 1,
    "signals": 0,
    "batches": 1,
    "onnxfile": 1,
    "statistics": 1,
    "graph": 2,
    "options": 2,
    "passes": 3,
    "paths": 3,
    "equivalence": 3,
    "isolated": 2,
    "pipeline": 4,
    "recalibration": 4,
    "report": 4,
    "rewriting": 5,
    "sources": 4,
    "job": 4,
    "optimization": 6,
    "api": 7,
    "assertions": 8,
    "testing": 8,
    "service": 7,
    "integrations": 8,
    "torch_export": 8,
    "fleet": 8,
    "cli": 9,
    "__main__": 10,
    "pytest_plugin": 10,
}

# The floors of the equivalence room: each imports from floors with a smaller number, and from itself.
FLOORS = {
    "operators": 0,
    "structure": 1,
    "numbers": 2,
    "feeds": 3,
    "proofs": 4,
    "runtime": 4,
    "judging": 5,
    "verdict": 6,
    "verification": 7,
    "frozen_verification": 8,
    "saved_verification": 8,
    "unrelated_verification": 8,
}

# The packages a room may import outside the standard library: when it is imported, and inside functions only.
AT_IMPORT: dict[str, set[str]] = {
    "batches": {"numpy"},
    "onnxfile": {"numpy", "onnx", "google"},
    "statistics": {"numpy"},
    "graph": {"numpy", "onnx", "google", "ml_dtypes"},
    "passes": {"numpy", "onnx"},
    "equivalence": {"numpy", "onnx", "google", "ml_dtypes"},
    "pipeline": {"onnx"},
    "recalibration": {"numpy", "onnx"},
    "rewriting": {"google", "numpy", "onnx"},
    "sources": {"onnx"},
    "optimization": {"onnx"},
    "api": {"numpy", "onnx"},
    "testing": {"numpy", "onnx"},
    "service": {"fastapi", "jinja2", "prometheus_client", "pydantic", "starlette", "uvicorn"},
    "integrations": {"olive", "onnx_ir"},
    "torch_export": {"numpy", "onnx"},
    "cli": {"click"},
    "pytest_plugin": {"pytest"},
}
WHEN_CALLED: dict[str, set[str]] = {
    "addresses": {"fsspec", "huggingface_hub"},
    "batches": {"PIL"},
    "equivalence": {"onnxruntime", "torch"},
    "rewriting": {
        "aimet_onnx",
        "onnx_graphsurgeon",
        "onnx_ir",
        "onnxoptimizer",
        "onnxruntime",
        "onnxscript",
        "onnxsim",
        "onnxslim",
    },
    "sources": {"onnx_graphsurgeon"},
    "cluster": {"distributed"},
    "fleet": {"distributed"},
    "recalibration": {"distributed"},
    "torch_export": {"safetensors", "torch"},
    "report": {"jinja2", "markupsafe", "matplotlib"},
    "cli": {"rich"},
    "pytest_plugin": {"click"},
}


@dataclass(frozen=True)
class Import:
    module: str
    lazy: bool  # inside a function, or only for the type checker


def room_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return parts[0] if parts[0] == "passes" else parts[1]


def imports_of(tree: ast.AST, *, lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, lazy) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert not level, "relative imports hide which room they reach"
                yield from (Import(f"{module}.{alias.name}", lazy) for alias in names)
            case _:
                yield from imports_of(node, lazy=lazy or _is_lazy(node))


def _is_lazy(node: ast.AST) -> bool:
    for_type_checker = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return for_type_checker or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def violations(room: str, source: str) -> list[str]:
    found = []
    for item in imports_of(ast.parse(source)):
        package, _, rest = item.module.partition(".")
        if package == "bnfold":
            other = rest.partition(".")[0]
            if other != "__version__" and other != room and LAYERS[other] >= LAYERS[room]:
                found.append(f"{room} imports {item.module}, which is not above it")
            if room == "passes" and other == "onnxfile":
                found.append("passes sees a model only through bnfold.graph")
        elif package == "onnx" and room == "passes" and not item.module.endswith("Proto"):
            found.append(f"passes imports {item.module}: of onnx only the protobuf classes")
        elif package not in sys.stdlib_module_names:
            allowed = AT_IMPORT.get(room, set()) | (WHEN_CALLED.get(room, set()) if item.lazy else set())
            if package not in allowed:
                found.append(f"{room} imports {item.module}" + ("" if item.lazy else " outside a function"))
    return found


SOURCES = sorted(
    path
    for folder in ("bnfold", "passes")
    for path in (REPOSITORY / folder).rglob("*.py")
    # bnfold/passes is a link to passes, which is read itself; bnfold/__init__.py belongs to no room.
    if not path.is_relative_to(REPOSITORY / "bnfold/passes") and path != REPOSITORY / "bnfold/__init__.py"
)


ROOM = re.compile(r"^\| (-?\d+) \| `(?:bnfold/)?(\w+)(?:/|\.py)`")


def test_the_table_for_contributors_holds_every_room_and_its_layer() -> None:
    lines = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    table = [(found[2], int(found[1])) for line in lines if (found := ROOM.match(line))]
    assert dict(table) == LAYERS
    assert len(table) == len(LAYERS)
    assert [layer for _, layer in table] == sorted(layer for _, layer in table)


def test_every_room_is_read() -> None:
    assert {room_of(path) for path in SOURCES} == set(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_room_imports_only_from_above(path: Path) -> None:
    assert violations(room_of(path), path.read_text(encoding="utf-8")) == []


EQUIVALENCE = REPOSITORY / "bnfold/equivalence"
FLOOR_SOURCES = [path for path in SOURCES if path.is_relative_to(EQUIVALENCE) and path != EQUIVALENCE / "__init__.py"]


def floor_violations(floor: str, source: str) -> list[str]:
    found = []
    for item in imports_of(ast.parse(source)):
        parts = item.module.split(".")
        if parts[:2] == ["bnfold", "equivalence"]:
            other = parts[2]
            if other != floor and FLOORS.get(other, 9) >= FLOORS[floor]:
                found.append(f"{floor} imports {item.module}, which is not below it")
    return found


def floor_of(path: Path) -> str:
    return path.relative_to(EQUIVALENCE).with_suffix("").parts[0]


def test_every_floor_of_equivalence_is_read() -> None:
    assert {floor_of(path) for path in FLOOR_SOURCES} == set(FLOORS)


@pytest.mark.parametrize("path", FLOOR_SOURCES, ids=lambda path: str(path.relative_to(EQUIVALENCE)))
def test_a_floor_of_equivalence_imports_only_from_below(path: Path) -> None:
    assert floor_violations(floor_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("structure", "from bnfold.equivalence.numbers.element_types import Array"),
        ("proofs", "from bnfold.equivalence.runtime import sessions"),
        ("judging", "from bnfold.equivalence import verify"),
        ("verdict", "from bnfold.equivalence.verification import verify"),
    ],
)
def test_a_forbidden_import_between_floors_is_seen(floor: str, source: str) -> None:
    assert floor_violations(floor, source) != []


@pytest.mark.parametrize("folder", sorted(path.parent for path in FLOOR_SOURCES if path.name == "__init__.py"))
def test_a_folder_of_equivalence_says_in_one_sentence_what_it_holds(folder: Path) -> None:
    sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert sentence
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")


def test_only_one_module_of_equivalence_touches_torch() -> None:
    def touches(path: Path) -> bool:
        return any(item.module.partition(".")[0] == "torch" for item in imports_of(ast.parse(path.read_text("utf-8"))))

    found = [path for path in SOURCES if touches(path)]
    assert [path.name for path in found if room_of(path) != "torch_export"] == ["torch_reference.py"]


def test_the_package_itself_imports_only_the_standard_library() -> None:
    tree = ast.parse((REPOSITORY / "bnfold/__init__.py").read_text(encoding="utf-8"))
    read = {item.module for item in imports_of(tree) if not item.lazy} - {"bnfold.late_imports.resolving"}
    assert {module.partition(".")[0] for module in read} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("graph", "from bnfold.passes import fold"),
        ("graph", "import bnfold.api"),
        ("graph", "from bnfold import api"),
        ("passes", "from bnfold.equivalence import verify"),
        ("passes", "from bnfold.onnxfile import read"),
        ("passes", "from onnx import helper"),
        ("passes", "import onnx"),
        ("passes", "def f():\n    import onnxruntime"),
        ("report", "from bnfold.pipeline import run"),
        ("report", "from jinja2 import Template"),
        ("equivalence", "import onnxruntime"),
        ("equivalence", "class A:\n    import onnxruntime"),
        ("equivalence", "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
        ("cli", "import numpy"),
        ("errors", "import bnfold.decisions"),
        ("api", "def f():\n    import passes"),
    ],
)
def test_a_forbidden_import_is_seen(room: str, source: str) -> None:
    assert violations(room, source) != []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("passes", "import numpy as np\nfrom onnx import NodeProto\nfrom bnfold.graph import Graph"),
        ("passes", "from bnfold.decisions import Reason\nfrom bnfold.passes.affine import Affine"),
        ("equivalence", "def f():\n    import onnxruntime as ort"),
        (
            "equivalence",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from onnxruntime import InferenceSession",
        ),
        ("report", "from bnfold import __version__"),
        ("cli", "import click\ndef f():\n    from bnfold import api"),
    ],
)
def test_an_allowed_import_passes(room: str, source: str) -> None:
    assert violations(room, source) == []


def test_the_folders_of_tests_mirror_the_rooms() -> None:
    """What holds across rooms, and what rooms that are one file hold, is tested beside them."""
    folders = {test.parent.name for test in (REPOSITORY / "tests").glob("*/test_*.py")}
    rooms = {room for room in LAYERS if (REPOSITORY / "bnfold" / room).is_dir()}
    assert folders == rooms - {"batches"} | {"api", "models"}


def test_the_tests_of_folding_do_not_need_torch() -> None:
    """They and all that they import of tests/ at module level; CI runs them with torch forbidden."""
    waiting, seen = [*(REPOSITORY / "tests/passes").glob("*.py")], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "torch"], path
            waiting += [REPOSITORY / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.")]
    assert REPOSITORY / "tests/oracle_operators.py" in seen
