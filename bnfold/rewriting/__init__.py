"""Passes that come from outside: functions that take and return a model, plugins, and other optimizers."""

from bnfold.rewriting.function_pass import FunctionPass
from bnfold.rewriting.registry import AnyPass, Asked, Listed, asked_passes, listed

__all__ = ["AnyPass", "Asked", "FunctionPass", "Listed", "asked_passes", "listed"]
