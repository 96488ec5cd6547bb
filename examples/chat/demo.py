"""Runs the chat together with its hub: ``make demo``, or ``python examples/chat/demo.py``.

The hub is a child process, the application runs in this one. Both end on Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote, urlsplit

from app import create_app
from werkzeug.serving import BaseWSGIServer, make_server

_HERE = Path(__file__).resolve().parent
_READY_WITHIN = 20.0  # seconds
_END_WITHIN = 10.0
_COOKIE = "mercure_access_token"  # without the prefix __Secure-, which wants HTTPS


class Trouble(Exception):
    """The demo cannot go on; the message says why."""


def main() -> int:
    """Run the demo until it is interrupted.

    :returns: exit status: 0, or 1 after trouble.
    """
    options = _options()
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        _run(options, stop)
    except Trouble as trouble:
        print(f"demo: {trouble}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the chat and its hub.")
    parser.add_argument(
        "--host",
        default=os.environ.get("CHAT_HOST", "localhost"),
        help="address of this machine to serve on, such as 192.168.1.20 to open the chat on a phone in "
        "the same network [CHAT_HOST]; default: localhost, for this machine only",
    )
    parser.add_argument("--port", type=int, help="port of the page; default: 8000 or the next free one")
    parser.add_argument("--hub-port", type=int, help="port of the hub; default: 3000 or the next free one")
    parser.add_argument("--data", type=Path, default=_HERE / "instance", help="directory of the history")
    parser.add_argument("--tls-cert", type=Path, help="certificate in PEM; page and hub then speak HTTPS")
    parser.add_argument("--tls-key", type=Path, help="its private key")
    options = parser.parse_args()
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("give both --tls-cert and --tls-key")
    return options


def _run(options: argparse.Namespace, stop: threading.Event) -> None:
    tls = options.tls_cert is not None
    scheme = "https" if tls else "http"
    bind = "127.0.0.1" if options.host == "localhost" else options.host
    context = _tls_context(options) if tls else None
    listener = _listen(options.host, options.port, 8000, "--port")
    probe = _listen(options.host, options.hub_port, 3000, "--hub-port")
    hub_port = probe.getsockname()[1]
    probe.close()  # the hub takes the port itself
    page_url = f"{scheme}://{options.host}:{listener.getsockname()[1]}"
    hub_url = f"{scheme}://{options.host}:{hub_port}/.well-known/mercure"
    secret = secrets.token_urlsafe(48)

    hub, ready = _start_hub(options, secret, f"{bind}:{hub_port}", hub_url, page_url)
    server: BaseWSGIServer | None = None
    try:
        _wait_for_hub(hub, ready, stop)
        app = create_app(
            {
                "SECRET_KEY": secrets.token_bytes(32),
                "SESSION_COOKIE_SECURE": tls,
                "MERCURE_URL": hub_url,
                "MERCURE_PUBLIC_URL": hub_url,
                "MERCURE_JWT_SECRET": secret,
                "MERCURE_COOKIE_NAME": _COOKIE,
                "MERCURE_COOKIE_SECURE": tls,
                "MERCURE_VERIFY_TLS": str(options.tls_cert) if tls else True,
            }
        )
        # Errors of the application have a logger of their own. This one has a line for each request, and
        # a traceback for each connection that a browser opened in advance and closed unused.
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        server = make_server(
            bind,
            0,
            _at_one_address(app, page_url),
            threaded=True,
            ssl_context=context,
            fd=listener.fileno(),
        )
        page = threading.Thread(target=server.serve_forever, daemon=True)
        page.start()
        _wait_for_answer(page_url, "/sign-in", hub, stop)
        if not stop.is_set():
            _say(f"\n  The chat is at  {page_url}/\n")
            _say("  Open it in two windows (one of them private) and sign in under two names.")
            _say("  Ctrl-C ends it.\n")
        while not stop.wait(0.2):
            _check(hub)
            if not page.is_alive():
                raise Trouble("the server of the page has ended; see above for its reason")
    finally:
        if server is not None:
            server.shutdown()
        _end(hub)
        _remove(ready)
        listener.close()


def _listen(host: str, port: int | None, first: int, flag: str) -> socket.socket:
    """A listening socket on the wanted port, or on the next free one after the usual one."""
    for candidate in [port] if port is not None else range(first, first + 50):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if host == "localhost" and _answers_on_ipv6(candidate):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            listener.bind(("127.0.0.1" if host == "localhost" else host, candidate))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if port is None and error.errno == errno.EADDRINUSE:
                continue
            raise Trouble(f"cannot listen on {host} port {candidate}: {error.strerror} ({flag})") from None
        return listener
    raise Trouble(f"no free port from {first} to {first + 49}; name one with {flag}")


def _answers_on_ipv6(port: int) -> bool:
    """Whether browsers, which try ::1 first, would find another server at localhost."""
    try:
        socket.create_connection(("::1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _start_hub(
    options: argparse.Namespace, secret: str, listen: str, hub_url: str, page_url: str
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the hub, configured by its environment alone.

    :returns: the hub, and the socket on which it tells that it serves (sd_notify).
    """
    try:
        options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Trouble(f"cannot make the directory {options.data}: {error.strerror} (--data)") from None
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    # The path of a socket has about a hundred bytes, and that of the data may be longer.
    path = Path(tempfile.mkdtemp(prefix="chat-", dir="/tmp"), "ready")
    ready.bind(str(path))
    # A second demo gets another port, and with it another history: one hub writes to a database.
    database = options.data.resolve() / f"chat-{urlsplit(hub_url).port}.db"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
    environment |= {
        "MERCURE_LISTEN": listen,
        "MERCURE_PUBLIC_URL": hub_url,
        "MERCURE_PUBLISHER_JWT_KEY": secret,
        "MERCURE_SUBSCRIPTIONS": "1",  # presence
        "MERCURE_CORS_ORIGINS": page_url,  # the page is at another port than the hub
        "MERCURE_COOKIE_NAME": _COOKIE,
        "MERCURE_TRANSPORT_URL": f"sqlite:///{quote(str(database))}",
        "MERCURE_HISTORY_SIZE": "20000",  # what a page fetches when it is opened is a part of this
        "MERCURE_WRITE_TIMEOUT": "0",  # streams end with their tokens
        "MERCURE_LOG_LEVEL": "warning",
        "NOTIFY_SOCKET": str(path),
    }
    if options.tls_cert is not None:
        environment |= {
            "MERCURE_TLS_CERT": str(options.tls_cert.resolve()),
            "MERCURE_TLS_KEY": str(options.tls_key.resolve()),
        }
    # A session of its own: Ctrl-C is for this process, which then ends the hub.
    return subprocess.Popen(
        [sys.executable, "-m", "mercure_hub"], env=environment, start_new_session=True
    ), ready


