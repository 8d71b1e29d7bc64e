"""Where weights go, what a run tells while it goes on, and what it must not need."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.cli import main
from bnfold.cli.waiting import bars
from bnfold.errors import UsageError
from bnfold.onnxfile import Layout, Weights, weight_layout
from bnfold.progress import Stage

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "models" / "digits_cnn.onnx"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["optimize", *map(str, arguments)])


def locations(path: Path) -> dict[str, str | None]:
    """By name of the initializer: the file its data is in, None for the model itself."""
    model = onnx.load(path, load_external_data=False)
    return {
        tensor.name: next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
        for tensor in model.graph.initializer
    }


def sizes(path: Path) -> dict[str, int]:
    return {tensor.name: len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(("option", "name"), [("--external-data", "out.onnx.data"), ("--external-data=w.bin", "w.bin")])
def test_external_data_holds_what_is_not_small(tmp_path: Path, option: str, name: str) -> None:
    out = tmp_path / "out.onnx"
    result = run(DIGITS, out, option)
    assert result.exit_code == 0, result.output
    nbytes = sizes(out)
    assert {value >= 1024 for value in nbytes.values()} == {True, False}
    assert locations(out) == {key: name if value >= 1024 else None for key, value in nbytes.items()}
    assert {path.name for path in tmp_path.iterdir()} == {"out.onnx", name}


def test_the_threshold_is_the_smallest_size_that_moves(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    inside = run(DIGITS, tmp_path / "inside.onnx", "--no-verify")
    assert inside.exit_code == 0, inside.output
    nbytes = sizes(tmp_path / "inside.onnx")
    limit = sorted(nbytes.values())[len(nbytes) // 2]
    assert run(DIGITS, out, "--size-threshold", limit, "--external-data", "--no-verify").exit_code == 0
    assert {key for key, where in locations(out).items() if where} == {k for k, v in nbytes.items() if v >= limit}


def test_inline_brings_weights_back(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.onnx", tmp_path / "inside.onnx"
    assert run(DIGITS, outside, "--external-data").exit_code == 0
    result = run(outside, inside, "--inline")
    assert result.exit_code == 0, result.output
    assert set(locations(inside).values()) == {None}
    assert run(DIGITS, tmp_path / "plain.onnx").exit_code == 0
    assert onnx.load(inside).graph.initializer == onnx.load(tmp_path / "plain.onnx").graph.initializer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--external-data", "--inline"], "contradict"),
        (["--size-threshold", "10"], "add that"),
        (["--inline", "--size-threshold", "10"], "add that"),
        (["--external-data=../w.bin"], "cannot name external data"),
        (["--external-data=/tmp/w.bin"], "cannot name external data"),
        (["--external-data=.hidden"], "cannot name external data"),
        (["--external-data", "--size-threshold", "-1"], "not in the range"),
    ],
)
def test_requests_that_make_no_sense(tmp_path: Path, options: Sequence[str], said: str) -> None:
    result = run(DIGITS, tmp_path / "out.onnx", *options)
    assert result.exit_code == 2
    assert said in result.output
    assert not list(tmp_path.iterdir())


def test_a_name_that_leaves_the_directory_is_refused_by_the_library_too() -> None:
    with pytest.raises(UsageError, match="cannot name external data"):
        Layout(Weights.EXTERNAL, "a/../../b")


def test_weights_that_have_to_move_are_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_layout, "MAX_INLINE", 20_000)
    result = run(DIGITS, tmp_path / "out.onnx")
    assert result.exit_code == 0, result.output
    assert "the weights went to a file of their own" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"out.onnx", "out.onnx.data"}
    assert bnfold.optimize(DIGITS, tmp_path / "again.onnx").report.to_dict()["weights_moved"] is True


def test_weights_that_stay_are_not_talked_about(tmp_path: Path) -> None:
    result = run(DIGITS, tmp_path / "out.onnx")
    assert "a file of their own" not in result.output


def process(tmp_path: Path, *arguments: object, seed: str = "0", path: Path | None = None) -> None:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join(map(str, [path or "", REPOSITORY])),
    }
    subprocess.run(
        [sys.executable, "-m", "bnfold", "optimize", *map(str, arguments)],
        check=True,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
    )


def test_without_verification_onnxruntime_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "onnxruntime.py").write_text("import os\nos._exit(99)\n")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        process(tmp_path, DIGITS, "out.onnx", path=tmp_path / "poison")
    assert failure.value.returncode == 99
    process(tmp_path, DIGITS, "out.onnx", "--no-verify", path=tmp_path / "poison")
    assert (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("option", ["--inline", "--external-data"])
def test_the_same_request_gives_the_same_bytes_in_every_process(tmp_path: Path, option: str) -> None:
    made = []
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        folder.mkdir()
        process(folder, DIGITS, "out.onnx", option, "--no-verify", seed=seed)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1] == made[2]


# ---------------------------------------------------------------------- progress


def wide(path: Path) -> None:
    """Two convolutions with 4 MiB of weights in all, so that bytes are written in several steps."""
    random = np.random.default_rng(0)
    nodes, constants = [], []
    for i in range(2):
        nodes.append(helper.make_node("Conv", ["x" if not i else "n0", f"w{i}"], [f"c{i}"]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *(f"{p}{i}" for p in "sbmv")], [f"n{i}"]))
        constants.append(numpy_helper.from_array(random.normal(size=(724, 724, 1, 1)).astype(np.float32), f"w{i}"))
        constants += [
            numpy_helper.from_array(random.uniform(0.5, 1, 724).astype(np.float32), f"{p}{i}") for p in "sbmv"
        ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 724, 2, 2]) for name in ("x", "n1")]
    graph = helper.make_graph(nodes, "wide", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_the_library_tells_what_it_has_done_of_each_stage(tmp_path: Path) -> None:
    wide(tmp_path / "in.onnx")
    heard: list[tuple[Stage, int, int]] = []
    bnfold.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", progress=lambda *told: heard.append(told))
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == [Stage.NORMALIZATIONS, Stage.BYTES, Stage.FEEDS]
    assert (Stage.NORMALIZATIONS, 0, 2) in heard
    written = [(done, total) for stage, done, total in heard if stage is Stage.BYTES]
    assert len(written) > 2
    assert [done for done, _ in written] == sorted(done for done, _ in written)
    assert written[-1][0] == (tmp_path / "out.onnx").stat().st_size
    assert {total for _, total in written} == {(tmp_path / "in.onnx").stat().st_size}
    compared = [(done, total) for stage, done, total in heard if stage is Stage.FEEDS]
    assert compared[0] == (0, 0)
    assert 0 < compared[-1][0] < compared[-1][1]


def test_a_program_reads_progress_as_lines_of_json(tmp_path: Path) -> None:
    wide(tmp_path / "in.onnx")
    told = CliRunner().invoke(main, ["optimize", str(tmp_path / "in.onnx"), str(tmp_path / "o"), "--progress", "json"])
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == ["normalizations", "bytes", "feeds"]
    assert all(line.keys() == {"stage", "done", "total"} for line in lines)
    assert "stage" not in told.stdout


def on_terminal(tmp_path: Path, *options: str, patience: float, command: str = "optimize") -> str:
    """What a run writes to a standard error that is a terminal."""
    code = f"import bnfold.cli.waiting as w; w.PATIENCE = {patience}; from bnfold.cli import main; main()"
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, command, str(DIGITS), "out.onnx", *options],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},
    ) as child:
        os.close(theirs)
        said = bytearray()
        while True:
            try:
                part = os.read(mine, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            said += part
    os.close(mine)
    assert child.returncode == 0
    return said.decode()


def test_bars_are_shown_on_a_terminal_for_what_lasts(tmp_path: Path) -> None:
    assert "comparing" in on_terminal(tmp_path, patience=0)


def test_a_bar_is_shown_while_data_is_read(tmp_path: Path) -> None:
    data = str(DIGITS.with_name("digits_train.npz"))
    shown = on_terminal(tmp_path, "--data", data, patience=0, command="recalibrate")
    assert "reading data" in shown
    assert "batches" in shown
    quiet = on_terminal(tmp_path, "--data", data, "--no-progress", patience=0, command="recalibrate")
    assert quiet == ""


@pytest.mark.parametrize("options", [["--no-progress"], ["-q"]])
def test_no_bars_for_who_wants_none(tmp_path: Path, options: list[str]) -> None:
    assert on_terminal(tmp_path, *options, patience=0) == ""


def test_no_bars_for_what_is_quickly_done(tmp_path: Path) -> None:
    assert on_terminal(tmp_path, patience=1000) == ""


def test_no_bars_without_a_terminal() -> None:
    with bars(wanted=True) as progress:
        assert progress is None
