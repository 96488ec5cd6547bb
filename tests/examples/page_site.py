"""A hub and an app whose pages use the JavaScript module, for tests in Chromium."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from flask import Flask, Response, jsonify, render_template_string, request
from selenium import webdriver
from werkzeug.serving import make_server

from flask_mercure import EVERYTHING, Mercure
from flask_mercure.database.outbox import outbox_of
from flask_mercure.errors import ConfigurationError
from flask_mercure.extension import state_of
from tests.examples.browser import Page, end, free_ports, spawn, wait_for_answer

SECRET = "a secret of the tests with more than 32 bytes"

# Nothing inline, nothing evaluated, nothing from elsewhere; only the hub is talked to.
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; connect-src 'self' {sources}; img-src data:; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<title>{{ request.args.get("title", "page") }}</title>
{{ mercure_script(topics, **options) }}
<script type="module" src="/page.js"></script>
<p>page</p>
"""

_SCRIPT = """
import * as module from "mercure";

const { connect } = module;
window.connect = connect;
window.module = module;
window.follow = (url, options = {}, types = ["message"]) => {
  const seen = { updates: [], states: [], gaps: [], problems: [] };
  const mercure = connect(url, options);
  for (const type of types) mercure.on(type, ({ id, data }) => seen.updates.push(data));
  mercure.addEventListener("state", ({ detail }) => seen.states.push(detail.state));
  mercure.addEventListener("gap", ({ detail }) => seen.gaps.push(detail));
  mercure.addEventListener("problem", ({ detail }) => seen.problems.push(detail));
  window.seen = seen;
  window.mercure = mercure;
};
if (new URLSearchParams(location.search).has("title", "reloading")) {
  follow();
  mercure.addEventListener("gap", () => mercure.reload());
}
window.isReady = true;
"""