def _tls_context(options: argparse.Namespace) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise Trouble(f"cannot use the certificate: {error} (--tls-cert, --tls-key)") from None
    return context


def _at_one_address(app: Callable[..., Iterable[bytes]], page_url: str) -> Callable[..., Iterable[bytes]]:
    """Send those who came by another name of this machine to the one that the hub's cookie is for."""
    host = urlsplit(page_url).netloc

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_HOST", host) == host or environ["REQUEST_METHOD"] != "GET":
            return app(environ, start_response)
        start_response("307 Temporary Redirect", [("Location", page_url + quote(environ["PATH_INFO"]))])
        return []

    return serve


def _check(hub: subprocess.Popen[bytes]) -> None:
    if hub.poll() is not None:
        raise Trouble(f"the hub has ended with status {hub.returncode}; see above for its reason")


def _remove(ready: socket.socket) -> None:
    path = Path(ready.getsockname())
    ready.close()
    path.unlink(missing_ok=True)
    path.parent.rmdir()


def _wait_for_hub(hub: subprocess.Popen[bytes], ready: socket.socket, stop: threading.Event) -> None:
    """Wait until our hub says that it serves: another one could answer at its port."""
    ready.settimeout(0.2)
    deadline = time.monotonic() + _READY_WITHIN
    while not stop.is_set():
        try:
            if b"READY=1" in ready.recv(4096):
                return
        except TimeoutError:
            _check(hub)
        if time.monotonic() > deadline:
            raise Trouble(f"the hub does not serve within {_READY_WITHIN:.0f} s")


def _wait_for_answer(url: str, path: str, hub: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Wait until a server answers."""
    parts = urlsplit(url)
    deadline = time.monotonic() + _READY_WITHIN
    while not stop.wait(0.05):
        _check(hub)
        connection: HTTPConnection
        if parts.scheme == "https":
            # Only its presence is asked for; the certificate may be self-signed.
            insecure = ssl._create_unverified_context()
            connection = HTTPSConnection(parts.netloc, timeout=2, context=insecure)
        else:
            connection = HTTPConnection(parts.netloc, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise Trouble(f"no answer from {parts.netloc}{path} within {_READY_WITHIN:.0f} s")


def _end(hub: subprocess.Popen[bytes]) -> None:
    hub.terminate()
    try:
        hub.wait(_END_WITHIN)
    except subprocess.TimeoutExpired:
        hub.kill()
        hub.wait()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
