"""`verify --layers` names the fold that is wrong, and accuses no value that a right fold gave another meaning."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper, parser

import bnfold
from bnfold.cli import main
from bnfold.equivalence import Layers, Verdict
from bnfold.equivalence.feeds.seeded import FeedPlan, build
from bnfold.equivalence.feeds.size_solving import Shapes
from bnfold.equivalence.judging import first_divergence as layers
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.structure.output_sources import ValuePair
from bnfold.equivalence.structure.scopes import Cutter
from bnfold.equivalence.structure.signature import signature_of
from bnfold.equivalence.structure.value_pairs import pairs
from bnfold.errors import UsageError
from tests import architectures, light_graphs, planted


def looked_into(reference: ModelProto | bytes, candidate: ModelProto | bytes) -> Layers:
    found = bnfold.verify(reference, candidate, layers=True).layers
    assert found is not None
    return found


NETWORKS = ("digits_cnn", "mobilenet_v2", "unet", "preact_resnet", "densenet", "squeeze_excite", "conv1d", "conv3d")
BUGS = ("bias of one channel off by 1 %", "stale statistics", "two channels swapped in the scale", "NaN")


# Each network with two of the bugs, each bug in half of the networks.
@pytest.mark.parametrize(
    ("name", "bug"), [(name, bug) for n, name in enumerate(NETWORKS) for bug in (BUGS[n % 4], BUGS[(n + 1) % 4])]
)
def test_a_bug_in_one_fold_amid_a_network_is_found_at_its_output(name: str, bug: str) -> None:
    base = planted.bases()[name]
    folds = planted.Folds(base)
    site = len(folds.sites) // 2
    wrong = folds.wrong(site, bug)
    assert wrong is not None
    found = looked_into(base, wrong)
    assert found.first is not None, found.sentence
    assert found.first.value.reference == folds.sites[site].normalization.output[0]
    assert folds.sites[site].normalization.output[0] in found.sentence


# --- pairs: what is paired means the same ----------------------------------------------------------------------------


def values(model: bytes, names: list[str], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with running(model, Setting(), names) as session:
        return session.run(feed)


def runnable(reference: ModelProto) -> Shapes:
    """The sizes of a verification's feeds."""
    feeds = bnfold.verify(reference, reference).feeds
    return {name: tuple(shape) for name, shape in feeds[-2:][0]["shapes"].items()}  # a large model has one feed


def differing(reference: ModelProto, candidate: ModelProto, found: tuple[ValuePair, ...]) -> list[ValuePair]:
    """The pairs whose values are not nearly the same."""
    ports = signature_of(reference).inputs
    shapes = runnable(reference)
    feed = build(FeedPlan("pairs", "normal", shapes), ports, 0, {})
    outputs = {value.name for value in reference.graph.output}
    old = values(reference.SerializeToString(), sorted({pair.reference for pair in found} - outputs), feed)
    new = values(candidate.SerializeToString(), sorted({pair.candidate for pair in found} - outputs), feed)

    def apart(pair: ValuePair) -> bool:
        one, other = (side.astype(np.float64) for side in (old[pair.reference], new[pair.candidate]))
        return one.shape != other.shape or bool(np.abs(one - other).max(initial=0) > 1e-4 * np.abs(one).max(initial=0))

    return [pair for pair in found if apart(pair)]


# How many of the values are paired at least, of a right fold by the tests' own folder and by bnfold.
PAIRED = {
    "digits_autoencoder": (17, 17),
    "digits_cnn": (13, 13),
    "digits_preact": (20, 4),
    "conv1d": (5, 5),
    "conv3d": (7, 6),
    "densenet": (30, 30),
    "gan_generator": (8, 8),
    "mlp": (7, 3),
    "mobilenet_v2": (27, 27),
    "preact_resnet": (19, 16),
    "siamese": (6, 6),
    "squeeze_excite": (11, 11),
    "unet": (23, 21),
    "conformer": (60, 43),  # the factor of each half step is folded and a size is stored, so fewer values are the same
}


@pytest.mark.parametrize("name", PAIRED)
def test_values_that_are_paired_are_the_same_in_a_right_model(name: str) -> None:
    base = planted.bases()[name]
    folds = planted.Folds(base)
    for candidate, least in zip(
        (folds.right(range(len(folds.sites))), bnfold.optimize(base, verify=False).model), PAIRED[name], strict=True
    ):
        found = pairs(Cutter(base), Cutter(candidate))
        assert differing(base, candidate, found) == []
        assert len(found) >= least


