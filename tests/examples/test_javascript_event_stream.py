"""The parser of event streams in Chromium: each stream whole, byte by byte, and in two pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver

from flask_mercure.pages import module_url
from mercure_hub.protocol.event_stream import Parser
from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab

pytestmark = pytest.mark.servers

# Bytes, and the events as (id, type, data).
_STREAMS: dict[str, tuple[bytes, list[tuple[str, str, str]]]] = {
    "lines by LF": (b"id: 1\ndata: a\n\n", [("1", "message", "a")]),
    "lines by CR": (b"id: 1\rdata: a\r\rdata: b\r\r", [("1", "message", "a"), ("1", "message", "b")]),
    "lines by CRLF": (
        b"id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n",
        [("1", "message", "a"), ("1", "message", "b")],
    ),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [("", "message", "a")]),
    "a second one is part of a name": (
        b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        [("", "message", "b")],
    ),
    "several bytes a character": ("data: ä€😀\n\n".encode(), [("", "message", "ä€😀")]),
    "broken UTF-8": (b"data: a\xffb\n\n", [("", "message", "a\ufffdb")]),
    "lines of data": (b"data: a\ndata\ndata:b\n\n", [("", "message", "a\n\nb")]),
    "one space is taken off": (b"data:  a\n\n", [("", "message", " a")]),
    "empty data": (b"data\n\ndata:\ndata:\n\n", [("", "message", ""), ("", "message", "\n")]),
    "no data": (b"event: x\n\ndata: a\n\n", [("", "message", "a")]),
    "types end with their event": (
        b"event: x\ndata: a\n\ndata: b\n\n",
        [("", "x", "a"), ("", "message", "b")],
    ),
    "comments": (b":\n: data: a\n:data: b\ndata: c\n:\n\n", [("", "message", "c")]),
    "unknown fields": (b"datum: a\n data: b\ndata: c\nDATA: d\n\n", [("", "message", "c")]),
    "an id with NUL": (b"id: 1\n\nid: 2\x00\ndata: a\n\n", [("1", "message", "a")]),
    "an empty id": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [("1", "message", "a"), ("", "message", "b")]),
    "cut short": (b"data: a\n\ndata: b\n", [("", "message", "a")]),
    "colons in the value": (b"data: a: b:c\n\n", [("", "message", "a: b:c")]),
    "other line ends": ("data: a\u2028b\x0b\u0085c\n\n".encode(), [("", "message", "a\u2028b\x0b\u0085c")]),
}

_PARSE = """return (async () => {
const { EventStreamParser } = await import(arguments[0]);
const bytes = Uint8Array.from(arguments[1]);
const parse = (...cuts) => {
  const events = [];
  const times = [];
  const onevent = ({ id, type, data }) => events.push([id, type, data]);
  const parser = new EventStreamParser(onevent, (milliseconds) => times.push(milliseconds));
  [0, ...cuts].forEach((from, index) => parser.push(bytes.slice(from, [...cuts, bytes.length][index])));
  return [events, times];
};
const several = [parse(), parse(...bytes.keys())];
for (const cut of bytes.keys()) several.push(parse(cut));
return several;
})()"""


@pytest.fixture(scope="module")
def parse(
    chromium: Callable[[int], list[webdriver.Chrome]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[bytes], list[Any]]]:
    """Gives the outcomes for all ways to cut a stream."""
    site = Site(tmp_path_factory.mktemp("site"))
    tab = Tab(chromium(1)[0])
    tab.visit(f"{site.url}/")
    with site.app.test_request_context():
        module = module_url().replace("mercure.js", "event_stream.js")
    # The policy of the page allows what the page's own origin serves.
    yield lambda raw: tab.run(_PARSE, module, list(raw))
    leave([tab])
    site.close()


@pytest.mark.parametrize("name", _STREAMS)
def test_streams(parse: Callable[[bytes], list[Any]], name: str) -> None:
    raw, expected = _STREAMS[name]
    for events, _ in parse(raw):
        assert [tuple(event) for event in events] == expected
    # The parser of the other half agrees.
    assert [(one.id, one.type, one.data) for one in Parser().feed(raw)] == expected


def test_times_to_reconnect(parse: Callable[[bytes], list[Any]]) -> None:
    for events, times in parse(b"retry: 10\nretry: 1.5\nretry: -1\nretry:\nretry: 0x1\nretry:20\n\n"):
        assert (events, times) == ([], [10, 20])


def test_a_line_in_many_pieces(parse: Callable[[bytes], list[Any]]) -> None:
    raw = b"data: " + b"a" * 2000 + b"\n\n"
    for events, _ in parse(raw):
        assert events == [["", "message", "a" * 2000]]
