"""Sphinx: the site of the documentation.

The source folder is the repository, so that the links of the pages are the same here and on a code host:
``make site``, which is ``sphinx-build -c docs . build/site``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from docs.website import reading, references  # noqa: E402 - from the repository
from mercure_hub import __version__  # noqa: E402

project = "flask-mercure"
copyright = "the flask-mercure authors"
version = release = __version__
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/*.rst",
    "docs/*/README.md",
    "docs/comparison/*.md",
    "examples/*/README.md",
    "bench/README.md",
    "chaos/README.md",
]
exclude_patterns = [".*", "build", "dist", "instance", "tests", "flask_mercure", "hub", "**/node_modules"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "both"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
# Nothing is fetched to resolve the names of other projects; a name of our own has to lead somewhere.
nitpick_ignore_regex = [
    ("py:.*", r"(?!flask_mercure|mercure).*"),
    ("py:class", r".*\._\w+"),  # type variables
    ("py:class", r"flask_mercure\.updates\.UpdateOptions"),  # the arguments of publish
    # An argument of what MERCURE_TOKEN_FACTORY replaces.
    ("py:class", r"mercure_hub\.protocol\.tokens\.keys\.Key"),
    ("py:class", r"flask_mercure\.tokens\.Identified"),  # an object with get_id()
    ("py:class", r"flask_mercure\.hub_client\.HubClientSettings"),  # the keys of a hub in app.config
]

html_theme = "furo"
html_title = "flask-mercure"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "default", "github-dark"


def setup(app: Sphinx) -> None:
    reading.install(app)
    references.install(app)
    app.add_lexer("caddyfile", TextLexer)  # Pygments has none
