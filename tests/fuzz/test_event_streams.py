"""Event streams.

Invariant: what ``encode`` writes, ``Parser`` reads as the same event, whatever its fields hold. Any bytes
are a stream: no exception, and the same events however the bytes are cut.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from mercure_hub.protocol.event_stream import HEARTBEAT, Event, Parser, encode

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=12)
DATA = st.lists(
    st.one_of(LINE, st.sampled_from(["\r", "\n", "\r\n", ":", "data:", " ", "id: x", "\ufeff"])), max_size=6
).map("".join)
EVENTS = st.lists(
    st.tuples(LINE, DATA, st.one_of(st.none(), LINE), st.one_of(st.none(), st.integers(0, 2**31 - 1))),
    max_size=5,
)
STREAM = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b":", b"data", b"data:", b"data: ", b"id: ", b"id", b"event: ",
             b"retry: ", b"12", b"x", b"\xef\xbb\xbf", b"\xc3", b"\xa9", b"\0", b" "]
        ),
        max_size=20,
    ).map(b"".join),
)  # fmt: skip
CUTS = st.lists(st.integers(0, 200), max_size=6)


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


def read(parts: list[bytes]) -> tuple[list[Event], str, int | None]:
    parser = Parser("before")
    events = [event for part in parts for event in parser.feed(part)]
    return events, parser.last_event_id, parser.retry


@given(EVENTS, CUTS)
@example([("", "", "", 0)], [])
@example([("1", "\r", None, None), ("2", "\n\r\n\r", "mercure", None)], [7])
@example([("\ufeff", "\ufeff", "\ufeff", None)], [1, 2])
def test_what_is_written_is_read(
    events: list[tuple[str, str, str | None, int | None]], cuts: list[int]
) -> None:
    stream = HEARTBEAT.join(encode(*event) for event in events)
    found, last_event_id, retry = read(pieces(stream, cuts))
    positions = list(accumulate((one[0] for one in events), lambda last, own: own or last, initial="before"))
    assert found == [
        Event(data.replace("\r\n", "\n").replace("\r", "\n"), position, type_ or "message")
        for (_, data, type_, _), position in zip(events, positions[1:], strict=True)
    ]
    assert last_event_id == positions[-1]
    assert retry == next((one[3] for one in reversed(events) if one[3] is not None), None)


@given(STREAM, CUTS)
@example(b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [8, 9, 10, 11])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
@example(b"data: \xc3\xa9\n\n", [7])
@example(b"\r\n\ndata\r\n\r", [1])
def test_it_does_not_matter_how_a_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    whole = read([stream])
    assert read(pieces(stream, cuts)) == whole
    assert read([stream[at : at + 1] for at in range(len(stream))]) == whole
