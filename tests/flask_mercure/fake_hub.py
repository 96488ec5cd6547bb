"""A hub that records what it is sent and answers as it is told, well or badly."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from flask import Flask, session

from flask_mercure import Mercure
from flask_mercure.extension import state_of
from mercure_hub.protocol.http import Pairs, parse_form

SECRET = "a secret of more than thirty-two bytes"
PATH = "/.well-known/mercure"


@dataclass(frozen=True)
class Received:
    """A request: what the hub saw."""

    method: str
    target: str
    headers: Mapping[str, str]
    pairs: Pairs
    connection: int

    @property
    def given(self) -> Pairs:
        """The fields of an update, but for those that each has."""
        return [pair for pair in self.pairs if pair[0] not in ("id", "once")]


@dataclass
class Answer:
    """What to say, and what to do with the connection."""

    body: bytes = b"urn:uuid:1"
    status: int = 200
    content_type: str | None = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False


class Silent(Answer):
    """No answer: the connection stays open until the hub stops."""


class Dropped(Answer):
    """No answer: the connection is closed."""


class FakeHub:
    """An HTTP server on a free port of the loopback; ``answers`` are given in turn, the last one again."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[Answer] = [Answer()]
        self.closed = threading.Event()  # a connection was, as an answer said
        self.stopping = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes: the second would wait for 40 ms

            def do_POST(self) -> None:
                hub.handle(self)

            def do_OPTIONS(self) -> None:
                hub.handle(self)

            def do_GET(self) -> None:
                hub.handle(self)

            def do_HEAD(self) -> None:
                hub.handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that leaves is no error."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}{PATH}"

    def speak_tls(self, certificate: Path) -> None:
        """Serve https from now on.

        :param certificate: PEM file with certificate and key.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        pairs = parse_form(body)
        self.received.append(
            Received(handler.command, handler.path, dict(handler.headers), pairs, handler.client_address[1])
        )
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Silent):
            self.stopping.wait(30)
        if isinstance(answer, Silent | Dropped):
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        if answer.content_type is not None:
            handler.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if answer.content_type != "text/event-stream":
            handler.send_header("Content-Length", str(len(answer.body)))
        else:
            handler.close_connection = True
        handler.end_headers()
        handler.wfile.write(answer.body)
        if answer.closes:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            self.closed.set()

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def running(certificate: Path | None = None) -> Iterator[FakeHub]:
    """A hub for the time of a test.

    :param certificate: PEM file with certificate and key, for https.
    """
    hub = FakeHub()
    if certificate is not None:
        hub.speak_tls(certificate)
    with hub:
        yield hub


def make_app(mercure: Mercure | None = None, /, **config: object) -> Flask:
    """An app with the extension and a key; ``config`` is joined to the keys, ``MERCURE_`` put before them."""
    app = Flask("sample")
    app.config["MERCURE_JWT_SECRET"] = SECRET
    app.config.update({f"MERCURE_{key}": value for key, value in config.items()})
    (mercure or Mercure()).init_app(app)
    return app


def add_login(app: Flask) -> None:
    """Add views that sign a user in, whom the session then names, and out."""
    app.secret_key = app.secret_key or "of the session"

    @app.get("/login/<user>")
    def login(user: str) -> str:
        session["user"] = user
        return user

    @app.route("/logout", methods=["GET", "POST"])
    def logout() -> str:
        session.clear()
        return "bye"


@contextmanager
def publishing(hub: FakeHub, **config: object) -> Iterator[Callable[..., str]]:
    """The ``publish`` of an app whose hub is the given one; its connections are closed at the end."""
    mercure = Mercure()
    app = make_app(mercure, URL=hub.url, **config)

    def publish(*args: Any, **kwargs: Any) -> str:
        with app.app_context():
            return mercure.publish(*args, **{"private": False, **kwargs})

    try:
        yield publish
    finally:
        state_of(app).publisher.close()
