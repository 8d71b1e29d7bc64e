"""The site: `sphinx-build -W docs FOLDER`, with the packages of the extra `docs`."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import pictures  # noqa: E402 - found there

from bnfold import __version__  # noqa: E402 - likewise

project = "bnfold"
author = "The bnfold authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"bnfold {__version__}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository, which GitHub follows
smartquotes = False  # they would make one dash of the two of an option

_CODE = re.compile(r"^## ([A-Z_]+)\n", re.MULTILINE)


def _with_pictures(_app: Any, page: str, source: list[str]) -> None:
    """Put the picture of its graph under the heading of each code."""
    if page in pictures.pages():
        source[0] = _CODE.sub(
            lambda found: f"{found[0]}\n![{found[1]}](pictures/{pictures.name_of(page, found[1])})\n", source[0]
        )


def setup(app: Any) -> None:
    """Draw the pictures before anything is read."""
    pictures.write_all(HERE / "pictures")
    app.connect("source-read", _with_pictures)
