"""The names of a model's files and of their contents, as clients and service exchange them."""

from pathlib import PurePosixPath

from bnfold.errors import UsageError

_LONGEST_NAME = 255


def checked_name(name: str) -> str:
    """A relative name of a file of a model. Raises UsageError for one that leaves its folder or cannot be a file."""
    parts = PurePosixPath(name).parts
    sound = (
        name
        and len(name.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME
        and name.isprintable()
        and "\\" not in name
        and str(PurePosixPath(name)) == name
        and not name.startswith("/")
        and ".." not in parts
        and not any(part.startswith(".") for part in parts)
    )
    if not sound:
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise UsageError(f"{shown!r} is no name of a model's file: a relative path of at most 255 printable characters")
    return name


def checked_hash(text: str) -> str:
    """A SHA-256 in 64 lower-case hexadecimal digits. Raises UsageError for anything else."""
    if len(text) != 64 or any(digit not in "0123456789abcdef" for digit in text):
        raise UsageError("a content hash is a SHA-256 in 64 lower-case hexadecimal digits")
    return text
