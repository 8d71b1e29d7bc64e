"""Reading the attributes of a node, with the operator's default where one is absent."""

from collections.abc import Sequence
from typing import Any, overload

from onnx import AttributeProto, NodeProto, helper

from bnfold.decisions import Reason, Refused

# The two names of ONNX's own operator set.
DEFAULT_DOMAINS = ("", "ai.onnx")


def attribute(node: NodeProto, name: str) -> Any:
    """The value of attribute `name`, as `onnx.helper.get_attribute_value` gives it, or None where it is absent.

    Raises `Refused` where the attribute takes its value from an argument of the function the node stands in: the node
    then means something else at each call. Also where it is there twice, or says no type.
    """
    found = None
    for candidate in node.attribute:
        if candidate.name == name:
            if found is not None:
                raise Refused(Reason.MALFORMED, f"{node.op_type}.{name} is there twice")
            found = candidate
    if found is None:
        return None
    if found.ref_attr_name:
        raise Refused(Reason.ATTRIBUTE_OF_CALLER, f"{node.op_type}.{name} is @{found.ref_attr_name}")
    if found.type == AttributeProto.UNDEFINED:
        raise Refused(Reason.MALFORMED, f"{node.op_type}.{name} says no type")
    return _value(found)


def _value(candidate: AttributeProto) -> Any:
    if candidate.type == AttributeProto.INT:
        return candidate.i
    if candidate.type == AttributeProto.FLOAT:
        return candidate.f
    if candidate.type == AttributeProto.INTS:
        return list(candidate.ints)
    return helper.get_attribute_value(candidate)


_WORDS = {True: "whole number", False: "number"}


@overload
def number(node: NodeProto, name: str, default: int) -> int: ...
@overload
def number(node: NodeProto, name: str, default: float) -> float: ...
def number(node: NodeProto, name: str, default: float) -> float:
    """The value of a number attribute, or `default`. Raises `Refused` where it is of another type."""
    value = attribute(node, name)
    if value is not None and not isinstance(value, int if isinstance(default, int) else int | float):
        raise Refused(Reason.MALFORMED, f"{node.op_type}.{name} is no {_WORDS[isinstance(default, int)]}")
    return default if value is None else value


def numbers(node: NodeProto, name: str, default: Sequence[int] = ()) -> list[int]:
    """The value of an INTS or FLOATS attribute, or `default`. Raises `Refused` where it is of another type."""
    value = attribute(node, name)
    if value is not None and not isinstance(value, list):
        raise Refused(Reason.MALFORMED, f"{node.op_type}.{name} is no list")
    return list(default) if value is None else list(value)


def text(node: NodeProto, name: str, default: str) -> str:
    """The value of a string attribute, or `default`. Raises `Refused` where it is of another type."""
    value = attribute(node, name)
    if value is not None and not isinstance(value, bytes):
        raise Refused(Reason.MALFORMED, f"{node.op_type}.{name} is no text")
    return default if value is None else value.decode("utf-8", "replace")
