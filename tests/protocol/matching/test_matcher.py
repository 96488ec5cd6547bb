"""Topic matchers: what each type selects, what is refused, and for what price."""

from __future__ import annotations

import gc
import random
import time

import pytest

from mercure_hub.protocol.errors import InvalidRequest, TooManyRequests
from mercure_hub.protocol.matching.matcher import (
    MAX_LENGTH,
    NO_PREFIX,
    Allowance,
    Matcher,
    _heavy,
    _in_use,
    _recent_heavy,
    cost,
    make,
    topic_prefixes,
)
from mercure_hub.protocol.matching.table import PatternTable
from mercure_hub.protocol.topics import SUPPORTED, MatcherType

HUB = "https://hub.example.com/.well-known/mercure"
EXACT, PATTERN, TEMPLATE = MatcherType.EXACT, MatcherType.URLPATTERN, MatcherType.TEMPLATE


def exact(value: str) -> Matcher:
    return make(EXACT, value, HUB)


def pattern(value: str) -> Matcher:
    return make(PATTERN, value, HUB)


def template(value: str) -> Matcher:
    return make(TEMPLATE, value, HUB)


def test_names_are_those_of_the_registry() -> None:
    assert [str(type_) for type_ in SUPPORTED] == ["exact", "urlpattern"]


@pytest.mark.parametrize(
    "value", ["", "a", "https://example.com/books/1", "/books/:id", "é", "a{b}", "(", "**", " "]
)
def test_exact_selects_itself(value: str) -> None:
    assert exact(value).matches(value)
    assert exact(value).exact == value


@pytest.mark.parametrize(
    ("value", "topic"),
    [
        ("a", "A"),
        ("a", "a "),
        ("a", ""),
        ("", "a"),
        ("https://example.com/a", "https://example.com/a/"),
        ("https://example.com/a", "https://EXAMPLE.com/a"),
        ("https://example.com/%7Ea", "https://example.com/~a"),
        ("https://example.com/a?x", "https://example.com/a"),
        ("/a", "https://hub.example.com/a"),  # no resolution against the hub's URL
        ("https://hub.example.com/a", "/a"),
        ("é", "e\u0301"),  # no normalization
        ("\u212b", "\u00c5"),
        ("https://example.com/:id", "https://example.com/1"),
        ("https://example.com/{id}", "https://example.com/1"),
        ("**", "a"),
        ("* ", "a"),
    ],
)
def test_exact_compares_byte_for_byte(value: str, topic: str) -> None:
    assert not exact(value).matches(topic)


@pytest.mark.parametrize("type_", MatcherType)
@pytest.mark.parametrize(
    "topic", ["", "a", "*", "https://example.com/", "https://[", "data:x", "/.well-known/mercure"]
)
def test_the_wildcard_selects_every_topic_whatever_its_type(type_: MatcherType, topic: str) -> None:
    matcher = make(type_, "*", HUB)
    assert matcher.is_wildcard
    assert matcher.exact is None
    assert matcher.matches(topic)
    assert cost(type_, "*") == 0


