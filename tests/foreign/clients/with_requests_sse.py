"""requests-sse connects again by itself; each attempt waits twice as long as the one before."""

from __future__ import annotations

from datetime import timedelta

from requests_sse import EventSource

from tests.foreign.clients.given import HEADERS, receive, url

with EventSource(
    url(), headers=HEADERS, reconnection_time=timedelta(seconds=0.1), max_connect_retry=10
) as source:
    receive((event.last_event_id, event.data) for event in source)
