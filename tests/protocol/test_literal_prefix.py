"""Where patterns stand in the index, and that no topic misses one that it matches."""

from __future__ import annotations

import random

import pytest

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.matching.matcher import NO_PREFIX, Matcher, make, topic_prefixes
from mercure_hub.protocol.matching.table import PatternTable
from mercure_hub.protocol.topics import MatcherType

HUB = "https://hub.example.com/.well-known/mercure"
ANY_HOST = "https://mercure.invalid/.well-known/mercure"
OTHER_HUB = "http://other.example:3000/hub"
SITE = "https://example.com:"  # and no port

PLACES = [
    ("https://example.com/orders/:id", (SITE, "/orders")),
    ("https://example.com/orders/:id?", (SITE, "/orders")),
    ("https://EXAMPLE.com:443/a/../b/:id", (SITE, "/b")),
    ("https://example.com:8443/a/b-:x/*", ("https://example.com:8443", "/a")),
    ("https://example.com/a/b", (SITE, "/a/b")),
    ("https://example.com/a/b?x=:y", (SITE, "/a/b")),
    ("https://example.com/*", (SITE, "")),
    ("https://example.com/a{/b}?", (SITE, "/a")),
    ("https://example.com/a{/b}?/c", (SITE, "/a")),
    ("https://example.com/a{/b}+c", (SITE, "/a")),
    ("https://example.com/a{/b}?c", (SITE, "")),
    ("https://example.com/a/:id?c", (SITE, "")),
    ("https://example.com/a/b/:id(\\d+)?c", (SITE, "/a")),
    ("https://example.com/a{b}?", (SITE, "")),
    ("https://example.com/a/(\\d+)/c", (SITE, "/a")),
    ("https://example.com/\N{LATIN SMALL LETTER A WITH DIAERESIS}/:id", (SITE, "/%C3%A4")),
    ("https://*.example.com/a/:id", ("", "/a")),
    ("http{s}?://example.com/a/:id", ("", "/a")),
    ("/orders/:id", ("", "/orders")),
    ("orders/:id", ("", "/.well-known/orders")),
    ("https://HUB.example.com:443/orders/:id", ("", "/orders")),
    ("https://example.com" + "/a" * 20 + "/:id", (SITE, "/a" * 12)),
]


@pytest.mark.parametrize(("value", "place"), PLACES)
def test_the_place_of_a_url_pattern(value: str, place: tuple[str, str]) -> None:
    assert make(MatcherType.URLPATTERN, value, HUB).prefix == (ANY_HOST, *place)


@pytest.mark.parametrize(
    ("value", "prefix"),
    [
        ("https://example.com/orders/{id}", "https://example.com/orders"),
        ("https://example.com/orders{/id}", "https://example.com"),
        ("https://example.com/\N{LATIN SMALL LETTER A WITH DIAERESIS}/{id}", "https://example.com"),
        ("{scheme}://example.com", ""),
        ("a/b/{c}/d/{e}", "a/b"),
    ],
)
def test_the_place_of_a_template(value: str, prefix: str) -> None:
    assert make(MatcherType.TEMPLATE, value, HUB).prefix == (None, "", prefix)


def test_what_is_no_pattern_has_no_place() -> None:
    for value in ("a/b", "*"):
        assert make(MatcherType.EXACT, value, HUB).prefix is NO_PREFIX
        assert make(MatcherType.TEMPLATE, value, HUB).prefix is NO_PREFIX
    assert make(MatcherType.URLPATTERN, "*", HUB).prefix is NO_PREFIX


def test_bases_of_any_host_have_one_place() -> None:
    """Or a new topic would be looked for below each of thousands of hosts, which clients make up."""
    table: PatternTable[int] = PatternTable()
    bases = [f"https://h{number}.example/.well-known/mercure" for number in range(200)]
    for number, base in enumerate(bases):
        table.put(make(MatcherType.URLPATTERN, "/rooms/:id", base), number)
    assert len(table) == 200

    def found(topic: str) -> list[int]:
        return sorted(number for matcher, number in table.candidates(topic) if matcher.matches(topic))

    assert found("/rooms/1") == list(range(200))
    assert found("https://h7.example/rooms/1") == found("//h7.example:443/rooms/1") == [7]
    for topic in (
        "/users/1",
        "https://h7.example/users/1",
        "http://h7.example/rooms/1",
        "//mercure.invalid/rooms/1",
    ):
        assert found(topic) == []
    assert table.candidates("/users/1") == []


