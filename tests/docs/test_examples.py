"""The examples of the pages run on a real hub, or are parsed by what will read them."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import textwrap
from pathlib import Path

import psycopg
import pytest
from flask import Flask

from flask_mercure import Mercure
from mercure_hub.cli import main
from mercure_hub.config.loading import load_settings
from mercure_hub.storage.address import address_of
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.interface import Retention
from tests.docs.markdown import ROOT, Block, blocks
from tests.docs.stage import app_on, stage
from tests.engines import PostgresqlServer
from tests.hub.running import SECRET, RunningHub
from tests.needs import need

pytestmark = pytest.mark.minutes

pytest_plugins = ["pytester"]

# What a block is: its language, or a mark before it. Unmarked Python runs.
LANGUAGES = {"", "python", "html", "js", "json", "toml", "sh", "http", "caddyfile", "sql"}
MARKS = {
    "",
    "pytest",  # runs in a project that has an app
}
# Files that examples name, and those that there are.
FILES = ("/etc/app/keys.json", "/etc/shop/private.pem", "/etc/mercure/backend.pem")
_SCRIPT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)
_ASSIGNMENTS = re.compile(r"(?:\s*#.*|MERCURE_\w+=.*|\s*)")


def every(language: str, *marks: str) -> pytest.MarkDecorator:
    found = [one for one in blocks() if one.language == language and (not marks or one.mark in marks)]
    return pytest.mark.parametrize("block", found, ids=str)


def test_each_block_is_of_a_kind_that_is_looked_at() -> None:
    for block in blocks():
        assert block.language in LANGUAGES, f"{block}: {block.language}"
        assert block.mark in MARKS, f"{block}: {block.mark}"
        assert not block.mark or block.language == "python", str(block)


def there(code: str, folder: Path) -> str:
    """Code that finds the files it names."""
    for path in FILES:
        name = "private.pem" if path.endswith(".pem") else "keys.json"
        code = code.replace(path, str(folder / name))
    return code


def is_body(code: str) -> bool:
    """Whether it is the body of a function."""
    return any(isinstance(node, ast.Return) for node in ast.parse(code).body)


@every("python", "")
def test_python_runs(
    block: Block,
    hub: RunningHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FLASK_MERCURE_JWT_SECRET", SECRET)
    monkeypatch.setenv("EU_SECRET", SECRET)
    monkeypatch.setenv("HUB_SECRET", SECRET)
    monkeypatch.setenv("HUB_URL", hub.url)
    code = there(block.code, tmp_path)
    if is_body(code):
        code = f"def body():\n{textwrap.indent(code, '    ')}\nbody()\n"
    with stage(hub, tmp_path, block.code) as names:
        exec(compile(code, str(block), "exec"), names)


@every("python")
def test_python_calls_what_there_is(block: Block) -> None:
    """Arguments inside of functions too, which do not run."""
    for node in ast.walk(ast.parse(block.code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "mercure":
            method = getattr(Mercure, node.func.attr)
            given = inspect.signature(method).parameters
            for keyword in node.keywords:
                assert keyword.arg in given, f"{block}: {node.func.attr}({keyword.arg}=)"


SHOP = """
from flask import Flask, request
from flask_mercure import Mercure

mercure = Mercure()

def create_app(config):
    app = Flask("shop")
    app.config.update(config)
    mercure.init_app(app)

    @app.put("/books/<id>")
    def put(id):
        return mercure.publish(f"books/{id}", request.get_json(), private=True)

    return app
