"""The caller's own feeds, however they come, and the caller's own limits, for all outputs or for one."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import parser

import bnfold
from bnfold.batches import ImageOptions, data_source
from bnfold.cli import main
from bnfold.equivalence import Limits, Rule, Tolerance, Verdict, judge_again
from bnfold.errors import UsageError

BODY = "agraph (float[N,4] x) => (float[N,4] y) {{ y = {operator}(x) }}"
POSITIVE = np.arange(8, dtype=np.float32).reshape(2, 4)


def model(body: str) -> bytes:
    return parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {body}').SerializeToString()


# They agree on what is not negative, and on nothing else: only the feeds that are given may be used.
RELU, IDENTITY = model(BODY.format(operator="Relu")), model(BODY.format(operator="Identity"))
TWO = "agraph (float[N,4] a, float[M] b) => (float[N,4] y, float[M] z) {{ y = {operator}(a) z = Relu(b) }}"


def npz(folder: Path) -> str:
    np.savez(folder / "d.npz", x=POSITIVE)
    return str(folder / "d.npz")


def lone_npz(folder: Path) -> Path:
    np.savez(folder / "d.npz", POSITIVE)
    return folder / "d.npz"


def folder_of_npz(folder: Path) -> Path:
    for number in range(3):
        np.savez(folder / f"{number}.npz", x=POSITIVE + number)
    return folder


def folder_of_npy(folder: Path) -> Path:
    (folder / "deeper").mkdir()
    for name in ("a.npy", "deeper/b.npy"):
        np.save(folder / name, POSITIVE.astype(np.float64))
    return folder


def script(folder: Path) -> str:
    text = "import numpy as np\n\ndef feeds():\n    for n in range(2):\n        yield {'x': np.full((n + 1, 4), 3.0)}\n"
    (folder / "feeds.py").write_text(text)
    return f"{folder / 'feeds.py'}:feeds"


SOURCES: dict[str, tuple[Callable[[Path], Any], int]] = {
    "an .npz file": (npz, 1),
    "an .npz file with one array without a name": (lone_npz, 1),
    "a folder of .npz files": (folder_of_npz, 3),
    "a folder of .npy files": (folder_of_npy, 2),
    "a script": (script, 2),
    "a mapping": (lambda _: {"x": POSITIVE}, 1),
    "an array": (lambda _: POSITIVE, 1),
    "arrays": (lambda _: [POSITIVE, POSITIVE], 2),
    "mappings with labels beside them": (lambda _: [({"x": POSITIVE}, [0, 1]), ({"x": POSITIVE}, [0, 1])], 2),
    "pairs with labels": (lambda _: [(POSITIVE, [0, 1]), (POSITIVE, [0, 1])], 2),
    "tensors that need a gradient": (lambda _: [torch.ones(2, 4, requires_grad=True)], 1),
    "an iterator, which can be read once": (lambda _: iter([{"x": POSITIVE}, {"x": POSITIVE}]), 2),
    "a function": (lambda _: lambda: [{"x": POSITIVE}], 1),
    "a DataLoader": (lambda _: torch.utils.data.DataLoader([np.ones(4, np.float32)] * 5, batch_size=2), 3),
}


@pytest.mark.parametrize(("make", "feeds"), SOURCES.values(), ids=SOURCES)
def test_feeds_come_from_anything(make: Callable[[Path], Any], feeds: int, tmp_path: Path) -> None:
    found = bnfold.verify(RELU, IDENTITY, inputs=make(tmp_path))
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    assert [feed["name"] for feed in found.feeds] == [f"user-{number}" for number in range(feeds)]
    negative = [{"x": -POSITIVE}]
    assert bnfold.verify(RELU, IDENTITY, inputs=negative).verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.parametrize("write", [npz, folder_of_npz, script])
def test_the_command_line_takes_them_too(write: Callable[[Path], Any], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, content in (("a.onnx", RELU), ("b.onnx", IDENTITY)):
        (tmp_path / name).write_bytes(content)
    arguments = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    done = CliRunner().invoke(main, ["verify", *arguments, "--inputs", str(write(data)), "--report", "-"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["verification"]["feeds"][0]["name"] == "user-0"


def test_a_file_is_one_feed_whatever_the_sizes_of_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.ones((2, 4), np.float32), b=np.ones(5, np.float32))
    both = [model(TWO.format(operator=operator)) for operator in ("Relu", "Identity")]
    assert bnfold.verify(*both, inputs=tmp_path / "d.npz").verdict is Verdict.EQUIVALENT
    batches: Iterable[Any] = [(np.ones((2, 4), np.float32), np.ones(5, np.float32))]
    assert bnfold.verify(*both, inputs=batches).verdict is Verdict.EQUIVALENT


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_read_as_numpy_would(save: Callable[..., None], tmp_path: Path) -> None:
    arrays = {
        "scalar": np.float32(3),
        "nothing": np.zeros((0, 4), np.float32),
        "by columns": np.asfortranarray(POSITIVE),
        "big-endian": np.arange(4, dtype=">f4"),
        "text": np.array(["ab", "c"]),
    }
    save(tmp_path / "d.npz", **arrays)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(arrays, (2,))
    (found,) = data_source(tmp_path / "d.npz", shapes, None, ImageOptions())()
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)  # type: ignore[attr-defined]  # an array


def test_a_script_finds_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_feeds.py").write_text("VALUE = 3.0\n")
    text = (
        "import numpy as np\nfrom beside_the_feeds import VALUE\n\ndef feeds():\n    return [np.full((2, 4), VALUE)]\n"
    )
    (tmp_path / "feeds.py").write_text(text)
    assert bnfold.verify(RELU, IDENTITY, inputs=f"{tmp_path / 'feeds.py'}:feeds").verdict is Verdict.EQUIVALENT


def unknown_name(folder: Path) -> Path:
    np.savez(folder / "d.npz", x=POSITIVE, labels=np.zeros(2))
    return folder / "d.npz"


def not_a_zip(folder: Path) -> Path:
    (folder / "d.npz").write_bytes(b"PK\x03\x04 no more")
    return folder / "d.npz"


def misnamed(folder: Path) -> Path:
    np.save(folder / "d.npy", POSITIVE)
    return (folder / "d.npy").rename(folder / "d.npz")


def failing_script(folder: Path) -> str:
    (folder / "feeds.py").write_text("def feeds():\n    yield {'x': 1 / 0}\n")
    return f"{folder / 'feeds.py'}:feeds"


def script_with_a_mistake(folder: Path) -> str:
    (folder / "feeds.py").write_text("import nothing_of_this_name\n")
    return f"{folder / 'feeds.py'}:feeds"


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no such file": (lambda folder: folder / "missing.npz", "is no .npz file"),
    "an array that no input takes": (unknown_name, "'labels'"),
    "a broken file": (not_a_zip, "cannot be read"),
    "an .npy file by another name": (misnamed, "rename it"),
    "an empty folder": (lambda folder: folder, "holds no"),
    "a script that fails": (failing_script, "ZeroDivisionError"),
    "a script with a mistake": (script_with_a_mistake, "ModuleNotFoundError"),
    "no function of that name": (lambda folder: script(folder) + "s", "no function"),
    "no script": (lambda folder: f"{folder}/missing.py:feeds", "no such script"),
    "nothing": (lambda _: [], "not a single feed"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_feeds_that_cannot_be_used_are_the_callers_mistake(
    make: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        bnfold.verify(RELU, RELU, inputs=make(tmp_path))


# --- limits per output -----------------------------------------------------------------------------------------------


def pair(first: float, second: float) -> bytes:
    proto = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> agraph (float[N,4] x) => (float[N,4] a, float[N,4] b) '
        f"<float k = {{{first}}}, float l = {{{second}}}> {{ a = Mul(x, k) b = Mul(x, l) }}"
    )
    proto.graph.output[0].name = proto.graph.node[0].output[0] = "a:0"
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({}, Verdict.NOT_EQUIVALENT),
        ({"rtol": 0.05}, Verdict.EQUIVALENT),
        ({"rtol": {"a:0": 0.05}}, Verdict.EQUIVALENT),
        ({"rtol": {"b": 0.05}}, Verdict.NOT_EQUIVALENT),
        ({"rtol": {"": 0.05}}, Verdict.EQUIVALENT),
        ({"rtol": {"": 0.05, "a:0": 1e-4}}, Verdict.NOT_EQUIVALENT),
        ({"atol": {"a:0": 1e4}}, Verdict.EQUIVALENT),
        ({"atol": {"a:0": 1e-9}, "rtol": 0.05}, Verdict.EQUIVALENT),
    ],
    ids=str,
)
def test_a_limit_for_one_output(limits: dict[str, Any], verdict: Verdict) -> None:
    found = bnfold.verify(pair(1.0, 2.0), pair(1.01, 2.0), **limits)
    assert found.verdict is verdict
    saved = json.loads(json.dumps(found.to_dict()))
    assert judge_again(saved).verdict is verdict
    assert judge_again(saved).judgements == found.judgements
    assert judge_again(saved, Tolerance(outputs={"a:0": Limits(rtol=0.05)})).verdict is Verdict.EQUIVALENT
    assert judge_again(saved, Tolerance(outputs={"a:0": Limits(rtol=1e-5)})).verdict is Verdict.NOT_EQUIVALENT


def test_only_the_named_output_is_judged_by_the_user() -> None:
    found = bnfold.verify(pair(1.0, 2.0), pair(1.01, 2.00001), rtol={"a:0": 0.05})
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.largest is not None
    assert found.largest.output == "b"
    rules = {(m.output, judged.rule) for m, judged in zip(found.measurements, found.judgements, strict=True)}
    assert ("a:0", Rule.USER) in rules
    assert ("b", Rule.USER) not in rules
    assert found.tolerance.to_dict() == {"rtol": None, "atol": None, "outputs": {"a:0": {"rtol": 0.05, "atol": 0.0}}}


def test_a_limit_for_an_output_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'c'.*a:0, b"):
        bnfold.verify(pair(1.0, 2.0), pair(1.0, 2.0), atol={"c": 1.0})
    saved = bnfold.verify(pair(1.0, 2.0), pair(1.0, 2.0)).to_dict()
    with pytest.raises(UsageError, match=r"'c'.*a:0, b"):
        judge_again(saved, Tolerance(outputs={"c": Limits(1.0)}))
    path = tmp_path / "m.onnx"
    path.write_bytes(pair(1.0, 2.0))
    done = CliRunner().invoke(main, ["verify", str(path), str(path), "--rtol", "c:1e-3"])
    assert done.exit_code == 2
    assert "a:0, b" in done.stderr
    assert CliRunner().invoke(main, ["verify", str(path), str(path), "--rtol", "a:0:1e-3"]).exit_code == 0


def test_the_limit_of_a_sequence_holds_for_its_items() -> None:
    body = "agraph (float[N,4] x) => (seq(float[N,4]) y) <float k = {{{0}}}> "
    body += "{{ m = Mul(x, k) y = SequenceConstruct(x, m) }}"
    one, other = model(body.format(1.0)), model(body.format(1.01))
    assert bnfold.verify(one, other).verdict is Verdict.NOT_EQUIVALENT
    found = bnfold.verify(one, other, rtol={"y": 0.05})
    assert found.verdict is Verdict.EQUIVALENT
    assert judge_again(found.to_dict()).verdict is Verdict.EQUIVALENT
    assert bnfold.verify(one, other, rtol={"y": 1e-4}).verdict is Verdict.NOT_EQUIVALENT


def test_strict_placement_reaches_the_providers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bnfold import equivalence

    seen: list[bool] = []

    def verify(*given: Any, **_: Any) -> equivalence.Verification:
        seen.append(given[2].strict_placement)
        return equivalence.Verification(Verdict.EQUIVALENT)

    monkeypatch.setattr(equivalence, "verify", verify)
    monkeypatch.setattr(equivalence, "verify_unrelated", verify)
    bnfold.verify(RELU, RELU, strict_placement=True)
    bnfold.verify(RELU, RELU)
    bnfold.optimize(RELU, tmp_path / "out.onnx", strict_placement=True, freeze=False)
    assert seen == [True, False, True]
