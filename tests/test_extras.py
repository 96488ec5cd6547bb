"""The package without its extras, and how an extra is installed: never by a name that is not ours."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from mercure_hub import INSTALL, PACKAGES
from mercure_hub.protocol.tokens import keys

ROOT = Path(__file__).parents[1]
# The command of a hub on a machine that has nothing of the extra "hub".
WITHOUT = """
import sys
from mercure_hub import PACKAGES

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
from mercure_hub.cli import main
sys.exit(main())
"""
# Of a page, a message, a comment: pip and what it is told to install.
_INSTALLS = re.compile(r"pip install(?: -[-\w]+)* ('[^']*'|[^\s`]+)")
_BY_NAME = re.compile(r"flask-mercure\[|(?:pip|uv|poetry) (?:install|add)[^\n#]*\bflask[-_]mercure\b(?!/)")


def without(*words: str, script: str = WITHOUT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.minutes
def test_keys_need_no_extra() -> None:
    done = without("keys")
    assert (done.returncode, done.stderr) == (0, "")
    assert keys.load(done.stdout.strip(), exists=lambda _: False).algorithms[0] == "HS256"
    assert without("keys", "--ec").stdout.startswith("-----BEGIN PRIVATE KEY-----")


@pytest.mark.minutes
@pytest.mark.parametrize("words", ["--help", "settings", "install --print systemd", "convert --help"])
def test_commands_that_only_print_need_no_extra(words: str) -> None:
    done = without(*words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.minutes
@pytest.mark.parametrize("words", ["", "check", "history stats"])
def test_other_commands_say_what_is_missing(words: str) -> None:
    done = without(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("mercure-hub: a package that the hub needs is missing (")
    assert line.endswith(INSTALL.format("hub"))


@pytest.mark.minutes
@pytest.mark.parametrize("name", ["hpack", "geventwebsocket"])
def test_a_package_that_is_imported_late_is_missed_at_the_start(name: str) -> None:
    done = without(script=WITHOUT.replace("in PACKAGES", f"== {name!r}"))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mercure-hub: a package that the hub needs is missing ({name})")


def test_the_packages_of_the_hub_are_those_of_its_extra() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["hub"].split("\n")
    wanted = {re.split(r"[\[>=<;]", line)[0] for line in lines if line}
    names = packages_distributions()
    found = {names[module][0].lower().replace("_", "-") for module in PACKAGES}
    assert found == wanted - {"backports.zstd"}  # works without


def texts() -> list[Path]:
    """What users read, and where messages are written."""
    folders = ("hub", "flask_mercure", "docs", "examples", "bench", "chaos", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = {".py", ".md", ".rst", ".html", ".js", ".toml", ".txt", ".cfg", ""}
    return [
        *(path for path in found if path.suffix in kinds and "node_modules" not in path.parts),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pytest_mercure.py")),
    ]


def test_all_texts_install_the_project_from_a_clone() -> None:
    found = []
    for path in texts():
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a compiled program
            continue
        found += [f"{path.relative_to(ROOT)}: {one[0]}" for one in _BY_NAME.finditer(text)]
    assert found == []


def test_pages_name_the_installation_as_messages_do() -> None:
    """The extras in quotes, of the folder that the shell is in."""
    (form,) = _INSTALLS.findall(INSTALL.format("hub"))
    assert form == "'.[hub]'"
    told = [one for path in texts() if path.suffix == ".md" for one in _INSTALLS.findall(path.read_text())]
    assert form in told
    assert [one for one in told if "[" in one and not re.fullmatch(r"'\.\[[a-z,]+\]'", one)] == []
