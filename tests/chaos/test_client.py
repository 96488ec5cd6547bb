"""The checker's own reader of event streams."""

from __future__ import annotations

import pytest

from chaos.client import Events, number_of

STREAM = (
    b':\n\nid: a\ndata: {"n": 1, "pad": ""}\n\n'
    b'event: mercure\nid: b\ndata: {"id": "x"}\ndata: more\n\n'
    b'id: c\n\nretry: 5\ndata: {"n": 23, "pad": ""}\n\n'
)
EVENTS = [("a", 1), ("b", -1), ("c", 23)]


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_events_come_out_however_they_are_cut(size: int) -> None:
    reader = Events()
    found = [
        event for start in range(0, len(STREAM), size) for event in reader.feed(STREAM[start : start + size])
    ]
    assert found == EVENTS


@pytest.mark.parametrize(("data", "number"), [(b'{"n": 7, "pad"', 7), (b'{"m": 7}', -1), (b"", -1)])
def test_the_number_of_an_update_is_in_its_data(data: bytes, number: int) -> None:
    assert number_of(data) == number
