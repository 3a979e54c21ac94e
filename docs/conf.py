"""Sphinx's settings: `make docs`, or `sphinx-build -W docs build/docs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import recon_engine

sys.path.insert(0, str(Path(__file__).parent))

import generate

generate.write()

project = "recon_engine"
author = "the recon_engine authors"
version = release = recon_engine.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_commands"]

myst_heading_anchors = 3

# Docstrings write code in single backticks and shapes in the text.
default_role = "literal"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Fields", "Attributes"), ("Source", "References")]
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"recon_engine {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def _process_docstring(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    # Napoleon takes what stands before a colon in the first line for the type of an attribute.
    lines[:] = [""] * (what in ("attribute", "data", "property")) + generate.restructured(lines)


def _read(app: object, name: str, source: list[str]) -> None:
    source[0] = generate.completed(name, source[0])


def setup(app: Any) -> None:
    """Complete the pages, and read docstrings before napoleon does."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _process_docstring, priority=100)
