"""The npm package: which files it has, and what its package.json says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mercure_hub import __version__
from npm.build import MAIN, NAME, PEERS, STATIC, build, content, entries, manifest, reached, version


@pytest.mark.parametrize(
    ("python", "npm"),
    [
        ("0.1.0", "0.1.0"),
        ("1.2.3rc1", "1.2.3-rc.1"),
        ("1.2.3a2", "1.2.3-a.2"),
        ("1.2.3.dev4", "1.2.3-dev.4"),
    ],
)
def test_versions(python: str, npm: str) -> None:
    assert version(python) == npm


@pytest.mark.parametrize("python", ["1.2", "1.2.3+local", "1.2.3.post1", ""])
def test_versions_that_npm_cannot_have(python: str) -> None:
    with pytest.raises(ValueError, match="no form for npm"):
        version(python)


def test_modules_with_types_are_entries() -> None:
    assert entries(["a.js", "a.d.ts", "mercure.js", "mercure.d.ts", "inner.js"]) == ["mercure", "a"]
    with pytest.raises(ValueError, match="b: there are types"):
        entries(["b.d.ts"])


TEXTS = {
    "mercure.js": 'import { a } from "./a.js";\n// import "./comment.js"\nexport * from "./b.js";',
    "mercure.d.ts": "export class Mercure {}",
    "a.js": 'const lazy = () => import("./lazy.js");',
    "b.js": "/* from './other.js' */",
    "lazy.js": 'customElements.define("x-y", class {});',
    "chat.js": 'import "./a.js";',
    "chat.d.ts": 'import type { ChatTransport } from "ai";\nimport type { Mercure } from "./mercure.js";',
    "template.js": 'import "./mercure.js";',
}


def test_what_is_imported_comes_along() -> None:
    files, packages = reached(TEXTS, ["mercure"])
    assert files == ["a.js", "b.js", "lazy.js", "mercure.d.ts", "mercure.js"]
    assert packages == []
    assert reached(TEXTS, ["chat"])[1] == ["ai"]


def test_the_package_json_follows_from_the_files() -> None:
    package = manifest(TEXTS)
    assert package["exports"] == {
        ".": {"types": "./mercure.d.ts", "default": "./mercure.js"},
        "./chat": {"types": "./chat.d.ts", "default": "./chat.js"},
        "./package.json": "./package.json",
    }
    assert package["sideEffects"] == ["./lazy.js"]
    assert package["peerDependencies"] == {"ai": PEERS["ai"]}
    assert package["peerDependenciesMeta"] == {"ai": {"optional": True}}
    files = package["files"]
    assert isinstance(files, list)
    assert "template.js" not in files


def test_types_of_a_package_that_is_not_known_are_an_error() -> None:
    with pytest.raises(KeyError, match="react"):
        manifest({**TEXTS, "chat.d.ts": 'import { FC } from "react";'})


def test_the_version_takes_the_place_of_the_address() -> None:
    assert content("a.js", "const parts = [import.meta.url];") == f'const parts = ["{NAME}@{__version__}"];'
    assert content("a.d.ts", "import.meta.url") == "import.meta.url"


def test_the_package_has_the_files_of_the_extension(tmp_path: Path) -> None:
    folder = tmp_path / "npm"
    build(folder)
    build(folder)  # again, in its place
    package = json.loads((folder / "package.json").read_text())
    assert (package["name"], package["version"]) == (NAME, __version__)
    assert set(package["files"]) | {"package.json", "README.md", "LICENSE"} == {
        path.name for path in folder.iterdir()
    }
    for name in package["files"]:
        text = (folder / name).read_text()
        assert "import.meta" not in text
        if "import.meta" not in (STATIC / name).read_text():
            assert text == (STATIC / name).read_text()
    assert f"{MAIN}.js" in package["files"]
    assert not re.search(r"\bnpm(?:js)?\.(?:org|com)\b", (folder / "package.json").read_text())
