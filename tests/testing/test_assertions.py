"""The assertions for authors of passes fail where they have to, and say what was there instead."""

from types import ModuleType
from typing import Any

import pytest

from bnfold.testing import assert_folds, assert_left_alone, assert_survives, build


def wrong(model: Any) -> None:
    model.graph.node[0].op_type = "Sigmoid"


def relu() -> Any:
    return build("y = Relu(x)", inputs={"x": "float[2,3]"})


def fresh_names(model: Any) -> None:
    model.graph.node[0].name += "a"


def test_assertions_say_what_was_there_instead() -> None:
    with pytest.raises(AssertionError, match="the operators are Relu, not Tanh"):
        assert_folds(relu(), ["Tanh"])
    with pytest.raises(AssertionError, match="Without the pass wrong it agrees"):
        assert_folds(relu(), "Sigmoid", passes=[wrong])
    with pytest.raises(AssertionError, match="a second run changes the result again"):
        assert_folds(relu(), "Relu", passes=[fresh_names])
    with pytest.raises(AssertionError, match="the model was changed: fresh_names"):
        assert_left_alone(relu(), passes=[fresh_names])
    with pytest.raises(AssertionError, match="the reasons are none, not BARRIER"):
        assert_left_alone(relu(), "BARRIER")
    with pytest.raises(KeyError, match="'z' is made by no node"):
        build("y = Relu(z)", inputs={})


def test_random_models_find_a_wrong_pass_and_count_what_a_right_one_did() -> None:
    def doubles(model: Any) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == 1 and tensor.raw_data:
                tensor.raw_data = b"\0" * len(tensor.raw_data)

    with pytest.raises(AssertionError, match=r"random model \d+: the result is not equivalent"):
        assert_survives([doubles], count=5)
    assert assert_survives(["default"], count=6) >= 3
    assert assert_survives([], count=2) == 0


def test_the_module_is_what_it_says() -> None:
    from bnfold import testing

    assert isinstance(testing, ModuleType)
    assert all(hasattr(testing, name) for name in testing.__all__)
