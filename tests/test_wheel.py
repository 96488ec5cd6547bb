"""The wheel: what it claims, and a project with a ``hub.py`` of its own that uses it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest

from mercure_hub import DOCUMENTATION
from tests.examples.browser import free_ports

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).parents[1]
SECRET = "a secret of a test, as long as HS256 needs it to be"
SOURCES = (
    "setup.cfg",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "pytest_mercure.py",
)

# The project has modules with the names that the hub's parts have, and one with that of the folder.
HUB = "OWN = 'the hub module of this project'\n"
APP = """
from flask import Flask

import broker, config, endpoints, hub, protocol, server, storage
from flask_mercure import Mercure

app = Flask(__name__)
app.config.from_prefixed_env()
mercure = Mercure(app)

@app.get("/")
def index():
    return hub.OWN

@app.post("/publish")
def publish():
    return mercure.publish("books/1", "text")
"""
TESTS = """
import hub
from app import app

def test_page(mercure_hub, mercure_subscribe):
    app.config.update(mercure_hub.config)
    assert app.test_client().get("/").text == hub.OWN

def test_plugin(mercure_recorder):
    assert app.test_client().post("/publish").status_code == 200
    assert len(mercure_recorder) == 1
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive of this tree, and the wheel that is built from it."""
    tree, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    for folder in ("flask_mercure", "hub", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = f"from setuptools import build_meta; print(build_meta.build_sdist({str(made)!r}))"
    builder = tmp_path_factory.mktemp("builder") / "venv"
    venv.create(builder, with_pip=True)
    python = builder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "setuptools>=77"], check=True)
    subprocess.run([python, "-c", script], cwd=tree, check=True, stdout=subprocess.DEVNULL)
    (archive,) = made.glob("*.tar.gz")
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", made, archive], check=True
    )
    return made


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what it depends on is borrowed from the one of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "--python",
                python,
                "install",
                "--quiet",
                "--no-deps",
                "--no-index",
            ),
            *("--disable-pip-version-check", wheel),
        ],
        check=True,
    )
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_app.py").write_text(TESTS)
    for name in ("broker", "config", "endpoints", "hub", "protocol", "server", "storage"):
        (tmp_path / f"{name}.py").write_text(HUB)
    return tmp_path


def variables(**more: str) -> dict[str, str]:
    """The environment of a user: nothing that leads to this tree."""
    kept = {name: value for name, value in os.environ.items() if "MERCURE" not in name}
    kept.pop("PYTHONPATH", None)
    return kept | {"FLASK_MERCURE_JWT_SECRET": SECRET} | more


def fetch(url: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        text: bytes = answer.read()
    return text.decode()


@contextmanager
def running(command: list[str | Path], url: str, folder: Path, **more: str) -> Iterator[None]:
    """A command that serves, from when it answers at a URL."""
    with (folder / "output").open("w+") as output:
        child = subprocess.Popen(
            command, cwd=folder, env=variables(**more), stdout=output, stderr=output, start_new_session=True
        )
        try:
            while child.poll() is None:
                try:
                    fetch(url)
                    break
                except HTTPError:
                    break
                except OSError:
                    pass
            assert child.poll() is None, (folder / "output").read_text()
            yield
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)
            child.wait(30)


def test_the_wheel_claims_three_names_and_has_every_file_of_the_packages(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"flask_mercure", "mercure_hub", "pytest_mercure.py"}
    tree = {
        str(path.relative_to(root))
        for root, package in ((ROOT, "flask_mercure"), (ROOT / "hub", "mercure_hub"))
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(names) == tree | {"pytest_mercure.py"}


def test_the_source_archive_has_no_tests_and_all_that_the_wheel_needs(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "setup.cfg", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_the_metadata_say_whose_it_is_and_where(wheel: Path) -> None:
    content = zipfile.ZipFile(wheel)
    (path,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
    lines = content.read(path).decode().splitlines()
    assert "Author: flask-mercure contributors" in lines
    urls = dict(
        line.removeprefix("Project-URL: ").split(", ") for line in lines if line.startswith("Project-URL: ")
    )
    assert urls.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://") for url in urls.values())


def test_a_project_with_its_own_hub_module_is_served_by_gunicorn(environment: Path, project: Path) -> None:
    port, other = free_ports(2)
    address = f"127.0.0.1:{other}"
    mercure = f"http://{address}/.well-known/mercure"
    hub = [environment / "bin" / "mercure-hub"]
    settings = {"MERCURE_LISTEN": address, "MERCURE_PUBLISHER_JWT_KEY": SECRET}
    gunicorn: list[str | Path] = [
        environment / "bin" / "python",
        "-m",
        "gunicorn",
        f"--bind=127.0.0.1:{port}",
        "app:app",
    ]
    with (
        running([*hub], f"http://{address}/healthz", project, **settings),
        running(gunicorn, f"http://127.0.0.1:{port}/", project, FLASK_MERCURE_URL=mercure),
    ):
        assert fetch(f"http://127.0.0.1:{port}/") == "the hub module of this project"
        assert fetch(f"http://127.0.0.1:{port}/publish", b"").startswith("urn:uuid:")


def test_a_project_with_its_own_hub_module_runs_pytest_with_the_plugin(
    environment: Path, project: Path
) -> None:
    done = subprocess.run(
        [environment / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=variables(FLASK_MERCURE_URL="http://127.0.0.1:9/"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_project_with_its_own_hub_module_has_flask_run_and_a_hub_beside_it(
    environment: Path, project: Path
) -> None:
    port, other = free_ports(2)
    address = f"127.0.0.1:{other}"
    flask: list[str | Path] = [environment / "bin" / "python", "-m", "flask"]
    url = f"http://{address}/.well-known/mercure"
    with (
        running([*flask, "mercure", "hub"], f"http://{address}/healthz", project, FLASK_MERCURE_URL=url),
        running(
            [*flask, "run", f"--port={port}"], f"http://127.0.0.1:{port}/", project, FLASK_MERCURE_URL=url
        ),
    ):
        assert fetch(f"http://127.0.0.1:{port}/") == "the hub module of this project"
        assert fetch(f"http://127.0.0.1:{port}/publish", b"").startswith("urn:uuid:")


def test_help_leads_to_a_page_of_the_project() -> None:
    pages = set(re.findall(r"= (https://\S+)", (ROOT / "setup.cfg").read_text(encoding="utf-8")))
    assert f"{DOCUMENTATION}/index.md" in pages
