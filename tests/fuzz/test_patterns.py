"""Matchers of each type, URI Templates, and the reserved namespace.

Invariant: any text is a matcher or refused with ``InvalidRequest``, and quickly. A matcher answers for any
topic without an exception, quickly and always the same. ``exact`` selects its own value and nothing
else, ``*`` everything, a template whatever it expands to and itself. A URL Pattern in compact form selects
what the library selects. What is below the hub's path is
reserved however it is spelt.
"""

from __future__ import annotations

import re
import time
from typing import Any

import uritemplate
from hypothesis import assume, example, given
from hypothesis import strategies as st
from urlpattern import URLPattern

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.hub_url import Identity, is_reserved
from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.matching.resolution import resolver
from mercure_hub.protocol.matching.uri_template import compile_template
from mercure_hub.protocol.matching.url_pattern import read_pattern
from mercure_hub.protocol.topics import MatcherType, forbidden_character

HUB = Identity("https://hub.example.com/.well-known/mercure")
ANY_URL = URLPattern({})
URL_PATTERNS = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            ["https://", "example.com", "/", ":id", "*", "(", ")", "{", "}", "?", "+", "\\", "[a-z]",
             "(\\d+)", "|", "#", ".", "(?:", "{1,9}", "é", "%41", "%", "a", ":", "data:", "//", "@", "(?i)",
             "\\p{L}", "^", "$"]
        ),
        max_size=10,
    ).map("".join),
)  # fmt: skip
TEMPLATES = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            ["{", "}", "{a}", "{+a}", "{#a}", "{.a}", "{/a}", "{;a}", "{?a,b}", "{&a*}", "{a:3}", "{a*}", "/",
             "é", "%41", "%", "x", "{a,b,c}", "{a:9999}", "{%41}", "{}", "{=a}"]
        ),
        max_size=8,
    ).map("".join),
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)  # topics are UTF-8 when they arrive
TOPICS = st.one_of(
    TEXT,
    st.sampled_from(
        ["https://example.com/a", "/a", "", "*", "data:x", "https://", "//", "http://[", "?#", "a%"]
    ),
)
SLOW = 1.0  # seconds; a thousand times what it takes


def try_make(type_: MatcherType, value: str) -> Matcher | None:
    started = time.thread_time()
    try:
        return make(type_, value, HUB.url)
    except InvalidRequest:
        return None
    finally:
        assert time.thread_time() - started < SLOW


@given(st.sampled_from(list(MatcherType)), st.one_of(URL_PATTERNS, TEMPLATES), TOPICS)
@example(MatcherType.URLPATTERN, "(" * 400, "a")
@example(MatcherType.URLPATTERN, "https://example.com/(\\w{1,200})", "https://example.com/a")
@example(MatcherType.URLPATTERN, "/:a" * 60, "/a" * 60)
@example(MatcherType.URLPATTERN, "https://example.com/((a+)+)+$", "https://example.com/" + "a" * 2000)
@example(MatcherType.TEMPLATE, "{" * 1000, "a")
@example(MatcherType.TEMPLATE, "{a}" * 60, "a" * 2000)
@example(MatcherType.TEMPLATE, "{?a,b,c,d,e,f,g,h,i,j}", "?a=1&j=2")
def test_any_text_is_a_matcher_or_refused(type_: MatcherType, value: str, topic: str) -> None:
    matcher = try_make(type_, value)
    if matcher is None:
        return
    assert forbidden_character(value) is None
    started = time.thread_time()
    answer = matcher.matches(topic)
    assert time.thread_time() - started < SLOW
    again = try_make(type_, value)
    assert again is not None
    assert again.matches(topic) is answer
    if type_ is MatcherType.EXACT:
        assert answer is (value in (topic, "*"))
    if value == "*":
        assert answer
    if type_ is MatcherType.TEMPLATE:
        assert matcher.matches(value)


BASES = st.sampled_from(
    [HUB.url, "http://localhost:3000/hub", "https://[::1]/x", "https://h.example/a:b*/c/m"]
)
ORIGINS = ["", "", "", "https://example.com", "http://example.com:80", "https://EXAMPLE.com:8443"]
PATTERN_ORIGINS = [
    *ORIGINS,
    "*://example.com",
    "http{s}?://a-b.example",
    "https://*.example.com",
    "https://:host",
]
LITERALS = [
    "/",
    "/",
    "/",
    "a",
    "b",
    ".",
    "..",
    "-",
    "%41",
    "%2e",
    "é",
    " ",
    "\\",
    "//",
    "x.json",
    "?x=1",
    "#z",
    "&",
    "'",
]
VARIABLES = [
    ":id",
    ":n?",
    ":m*",
    ":o+",
    "*",
    "{",
    "}",
    "{/a}?",
    "{/:b}*",
    "{b:c.}+",
    "?",
    "+",
    "**",
    ":d-",
    "{/*}?",
]


def texts(origins: list[str], parts: list[str]) -> st.SearchStrategy[str]:
    """An origin and parts of a path."""
    some = st.lists(st.sampled_from(parts) | TEXT.filter(lambda text: len(text) < 4), max_size=9)
    return st.builds(lambda origin, found: origin + "".join(found), st.sampled_from(origins), some)


