"""An issuer's web server under the control of a test: it serves a JWK set, or misbehaves."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Answering = Callable[[BaseHTTPRequestHandler], None]


def jwk(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """A key as a JWK, written by PyJWT: a private key stays one."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        text = RSAAlgorithm.to_jwk(key)
    elif isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        text = ECAlgorithm.to_jwk(key)
    else:
        text = OKPAlgorithm.to_jwk(key)
    found: dict[str, Any] = json.loads(text)
    found.pop("key_ops", None)
    return found | ({} if kid is None else {"kid": kid}) | more


def key_set(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def new_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@dataclass
class KeyServer:
    """What is served, and what was asked for.

    ``answer`` replaces the set by any answer; one that waits for ``released`` is let go at the end.
    """

    port: int = 0
    scheme: str = "http"
    body: bytes = b'{"keys": []}'
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    answer: Answering | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/keys?secret=hunter2"

    def serve(self, *keys: Mapping[str, Any]) -> None:
        """Serve these keys from now on."""
        self.body = key_set(*keys)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """An ``answer``: nothing, until released; then the set."""
        self.arrived.set()
        self.released.wait(20)
        self.reply(handler)

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers}.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.body)


@contextmanager
def key_server(*keys: Mapping[str, Any], certificate: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    """Run a server for the length of a ``with`` block."""
    server = KeyServer(scheme="http" if certificate is None else "https")
    server.serve(*keys)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            with contextlib.suppress(OSError):  # the hub has hung up
                (server.answer or server.reply)(self)

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: Any) -> None:
            pass  # a handshake that failed

        def finish_request(self, request: Any, client_address: Any) -> None:
            if certificate is None:
                super().finish_request(request, client_address)
                return
            with certificate.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client_address)

    listening = Server(("127.0.0.1", 0), Handler)
    server.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), name="issuer under test")
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listening.shutdown()
        listening.server_close()
        thread.join()
