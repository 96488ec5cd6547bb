"""One request over HTTP/2, while its connection ends."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from mercure_hub.fanout.multiplexed import Multiplexed, Stream
from mercure_hub.server.http2.session import Exchange


class Breaking:
    """A session whose client is found to have left when something is written."""

    def __init__(self, connection: Multiplexed, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    def flush(self) -> None:
        self._connection.close(self._stream)


def test_an_answer_does_not_wait_for_the_window_of_a_client_that_left() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        nobody: Any = None
        connection = Multiplexed(ours.fileno(), None, 0.0, nobody, lambda _, __: None)
        stream = connection.open(1)
        stream.window = 10
        session: Any = Breaking(connection, stream)
        exchange = Exchange(nobody, "", session, stream)
        with pytest.raises(ConnectionResetError):
            exchange.send(bytes(100), 0.0)
