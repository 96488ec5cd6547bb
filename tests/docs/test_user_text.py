"""What pages and examples show can be copied: no text of a user's becomes part of a pattern or a topic."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, blocks

_OF_TOPICS = {"URLPattern", "URITemplate", "build", "build_topic", "Update", "Grants"}
_METHODS = {"publish", "stream", "subscribe", "subscriptions", "url", "broadcast"}
_KEYWORDS = {"subscribe", "publish", "topics", "topic", "match"}

SOURCES = [
    *((str(block), block.code) for block in blocks() if block.language == "python"),
    *(
        (str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "examples").glob("*/*.py"))
    ),
]


def unsafe(code: str) -> Iterator[str]:
    """Topics and patterns that are put together without being encoded."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = node.args[:1] if name in _OF_TOPICS | _METHODS else []
            given += [one.value for one in node.keywords if one.arg in _KEYWORDS]
        elif isinstance(node, ast.FunctionDef) and "subscribe_grants" in map(_decorator, node.decorator_list):
            given = [one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value]
        else:
            continue
        for one in given:
            yield from (ast.unparse(part) for part in ast.walk(one) if _is_joined(part))


def _decorator(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return getattr(node, "attr", "")


def _is_joined(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", "") in ("format", "join")
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod))


@pytest.mark.parametrize(("where", "code"), SOURCES, ids=[where for where, _ in SOURCES])
def test_topics_and_patterns_are_built(where: str, code: str) -> None:
    assert list(unsafe(code)) == [], where


@pytest.mark.parametrize(
    "code",
    [
        'URLPattern(f"/tenants/{name}/*")',
        'URITemplate("/tenants/%s" % name)',
        'mercure.publish(["a", "/tenants/{}".format(name)], data)',
        'mercure.set_cookie(response, subscribe=[f"/tenants/{name}"])',
        '@mercure.subscribe_grants\ndef grants():\n    return ["a", f"/tenants/{name}/*"]',
        'subscribe({"match": 1}, topics=f"{a}")',
    ],
)
def test_an_unsafe_example_is_noticed(code: str) -> None:
    assert len(list(unsafe(code))) == 1


_TEMPLATE_CALL = re.compile(r"(?:mercure_url|mercure_script|mercure_on)\(([^)]*)\)")


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "docs").glob("**/*.md"), ROOT / "README.md", *(ROOT / "examples").glob("*/**/*.html")],
    ids=str,
)
def test_templates_put_nothing_together(path: Path) -> None:
    for arguments in _TEMPLATE_CALL.findall(path.read_text(encoding="utf-8")):
        assert not re.search(r"~|%|\+|format", arguments), f"{path}: {arguments}"