@given(
    texts(PATTERN_ORIGINS, [*LITERALS, *LITERALS, *VARIABLES]),
    st.lists(texts(ORIGINS, [*LITERALS, "v", "/v/w", "x.y", "?", "://"]), min_size=1, max_size=5),
    st.dictionaries(
        st.sampled_from([name for name in VARIABLES if name[0] in ":{*"]), st.text("ab/.-", max_size=3)
    ),
    BASES,
)
@example("/a/:x?b", ["/ab", "/a/1b"], {}, HUB.url)
@example("http{s}?://example.com/:a:b", ["http://example.com/xy", "https://example.com/x"], {}, HUB.url)
def test_compact_patterns_select_what_the_library_selects(
    value: str, topics: list[str], values: dict[str, str], base: str
) -> None:
    compact = read_pattern(value, base)
    if compact is None:
        return
    try:
        library = URLPattern(value)
    except ValueError:
        library = URLPattern(value, base)  # what is read is well-formed
    filled = value
    for variable, text in values.items():
        filled = filled.replace(variable, text)
    for topic in [*topics, filled, value]:
        url = resolver(base).resolve(topic)
        assert (url is not None and compact.matches(url)) is library.test(topic, base)


@given(
    st.one_of(
        st.text(max_size=20),
        st.lists(
            st.sampled_from(
                ["/", "//", "\\", "a", "b.c", "..", ".", ":", "?", "#", "x=y", "https:", "http://",
                 "urn:", "@", "%2e", "%41", "é", " ", "\t", "\n", "[::1]", "mercure.invalid", "~", "-"]
            ),
            max_size=8,
        ).map("".join),
    ),
    st.sampled_from(
        [HUB.url, "http://[::1]:3000/a/b/", "https://h:1", "http://h/x?y=z"]
    ),
)  # fmt: skip
@example("\t//other/x", "https://h:1")
@example("/\t/other/x", "https://h:1")
@example("//mercure.invalid/x", "https://h:1")
def test_a_topic_is_resolved_as_the_library_does_it(topic: str, base: str) -> None:
    library: Any = ANY_URL.exec(topic, base)
    found = resolver(base).resolve(topic)
    if library is None:
        assert found is None
        return
    assert found is not None
    parts = ("protocol", "hostname", "port", "pathname", "search")
    assert [getattr(found, part) for part in parts] == [library[part]["input"] for part in parts]


SEGMENT = st.text("abcXYZ0189-._~", min_size=1, max_size=8).filter(lambda text: set(text) != {"."})


@given(st.lists(SEGMENT, min_size=1, max_size=4), st.data())
def test_a_url_selects_itself_and_its_named_groups_one_segment(
    segments: list[str], data: st.DataObject
) -> None:
    url = "https://example.com/" + "/".join(segments)
    plain = url.replace(".", "\\.")
    place = data.draw(st.integers(0, len(segments) - 1))
    named = "https://example.com/" + "/".join([*segments[:place], ":it", *segments[place + 1 :]])
    for pattern in (plain, named):
        matcher = try_make(MatcherType.URLPATTERN, pattern)
        assert matcher is not None
        assert matcher.matches(url)
        assert not matcher.matches(url + "/more")


Variables = dict[str, Any]
VALUE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.lists(st.text("ab/é,", max_size=3), max_size=3),
)


@given(TEMPLATES, st.fixed_dictionaries({}, optional={"a": VALUE, "b": VALUE, "c": VALUE}))
@example("https://example.com/{a}", {"a": "é/%"})
@example("{;a,b}{?c*}", {"a": "", "c": ["", "x"]})
@example("{a:3}", {"a": "日本語の"})
def test_a_template_matches_what_it_expands_to(template: str, variables: Variables) -> None:
    pattern = compile_template(template)
    assume(pattern is not None and "*" not in template.replace("a*", "") and ":9999" not in template)
    assert pattern is not None
    if re.search(":[0-9]", template):  # a prefix of a list is not defined
        variables = {name: value for name, value in variables.items() if isinstance(value, str)}
    try:
        expanded = uritemplate.expand(template, variables)
    except (ValueError, TypeError):  # what the other library does not expand
        return
    assert pattern.fullmatch(expanded)


DISGUISES = st.lists(
    st.sampled_from(
        ["", "a", "%2e%2e", "subscriptions/exact/a/b", "é", "?x=../..", "#/../..", "//", "%2F", ":id", "\\"]
    ),
    max_size=4,
).map("/".join)


@given(
    DISGUISES,
    st.sampled_from(["", "https://hub.example.com", "http://elsewhere.example", "HTTPS://x:99"]),
    st.data(),
)
@example("", "", None)
@example("a/%2e%2e/%2e%2e/x", "", None)
def test_below_the_hub_all_is_reserved(below: str, origin: str, data: st.DataObject | None) -> None:
    path = HUB.path
    if data is not None:
        places = data.draw(st.sets(st.integers(1, len(path) - 1), max_size=4))
        path = "".join(
            f"%{ord(char):02X}" if place in places and char not in "/." else char
            for place, char in enumerate(path)
        )
    climbs = below.lower().count("%2e%2e") or "\\" in below
    if not climbs:
        assert is_reserved(f"{origin}{path}/{below}", HUB)
    assert is_reserved(f"{origin}/x/../{path.lstrip('/')}/y", HUB)


@given(TEXT)
@example("\\\\.well-known\\mercure")
@example("http://[::1")
@example("javascript:alert(1)")
def test_any_topic_can_be_judged(topic: str) -> None:
    answer = is_reserved(topic, HUB)
    assert is_reserved(topic, Identity("http://other.example/.well-known/mercure")) is answer
