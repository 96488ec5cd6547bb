"""HTTP requests.

Invariant: valid requests are read as they were written, however the bytes are cut. Junk raises
``InvalidRequest`` and nothing else, and is read the same however it is cut. No token gets into a line of
the log.
"""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.server.access_log import _is_harmless, _redact_all, redact
from mercure_hub.server.http import Message, RequestReader

MAX_BODY = 500
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
CUTS = st.lists(st.integers(0, 600), max_size=6)
TARGET = st.text("abc/?=&%25;:+~.", max_size=20).map(lambda text: b"/" + text.encode())
FIELDS = st.dictionaries(
    st.sampled_from(["accept", "cookie", "x-a", "last-event-id", "user-agent"]),
    st.text('abc =;,"é%\t', max_size=12).map(str.strip),
    max_size=4,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Message]:
    """A request and what it is to be read as."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "QUERY", "DELETE"]))
    target, fields = draw(TARGET), {"host": "x", **draw(FIELDS)}
    body = draw(st.one_of(st.just(b""), st.binary(max_size=60)))
    if body and draw(st.booleans()):
        fields["transfer-encoding"] = "chunked"
        size = draw(st.integers(1, 60))
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        content = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    else:
        content = body
        if body:
            fields["content-length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    data = b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method.encode(), target, head.encode("latin-1"), content)
    return data, Message(method, target, fields, body)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def read(parts: list[bytes]) -> tuple[list[Message], int | None]:
    """The requests, and the status of the refusal that ends them."""
    reader = RequestReader(MAX_BODY)
    found: list[Message] = []
    for part in [*parts, b""]:
        try:
            reader.feed(part)
        except InvalidRequest as error:
            return found, error.status
        found += reader.ready
        reader.ready.clear()
    return found, None


@given(st.lists(requests(), min_size=1, max_size=4), CUTS)
@example([(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", Message("GET", b"/", {"host": "x"}))] * 2, [27, 28])
def test_requests_are_read_as_they_were_written(
    written: list[tuple[bytes, Message]], cuts: list[int]
) -> None:
    stream = b"".join(data for data, _ in written)
    expected = [message for _, message in written], None
    assert read(pieces(stream, cuts)) == expected
    assert read([stream[at : at + 1] for at in range(len(stream))]) == expected


JUNK = st.one_of(
    st.binary(max_size=100),
    st.lists(
        st.sampled_from(
            [b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"QUERY", b" ", b"Host: x\r\n", b"\r\n", b"\n",
             b"\r", b"Content-Length: 3\r\n", b"Content-Length: 999\r\n", b"Content-Length: +3\r\n", b"abc",
             b":", b"\0", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n", b"3\r\nabc\r\n",
             b"0\r\n\r\n", b"3;x=y\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0\r\n",
             b"Connection: Upgrade, HTTP2-Settings\r\n", b"Expect: 100-continue\r\n",
             b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n"]
        ),
        max_size=14,
    ).map(b"".join),
)  # fmt: skip
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@given(JUNK, CUTS)
@example(b"POST / HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabcGET", [60, 80])
@example(b"GET / HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", [30])
@example(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nnonsense", [28])
def test_junk_is_refused_and_nothing_else(data: bytes, cuts: list[int]) -> None:
    whole = read([data])
    assert read(pieces(data, cuts)) == whole
    assert whole[1] in (None, 400, 413, 431)


@given(
    st.lists(
        st.one_of(TARGET.map(bytes.decode), st.text(max_size=8), st.sampled_from("?&;#=%")), max_size=6
    ).map("".join),
    st.sampled_from(
        ["authorization", "Authorization", "access_token", "%61uthorization", "token", "a", "x-y"]
    ),
)
@example("/?a=", "authorization")
@example("/%3", "authorization")
def test_no_token_is_shown(before: str, name: str) -> None:
    for target in (f"{before}&{name}={TOKEN}", f"{before}?{name}={TOKEN}&x=1", f"{before} {TOKEN}"):
        shown = redact(target)
        assert not re.search(r"eyJ[\w-]+\.eyJ", shown), shown
        assert TOKEN.split(".")[2] not in shown
        assert shown.isprintable()


PIECES = [
    "?",
    "&",
    ";",
    "#",
    "=",
    "%",
    "+",
    "%74",
    "oken",
    "TOKEN",
    "jw",
    "t",
    "authorization",
    "eyJ",
    "a",
    "/",
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join))
@example("/?%74oken=a")
@example("/?a+=b")
def test_a_target_that_is_shown_without_a_search_holds_no_token(target: str) -> None:
    if _is_harmless(target):
        assert _redact_all(target) == target