# Pattern, topics that it selects, topics that it does not.
URL_PATTERNS: list[tuple[str, list[str], list[str]]] = [
    (
        "https://example.com/books/:id",
        ["https://example.com/books/1", "https://EXAMPLE.com/books/é", "https://example.com:443/books/x",
            "https://example.com/a/../books/1"],
        [
            "https://example.com/books/", "https://example.com/books", "https://example.com/books/1/2",
            "https://example.com/Books/1", "http://example.com/books/1", "https://example.org/books/1",
            "https://example.com:8443/books/1", "/books/1", "books/1",
            "https://hub.example.com/books/1",
        ],
    ),
    ("/books/:id", ["/books/1", "https://hub.example.com/books/1", "//hub.example.com/books/1",
        "../books/1"], ["https://example.com/books/1", "books/1", "/books/",
        "http://hub.example.com/books/1"]),
    ("books/:id", ["books/1", "/.well-known/books/1", "./books/1"], ["/books/1"]),
    ("/a/*", ["/a/", "/a/b", "/a/b/c"], ["/a", "/b/a/"]),
    ("/a/:x?", ["/a", "/a/b"], ["/a/", "/a/b/c"]),
    ("/a/:x*", ["/a", "/a/b", "/a/b/c"], ["/ab"]),
    ("/a/:x+", ["/a/b", "/a/b/c"], ["/a", "/a/"]),
    ("/a{/b}?", ["/a", "/a/b"], ["/a/", "/a/c", "/ab"]),
    ("/:kind(books|films)/:id(\\d+)", ["/books/1", "/films/42"], ["/songs/1", "/books/x", "/books/1x"]),
    ("/:id([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
        ["/e1ee88e2-532a-4d6f-ba70-f0f8bd584022"], ["/e1ee88e2", "/E1EE88E2-532A-4D6F-BA70-F0F8BD584022"]),
    ("https://*.example.com/*", ["https://a.example.com/x", "https://a.b.example.com/"],
        ["https://example.com/", "https://a.example.org/"]),
    ("http{s}?://example.com/", ["http://example.com/", "https://example.com"], ["ftp://example.com/"]),
    ("*://example.com/x", ["http://example.com/x", "ftp://example.com/x"], ["http://example.com/y"]),
    ("https://example.com:8080/x", ["https://example.com:8080/x"], ["https://example.com/x"]),
    ("https://example.com/x?a=:v", ["https://example.com/x?a=1"], ["https://example.com/x",
        "https://example.com/x?b=1"]),
    ("/x", ["/x", "https://hub.example.com/x"], ["/x/", "/X"]),
    ("/%C3%A9", ["/é", "/%C3%A9"], ["/%c3%a9", "/e"]),
    ("/é", ["/é", "/%C3%A9"], ["/e"]),
    ("/.well-known/mercure/subscriptions/:type/:match/:subscriber",
        ["/.well-known/mercure/subscriptions/exact/https%3A%2F%2Fexample.com/urn%3Auuid%3A1"],
        ["/.well-known/mercure/subscriptions", "/.well-known/mercure/subscriptions/exact/a"]),
    ("/.well-known/mercure/subscriptions{/*}?", ["/.well-known/mercure/subscriptions",
        "/.well-known/mercure/subscriptions/exact/a"], ["/.well-known/mercure"]),
    ("urn\\:uuid\\:*", ["urn:uuid:e1ee88e2-532a-4d6f-ba70-f0f8bd584022"], ["urn:isbn:1",
        "https://example.com/urn:uuid:x"]),
    ("data\\:foo*", ["data:foobar"], ["data:bar"]),
    ("https://example.com/\\:id", ["https://example.com/:id"], ["https://example.com/1"]),
    ("https://example.com/\\(x\\)", ["https://example.com/(x)"], ["https://example.com/x"]),
    ("https://münchen.example/", ["https://xn--mnchen-3ya.example/", "https://MÜNCHEN.example/"],
        ["https://munchen.example/"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "selected"), [(value, topic) for value, yes, _ in URL_PATTERNS for topic in yes]
)
def test_topics_that_a_url_pattern_selects(value: str, selected: str) -> None:
    assert pattern(value).matches(selected)


@pytest.mark.parametrize(
    ("value", "other"), [(value, topic) for value, _, no in URL_PATTERNS for topic in no]
)
def test_url_pattern_does_not_select(value: str, other: str) -> None:
    assert not pattern(value).matches(other)


@pytest.mark.parametrize("value", ["https://*/*", "*://*/*", "*://*:*/*?*#*", "/*", "http{s}?://*/*"])
@pytest.mark.parametrize(
    "topic", ["https://", "https://[", "//[x", "https://a b/", "https://x:99999/", "https://%zz/"]
)
def test_a_topic_that_is_no_url_is_selected_by_no_pattern(value: str, topic: str) -> None:
    assert not pattern(value).matches(topic)


@pytest.mark.parametrize(
    "value",
    [
        "(", "/(", "/(a", "/:", "/: ", "{", "/{a", "/}", "/{{a}}", "/()", "/(?:a)", "/((a))", "/(a(b))",
            "/(é)",
        "/:a/:a", "/(\\)", "https://[", "https://a b/", "https://x:99999/", "/(*)", "/([z-a])", "/(a{2,1})",
            "/(\\1)", "/(\\q)",
        "/a\\",
    ],
)  # fmt: skip
def test_a_url_pattern_that_is_not_well_formed_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        make(PATTERN, value, HUB, "match_urlpattern")
    assert refusal.value.status == 400
    assert refusal.value.field == "match_urlpattern"


@pytest.mark.parametrize("type_", MatcherType)
@pytest.mark.parametrize(
    "value", ["a\0", "a\nb", "\x7f", "\x85", "a\u200db", "\u202e", "\ufeff*", "*\u200b", "\ud800"]
)
def test_characters_that_no_matcher_may_hold(type_: MatcherType, value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"U\+[0-9A-F]{4}") as refusal:
        make(type_, value, HUB, "the parameter")
    assert refusal.value.field == "the parameter"


@pytest.mark.parametrize("type_", MatcherType)
def test_length_is_limited(type_: MatcherType) -> None:
    with pytest.raises(InvalidRequest, match="2049 characters; the limit is 2048"):
        make(type_, "a" * (MAX_LENGTH + 1), HUB)


@pytest.mark.parametrize("type_", [EXACT, TEMPLATE])
def test_exact_topics_may_be_as_long_as_the_limit(type_: MatcherType) -> None:
    assert make(type_, "a" * MAX_LENGTH, HUB).matches("a" * MAX_LENGTH)


def test_url_patterns_are_limited_further() -> None:
    assert pattern("/" + "a" * 511).matches("/" + "a" * 511)
    with pytest.raises(InvalidRequest, match="the limit for a URL Pattern is 512"):
        pattern("/" + "a" * 512)


DEAR = [
    r"/(\w{1,200})", r"/(\w{ 200 })", r"/(\W{100})", r"/([^\w]{100})", r"/([\w-]{20})", r"/(\pL{20})",
    r"/(\p{L}{20})",
    r"/(\P{L}{20})", r"/(\S{1000})", r"/(\D{1000})", r"/(\d{1000})", "/(.{1000})", "/([^a]{1000})",
    r"/((?x)\w{ 200 })", r"/((?x:\w{ 200 }))", "/((?i)[^a-z]{1000})", r"/((?i)[\x{0}-\x{10FFFF}])",
    r"/((?i:a))", r"/((?s).)",
    "/(" + r"\w" * 10 + ")", "/(" + r"\w" * 5 + ")/(" + r"\w" * 5 + ")", r"/(\w?{100}{10,})",
    r"/([^\d]*{ 20 }{3}{10,})", r"/(\D*?{3}{100})",
    r"/((?:(?:\w{5}){5}){5})", r"/((?:\w\w\w[)]a){100})", r"/([]\w]{100})", r"/([\w[]]{100})",
    r"/([\]\w]{100})", r"/([\\\w]{100})",
    "/(a{99999999999999999999})", r"/(\x{41}{1000}[^a]{1000})",
    "*" * 500, "/*" * 200, "/:a" * 150, "{/:a}+" * 80,
]  # fmt: skip


def seconds_to_refuse(type_: MatcherType, value: str) -> float:
    """The best of three, since the machine may be busy."""
    best = 9.0
    for _ in range(3):
        start = time.thread_time()
        with pytest.raises(InvalidRequest, match="too costly"):
            make(type_, value, HUB)
        best = min(best, time.thread_time() - start)
    return best


@pytest.mark.parametrize("value", DEAR)
def test_what_is_dear_is_refused_for_less_than_it_costs(value: str) -> None:
    assert seconds_to_refuse(PATTERN, value) < 0.1


@pytest.mark.parametrize(
    "value",
    [
        "{" + ",".join(f"v{i}*" for i in range(16)) + "}",
        "{?" + ",".join(f"v{i}" for i in range(40)) + "}",
        "{a*}" * 500,
        "{a}" * 600,
        "{a:999}",
        "{a:9999}",
        "{a:10}" * 100,
        "é" * 2000 + "{a}",
    ],
)
def test_dear_templates_are_refused_too(value: str) -> None:
    assert seconds_to_refuse(TEMPLATE, value) < 0.1


@pytest.mark.parametrize(
    "value",
    [
        r"/(\w\w\w\w)", r"/:id(\w{1,4})", r"/([a-z0-9-]{1,60})", r"/(\d{4}-\d{2}-\d{2})", r"/(\d{60})",
        "/(.{90})", "/([^a]{80})",
        "/*" * 60, "".join(f"/:v{i}" for i in range(50)), "https://*:*@*.example.com:*/*?*#*",
        "/" + "é" * 511,
    ],
)  # fmt: skip
def test_what_passes_the_limits_is_compiled_at_once(value: str) -> None:
    best = 9.0
    for attempt in range(3):  # the machine may be busy; the cache must not help
        start = time.thread_time()
        make(PATTERN, value, f"https://host{attempt}.example/hub")
        best = min(best, time.thread_time() - start)
    assert best < 0.25


def test_equal_patterns_in_use_are_one_object() -> None:
    assert pattern("/books/:id") is pattern("/books/:id")
    assert template("/books/{id}") is template("/books/{id}")
    assert exact("/books/1") is exact("/books/1")


def test_what_differs_is_not_one_object() -> None:
    same = [
        exact("/a/{b}"),
        pattern("/a/{b}"),
        template("/a/{b}"),
        make(PATTERN, "/a/{b}", "https://o.example/hub"),
    ]
    assert len(set(same)) == 4
    assert exact("*") is not pattern("*")


def test_a_pattern_in_use_stays_one_object_when_the_cache_is_full() -> None:
    kept = template("/kept/{id}")
    for number in range(600):
        template(f"/other/{number}/{{id}}")
    assert template("/kept/{id}") is kept


def test_patterns_that_nobody_uses_are_forgotten() -> None:
    for number in range(1000):
        template(f"/forgotten/{number}/{{id}}")
    gc.collect()
    forgotten = [value for _, value, _ in _in_use if value.startswith("/forgotten/")]
    assert len(forgotten) <= 512  # what the cache keeps


def test_relative_patterns_belong_to_their_hub() -> None:
    elsewhere = make(PATTERN, "/books/:id", "https://elsewhere.example/hub")
    assert elsewhere.matches("https://elsewhere.example/books/1")
    assert not elsewhere.matches("https://hub.example.com/books/1")


@pytest.mark.parametrize(
    ("own", "subscribed", "selects"),
    [
        (exact("https://example.com/foo"), exact("https://example.com/foo"), True),
        (exact("https://example.com/foo"), exact("https://example.com/bar"), False),
        (
            exact("https://example.com/:id"),
            pattern("https://example.com/:id"),
            True,
        ),  # the string as if it were a topic
        (pattern("https://example.com/bar/:id"), pattern("https://example.com/bar/:id"), True),
        (pattern("https://example.com/bar/:id"), exact("https://example.com/bar/1"), True),
        (pattern("https://example.com/bar/:id"), pattern("https://example.com/foo/:id"), False),
        (pattern("https://example.com/*"), pattern("https://example.com/a/:b/c"), True),
        (exact("*"), pattern("https://example.com/:id"), True),
        (pattern("*"), exact("x"), True),
        (exact("a"), exact("*"), False),
        (template("/books/{id}"), template("/books/{id}"), True),
        (template("/books/{id}"), template("/books/1"), True),
        (template("/books/{id}"), template("/films/{id}"), False),
        (template("*"), template("/films/{id}"), True),
    ],
)
def test_selects_a_subscription(own: Matcher, subscribed: Matcher, selects: bool) -> None:
    assert own.selects(subscribed) is selects


@pytest.mark.parametrize(
    ("value", "topic", "matches"),
    [
        ("/books/{id}", "/books/1", True),
        ("/books/{id}", "/books/{id}", True),  # a selector selects itself
        ("/books/{id}", "/books/1/2", False),
        ("/books/1", "/books/1", True),
        ("/books/1", "/books/2", False),
        ("/books/:id", "/books/1", False),
        ("not { a template", "not { a template", True),
        ("not { a template", "not a template", False),
        ("", "", True),
    ],
)
def test_the_selector_of_0x(value: str, topic: str, matches: bool) -> None:
    assert template(value).matches(topic) is matches


@pytest.mark.parametrize(
    ("value", "has_groups"),
    [("/a/:id", False), ("/a/:id(\\d+)", True), ("/(a|b)", True), ("*", False), ("/*", False)],
)
def test_patterns_with_groups(value: str, has_groups: bool) -> None:
    assert pattern(value).has_groups is has_groups
    assert exact(value).has_groups is False


@pytest.mark.parametrize(
    ("value", "is_heavy"),
    [("/a/:id", False), ("/a/:id(\\d+)", True), ("/:a-:b", True), ("*", False), ("/a\\.b", True)],
)
def test_heavy_matchers(value: str, is_heavy: bool) -> None:
    assert pattern(value).is_heavy is is_heavy
    assert exact(value).is_heavy is template(value).is_heavy is False


@pytest.mark.parametrize(
    ("value", "is_heavy"),
    [("/a/{id}", False), ("/a/{id}{?x}", True), ("/a/{id*}", True), ("/a/{", False), ("/a", False)],
)
def test_is_a_heavy_template(value: str, is_heavy: bool) -> None:
    assert template(value).is_heavy is is_heavy


def test_heavy_templates_in_use_are_limited() -> None:
    kept = make(MatcherType.TEMPLATE, "/limit/{+id}", HUB)
    with pytest.raises(TooManyRequests, match="MERCURE_MAX_HEAVY_PATTERNS"):
        make(MatcherType.TEMPLATE, "/limit/{+other}", HUB, allowance=Allowance(1))
    assert make(MatcherType.TEMPLATE, "/limit/{+id}", HUB, allowance=Allowance(1)) is kept
    for value in ("/limit/{id}", "/limit/{", "/limit"):
        assert make(MatcherType.TEMPLATE, value, HUB, allowance=Allowance(1)).matches(value)


def test_heavy_patterns_in_use_are_limited() -> None:
    kept = make(PATTERN, "/limit/:id(\\d+)", HUB)
    for value in ("/limit/:other(\\d+)", "/limit/:a-:b"):
        with pytest.raises(TooManyRequests, match="MERCURE_MAX_HEAVY_PATTERNS") as refusal:
            make(PATTERN, value, HUB, allowance=Allowance(1))
        assert refusal.value.retry_after > 0
        make(PATTERN, value, HUB)  # no limit
    assert make(PATTERN, "/limit/:id(\\d+)", HUB, allowance=Allowance(1)) is kept
    assert make(PATTERN, "/limit/:id", HUB, allowance=Allowance(1)).matches("/limit/x")
    with pytest.raises(InvalidRequest) as not_well_formed:
        make(PATTERN, "/limit/{", HUB)
    assert not_well_formed.value.status == 400


def test_heavy_patterns_that_nobody_uses_do_not_count() -> None:
    for number in range(20):
        make(PATTERN, f"/unused/{number}/(\\d+)", HUB)
    gc.collect()
    in_use = len(_heavy) - len([one for one in _heavy if one.value.startswith("/unused/")])
    make(PATTERN, "/unused/new/(\\d+)", HUB, allowance=Allowance(in_use + 5))


def test_one_client_cannot_use_up_the_heavy_patterns_of_all() -> None:
    _recent_heavy.cache_clear()
    gc.collect()
    most = 2 * len(_heavy) + 60  # what other tests keep is less than half
    kept = []

    def bring(client: str) -> int:
        """How many a client gets, which brings as many as it can."""
        for number in range(most):
            value = f"/share/{client}/{number}/(\\d+)"
            try:
                kept.append(make(PATTERN, value, HUB, allowance=Allowance(most, client)))
            except TooManyRequests:
                return number
        return most

    assert bring("greedy") == max(30, most // 10)
    assert bring("other") == bring("third") == max(10, most // 10)
    with pytest.raises(TooManyRequests, match="for you"):
        make(PATTERN, "/share/one-more/(\\d+)", HUB, allowance=Allowance(most, "greedy"))
    make(PATTERN, "/share/greedy/0/(\\d+)", HUB, allowance=Allowance(most, "other"))  # which is there already


def test_the_empty_topic_is_the_hub_itself() -> None:
    assert pattern("/.well-known/:name").matches("")
    assert pattern("/.well-known/(mercure)").matches("")
    assert not pattern("/other/:name").matches("")


def test_repr_shows_type_and_value() -> None:
    assert repr(pattern("/a/:id")) == "Matcher(urlpattern, '/a/:id')"


ANY_HOST = "https://mercure.invalid/.well-known/mercure"
OTHER_HUB = "http://other.example:3000/hub"
SITE = "https://example.com:"  # and no port

PREFIXES = [
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


@pytest.mark.parametrize(("value", "prefix"), PREFIXES)
def test_the_prefix_of_a_url_pattern(value: str, prefix: tuple[str, str]) -> None:
    assert make(MatcherType.URLPATTERN, value, HUB).prefix == (ANY_HOST, *prefix)


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
def test_the_prefix_of_a_template(value: str, prefix: str) -> None:
    assert make(MatcherType.TEMPLATE, value, HUB).prefix == (None, "", prefix)


def test_what_is_no_pattern_has_no_prefix() -> None:
    for value in ("a/b", "*"):
        assert make(MatcherType.EXACT, value, HUB).prefix is NO_PREFIX
        assert make(MatcherType.TEMPLATE, value, HUB).prefix is NO_PREFIX
    assert make(MatcherType.URLPATTERN, "*", HUB).prefix is NO_PREFIX


def test_bases_of_any_host_have_one_prefix() -> None:
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


def test_prefixes_of_a_topic() -> None:
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