def test_values_of_a_real_graph_are_paired() -> None:
    base = light_graphs.light("shufflenet")
    candidate = bnfold.optimize(base, verify=False).model
    found = pairs(Cutter(base), Cutter(candidate))
    assert len(found) > 100
    assert differing(base, candidate, found) == []


# --- the same name for another meaning, and another name for the same ------------------------------------------------

HEAD = '<ir_version: 9, opset_import: ["" : 17]> agraph (float[N,3,H,W] x) => (float[N,2,A,B] y)'
ORIGINAL = """
    c = Conv<kernel_shape=[3,3]>(x, w)  p = MaxPool<kernel_shape=[2,2]>(c)  b = BatchNormalization(p, g, h, m, v)
    r = Relu(b)  d = Conv<kernel_shape=[2,2]>(r, u)  e = BatchNormalization(d, i, j, k, l)  s = Relu(e)
    y = Conv<kernel_shape=[1,1]>(s, t)
"""
# The results of folds keep the names that the unfolded results had.
KEPT_NAMES = """
    c = Conv<kernel_shape=[3,3]>(x, w1, a1)  p = MaxPool<kernel_shape=[2,2]>(c)  r = Relu(p)
    d = Conv<kernel_shape=[2,2]>(r, u1, b1)  s = Relu(d)  y = Conv<kernel_shape=[1,1]>(s, t)
"""
OTHER_NAMES = """
    o = Conv<kernel_shape=[3,3]>(x, w1, a1)  q = MaxPool<kernel_shape=[2,2]>(o)  b = Relu(q)
    f = Conv<kernel_shape=[2,2]>(b, u1, b1)  z = Relu(f)  y = Conv<kernel_shape=[1,1]>(z, t)
"""


def constants(first_bug: float = 1.0, second_bug: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {
        "w": generator.standard_normal((4, 3, 3, 3)),
        "u": generator.standard_normal((5, 4, 2, 2)),
        "t": generator.standard_normal((2, 5, 1, 1)),
    }
    for names, size in (("ghmv", 4), ("ijkl", 5)):
        found |= {name: generator.uniform(0.5, 2, size) for name in names}
    scale, other = (found[g] / np.sqrt(found[v] + 1e-5) for g, v in (("g", "v"), ("i", "l")))
    found["w1"], found["a1"] = found["w"] * scale[:, None, None, None], found["h"] - found["m"] * scale * first_bug
    found["u1"], found["b1"] = found["u"] * other[:, None, None, None], found["j"] - found["k"] * other * second_bug
    return {name: array.astype(np.float32) for name, array in found.items()}


def built(body: str, **bugs: float) -> ModelProto:
    model = parser.parse_model(f"{HEAD} {{ {body} }}")
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants(**bugs).items() if n in used)
    return model


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (KEPT_NAMES, {"b": "p", "r": "r", "e": "d", "s": "s", "y": "y"}),
        (OTHER_NAMES, {"b": "q", "r": "b", "e": "f", "s": "z", "y": "y"}),
    ],
    ids=["kept names", "other names"],
)
def test_names_do_not_pair_values(body: str, found: dict[str, str]) -> None:
    """Kept names: c and p hold scaled values and must not be paired with what they were. Other names: b is not b."""
    right = built(body)
    paired = {pair.reference: pair.candidate for pair in pairs(Cutter(built(ORIGINAL)), Cutter(right))}
    assert paired.items() <= found.items()
    assert {"e", "s", "y"} <= paired.keys()
    assert differing(built(ORIGINAL), right, pairs(Cutter(built(ORIGINAL)), Cutter(right))) == []
    for bugs, output in (({"first_bug": 1.05}, "b"), ({"second_bug": 1.05}, "e")):
        first = looked_into(built(ORIGINAL), built(body, **bugs)).first
        assert first is not None
        if output in paired:
            assert (first.value.reference, first.value.candidate) == (output, found[output])
        else:
            assert first.value.reference == "e"  # nothing before it can be compared


