"""Compact patterns select what the library selects, take little, and are linear."""

from __future__ import annotations

import random
import re
import time
import tracemalloc

import pytest
from urlpattern import URLPattern

from mercure_hub.protocol.matching.matcher import topic_prefixes, url_pattern_prefix
from mercure_hub.protocol.matching.resolution import resolver
from mercure_hub.protocol.matching.url_pattern import CompactPattern, read_pattern

HUB = "https://hub.example.com/.well-known/mercure"
BASES = [
    HUB, "http://localhost:3000/hub", "http://127.0.0.1:3000/a/b/mercure", "https://[::1]/x",
    "https://h.example/a:b*/c/m", "https://hub.example.com/", "https://hub.example.com/a(b)/m?x=1",
]  # fmt: skip

COMPACT = [
    "https://example.com/books/:id", "https://example.com/books", "https://example.com/", "/books/:id",
    "books/:id", "*ewest", "/*", "https://example.com/*", "https://example.com/a/*/b", "/a/:x.json",
    "/a/:x/b/:y", "/a/:x/*", "/a/:x/b/*", "/a/:x?", "/a/:x*", "/a/:x+", "/a{/b}?", "/a{/:x}?", "{a}?b",
    "/a/:x?/b", "/a/:x?/:y?", "/.well-known/mercure/subscriptions{/*}?", "https://*.example.com/*",
    "https://:sub.example.com/x", "https://*/x", "http{s}?://example.com/x", "*://example.com/x",
    "https://example.com:8443/:x", "https://example.com:443/x", "http://127.0.0.1:5000/:x",
    "http://localhost:5000/:x", "wss://example.com/x", "https://EXAMPLE.com/X", "/é/:x", "/日本*",
    "/%C3%A9/:x", "/%zz/%2F", "/a//b", "/a?x=:y", "/a?x=1", "/a?", "/a?*", "/:a/x/:b", "/:a/:b/:c/*",
    "/a/:x/", "/a/{b}/c", "/a/:x{}b", "/.a/:x", "/a/...", "/a/{:x}", "/$a/$:x", "/a/**", "/a/*?", "/*+",
    "/a:x", "{:x}b", "{/a}?/b", "/a/:x??", "/a{/*.js}+", "https:x",
]  # fmt: skip
EXPRESSIONS = [
    "/a/***", "/a/:x-:y", "/*/*", "/a/*/b/*", "/a-:x/:y", "/a/:x+/b", "/a/:x*/b", "/a{/b}+", "/a{/b}*/c",
    "/a{/:x}?{/:y}?{/:z}?", "/a?x=:y&z=:w", "/a{-:x-}+", "/a/{:x.}*:y", "/*/a/:x?", "/:a:b", "/:id?:x",
]  # fmt: skip
HEAVY = [
    r"/a/:x(\d+)", "/(a|b)", "/(.*)", r"/a\:b", r"urn\:uuid\:*", "https://u:p@example.com/x",
    "https://[::1]/x", "https://xn--mnchen-3ya.example/x", "https://münchen.example/x",
    "ftp://example.com/x", "https://1.2.3/x", "https://example.1/x", "https://a.example.com.",
    "https://example.com", "https://example.com?x", "/a/../b", "/a/./b", "/%2e%2E/a", "/a/.{/b}?",
    "//host/x", "/a#b", "/a b", "/a|b", "", "?x", "#x", "https://a..b/x", "/a?b'", "HTTPS://example.com/x",
    "http{s}?://example.com:80/x", "https://a*.example.com/x", "https://example.com:*/x", "data\\:foo*",
    "/:é", "https://exa%6Dple.com/x", "https://example.com:08/x", "\\/a",
]  # fmt: skip
REFUSED = [
    "/:a/:a", "/{a", "/a}", "/{{a}}", "/:1", "/a+", "/+", "/(", "/a/: ", "https://example.com:99999/",
    "/{a?b}", "/{:x*}", "/a?b?c", "/a\\", "/a?+",
]  # fmt: skip

