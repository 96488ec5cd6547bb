"""aiohttp-sse-client: its iterator ends with the error of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import aiohttp
from aiohttp_sse_client.client import EventSource

from tests.foreign.clients.given import follow, url


def connect(headers: dict[str, str]) -> Iterator[tuple[str | None, str]]:
    with asyncio.Runner() as runner:
        source = runner.run(_opened(headers))
        try:
            while True:
                event = runner.run(source.__anext__())
                yield event.last_event_id, event.data
        finally:
            runner.run(source.__aexit__())


async def _opened(headers: dict[str, str]) -> EventSource:
    source = EventSource(url(), headers=headers, reconnection_time=timedelta(seconds=0.1))
    try:
        return await source.__aenter__()
    except BaseException:
        await source.__aexit__()
        raise


follow(connect, aiohttp.ClientError, ConnectionError)
