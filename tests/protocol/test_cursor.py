"""Where a reconnecting subscriber's cursor is found."""

from __future__ import annotations

import pytest

from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.subscription import requested_cursor


@pytest.mark.parametrize(
    ("header", "query", "old_names", "found"),
    [
        (None, [], True, None),
        (None, [("match", "a")], True, None),
        ("a", [], False, "a"),
        ("a", [("last_event_id", "b")], False, "a"),
        ("a", [("lastEventID", "b")], True, "a"),
        ("", [("last_event_id", "b")], False, "b"),
        (None, [("last_event_id", "b")], False, "b"),
        (None, [("last_event_id", "")], False, ""),
        ("", [], True, ""),
        ("", [("last_event_id", "")], True, ""),
        (None, [("last_event_id", ""), ("last_event_id", "b")], False, "b"),
        (None, [("last_event_id", "b"), ("last_event_id", "c")], False, "b"),
        (None, [("lastEventID", "b")], False, None),
        (None, [("Last-Event-ID", "b")], False, None),
        (None, [("lastEventID", "b")], True, "b"),
        (None, [("Last-Event-ID", "b")], True, "b"),
        (None, [("last-event-id", "b")], True, "b"),
        (None, [("lastEventID", "old"), ("last_event_id", "new")], True, "new"),
        (None, [("lastEventId", "b")], True, "b"),
        (None, [("lastEventId", "b")], False, None),
        (None, [("lastEventID", "old"), ("lastEventId", "new")], True, "new"),
        (None, [("last_event_id", "old"), ("lastEventId", "new")], True, "new"),
        (None, [("last_event_id", "old"), ("lastEventId", "")], True, "old"),
        ("newest", [("lastEventId", "b")], True, "newest"),
        (None, [("LAST_EVENT_ID", "b")], True, None),
        ("earliest", [], False, "earliest"),
        (None, [("last_event_id", "earliest")], False, "earliest"),
        (None, [("last_event_id", "urn:uuid:é")], False, "urn:uuid:é"),
    ],
)
def test_requested(header: str | None, query: Pairs, old_names: bool, found: str | None) -> None:
    assert requested_cursor(header, query, old_names=old_names) == found