_TOPIC_HOSTS = [
    "https://example.com", "http://example.com", "https://EXAMPLE.com:443", "https://example.com:8443", "",
    "", "https://x.example.com", "https://a.b.example.com", "https://hub.example.com", "//hub.example.com",
    "wss://example.com", "http://localhost:3000", "http://127.0.0.1:5000", "file://", "urn:", "data:",
    "foo://example.com", "https:", "https://u:p@example.com", "https://example.com.",
    "https://.example.com", "https://xn--mnchen-3ya.example",
]  # fmt: skip
_TOPIC_SEGMENTS = [
    "a", "b", "x", "books", "1", "é", "%C3%A9", "%c3%a9", "a b", "..", ".", "", "c:d", "\\", "日本",
    "x.json", "%41", "%2e", "%2F", "%", "a-b", "$a", "{a}", "|", "'", "a;b", ".well-known", "subscriptions",
    "mercure",
]  # fmt: skip
_TOPIC_ENDS = ["", "", "", "", "/", "?", "?x=1", "?x='1'", "?x=é", "#z", "?x=1&z=2#a/b", " ", "?x=/a/b"]


def library(value: str, base: str) -> URLPattern | None:
    """The library's pattern, as matchers make it."""
    for arguments in ((value,), (value, base)):
        try:
            return URLPattern(*arguments)
        except ValueError:
            continue
    return None


def some_topic(choose: random.Random) -> str:
    segments = "".join(f"/{choose.choice(_TOPIC_SEGMENTS)}" for _ in range(choose.randrange(6)))
    topic = choose.choice(_TOPIC_HOSTS) + segments + choose.choice(_TOPIC_ENDS)
    return topic.replace("/", "", 1) if choose.random() < 0.1 else topic


def topic_like(choose: random.Random, value: str) -> str:
    """A topic that the pattern may match, or nearly so."""
    counts = {"": [1], "?": [0, 1], "*": [0, 1, 2], "+": [1, 2]}
    topic = re.sub(r"\{([^{}]*)\}([?*+]?)", lambda found: found[1] * choose.choice(counts[found[2]]), value)
    topic = re.sub(
        r"/?:[A-Za-z_$][\w$]*[?*+]?",
        lambda found: (
            choose.choice(["", "/v/w", "/"]) if found[0][-1] in "?*+" and choose.random() < 0.5
            else ("/" if found[0][0] == "/" else "") + choose.choice(["v", "a.b", "7", "é", "a", "", "1/2"])
        ),
        topic,
    )  # fmt: skip
    topic = re.sub(r"\*[?*+]?", lambda _: choose.choice(["", "z", "a/b", "https", "x.y", "a"]), topic)
    if choose.random() < 0.3 and len(topic) > 2:
        place = choose.randrange(1, len(topic))
        topic = topic[:place] + choose.choice(["", "/", "x", ".", "?", "%41", "\\"]) + topic[place + 1 :]
    return topic


def assert_same(compact: CompactPattern, other: URLPattern, base: str, topic: str) -> bool:
    """Both select a topic or neither; and the index would find it below the places of both."""
    url = resolver(base).resolve(topic)
    selected = other.test(topic, base)
    assert (url is not None and compact.matches(url)) is selected, topic
    if selected:
        for shared, origin, prefix in (url_pattern_prefix(compact, base), url_pattern_prefix(other, base)):
            located = topic_prefixes(topic, shared)
            assert located is not None
            assert origin in ("", located[0]), topic
            assert prefix in located[1], topic
    return selected


@pytest.mark.parametrize("value", COMPACT + EXPRESSIONS)
def test_selects_what_the_library_selects(value: str) -> None:
    choose = random.Random(value)
    selected = 0
    for base in BASES[:3]:
        compact, other = read_pattern(value, base), library(value, base)
        assert compact is not None
        assert other is not None
        topics = [topic_like(choose, value) if turn % 4 else some_topic(choose) for turn in range(120)]
        selected += sum(assert_same(compact, other, base, topic) for topic in topics)
    assert selected


@pytest.mark.parametrize("value", COMPACT)
def test_usual_patterns_hold_no_expression(value: str) -> None:
    compact = read_pattern(value, HUB)
    assert compact is not None
    assert not compact.is_expression


@pytest.mark.parametrize("value", EXPRESSIONS)
def test_some_need_an_expression(value: str) -> None:
    compact = read_pattern(value, HUB)
    assert compact is not None
    assert compact.is_expression


@pytest.mark.parametrize("value", HEAVY)
def test_what_is_not_usual_is_for_the_library(value: str) -> None:
    assert read_pattern(value, HUB) is None


@pytest.mark.parametrize("value", REFUSED)
def test_what_the_library_refuses_is_not_read(value: str) -> None:
    for base in BASES:
        assert library(value, base) is None
        assert read_pattern(value, base) is None


