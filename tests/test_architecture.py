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
    "glob", "io", "mmap", "multiprocessing", "os", "pathlib", "queue", "shutil", "tempfile",
    "requests", "select", "selectors", "signal", "socket", "socketserver", "sqlalchemy", "sqlite3", "ssl",
    "subprocess", "threading", "time",
    "urllib.request", "urllib3", "werkzeug",
}  # fmt: skip

# The parts of the hub, each of which knows those above it only, and of these the ones named here.
HUB: dict[str, tuple[str, ...]] = {
    "protocol": (),
    "key_files": ("protocol",),
    "storage": ("protocol",),
    "fanout": ("protocol",),
    "metrics": ("protocol",),
    "config": ("protocol", "key_files", "storage"),
    "broker": ("protocol", "storage", "fanout", "metrics"),
    "endpoints": ("protocol", "fanout", "metrics", "config", "broker"),
    "server": ("protocol", "storage", "fanout", "metrics", "config", "broker", "endpoints"),
    "tools": ("protocol", "key_files", "storage", "config", "server"),
    "cli": ("protocol", "config", "server", "tools"),
    "__main__": ("cli",),
}
# The parts of flask_mercure, each of which knows those above it only, and of these the ones named here.
# A module that is imported by name at run time counts too.
EXTENSION: dict[str, tuple[str, ...]] = {
    "contexts": (),
    "errors": (),
    "html": ("contexts", "errors"),
    "topics": ("errors",),
    "encryption": ("errors", "topics"),
    "tokens": ("errors", "topics"),
    "cookies": ("errors",),
    "updates": ("errors", "html", "topics", "encryption"),
    "config": ("errors", "topics", "tokens", "cookies"),
    "client": ("errors", "tokens", "updates", "config"),
    "state": ("errors", "config", "client"),
    "publishing": ("errors", "updates", "config", "state"),
    "reading": ("errors", "topics", "tokens", "config", "client", "state", "publishing"),
    "revocation": ("errors", "topics", "tokens", "client", "state", "publishing"),
    "grants": ("errors", "topics", "tokens", "cookies", "config", "state", "revocation"),
    "pages": ("errors", "html", "topics", "cookies", "config", "state"),
    "page_session": ("errors", "topics", "state", "grants", "pages"),
    "explanation": ("errors", "topics", "tokens", "client", "state", "reading", "grants"),
    "database": ("contexts", "errors", "html", "topics", "updates", "config", "state", "publishing"),
    "hub": (
        *("errors", "topics", "tokens", "encryption", "updates", "config", "state", "publishing"),
        *("reading", "revocation", "grants", "pages", "page_session", "database"),
    ),
    "hub_client": (
        *("errors", "topics", "tokens", "cookies", "config", "client", "state", "publishing"),
        *("reading", "grants", "pages", "hub"),
    ),
    "extension": (
        *("errors", "encryption", "updates", "config", "client", "state", "publishing"),
        *("grants", "pages", "page_session", "database", "hub"),
    ),
    "development": ("errors", "topics", "tokens", "config", "reading"),
    "doctor": ("errors", "topics", "tokens", "cookies", "updates", "config", "client", "state"),
    "debug_panel": (*("errors", "topics", "updates", "state", "publishing", "grants", "explanation"),),
    "cli": ("errors", "topics", "state", "database", "hub", "explanation", "development", "doctor"),
}
PARTS = {"mercure_hub": HUB, "flask_mercure": EXTENSION}
SOURCES = {"mercure_hub": ROOT / "hub", "flask_mercure": ROOT}


def files(package: str) -> list[Path]:
    """The modules of a package, named as in ``mercure_hub.protocol``."""
    return sorted(_path_of(package).rglob("*.py"))


