"""The pytest plugin, as the tests of an application use it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytestmark = pytest.mark.minutes

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent

APP = """
    from flask import Flask
    from flask_mercure import Mercure

    mercure = Mercure()

    def create_app(config):
        app = Flask(__name__)
        app.config.update(config)
        mercure.init_app(app)

        @mercure.subscribe_grants
        def may_read():
            return ["books/3"]

        @app.get("/books")
        def page():
            return mercure.url("books/3")

        @app.post("/books/<id>")
        def save(id):
            return mercure.publish(f"books/{id}", {"id": id}, private=True)

        return app
"""
CONFTEST = """
    import pytest
    from shop import create_app

    @pytest.fixture
    def app(mercure_hub):
        return create_app(mercure_hub.config)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with an app, whose pytest finds this work tree, and the plugin as it is installed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MERCURE_LISTEN", "no address")  # the environment does not reach the hub
    pytester.makepyfile(shop=APP)
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\naddopts = --strict-config --strict-markers\nfilterwarnings = error\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """pytest within this process, which is much cheaper than another one."""
    return project.runpytest_inprocess(*_plugin(), "-p", "no:cacheprovider", *arguments)


def _plugin() -> tuple[str, ...]:
    installed = any(one.value == "pytest_mercure" for one in entry_points(group="pytest11"))
    return () if installed else ("-p", "pytest_mercure")


def test_a_project_that_uses_all_of_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_shop="""
        from pathlib import Path

        import pytest
        import requests

        from shop import create_app, mercure

        NOWHERE = {"MERCURE_URL": "http://127.0.0.1:9/", "MERCURE_JWT_SECRET": "x" * 40}

        def test_recorded(mercure_recorder):
            create_app(NOWHERE).test_client().post("/books/1")
            assert mercure_recorder.one("books/1").json == {"id": "1"}
            assert mercure_recorder.one().private

        def test_the_recorder_is_empty_again(mercure_recorder):
            assert mercure_recorder == []

        def test_on_a_real_hub(app, mercure_subscribe):
            events = mercure_subscribe("books/2")
            made = app.test_client().post("/books/2").text
            event = events.wait(5)
            assert (event.id, event.json()) == (made, {"id": "2"})

        @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
        def test_a_browser_with_its_cookie(app, host):
            client = app.test_client()
            page = client.get("/books", base_url=f"http://{host}:5000")
            assert page.status_code == 200
            token = client.get_cookie("__Secure-mercure_access_token", host, "/.well-known/mercure").value
            cookie = {"Cookie": f"__Secure-mercure_access_token={token}"}
            with requests.get(page.text, headers=cookie, stream=True, timeout=5) as stream:
                assert stream.status_code == 200, stream.text
                client.post("/books/3")
                assert any(b'"id"' in line for line in stream.iter_lines(chunk_size=1))

        def test_who_is_connected(app, mercure_subscribe):
            mercure_subscribe("a")
            with app.app_context():
                assert [one.topic for one in mercure.subscriptions()] == ["a"]

        def test_the_same_hub_with_its_history(app, mercure_hub):
            with mercure_hub.subscribe("books/2", "earliest", timeout=0.2) as events:
                assert [event.json() for event in events] == [{"id": "2"}]
            assert "POST" in mercure_hub.log()
            Path("address").write_text(mercure_hub.url)
        """
    )
    result = project.runpytest_subprocess(*_plugin(), "-p", "no:cacheprovider")
    result.assert_outcomes(passed=7)
    assert "ResourceWarning" not in result.stdout.str() + result.stderr.str()
    # The hub is gone with the session.
    port = (project.path / "address").read_text().split(":")[2].split("/")[0]
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{int(port):04X} 00000000:0000 0A" not in listening


def test_the_settings_of_the_hub_can_be_changed(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_settings="""
        import pytest
        from flask_mercure import Refused
        from shop import mercure

        @pytest.fixture(scope="session")
        def mercure_hub_settings():
            return {"MERCURE_SUBSCRIPTIONS": "0"}

        def test_they_hold(app):
            with app.app_context(), pytest.raises(Refused):
                mercure.subscriptions()
        """
    )
    run(project).assert_outcomes(passed=1)


def test_a_hub_that_does_not_start_says_why(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_broken="""
        import pytest

        @pytest.fixture(scope="session")
        def mercure_hub_settings():
            return {"MERCURE_HEARTBEAT": "often"}

        def test_it(mercure_hub):
            pass
        """
    )
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the hub did not start. It said:*", "*MERCURE_HEARTBEAT*"])


def test_loading_the_plugin_loads_neither_flask_nor_gevent() -> None:
    script = "import sys, pytest_mercure; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.split()
    assert "pytest_mercure" in loaded
    assert not {"flask", "gevent", "requests", "flask_mercure", "hub"} & set(loaded)


def test_the_fixtures_are_listed_with_what_they_do(project: pytest.Pytester) -> None:
    shown = run(project, "--fixtures").stdout.str()
    for name in ("mercure_hub ", "mercure_hub_settings", "mercure_recorder", "mercure_subscribe"):
        assert name in shown
