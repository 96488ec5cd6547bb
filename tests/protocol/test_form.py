"""Form parsing against the URL standard, section 5.1."""

from __future__ import annotations

import pytest

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.http import Pairs, parse_form


@pytest.mark.parametrize(
    ("encoded", "pairs"),
    [
        (b"", []),
        (b"&", []),
        (b"&&&", []),
        (b"a=1", [("a", "1")]),
        (b"a=1&b=2", [("a", "1"), ("b", "2")]),
        (b"a=1&a=2", [("a", "1"), ("a", "2")]),
        (b"&a=1&&b=2&", [("a", "1"), ("b", "2")]),
        (b"a", [("a", "")]),
        (b"a=", [("a", "")]),
        (b"a&b", [("a", ""), ("b", "")]),
        (b"=", [("", "")]),
        (b"=x", [("", "x")]),
        (b"a==", [("a", "=")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"a;b=2", [("a;b", "2")]),
        (b"a+b=c+d", [("a b", "c d")]),
        (b"a=%2B%20+", [("a", "+  ")]),
        (b"a=%", [("a", "%")]),
        (b"a=%%", [("a", "%%")]),
        (b"a=%4", [("a", "%4")]),
        (b"a=%zz", [("a", "%zz")]),
        (b"a=%4z%41", [("a", "%4zA")]),
        (b"a=100%&b=1", [("a", "100%"), ("b", "1")]),
        (b"%61%3D=%26%3D", [("a=", "&=")]),
        (b"a=%C3%A9", [("a", "é")]),
        ("é=ü".encode(), [("é", "ü")]),
        (b"a=%c3%a9%C3%A9", [("a", "éé")]),
        (b"a=%2541", [("a", "%41")]),
        (b"a=%00", [("a", "\0")]),
        (b"a=\r\n", [("a", "\r\n")]),
        (b"a=%EF%BB%BFx", [("a", "\ufeffx")]),
        (b"?a=1", [("?a", "1")]),
        (b"a=1#b", [("a", "1#b")]),
        (b"MATCH=1", [("MATCH", "1")]),
        (b"a[]=1", [("a[]", "1")]),
        ("a=😀".encode(), [("a", "😀")]),
        (b"a=%F0%9F%98%80", [("a", "😀")]),
    ],
)
def test_parses_as_the_url_standard_says(encoded: bytes, pairs: Pairs) -> None:
    assert parse_form(encoded) == pairs


@pytest.mark.parametrize(
    ("encoded", "field"),
    [
        (b"a=%FF", "a"),
        (b"a=\xff", "a"),
        (b"topic=%C3", "topic"),
        (b"topic=%C3%28", "topic"),
        (b"topic=%ED%A0%80", "topic"),  # a surrogate
        (b"topic=%C0%AF", "topic"),  # overlong
        (b"topic=%F4%90%80%80", "topic"),  # beyond Unicode
        (b"ok=1&data=%E9t%E9", "data"),
        (b"%FF=1", None),
        (b"\xff", None),
        (b"%FF=%FF", None),
    ],
)
def test_refuses_what_is_not_utf8(encoded: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_form(encoded)
    assert refusal.value.status == 400
    assert refusal.value.field == field


def test_a_million_separators_are_skipped() -> None:
    assert parse_form(b"&" * 1_000_000) == []