def module_name(path: Path) -> str:
    root = ROOT / "hub" if path.is_relative_to(ROOT / "hub") else ROOT
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _path_of(module: str) -> Path:
    package, *parts = module.split(".")
    return SOURCES.get(package, ROOT).joinpath(package, *parts)


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
    path = _path_of(name)
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _parts_named(path: Path) -> set[str]:
    """The other parts of its own package that a module imports."""
    package, own, *_ = module_name(path).split(".")
    named = {*imports(path), *imports_by_name(path)}
    parts = {module.split(".")[1] for module in named if module.startswith(f"{package}.")}
    return parts & set(PARTS[package]) - {own}


def test_there_is_something_to_look_at() -> None:
    modules = {module_name(path) for path in files("mercure_hub.protocol")}
    assert modules >= {"mercure_hub.protocol", "mercure_hub.protocol.tokens.keys"}
    assert "mercure_hub.protocol.errors" in set(imports(_path_of("mercure_hub.protocol") / "http.py"))


@pytest.mark.parametrize("path", files("mercure_hub.protocol"), ids=module_name)
def test_the_protocol_is_pure(path: Path) -> None:
    assert [module for module in imports(path) if is_within(module, *IMPURE)] == []


@pytest.mark.parametrize("path", files("mercure_hub.protocol"), ids=module_name)
def test_the_protocol_opens_no_file(path: Path) -> None:
    """A file can also be opened without an import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "open"] == []


def test_only_matching_imports_the_compiled_matchers() -> None:
    importing = {
        module_name(path)
        for path in files("mercure_hub.protocol")
        if any(is_within(module, "re2", "urlpattern") for module in imports(path))
    }
    assert importing
    assert {module for module in importing if not is_within(module, "mercure_hub.protocol.matching")} == set()


@pytest.mark.parametrize("path", files("mercure_hub.protocol"), ids=module_name)
def test_the_protocol_reads_no_clock(path: Path) -> None:
    """A clock can also be had without the module ``time``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
    ] == []


@pytest.mark.parametrize("package", PARTS)
def test_the_parts_are_in_order(package: str) -> None:
    """No part imports one that comes after it, so there is no circle."""
    before: set[str] = set()
    for part, known in PARTS[package].items():
        assert before.issuperset(known), part
        before.add(part)
    names = {module_name(path).split(".")[1] for path in files(package) if "." in module_name(path)}
    assert names == set(PARTS[package])


@pytest.mark.parametrize("package", PARTS)
def test_each_part_imports_those_that_the_table_names_and_no_others(package: str) -> None:
    needed: dict[str, set[str]] = {part: set() for part in PARTS[package]}
    for path in files(package):
        _, *own = module_name(path).split(".")
        if own:  # the package itself gives the public names
            needed[own[0]] |= _parts_named(path)
    assert {part: set(known) for part, known in PARTS[package].items()} == needed


@pytest.mark.parametrize("path", files("flask_mercure"), ids=module_name)
def test_the_extension_imports_only_the_rules_and_the_settings_of_the_hub(path: Path) -> None:
    of_the_hub = {module for module in imports(path) if is_within(module, "mercure_hub")}
    allowed = {"mercure_hub", "mercure_hub.key_files", "mercure_hub.config.settings"}
    assert {one for one in of_the_hub if not is_within(one, "mercure_hub.protocol")} <= allowed


@pytest.mark.parametrize("path", files("mercure_hub"), ids=module_name)
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
def test_only_what_matches_topics_loads_the_compiled_matchers() -> None:
    rules = "mercure_hub.protocol"
    matching = (
        f"{rules}.matching",
        f"{rules}.subscription",
        f"{rules}.tokens.grant",
        f"{rules}.tokens.access_token",
    )
    names = [module_name(path) for path in files(rules) if not is_within(module_name(path), *matching)]
    assert f"{rules}.hub_url" in names
    assert _loaded_by(f"import {', '.join(names)}").isdisjoint({"re2", "urlpattern"})


@pytest.mark.minutes
def test_importing_the_protocol_loads_no_engine() -> None:
    modules = ", ".join(module_name(path) for path in files("mercure_hub.protocol"))
    assert _loaded_by(f"import {modules}").isdisjoint(
        {"gevent", "flask", "sqlalchemy", "httptools", "requests"}
    )
