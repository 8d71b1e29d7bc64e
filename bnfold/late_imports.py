"""The names of a package, each imported from its module when it is asked for: most runs need few of them."""

from collections.abc import Callable, Mapping
from importlib import import_module


def resolving(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package (PEP 562) whose names are in the modules `homes`."""

    def resolve(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return resolve