@pytest.mark.parametrize(
    "base", ["https://[::1]/x", "https://münchen.example/x", "foo://example.com/x", "no url"]
)
def test_relative_patterns_of_an_unusual_base_are_for_the_library(base: str) -> None:
    assert read_pattern("/a/:x", base) is None
    assert read_pattern("https://example.com/:x", base) is not None


_HOSTS = [
    "https://example.com", "http://example.com", "https://EXAMPLE.com:443", "https://example.com:8443", "",
    "", "", "*://example.com", "https://*.example.com", "http{s}?://example.com", "https://:host",
    "https://:sub.Example.com", "https://*", "*://*", "https://1.2.3.4", "https://01.2.3.4", "https://a.1",
    "https://my_hub:3000", "https://x--y.com", "https://-a.com", "https://a-.com", "https://a..b",
    "https://a.com.", "http://example.com:443", "//example.com", "https://a*.com", "https://*example.com",
    "https://9.example", "https://_x.example.com", "urn:", "https:",
]  # fmt: skip
_SEGMENTS = [
    "a", "b", "x", "books", "é", "%C3%A9", "%2e", "%2E%2e", "%2F", "%", "..", ".", "", "c:d", "日本",
    "x.json", ".a", "...", "!", "$", "&", "'", ",", ";", "=", "@", "|", "[", "^", "`", "<", "~", "-", "\\",
    "a b", "$a", ".well-known", ":id", "*", "{x}", "{/y}?", ":id?", ":n*", ":m+", "a-:k", "{b}?", "*?",
    "**", "*+", ":a:b", ":id.json", ":a-:b", ":é", "{/:w}?", "{/:q}*", "{/:p}+", "{a:r.}*", "{.}?", "{..}",
    "{/*}?", "{/a*b}+", "{x}+", "{y}*", ":id?c", "{-:o}?", "{", "}", "{}", "{}?", "{a?b}", "+", "?",
    "{:u*}", "{{a}}", ":$x", ":_y", ":t{}", "*a", "{*}", "{/:v/}?", "{:s/}*", "//",
]  # fmt: skip
_ENDS = ["", "", "", "?x=1", "#z", "?", "?x=:v", "?:a&z=*", "?{x=1}?", "?*"]


@pytest.mark.parametrize("seed", range(3))
def test_random_patterns_select_what_the_library_selects(seed: int) -> None:
    choose = random.Random(seed)
    read = selected = 0
    while read < 400:
        base = choose.choice(BASES)
        parts = [
            choose.choice(["/", "/", "/", ""]) + choose.choice(_SEGMENTS) for _ in range(choose.randrange(6))
        ]
        value = choose.choice(_HOSTS) + "".join(parts) + choose.choice(_ENDS)
        compact = read_pattern(value, base)
        if compact is None:
            continue
        read += 1
        other = library(value, base)
        assert other is not None, value
        for turn in range(8):
            topic = topic_like(choose, value) if turn % 4 else some_topic(choose)
            selected += assert_same(compact, other, base, topic)
    assert selected > 400


@pytest.mark.parametrize("value", ["https://example.com/p%d/:id", "/p%d/:x/c/:y", "/p%d/*", "/p%d/:x?"])
def test_a_pattern_takes_little(value: str) -> None:
    read_pattern(value % 0, HUB)
    tracemalloc.start()
    try:
        kept = [read_pattern(value % number, HUB) for number in range(1, 201)]
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert all(one is not None and not one.is_expression for one in kept)  # so there is nothing but Python's
    assert size / len(kept) < 1500


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("/*/*/*/*/*b", "/a"),
        ("/:a-:b-:c-:d-:e", "-a"),
        ("/{a:x-}+:y!", "a-"),
        ("/a/:x+/b/:y+/c", "/b"),
        ("/*?*=*&*=*", "&="),
    ],
)
def test_long_topics_take_a_time_in_proportion(value: str, unit: str) -> None:
    compact = read_pattern(value, HUB)
    assert compact is not None
    best = 9.0
    for _ in range(3):
        url = resolver(HUB).resolve("/" + unit * 1000)
        assert url is not None
        start = time.thread_time()
        for _ in range(10):
            compact.matches(url)
        best = min(best, time.thread_time() - start)
    assert best < 0.1
