"""Sphinx configuration: `make docs` builds the HTML into docs/_build/html, without network."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from genrec import __version__  # noqa: E402

project = "genrec"
author = "The genrec authors"
copyright = "The genrec authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "docstrings", "generated_pages"]
exclude_patterns = ["_build", "_ext", "_generated/commands.md"]
nitpicky = False
smartquotes = False  # docstrings quote values of the code

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False

html_theme = "furo"
html_title = f"genrec {version}"
html_show_sphinx = False
pygments_style = "sphinx"
pygments_dark_style = "monokai"
