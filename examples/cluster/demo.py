"""Runs the chat on two hubs that share one history: ``make demo-cluster``.

That is ``python -m examples.cluster.demo``. An engine, two hubs and nginx are child processes; the
application runs in this one. All end on Ctrl-C, and their temporary folder goes with them.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from flask import Flask
from werkzeug.serving import make_server

from flask_mercure import PublishError

from .app import Cluster, create_app, publish_number
from .parts import ENGINES, Trouble, free_port, hub, nginx

_COOKIE = "mercure_access_token"  # without the prefix __Secure-, which wants HTTPS
_PAUSE = 0.5  # seconds


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
        with ExitStack() as stack:
            _run(options, stop, stack)
    except Trouble as trouble:
        print(f"demo: {trouble}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the chat on two hubs that share one history.")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=os.environ.get("ENGINE") or "postgresql",
        help="what the hubs share; default: postgresql [ENGINE]",
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("CHAT_HOST", "localhost"),
        help="address of this machine to serve on, such as 192.168.1.20 to open the pages on a phone in the "
        "same network [CHAT_HOST]; default: localhost, for this machine only",
    )
    parser.add_argument("--port", type=int, help="port of nginx; default: 8000 or the next free one")
    return parser.parse_args()


def _run(options: argparse.Namespace, stop: threading.Event, stack: ExitStack) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mercure-cluster-")))
    port = _page_port(options.host, options.port)
    origin = f"http://{options.host}:{port}"
    secret = secrets.token_urlsafe(48)
    for name in ("engine", "hub-1", "hub-2", "nginx"):
        (folder / name).mkdir()

    engine, log = ENGINES[options.engine](folder / "engine", free_port())
    settings = {
        "MERCURE_TRANSPORT_URL": log,  # all that makes two hubs one
        "MERCURE_PUBLIC_URL": f"{origin}/.well-known/mercure",
        "MERCURE_PUBLISHER_JWT_KEY": secret,
        "MERCURE_COOKIE_NAME": _COOKIE,
        "MERCURE_ANONYMOUS": "1",  # for the page that shows the hubs
        "MERCURE_SUBSCRIPTIONS": "1",
        "MERCURE_HISTORY_SIZE": "20000",
        "MERCURE_WRITE_TIMEOUT": "0",
        "MERCURE_TRUSTED_PROXIES": "127.0.0.1",
    }
    ports = {"hub_1": free_port(), "hub_2": free_port()}
    hubs = [
        hub(f"Hub {number}", folder / f"hub-{number}", ports[f"hub_{number}"], settings) for number in (1, 2)
    ]
    app = create_app(
        {
            "SECRET_KEY": secrets.token_bytes(32),
            "MERCURE_URL": f"{origin}/.well-known/mercure",  # the app knows the proxy, and no hub
            "MERCURE_JWT_SECRET": secret,
            "MERCURE_COOKIE_NAME": _COOKIE,
            "MERCURE_COOKIE_SECURE": False,
        },
        Cluster(list(zip(hubs, ports.values(), strict=True)), engine),
    )
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it has a line for each request
    server = make_server("127.0.0.1", 0, app, threaded=True)
    bind = "127.0.0.1" if options.host == "localhost" else options.host
    front = nginx(
        folder / "nginx",
        {**ports, "host": options.host, "listen": bind, "page": port, "app": server.server_port},
    )

    for part in (engine, *hubs):
        stack.callback(part.stop)
        part.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    stack.callback(front.stop)
    front.start()
    counter = threading.Thread(target=_count, args=(app, stop))
    counter.start()
    stack.callback(counter.join)
    stack.callback(stop.set)
    if not stop.is_set():
        _say(f"\n  Two hubs on one {engine.name}: {origin}/hubs/  kill one and watch.\n")
        _say(f"  The chat on both:             {origin}/  in two windows, one of them private.")
        _say(f"  Logs:                         {folder}\n\n  Ctrl-C ends it.\n")
    while not stop.wait(0.2):
        if not front.is_running:
            raise Trouble("nginx has ended")


def _count(app: Flask, stop: threading.Event) -> None:
    """Publish numbers, each until it is known to be stored."""
    with app.app_context():
        for number in itertools.count(1):
            name = (
                f"urn:uuid:{uuid.uuid4()}"  # the same in each attempt, so that subscribers recognize a repeat
            )
            while not stop.wait(_PAUSE):
                try:
                    publish_number(number, name)
                    break
                except PublishError:
                    pass  # a hub was killed during the publication, or the engine is away
            if stop.is_set():
                return


def _page_port(host: str, wanted: int | None) -> int:
    """The wanted port if it is free, or the next free one after the usual one."""
    bind = "127.0.0.1" if host == "localhost" else host
    for port in range(8000, 8050) if wanted is None else [wanted or free_port()]:
        try:
            if host == "localhost" and _answers_on_ipv6(port):
                continue
            with socket.create_server((bind, port)):
                return port
        except OSError as error:
            reason = error.strerror
            if wanted is not None:
                break
    else:
        reason = "no port from 8000 to 8049 is free"
    raise Trouble(f"cannot listen on {host} port {wanted or 8000}: {reason} (--port)")


def _answers_on_ipv6(port: int) -> bool:
    """Whether browsers, which try ::1 first, would find another server at localhost."""
    try:
        socket.create_connection(("::1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
