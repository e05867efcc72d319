"""Sphinx: the pages here, and the reference that scripts/reference.py draws from the code. `make docs` builds them."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import coalition  # noqa: E402
from scripts.reference import write  # noqa: E402

project = "Coalition"
copyright = "the Coalition developers"
version = release = coalition.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"Coalition {release}"
myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
exclude_patterns = ["images/*.md"]
suppress_warnings = ["autodoc.import_object"]

write(HERE / "reference")
