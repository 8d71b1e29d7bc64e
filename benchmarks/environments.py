"""Virtual environments for what cannot live in this one, made by pip where they are missing."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def environment(folder: Path, packages: Iterable[str], python: str = "") -> Path:
    """The Python of the virtual environment in `folder`, which has `packages`; it is made from `python`, or this one.

    Raises CalledProcessError where pip cannot install them.
    """
    made = (folder / "bin" / "python").absolute()
    if not made.exists():
        subprocess.run([python or sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([made, "-m", "pip", "install", "-q", *packages], check=True)
    return made
