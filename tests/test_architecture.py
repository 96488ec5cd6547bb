"""Who may import whom, by reading the source: the arrows of the design."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

IMPURE = {
    "asyncio", "flask", "gevent", "geventwebsocket", "greenlet", "http.client", "http.server", "httptools",
    "multiprocessing", "os", "queue",
    "requests", "select", "selectors", "signal", "socket", "socketserver", "sqlalchemy", "sqlite3", "ssl",
    "subprocess", "threading", "time",
    "urllib.request", "urllib3", "werkzeug",
}  # fmt: skip

# What each part may import of hub, beside itself. A part that is not named may import all but the two
# outermost: hub.server and hub.cli.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "hub.protocol": (),
    "hub.transport": ("hub.protocol",),
    "hub.fanout": ("hub.protocol",),
    "hub.metrics": ("hub.protocol",),
    "hub.lookups": ("hub.protocol",),
    "hub.replay_budget": (),
    "hub.broker": (
        *("hub.protocol", "hub.transport", "hub.fanout", "hub.metrics", "hub.lookups", "hub.replay_budget"),
    ),
    "flask_mercure": ("hub.protocol",),
}
# The parts of flask_mercure, each of which knows those above it only, and of these the ones named here.
# A module that is imported by name at run time counts too.
EXTENSION: dict[str, tuple[str, ...]] = {
    "errors": (),
    "topics": ("errors",),
    "encryption": ("errors", "topics"),
    "tokens": ("errors", "topics"),
    "cookies": ("errors",),
    "updates": ("errors", "topics", "encryption"),
    "configuration": ("errors", "topics", "tokens", "cookies"),
    "http": ("errors", "tokens", "updates", "configuration"),
    "state": ("errors", "configuration", "http"),
    "publishing": ("errors", "topics", "updates", "configuration", "state"),
    "reading": ("errors", "topics", "configuration", "http", "state", "publishing"),
    "grants": ("errors", "topics", "tokens", "cookies", "configuration", "state"),
    "pages": ("errors", "topics", "cookies", "configuration", "state"),
    "outbox": ("errors", "encryption", "updates", "state", "publishing"),
    "broadcast": ("errors", "topics", "updates", "state", "publishing", "outbox"),
    "hub": (
        *("topics", "encryption", "updates", "state", "publishing", "reading", "grants", "pages"),
        "broadcast",
    ),
    "extension": (
        *("errors", "topics", "encryption", "updates", "configuration", "http", "state", "publishing"),
        *("grants", "pages", "outbox", "hub"),
    ),
    "development": ("errors", "topics", "tokens", "configuration", "reading"),
    "doctor": ("errors", "topics", "tokens", "cookies", "updates", "configuration", "http", "state"),
    "debug_panel": ("errors", "updates", "publishing"),
    "commands": ("errors", "topics", "state", "outbox", "hub", "development"),
    "cli": ("doctor", "commands"),
}
MAY_NOT_IMPORT: dict[str, tuple[str, ...]] = {
    "hub.endpoints": ("hub.server", "hub.history", "hub.cli", "hub.__main__"),
    "hub.history": ("hub.server", "hub.endpoints", "hub.broker", "hub.fanout", "hub.cli", "hub.__main__"),
    "hub.settings": ("hub.server", "hub.endpoints", "hub.cli", "hub.__main__"),
    "hub.setting_table": ("hub.settings", "hub.server", "hub.endpoints", "hub.cli", "hub.__main__"),
    "hub.issuers": ("hub.server", "hub.endpoints", "hub.cli", "hub.__main__"),
    "hub.values": ("hub.settings", "hub.server", "hub.endpoints", "hub.cli", "hub.__main__"),
    "hub.playground": ("hub.settings", "hub.server", "hub.endpoints", "hub.cli", "hub.__main__"),
    "hub.variables": ("hub.server", "hub.endpoints", "hub.cli", "hub.__main__"),
    "hub.server": ("hub.history", "hub.cli", "hub.__main__"),
}


def files(*parts: str) -> list[Path]:
    return sorted(path for part in parts for path in (ROOT / part).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports; of ``from a import b`` also ``a.b``, if that is a module."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if _is_module(f"{base}.{alias.name}"))


def imports_by_name(path: Path) -> Iterator[str]:
    """Modules of the extension that a file names in a string, for import_module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
            if name.startswith("flask_mercure.") and name.isascii() and " " not in name and _is_module(name):
                yield name


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def part_of(module: str) -> str:
    """``hub.protocol.keys`` is of ``hub.protocol``, ``flask_mercure.cli`` of ``flask_mercure``."""
    return ".".join(module.split(".")[: 1 if module.startswith("flask_mercure") else 2])