"""
NOWHERE = {"MERCURE_URL": "http://127.0.0.1:9/", "MERCURE_JWT_SECRET": SECRET}


def test_the_tests_of_the_page_on_testing_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    head = "import pytest\nfrom shop import create_app, mercure\n\n"
    client = f"@pytest.fixture\ndef client():\n    return create_app({NOWHERE!r}).test_client()\n\n"
    pytester.makepyfile(shop=SHOP)
    pytester.makeini("[pytest]\naddopts = --strict-config --strict-markers\nfilterwarnings = error\n")
    modules: dict[str, str] = {}
    settings = ""
    for number, block in enumerate(one for one in blocks() if one.mark == "pytest"):
        if "mercure_hub_settings" in block.code:
            settings = block.code
        elif "def test_" in block.code:
            given = "" if "def app(" in block.code else client
            modules[f"test_{number}"] = head + given + block.code
        else:
            body = textwrap.indent(block.code, "    ")
            before = "    events = mercure_subscribe('quiet')\n" if "events" in block.code else ""
            fixture = "mercure_subscribe" if before else "client"
            modules[f"test_{number}"] = f"{head}{client}def test_body({fixture}):\n{before}{body}"
    assert len(modules) >= 4
    assert settings
    pytester.makeconftest("import pytest\n\n" + settings)
    pytester.makepyfile(**modules)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=len(modules))


@every("html")
def test_html_is_a_template_whose_scripts_are_javascript(
    block: Block, hub: RunningHub, tmp_path: Path
) -> None:
    with stage(hub, tmp_path, "") as names:
        app: Flask = names["app"]
        page = app.jinja_env.from_string(block.code).render(topics=["orders/42"], **names)
    for attributes, script in _SCRIPT.findall(page):
        if "importmap" not in attributes and "json" not in attributes:
            check_javascript(script, tmp_path, str(block))


@every("js")
def test_javascript_is_javascript(block: Block, tmp_path: Path) -> None:
    check_javascript(block.code, tmp_path, str(block))


def check_javascript(code: str, folder: Path, where: str) -> None:
    need("nodejs")
    file = folder / "example.mjs"
    file.write_text(code)
    done = subprocess.run(["node", "--check", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {done.stderr}"


@every("json")
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.code)


@every("toml")
def test_toml_is_a_configuration_of_the_hub(block: Block, hub: RunningHub, tmp_path: Path) -> None:
    with stage(hub, tmp_path, ""):  # writes the files
        (tmp_path / "hub.toml").write_text(there(block.code, tmp_path))
    key = {} if "jwt" in block.code else {"MERCURE_PUBLISHER_JWT_KEY": SECRET}
    load_settings({"MERCURE_CONFIG": str(tmp_path / "hub.toml"), **key}, {})


@every("sql")
def test_postgresql_takes_each_statement(block: Block, postgresql_engine: PostgresqlServer) -> None:
    url = postgresql_engine.url()
    link = link_to(address_of(url), Retention())
    link.open()
    link.close(is_writer_left=False)
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            for statement in block.code.split(";\n"):
                connection.execute(statement.encode())
        finally:
            connection.execute("DROP DATABASE IF EXISTS mercure")
            connection.execute("DROP ROLE IF EXISTS mercure")


@every("caddyfile")
def test_a_caddyfile_can_be_converted(
    block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Caddyfile").write_text(block.code)
    (tmp_path / ".env").write_text(
        "".join(f"{name}={SECRET}\n" for name in re.findall(r"\{env\.(\w+_KEY)\}", block.code))
        + "".join(f"{name}=HS256\n" for name in re.findall(r"\{env\.(\w+_ALG)\}", block.code))
    )
    status = main(["convert", "--secrets", str(tmp_path / "Caddyfile"), str(tmp_path / ".env")])
    printed, told = capsys.readouterr()
    assert status == 0, told
    shown = next(one for one in blocks() if one.page == block.page and one.line > block.line).code
    names = re.findall(r"^(MERCURE_\w+)=", shown, re.MULTILINE)
    assert names
    assert set(names) <= set(re.findall(r"^#? ?(MERCURE_\w+)=", printed, re.MULTILINE))


ENVIRONMENTS = [
    one
    for one in blocks()
    if one.language in ("", "sh") and all(map(_ASSIGNMENTS.fullmatch, one.code.splitlines()))
]


@pytest.mark.parametrize("block", ENVIRONMENTS, ids=str)
def test_variables_of_the_hub_are_read(block: Block, tmp_path: Path) -> None:
    assert "MERCURE_" in block.code
    given = [line.partition("#")[0].strip().partition("=") for line in block.code.splitlines()]
    environment = {name: value.replace("...", SECRET) for name, _, value in given if name}
    for name, value in environment.items():
        if value.startswith("@"):
            (tmp_path / Path(value).name).write_text(SECRET)
            environment[name] = f"@{tmp_path / Path(value).name}"
    assert load_settings({"MERCURE_PUBLISHER_JWT_KEY": SECRET} | environment, {})


def test_there_are_environments() -> None:
    assert len(ENVIRONMENTS) >= 2


def test_a_wrong_example_is_noticed(hub: RunningHub, tmp_path: Path) -> None:
    with stage(hub, tmp_path, "") as names, pytest.raises(TypeError):
        exec('mercure.publish("a", secret=True)', names)
    with pytest.raises(AssertionError):
        test_python_calls_what_there_is(Block(ROOT, "python", 'mercure.publish("a", secret=True)', "", 1))
    assert app_on(hub).config["MERCURE_URL"] == hub.url
    assert "MERCURE_CONFIG" not in os.environ