class HubProcess:
    """A hub that can be killed and started again, on one port and database."""

    def __init__(self, directory: Path, port: int, settings: Mapping[str, str]) -> None:
        self._directory = directory
        self.port = port
        self.origin = f"http://localhost:{port}"
        self.url = f"{self.origin}/.well-known/mercure"
        self._settings = {
            "MERCURE_LISTEN": f"127.0.0.1:{port}",
            "MERCURE_PUBLISHER_JWT_KEY": SECRET,
            "MERCURE_TRANSPORT_URL": f"sqlite:///{directory}/hub.db",
            "MERCURE_SUBSCRIPTIONS": "1",
            "MERCURE_PUBLIC_URL": self.url,  # that of tokens, whichever proxy they come through
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = spawn(self._directory, "hub", ["-m", "mercure_hub"], self._settings)
        wait_for_answer(f"{self.origin}/healthz", self._process)

    def workers(self) -> list[int]:
        """The pids of the workers, if there are several."""
        assert self._process is not None
        pid = self._process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def forget(self) -> None:
        """Remove the database of a hub that does not run."""
        for path in self._directory.glob("hub.db*"):
            path.unlink()

    def close(self) -> None:
        end(self._process)


class Served:
    """A hub, and an app in a thread.

    :param directory: for the hub's database and log.
    :param make: makes the app from settings.
    :param mercure: the extension of that app.
    :param settings: of the hub, beside the usual ones.
    :param one_origin: browsers reach the hub at the app's origin, as behind a proxy.
    """

    def __init__(
        self,
        directory: Path,
        make: Callable[[Mapping[str, Any]], Flask],
        mercure: Mercure,
        settings: Mapping[str, str] | None = None,
        *,
        one_origin: bool = False,
    ) -> None:
        hub_port, port = free_ports(2)
        self.url = f"http://localhost:{port}"
        self.mercure = mercure
        given = {"MERCURE_CORS_ORIGINS": self.url, **(settings or {})}
        if one_origin:
            given["MERCURE_PUBLIC_URL"] = f"{self.url}/.well-known/mercure"
        self.hub = HubProcess(directory, hub_port, given)
        public_url = given.get("MERCURE_PUBLIC_URL", self.hub.url)
        self.app = make(
            {"MERCURE_URL": self.hub.url, "MERCURE_PUBLIC_URL": public_url, "MERCURE_JWT_SECRET": SECRET}
        )
        if one_origin:
            self.app.add_url_rule("/.well-known/mercure", view_func=self._pass_on)
        self._server = make_server("127.0.0.1", port, self.app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages")
        self._thread.start()

    def _pass_on(self) -> Response:
        query = request.query_string.decode()
        headers = {"Cookie": request.headers.get("Cookie", ""), "Accept": "text/event-stream"}
        answer = requests.get(f"{self.hub.url}?{query}", headers=headers, stream=True, timeout=60)
        content = answer.raw.stream(decode_content=True)
        passed = {name: value for name, value in answer.headers.items() if name.startswith("Mercure-")}
        return Response(content, answer.status_code, passed, content_type=answer.headers["Content-Type"])

    def publish(self, topics: str | list[str], data: Any = "", **options: Any) -> str:
        with self.app.app_context():
            return self.mercure.publish(topics, data, **{"private": False, **options})

    def token(self, **options: Any) -> str:
        with self.app.app_context():
            return self.mercure.create_token(**options)

    def subscriptions(self) -> dict[str, set[str]]:
        """Who is connected: topics by subscriber."""
        answer = requests.get(
            f"{self.hub.url}/subscriptions",
            headers={"Authorization": f"Bearer {self.token(subscribe=EVERYTHING)}"},
            timeout=10,
        )
        found: dict[str, set[str]] = {}
        for one in answer.json()["subscriptions"]:
            found.setdefault(one["subscriber"], set()).add(one["match"])
        return found

    def topics(self) -> list[list[str]]:
        """What each connection has subscribed to."""
        return sorted(sorted(topics) for topics in self.subscriptions().values())

    @contextmanager
    def steady(self, topic: str, every: float = 0.01) -> Iterator[Callable[[], list[str]]]:
        """Publish numbers for the length of a ``with`` block; gives what was published."""
        sent: list[str] = []
        over = threading.Event()

        def publish() -> None:
            while not over.wait(every):
                number = str(len(sent) + 1)
                self.publish(topic, number)
                sent.append(number)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield lambda: list(sent)
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with suppress(ConfigurationError):  # most have no outbox
            outbox = outbox_of(self.app)
            if outbox.relay_thread is not None:
                outbox.relay_thread.stop()
            outbox.binding.engine.dispose()
        state_of(self.app).publisher.close()
        self.hub.close()


class Site(Served):
    """A hub that admits everybody, and an app with these pages.

    ``/`` has what ``mercure_script`` makes for the topics and options of the query; ``/sign-in`` and
    ``/renew`` set the cookie. With ``position`` the page begins where the hub is; ``rendering`` is called
    after that is known, in place of reading data. ``sources`` are what its pages may connect to beside the
    app and the hub.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.lifetime = 3600.0
        self.renewals = 0
        self.buffered = threading.Event()
        self.sources: list[str] = []
        self.rendering: Callable[[], object] = lambda: None
        super().__init__(directory, self._make, Mercure(), {"MERCURE_ANONYMOUS": "1", **(settings or {})})

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("pages")
        app.config.from_mapping(config)
        self.mercure.init_app(app)
        self._add_pages(app)
        return app

    def close(self) -> None:
        self.buffered.set()
        super().close()

    def _add_pages(self, app: Flask) -> None:
        nonce = "abc"

        @app.get("/")
        def page() -> Response:
            options: dict[str, Any] = {
                name: value for name, value in request.args.items() if name not in ("topics", "title")
            }
            if options.pop("position", None):
                options["last_event_id"] = self.mercure.last_event_id()
                self.rendering()
            topics = request.args.getlist("topics")
            text = render_template_string(_PAGE, topics=topics, options=options | {"nonce": nonce})
            response = Response(text)
            response.headers["Content-Security-Policy"] = _POLICY.format(
                nonce=nonce, sources=" ".join([self.hub.origin, *self.sources])
            )
            return response

        @app.get("/page.js")
        def script() -> Response:
            return Response(_SCRIPT, mimetype="text/javascript")

        @app.get("/sign-in")
        def sign_in() -> Response:
            return self.mercure.set_cookie(Response("in"), subscribe=EVERYTHING, lifetime=self.lifetime)

        @app.post("/renew")
        def renew() -> Response:
            self.renewals += 1
            return self.mercure.set_cookie(Response(status=204), subscribe=EVERYTHING, lifetime=3600)

        @app.get("/buffered")
        def buffered() -> Response:
            """An event stream behind something that keeps it to itself."""

            def nothing() -> Iterator[bytes]:
                yield b""  # the head leaves with it
                self.buffered.wait()

            return Response(nothing(), mimetype="text/event-stream")

        @app.post("/refuse")
        def refuse() -> tuple[Response, int]:
            self.renewals += 1
            return jsonify(), 403


class Tab(Page):
    """One tab of a browser; others may be in front of it."""

    def __init__(self, driver: webdriver.Chrome, handle: str | None = None) -> None:
        super().__init__(driver)
        self.handle = handle or driver.current_window_handle

    def run(self, script: str, *arguments: object) -> Any:
        self._focus()
        return super().run(script, *arguments)

    def visit(self, url: str) -> None:
        self._focus()
        self.driver.get(url)
        self.wait("the script", lambda: self.run("return window.isReady"))

    def follow(self, url: str | None = None, options: object = None, types: object = None) -> None:
        script = "follow(arguments[0] ?? undefined, arguments[1] ?? {}, arguments[2] ?? ['message'])"
        self.run(script, url, options, types)

    def enter(self, page: str, url: str | None = None, options: object = None, types: object = None) -> None:
        """Visit a page and follow, until it is subscribed."""
        self.visit(page)
        self.follow(url, options, types)
        self.wait_open()

    def wait_state(self, state: str) -> None:
        self.wait_for("state", lambda: self.run("return mercure.state"), state)

    def wait_open(self) -> None:
        self.wait_state("open")

    def seen(self, what: str = "updates") -> list[Any]:
        found: list[Any] = self.run("return seen[arguments[0]]", what)
        return found

    def wait_updates(self, *expected: str) -> None:
        self.wait_for("updates", self.seen, list(expected))

    def close(self) -> None:
        self._focus()
        self.driver.close()

    def new(self) -> Tab:
        """Another tab of the same browser."""
        self._focus()
        self.driver.switch_to.new_window("tab")
        return Tab(self.driver)

    def _focus(self) -> None:
        self.driver.switch_to.window(self.handle)


def lead(site: Site, tab: Tab) -> Tab:
    """Another tab, whose connection the first one shares."""
    tab.visit(f"{site.url}/?topics=a")
    leader = tab.new()
    leader.enter(f"{site.url}/?topics=a")
    tab.follow()
    tab.wait_open()
    return leader
