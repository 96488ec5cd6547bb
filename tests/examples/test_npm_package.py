"""The npm package as applications use it: installed from its archive, compiled, bundled, in Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Response

from npm.build import NAME, build
from tests.examples.browser import ROOT
from tests.examples.loading import NPM_FLAGS, install_packages
from tests.examples.page_site import Tab
from tests.examples.test_javascript_session import Orders
from tests.needs import need

pytestmark = pytest.mark.servers

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<script src="/bundle.js" defer></script>
<script type="module">window.isReady = true;</script>
"""


class Project:
    """A project of npm with the tools, and the package installed from its archive.

    :param folder: of the project.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "tests" / "npm", folder, dirs_exist_ok=True)
        install_packages(folder)
        build(folder / "package")
        # From here on, nothing is fetched.
        self.archive = self.run("npm", "pack", "./package", "--loglevel=error", "--offline").strip()
        self.run("npm", "install", *NPM_FLAGS, "--offline", "--legacy-peer-deps", f"./{self.archive}")

    def run(self, *command: str, **variables: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"NO_COLOR": "1"} | variables,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of the tools, without a network."""
        nowhere = "http://127.0.0.1:9"
        return self.run(f"node_modules/.bin/{name}", *arguments, HTTPS_PROXY=nowhere, HTTP_PROXY=nowhere)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    need("npm", "nodejs")
    return Project(tmp_path_factory.mktemp("project"))


def test_publint_has_nothing_to_say(project: Project) -> None:
    assert "All good!" in project.tool("publint", "--strict", project.archive)


def test_the_types_are_right_for_every_way_to_resolve_them(project: Project) -> None:
    """Of ECMAScript modules, which the package alone has."""
    report = json.loads(project.tool("attw", "--profile", "esm-only", "--format", "json", project.archive))
    assert report["analysis"]["types"]["kind"] == "included"
    problems = {one["kind"] for one in report["analysis"]["problems"]}
    assert problems <= {"CJSResolvesToESM", "NoResolution"}  # of node10 and of require()
    assert [
        one
        for one in report["analysis"]["problems"]
        if one.get("resolutionKind") in ("node16-esm", "bundler")
    ] == []


@pytest.mark.parametrize(("module", "resolution"), [("esnext", "bundler"), ("nodenext", "nodenext")])
def test_a_page_compiles_in_strict_mode(project: Project, module: str, resolution: str) -> None:
    project.tool("tsc", "--project", ".", "--module", module, "--moduleResolution", resolution)


def test_a_server_can_import_it(project: Project) -> None:
    """Frameworks that render pages on a server load the modules there, too, where there is no document."""
    package = json.loads((project.folder / "package" / "package.json").read_text())
    names = [NAME + path.removeprefix(".") for path in package["exports"] if path != "./package.json"]
    imports = "; ".join(f"await import({json.dumps(name)})" for name in names)
    project.run("node", "--input-type=module", "--eval", f"{imports}; console.log('ok')")


class Bundled(Orders):
    """Orders, with a page whose script is bundled."""

    def __init__(self, directory: Path, script: str) -> None:
        super().__init__(directory)
        self.app.add_url_rule("/bundled", "bundled", lambda: _PAGE)
        self.app.add_url_rule("/bundle.js", "bundle", lambda: Response(script, mimetype="text/javascript"))


@pytest.fixture(scope="module")
def orders(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundled]:
    project.tool(
        *("esbuild", "page.ts", "--bundle", "--minify", "--target=es2022", "--format=iife"),
        *("--outfile=bundle.js", "--log-level=warning"),
    )
    site = Bundled(tmp_path_factory.mktemp("site"), (project.folder / "bundle.js").read_text())
    yield site
    site.close()


def test_a_bundled_page_reads_private_updates(orders: Bundled, tab: Tab) -> None:
    """In two tabs, with one connection."""
    tab.driver.get(f"{orders.url}/login/ada")
    tabs = [tab, tab.new()]
    for one in tabs:
        one.visit(f"{orders.url}/bundled")
        one.run("return begin()")
        one.wait_open()
    orders.publish("orders/ada", {"state": "paid"}, private=True)
    for one in tabs:
        one.wait_for("the update", one.seen, [{"state": "paid"}])
        assert one.seen("grace") == []
    assert orders.topics() == [["orders/ada", "orders/grace"]]


def test_a_bundler_leaves_out_what_nobody_uses(project: Project) -> None:
    (project.folder / "unused.js").write_text(f'import "{NAME}"; console.log("alone");')
    bundle = project.tool("esbuild", "unused.js", "--bundle", "--format=esm", "--log-level=error")
    assert "EventStreamParser" not in bundle
    assert "alone" in bundle
