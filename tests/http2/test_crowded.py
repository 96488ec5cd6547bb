"""When connections that wait for their clients take too much memory, the streams of subscribers go on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from mercure_hub.protocol.http2 import Code
from mercure_hub.server.assembly import Limits
from mercure_hub.server.open_requests import OPEN_REQUEST
from tests.http2.client import Connection
from tests.http2.frames import DEFAULT_FRAME_SIZE, Flag, block, data, headers
from tests.hub.running import HUB_PATH, running_hub

pytestmark = pytest.mark.minutes

ROOM_FOR_FIVE = Limits(open_requests=5 * OPEN_REQUEST + 1000)


def _begin_upload(connection: Connection) -> int:
    stream = connection.new_stream()
    connection.send(
        headers(stream, block(connection.fields("POST", HUB_PATH)), Flag.END_HEADERS),
        data(stream, bytes(DEFAULT_FRAME_SIZE)),
    )
    assert connection.fence()
    return stream


def test_an_incomplete_request_makes_room_and_the_streams_beside_it_go_on(folder: Path) -> None:
    with running_hub(folder, anonymous=1, limits=ROOM_FOR_FIVE) as hub, ExitStack() as stack:
        shared, alone = (stack.enter_context(Connection.to(hub)) for _ in range(2))
        stream = shared.subscribe({"match": "t"})
        upload = _begin_upload(shared)
        _begin_upload(alone)
        others = [stack.enter_context(Connection.to(hub)) for _ in range(4)]
        assert all(other.fence() for other in others)
        assert shared.answer(upload).reset == Code.ENHANCE_YOUR_CALM
        assert alone.end() is not None
        hub.send("t", "still there")
        assert stream.take(1) == ["still there"]


def test_answers_that_make_room_make_it_once(folder: Path) -> None:
    """Their greenlets notice later; until then, nobody else has to end for the same memory."""
    limits = Limits(open_requests=240 << 10)
    with running_hub(folder, anonymous=1, debugger=1, limits=limits) as hub, ExitStack() as stack:
        shared = stack.enter_context(Connection.to(hub, window_size=1000))
        shared.subscribe({"match": "t"})
        held = [shared.request("GET", f"{HUB_PATH}/debugger/") for _ in range(15)]
        for number in held:
            assert shared.head(number).status == 200
        assert shared.fence()
        others = [stack.enter_context(Connection.to(hub)) for _ in range(4)]
        for other in others:
            assert other.fence()
        for number in held:
            assert shared.answer(number).reset == Code.ENHANCE_YOUR_CALM
        assert all(other.fence() for other in others)