def test_above_a_topic() -> None:
    assert topic_prefixes("https://example.com/a/b?c/d", HUB) == (SITE, ("", "/a", "/a/b"))
    below = ("", "/.well-known", "/.well-known/a", "/.well-known/a/b")
    assert topic_prefixes("a/b", HUB) == ("https://hub.example.com:", below)
    assert topic_prefixes("urn:a:b", HUB) == ("urn://:", ("", "a:b"))
    assert topic_prefixes("https://exa mple.com", HUB) is None
    assert topic_prefixes("a/b/", None) == ("", ("", "a", "a/b", "a/b/"))
    found = topic_prefixes("/x" * 1000, HUB)
    assert found is not None
    assert len(found[1]) == 13


_HOSTS = [
    "https://example.com", "http://example.com", "https://EXAMPLE.com:443", "https://example.com:8443", "",
    "urn:", "file://", "https://[::1]", "data:", "foo://Bar", "https://u:p@example.com", "//example.com",
    "https:", "https://ex\N{LATIN SMALL LETTER A WITH DIAERESIS}mple.com", "https://x.example.com",
]  # fmt: skip
_PATTERN_HOSTS = [
    *_HOSTS, "*://example.com", "https://*.example.com", "http{s}?://example.com", "https://:host", "data\\:",
    "https://[\\:\\:1]",
]  # fmt: skip
_SEGMENTS = [
    "a", "b", "foo", "7", "%41", "\N{LATIN SMALL LETTER A WITH DIAERESIS}", "a b", "..", ".", "",
    "c:d", ":x", "\\",
]  # fmt: skip
_PATTERN_SEGMENTS = [
    *_SEGMENTS, ":id", "*", "{x}", "{/y}?", ":id?", "(\\d+)", "\\:x", ":n*", "a-:k",
    "{b}?", "*?", ":id(\\d+)+",
]  # fmt: skip
_TEMPLATE_SEGMENTS = ["{id}", "{+p}", "{/a,b}", "{?q}", "a{x}", "{a}{b}", "foo", "", "{;z}", "{#f}", "{.d}"]


def _some(choose: random.Random, hosts: list[str], segments: list[str]) -> str:
    text = choose.choice(hosts) + "".join(f"/{choose.choice(segments)}" for _ in range(choose.randrange(6)))
    text += choose.choice(["", "", "", "?x=1", "#z"])
    return text.replace("/", "", 1) if choose.random() < 0.2 else text


def _patterns(choose: random.Random, count: int) -> list[Matcher]:
    found: dict[Matcher, None] = {}
    while len(found) < count:
        is_template = choose.random() < 0.3
        hosts, segments = (_HOSTS, _TEMPLATE_SEGMENTS) if is_template else (_PATTERN_HOSTS, _PATTERN_SEGMENTS)
        type_ = MatcherType.TEMPLATE if is_template else MatcherType.URLPATTERN
        try:
            matcher = make(type_, _some(choose, hosts, segments), choose.choice([HUB, OTHER_HUB]))
        except InvalidRequest:
            continue
        if matcher.exact is None and not matcher.is_wildcard:
            found[matcher] = None
    return list(found)


@pytest.mark.parametrize("seed", range(2))
def test_the_candidates_hold_all_that_match(seed: int) -> None:
    choose = random.Random(seed)
    patterns = _patterns(choose, 200)
    table: PatternTable[int] = PatternTable()
    for number, matcher in enumerate(patterns):
        table.put(matcher, number)
    assert len(table) == len(patterns)
    assert [table.get(matcher) for matcher in patterns] == list(range(len(patterns)))
    matching = tried = 0
    for _ in range(200):
        topic = _some(choose, _HOSTS, _SEGMENTS) if choose.random() < 0.9 else choose.choice(patterns).value
        candidates = [matcher for matcher, _ in table.candidates(topic)]
        expected = {matcher for matcher in patterns if matcher.matches(topic)}
        assert expected <= set(candidates), topic
        assert len(set(candidates)) == len(candidates)
        matching, tried = matching + len(expected), tried + len(candidates)
    assert 50 < matching < tried < 200 * len(patterns) / 2
    for matcher in patterns:
        table.remove(matcher)
        assert table.get(matcher) is None
    assert len(table) == 0
    assert table.candidates("https://example.com/a") == []