def test_there_is_something_to_look_at() -> None:
    assert {module_name(path) for path in files("hub/protocol")} >= {"hub.protocol", "hub.protocol.keys"}
    assert "hub.protocol.errors" in set(imports(ROOT / "hub/protocol/answer.py"))


@pytest.mark.parametrize("path", files("hub/protocol"), ids=module_name)
def test_the_protocol_is_pure(path: Path) -> None:
    assert [module for module in imports(path) if is_within(module, *IMPURE)] == []


@pytest.mark.parametrize("path", files("hub/protocol"), ids=module_name)
def test_the_protocol_reads_no_clock(path: Path) -> None:
    """A clock can also be had without the module ``time``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
    ] == []


@pytest.mark.parametrize("path", files("hub", "flask_mercure"), ids=module_name)
def test_the_arrows(path: Path) -> None:
    part = part_of(module_name(path))
    own = [
        module
        for module in imports(path)
        if is_within(module, "hub", "flask_mercure") and not is_within(module, part)
    ]
    if part in MAY_IMPORT:
        wrong = [
            module
            for module in own
            if not is_within(module, "hub.protocol" if part == "hub.protocol" else part, *MAY_IMPORT[part])
        ]
        # "hub" alone is the package with the version number.
        wrong = [module for module in wrong if module != "hub"]
    else:
        wrong = [module for module in own if is_within(module, *MAY_NOT_IMPORT.get(part, ()))]
    assert wrong == []


def test_the_parts_of_the_extension_are_in_order() -> None:
    """No part imports one that comes after it, so there is no circle."""
    before: set[str] = set()
    for part, known in EXTENSION.items():
        assert before.issuperset(known), part
        before.add(part)
    found = {module_name(path).split(".")[1] for path in files("flask_mercure") if "." in module_name(path)}
    assert found == set(EXTENSION)


@pytest.mark.parametrize("path", files("flask_mercure"), ids=module_name)
def test_the_arrows_within_the_extension(path: Path) -> None:
    own = module_name(path).split(".")[1:2]
    if not own:  # flask_mercure itself, which gives the public names
        return
    named = {*imports(path), *imports_by_name(path)}
    parts = {module.split(".")[1] for module in named if module.startswith("flask_mercure.")}
    assert parts - set(own) - set(EXTENSION[own[0]]) == set()


def test_no_arrow_is_allowed_that_nobody_needs() -> None:
    needed: dict[str, set[str]] = {part: set() for part in EXTENSION}
    for path in files("flask_mercure"):
        own = module_name(path).split(".")[1:2]
        if own:
            for module in {*imports(path), *imports_by_name(path)}:
                if module.startswith("flask_mercure."):
                    needed[own[0]] |= {module.split(".")[1]} - set(own)
    assert {part: set(known) for part, known in EXTENSION.items()} == needed


@pytest.mark.parametrize("path", files("hub"), ids=module_name)
def test_the_hub_never_imports_the_extension(path: Path) -> None:
    assert [module for module in imports(path) if is_within(module, "flask_mercure")] == []


def _loaded_by(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return {name.partition(".")[0] for name in run.stdout.splitlines()}


@pytest.mark.minutes
def test_importing_the_extension_loads_nothing_of_the_hubs_engine() -> None:
    loaded = _loaded_by("import flask_mercure")
    assert "flask_mercure" in loaded
    assert loaded.isdisjoint(
        {"gevent", "sqlalchemy", "urlpattern", "re2", "httptools", "geventwebsocket", "sqlite3"}
    )


@pytest.mark.minutes
def test_importing_the_protocol_loads_no_engine() -> None:
    modules = ", ".join(module_name(path) for path in files("hub/protocol"))
    assert _loaded_by(f"import {modules}").isdisjoint(
        {"gevent", "flask", "sqlalchemy", "httptools", "requests"}
    )
