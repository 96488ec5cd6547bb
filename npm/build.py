"""Makes the npm package of the JavaScript module: ``python -m npm.build FOLDER``.

The package has the files of ``flask_mercure/static``, unchanged but for the module's own address, and a
``package.json`` that is made from them. A module with types, ``name.js`` beside ``name.d.ts``, is one that
applications import: ``mercure.js`` as ``flask-mercure``, each other one as ``flask-mercure/name``. What these
import comes along; scripts of the extension's templates do not.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from mercure_hub import DOCUMENTATION, __version__

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "flask_mercure" / "static"
NAME = "flask-mercure"
MAIN = "mercure"
REPOSITORY = DOCUMENTATION.partition("/blob/")[0]

_IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']""")
_ADDRESS = "import.meta.url"
_ELEMENT = "customElements.define("

# Packages whose types a module of ours names; an application that imports it has them.
PEERS = {"ai": ">=7"}


def version(python: str = __version__) -> str:
    """The version as npm writes it (Semantic Versioning 2.0.0).

    :param python: as Python writes it (PEP 440).
    :raises ValueError: it has another form.
    """
    found = re.fullmatch(r"(\d+\.\d+\.\d+)(?:\.?(a|b|rc|dev)(\d+))?", python)
    if found is None:
        raise ValueError(f"the version {python!r} has no form for npm")
    return found[1] + (f"-{found[2]}.{found[3]}" if found[2] else "")


def entries(files: Iterable[str]) -> list[str]:
    """The modules that applications import: those with types, the main one first.

    :param files: of the folder.
    :raises ValueError: there are types without a module.
    """
    names = set(files)
    typed = sorted(name.removesuffix(".d.ts") for name in names if name.endswith(".d.ts"))
    if lacking := [name for name in typed if f"{name}.js" not in names]:
        raise ValueError(f"{', '.join(lacking)}: there are types, and no module")
    return sorted(typed, key=lambda name: name != MAIN)


def reached(texts: Mapping[str, str], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """What modules and types import, and what that imports.

    :param texts: of the files, by name.
    :param names: of the modules, without ending.
    :returns: the files of this folder, and the packages of others.
    """
    waiting = [f"{name}{ending}" for name in names for ending in (".js", ".d.ts")]
    found: set[str] = set()
    packages: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for target in _IMPORT.findall(_without_comments(texts[name])):
            if not target.startswith("."):
                packages.add(target)
                continue
            own = target.removeprefix("./")
            types = f"{own.removesuffix('.js')}.d.ts"
            waiting.append(types if name.endswith(".d.ts") and types in texts else own)
    return sorted(found), sorted(packages)


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|(?:^|\s)//[^\n]*", "", text, flags=re.DOTALL)


def manifest(texts: Mapping[str, str]) -> dict[str, object]:
    """The package.json.

    :param texts: of the files of the folder, by name.
    :raises KeyError: types name a package that is not known.
    """
    names = entries(texts)
    files, packages = reached(texts, names)
    exports: dict[str, object] = {
        "." if name == MAIN else f"./{name}": {"types": f"./{name}.d.ts", "default": f"./{name}.js"}
        for name in names
    }
    peers = {name: PEERS[name] for name in packages}
    # A bundler may leave out what nobody uses, but for modules that do something when they are loaded.
    acting = [f"./{name}" for name in files if _ELEMENT in texts[name]]
    return {
        "name": NAME,
        "version": version(),
        "description": "Real-time updates from a Mercure hub, on one connection for all tabs of the browser",
        "keywords": ["mercure", "sse", "server-sent events", "real-time", "flask"],
        "license": "MIT",
        "homepage": f"{DOCUMENTATION}/spa.md",
        "bugs": f"{REPOSITORY}/issues",
        "repository": {"type": "git", "url": f"git+{REPOSITORY}.git"},
        "type": "module",
        "exports": {**exports, "./package.json": "./package.json"},
        "types": f"./{MAIN}.d.ts",
        "sideEffects": acting or False,
        "files": files,
        **({"peerDependencies": peers} if peers else {}),
        **({"peerDependenciesMeta": {name: {"optional": True} for name in peers}} if peers else {}),
    }


def content(name: str, text: str) -> str:
    """A file as the package has it.

    Tabs share a connection when their modules have one address, and so one version. In a bundle, the address
    is that of the bundle: here the version takes its place.

    :param name: of the file.
    :param text: as the extension serves it.
    """
    return text.replace(_ADDRESS, json.dumps(f"{NAME}@{version()}")) if name.endswith(".js") else text


def build(folder: Path) -> None:
    """Make the package.

    :param folder: is made anew.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in STATIC.iterdir()}
    package = manifest(texts)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files, _ = reached(texts, entries(texts))
    for name in files:
        (folder / name).write_text(content(name, texts[name]), encoding="utf-8")
    (folder / "package.json").write_text(json.dumps(package, indent=2) + "\n", encoding="utf-8")
    shutil.copy(ROOT / "npm" / "README.md", folder)
    shutil.copy(ROOT / "LICENSE", folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
