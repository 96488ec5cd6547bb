"""A hub whose events have ids that the spec forbids."""

from __future__ import annotations

import socket
import threading

import pytest

from flask_mercure import Gap, Subscription

pytestmark = pytest.mark.minutes

_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nLast-Event-ID: earliest\r\n\r\n"
    b"retry: 1\nid: a\x0bb\ndata: x\n\n"
)


def test_a_subscription_goes_on_after_an_id_that_no_header_can_carry() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_twice() -> None:
            for _ in range(2):
                connection, _address = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(_ANSWER)

        thread = threading.Thread(target=answer_twice, daemon=True)
        thread.start()
        gaps: list[Gap] = []
        url = f"http://127.0.0.1:{server.getsockname()[1]}/m?match=a"
        with Subscription(url, lambda: "a.b.c", timeout=10, on_gap=gaps.append) as events:
            assert next(events).id == "a\x0bb"
            assert next(events).id == "a\x0bb"
        thread.join(10)
    assert gaps == [Gap("a\x0bb", "earliest", "history")]