def test_a_sum_with_its_operands_swapped_is_still_the_same_sum() -> None:
    body = "a = Relu(x) b = Neg(x) c = Add({}) y = Conv<kernel_shape=[1,1]>(c, {})"
    one, other = (parser.parse_model(f"{HEAD} {{ {body.format(sum_, 'w')} }}") for sum_ in ("a, b", "b, a"))
    for model, factor in ((one, 1.0), (other, 1.01)):
        model.graph.initializer.append(numpy_helper.from_array(np.full((2, 3, 1, 1), factor, np.float32), "w"))
    first = looked_into(one, other).first
    assert first is not None
    assert first.value.reference == "y"


def test_what_differs_on_the_way_and_agrees_again_is_not_accused() -> None:
    """A scale moved from one Conv into the next, under unchanged names: r differs, and nothing is wrong with it."""
    chain = """r = Conv<kernel_shape=[3,3]>(x, w) d = Conv<kernel_shape=[2,2]>(r, u) s = Relu(d)
               y = Conv<kernel_shape=[1,1]>(s, t)"""
    reference, moved, wrong = built(chain), built(chain), built(chain)
    factor = np.float32(8.0)  # a power of two, so that nothing rounds

    def scale(model: ModelProto, name: str, by: float) -> None:
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), name))

    for model in (moved, wrong):
        scale(model, "w", factor)
        scale(model, "u", 1 / factor)
    scale(wrong, "t", 1.01)
    assert looked_into(reference, moved).first is None
    first = looked_into(reference, wrong).first
    assert first is not None
    assert first.value.reference == "y"


def test_models_that_agree_have_no_value_that_diverges() -> None:
    base = planted.bases()["digits_cnn"]
    found = looked_into(base, bnfold.optimize(base).model)
    assert found.first is None
    assert found.sentence == "None of the 13 values that can be compared diverges."


def test_where_only_the_callers_limit_fails_no_value_is_to_blame() -> None:
    base = planted.bases()["digits_cnn"]
    found = bnfold.verify(base, bnfold.optimize(base).model, layers=True, rtol=0.0, atol=0.0)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.layers is not None
    assert found.layers.first is None
    assert "no value inside them" in found.layers.sentence


def test_values_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    base = planted.bases()["mobilenet_v2"]
    wrong = planted.Folds(base).wrong(9, "stale statistics")
    assert wrong is not None
    whole = looked_into(base, wrong)
    seen: list[int] = []

    def counted(opened: Callable[..., object]) -> Callable[..., object]:
        def run(source: object, setting: Setting, taps: list[str]) -> object:
            seen.append(len(taps))
            return opened(source, setting, taps)

        return run

    monkeypatch.setattr(layers, "AT_ONCE", 4)
    monkeypatch.setattr(layers, "running", counted(running))
    assert looked_into(base, wrong).to_dict() == whole.to_dict()
    assert len(seen) > len(whole.layers) // 4
    assert max(seen) <= 4


def test_a_module_has_no_layers_to_compare() -> None:
    with pytest.raises(UsageError, match="layers of a PyTorch module"):
        bnfold.verify(architectures.trained("mlp"), architectures.exported("mlp").proto, layers=True)


def test_a_module_has_no_changes_to_prove() -> None:
    with pytest.raises(UsageError, match="PyTorch module cannot be proved"):
        bnfold.verify(architectures.trained("mlp"), architectures.exported("mlp").proto, proof="always")


def test_the_command_line_and_the_report_say_which(tmp_path: Path) -> None:
    base = planted.bases()["digits_cnn"]
    folds = planted.Folds(base)
    wrong = folds.wrong(2, "stale statistics")
    assert wrong is not None
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, model in zip(paths, (base, wrong), strict=True):
        path.write_bytes(model.SerializeToString())
    done = CliRunner().invoke(
        main, ["verify", "-v", *map(str, paths), "--layers", "--report", str(tmp_path / "report.json")]
    )
    name = folds.sites[2].normalization.output[0]
    assert done.exit_code == 1
    assert f"The first value that diverges is '{name}'" in done.stdout
    assert "agrees" in done.stdout
    assert done.stdout.count("DIVERGES FIRST") == 1
    saved = json.loads((tmp_path / "report.json").read_text())["verification"]["layers"]
    assert saved["first"]["reference"] == name
    assert saved["sentence"] in done.stdout
    assert len(saved["layers"]) == 13
    with pytest.raises(bnfold.NotEquivalentError, match="first value that diverges"):
        bnfold.assert_equivalent(base, wrong, layers=True)
