"""What links and names lead to that Sphinx does not find by itself."""

from __future__ import annotations

import posixpath
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import flask_mercure

_OURS = ("flask_mercure.", "mercure_hub.")
# Where names are explained; nobody makes or names a Batch, which a public method returns.
_PLACES = {name: f"flask_mercure.{name}" for name in flask_mercure.__all__} | {
    "Batch": "flask_mercure.Mercure.batch"
}


def install(app: Sphinx) -> None:
    """Resolve references this way."""
    app.connect("doctree-read", _lead_to_folders)
    app.connect("missing-reference", _find_exported)
    app.connect("build-finished", _begin_at_the_root)


def _lead_to_folders(app: Sphinx, doctree: nodes.document) -> None:
    """A link to a folder leads to its README; to one without, it is text: a site has no listings."""
    for link in list(doctree.findall(pending_xref)):
        if link["reftype"] != "myst" or link.get("refdomain") is not None:
            continue
        folder = posixpath.normpath(posixpath.join(posixpath.dirname(link["refdoc"]), link["reftarget"]))
        if not Path(app.srcdir, folder).is_dir():
            continue  # MyST reports it
        if f"{folder}/README" in app.env.found_docs:
            link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", f"{folder}/README", None
        else:
            link.replace_self(link.children)


def _find_exported(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """A public name is documented where it is exported from, not where it is defined."""
    target: str = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(_OURS):
        return None
    for name, place in _PLACES.items():
        _, found, rest = f"{target}.".partition(f".{name}.")
        if found:
            public = f"{place}.{rest}".rstrip(".")
            domain = env.domains.python_domain
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, text)
    return None


def _begin_at_the_root(app: Sphinx, exception: Exception | None) -> None:
    """The first page has a path of its own; the root leads to it."""
    if exception is None and app.builder.format == "html":
        first = app.builder.get_target_uri(app.config.root_doc)
        Path(app.outdir, "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><title>{app.config.html_title}</title>'
            f'<meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{first}</a>\n',
            encoding="utf-8",
        )
