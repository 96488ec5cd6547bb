"""What a subscription request asks for, and how others see it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import uritemplate

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.event_stream import Parser
from mercure_hub.protocol.http import Pairs, parse_form
from mercure_hub.protocol.hub_url import Identity, is_reserved
from mercure_hub.protocol.matching.matcher import make
from mercure_hub.protocol.subscription import (
    MAX_MATCHERS,
    Subscription,
    matchers_from,
    old_document,
    requested_cursor,
)
from mercure_hub.protocol.topics import MatcherType
from tests.protocol.listing import find

HUB = Identity("https://hub.example.com/.well-known/mercure")
PREFIXED = Identity("https://example.com/hub/")
EXACT, PATTERN, TEMPLATE = MatcherType.EXACT, MatcherType.URLPATTERN, MatcherType.TEMPLATE
BASE = "/.well-known/mercure/subscriptions"
SUBSCRIBER = "urn:uuid:bb3de268-05b0-4c65-b44e-8f9acefc29d6"
ENCODED = SUBSCRIBER.replace(":", "%3A")


def read(parameters: Pairs, *, current: bool = True, old: bool = True) -> list[tuple[str, str]]:
    return [(str(one.type), one.value) for one in matchers_from(parameters, HUB, current=current, old=old)]


def refused(parameters: Pairs, *, current: bool = True, old: bool = True) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        read(parameters, current=current, old=old)
    assert refusal.value.status == 400
    return refusal.value


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"match=a", [("exact", "a")]),
        (b"match_exact=a", [("exact", "a")]),
        (b"match_urlpattern=/:a", [("urlpattern", "/:a")]),
        (b"topic=/{a}", [("topic", "/{a}")]),
        (b"match=a&match=b", [("exact", "a"), ("exact", "b")]),
        (b"match=a&match_exact=a&match=a", [("exact", "a")]),
        (b"match=a&match_urlpattern=a&topic=a", [("exact", "a"), ("urlpattern", "a"), ("topic", "a")]),
        (b"match=*&match_urlpattern=*&topic=*", [("exact", "*"), ("urlpattern", "*"), ("topic", "*")]),
        (b"match", [("exact", "")]),
        (b"match=", [("exact", "")]),
        (b"match=%2F%3Aid", [("exact", "/:id")]),
        (b"match=a+b", [("exact", "a b")]),
        (b"match=a;b=c", [("exact", "a;b=c")]),
        (b"m%61tch=a", [("exact", "a")]),
        (b"other=x&match=a&last_event_id=1&authorization=x", [("exact", "a")]),
        (b"matc=x&atch=y&_match=z&match=a", [("exact", "a")]),
        (b"match=b&match=a", [("exact", "b"), ("exact", "a")]),
    ],
)
def test_matchers_of_a_request(query: bytes, found: list[tuple[str, str]]) -> None:
    assert read(parse_form(query)) == found


def test_the_example_of_the_spec() -> None:
    query = b"match=https%3A%2F%2Fexample.com%2Ffoo&match=bar"
    query += b"&match_urlpattern=https%3A%2F%2Fexample.com%2Fbar%2F%3Aid"
    assert read(parse_form(query)) == [
        ("exact", "https://example.com/foo"),
        ("exact", "bar"),
        ("urlpattern", "https://example.com/bar/:id"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "Match", "MATCH", "mATCH", "match_", "match_Exact", "match_EXACT", "match_urlPattern",
        "match_url_pattern", "match_topic", "match_regex", "matches", "match2",
        "matcher", "match-exact", "matchexact", "match[]", "match ", "match\0", "matché", "match_exact ",
        "match_exact_", "MATCH_URLPATTERN", "match.x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["a", "", "*"])
def test_the_whole_namespace_is_reserved(name: str, value: str) -> None:
    error = refused([("match", "a"), (name, value)])
    assert error.field == name
    assert "match_urlpattern" in error.detail
    assert read([("topic", "a"), (name, value)], current=False) == [("topic", "a")], (
        "unless only 0.x is spoken"
    )


@pytest.mark.parametrize(
    "name", [" match", "\ufeffmatch", "mat\u200bch", "\uff4datch", "m\u0430tch", "mätch"]
)
def test_names_beyond_the_namespace_are_ignored(name: str) -> None:
    assert read([(name, "x"), ("match", "a")]) == [("exact", "a")]


def test_a_long_unknown_name_is_not_repeated_in_full() -> None:
    error = refused([("match" + "x" * 10_000, "a")])
    assert len(error.detail) < 300
    assert len(error.field or "") <= 100


@pytest.mark.parametrize(
    ("parameters", "current", "old", "field"),
    [
        ([], True, True, "match"),
        ([], True, False, "match"),
        ([], False, True, "topic"),
        ([("topic", "a")], True, False, "topic"),
        ([("match", "a")], False, True, "match"),
        ([("Topic", "a")], True, True, "match"),
        ([("last_event_id", "a")], True, True, "match"),
    ],
)
def test_at_least_one_is_needed(parameters: Pairs, current: bool, old: bool, field: str) -> None:
    assert refused(parameters, current=current, old=old).field == field


@pytest.mark.parametrize("name", ["match", "match_exact", "match_urlpattern", "topic"])
@pytest.mark.parametrize("value", ["\0", "a\nb", "\x7f", "\x9f", "\u200b", "\u202e", "a" * 2049])
def test_values_that_are_not_valid(name: str, value: str) -> None:
    assert refused([("match", "a"), (name, value)]).field == name


@pytest.mark.parametrize("value", ["(", "/:", "{", "https://["])
def test_patterns_that_are_not_well_formed(value: str) -> None:
    assert refused([("match_urlpattern", value)]).field == "match_urlpattern"
    assert read([("match", value)]) == [("exact", value)]


def test_the_number_of_matchers_is_limited() -> None:
    many = [("match", str(number)) for number in range(MAX_MATCHERS)]
    assert len(read(many)) == MAX_MATCHERS
    assert len(read(many + many)) == MAX_MATCHERS
    assert "More than 100" in refused([*many, ("match", "x")]).detail


def test_a_hundred_ordinary_patterns_pass() -> None:
    assert (
        len(read([("match_urlpattern", f"https://example.com/p{number}/books/:id") for number in range(100)]))
        == 100
    )
    assert (
        len(read([("topic", f"https://example.com/t{number}/books/{{id}}") for number in range(100)])) == 100
    )


def test_patterns_with_regular_expressions_are_limited_further() -> None:
    patterns = [("match_urlpattern", f"/r{number}/:id(\\d+)") for number in range(11)]
    assert len(read(patterns[:10])) == 10
    assert "More than 10" in refused(patterns).detail


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("match_urlpattern", "/d{}/(\\w\\w\\w\\w)"),
        ("match_urlpattern", "/d{}" + "/*" * 60),
        ("topic", "/d{}" + "{{a}}" * 80),
        ("topic", "/d{}/{{?a,b,c,d,e,f,g,h,i,j,k}}"),
        ("match_urlpattern", "(" * 5000),
        ("topic", "{{" * 5000),
    ],
)
def test_a_request_is_refused_before_it_is_dear(name: str, unit: str) -> None:
    best = 9.0
    for attempt in range(3):
        parameters = [(name, unit.format(f"{attempt}-{number}")) for number in range(100)]
        start = time.thread_time()
        refused(parameters)
        best = min(best, time.thread_time() - start)
    assert best < 1.0


def subscription(
    type_: MatcherType, value: str, payload: Any = None, subscriber: str = SUBSCRIBER
) -> Subscription:
    return Subscription(make(type_, value, HUB.url), subscriber, payload)


VALUES = [
    "https://example.com/:selector", "https://example.com/a-topic", "/{a}/{?b}", "a b", "a%20b", "%", "%25",
    "é", "日本 😀", "a/b?c#d", "~-._", "a+b&c=d;e", "*", "", ".", "..", "'()!",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("identity", [HUB, PREFIXED])
def test_paths_are_expanded_once(identity: Identity, value: str) -> None:
    for type_ in (EXACT, PATTERN):
        if type_ is PATTERN and value in ("/{a}/{?b}", "'()!", "a+b&c=d;e"):
            continue  # not well-formed
        one = subscription(type_, value)
        expand = uritemplate.URITemplate("{+hub}/subscriptions/{match_type}/{match}/{subscriber}").expand
        path = expand(
            hub=identity.path.rstrip("/"), match_type=str(type_), match=value, subscriber=SUBSCRIBER
        )
        assert one.path(identity) == path
        assert is_reserved(path, identity) or value in (".", "..")
    one = subscription(TEMPLATE, value)
    expand = uritemplate.URITemplate("{+hub}/subscriptions/{topic}/{subscriber}").expand
    assert one.path(identity) == expand(hub=identity.path.rstrip("/"), topic=value, subscriber=SUBSCRIBER)


def test_the_documents_of_the_spec() -> None:
    one = subscription(PATTERN, "https://example.com/:selector", {"foo": "bar"})
    assert one.document(HUB) == {
        "id": f"{BASE}/urlpattern/https%3A%2F%2Fexample.com%2F%3Aselector/{ENCODED}",
        "type": "subscription",
        "match_type": "urlpattern",
        "match": "https://example.com/:selector",
        "subscriber": SUBSCRIBER,
        "active": True,
        "payload": {"foo": "bar"},
    }
    old = subscription(TEMPLATE, "https://example.com/{selector}", {"foo": "bar"})
    assert old.document(HUB, active=False) == {
        "id": f"{BASE}/https%3A%2F%2Fexample.com%2F%7Bselector%7D/{ENCODED}",
        "type": "Subscription",
        "topic": "https://example.com/{selector}",
        "subscriber": SUBSCRIBER,
        "active": False,
        "payload": {"foo": "bar"},
    }


@pytest.mark.parametrize("payload", [{}, [], "", 0, False, {"a": None}])
def test_a_payload_that_is_empty_is_shown(payload: Any) -> None:
    assert subscription(EXACT, "a", payload).document(HUB)["payload"] == payload


def test_no_payload_is_not_shown() -> None:
    assert "payload" not in subscription(EXACT, "a").document(HUB)


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("type_", MatcherType)
def test_events_of_subscriptions(type_: MatcherType, active: bool) -> None:
    one = subscription(type_, "https://example.com/é", {"é": "ü\u2028\r\n\0", "n": [1, None, 1.5]})
    update = one.event(HUB, active=active)
    assert update.topics == (one.path(HUB),)
    assert update.private
    assert update.retry is None
    assert update.id.startswith("urn:uuid:")
    assert update.id != one.event(HUB, active=active).id
    assert update.type == (None if type_ is TEMPLATE else "mercure")
    document = json.loads(update.data)
    assert document == {
        **({"@context": "https://mercure.rocks/"} if type_ is TEMPLATE else {}),
        **one.document(HUB, active=active),
    }
    assert document["id"] == update.topics[0]
    assert document["active"] is active
    (event,) = Parser().feed(update.encode())
    assert json.loads(event.data) == document
    assert "\n" not in update.data


@pytest.mark.parametrize("payload", [{"a": "\ud800"}, {"\udfff": ["\ud83d"]}, "\ud800\udc00 \udc00"])
def test_half_a_surrogate_pair_in_a_payload_does_no_harm(payload: Any) -> None:
    """json.loads reads it from a token, and UTF-8 cannot write it."""
    update = subscription(EXACT, "a", payload).event(HUB, active=True)
    (event,) = Parser().feed(update.encode())
    assert json.loads(event.data)["payload"] == json.loads(json.dumps(payload))


@pytest.mark.parametrize("type_", MatcherType)
def test_events_are_seen_by_those_who_may(type_: MatcherType) -> None:
    topic = subscription(type_, "https://example.com/a?b#c").event(HUB, active=True).topics[0]
    everything = "/.well-known/mercure/subscriptions{/*}?"
    assert make(PATTERN, everything, HUB.url).matches(topic)
    assert make(PATTERN, f"{HUB.url}/subscriptions/*", HUB.url).matches(topic)
    if type_ is TEMPLATE:
        assert make(TEMPLATE, "/.well-known/mercure/subscriptions/{topic}/{subscriber}", HUB.url).matches(
            topic
        )
        assert make(TEMPLATE, "/.well-known/mercure/subscriptions{/topic,subscriber}", HUB.url).matches(topic)
    else:
        assert make(
            PATTERN, f"/.well-known/mercure/subscriptions/{type_}/:match/:subscriber", HUB.url
        ).matches(topic)


A = "https://example.com/a?b#c"
ACTIVE = [
    subscription(EXACT, A, subscriber="one"),
    subscription(EXACT, A, subscriber="two/é"),
    subscription(PATTERN, "/:b", {"c": 1}, "one"),
    subscription(EXACT, "*", subscriber="one"),
    subscription(TEMPLATE, A, subscriber="one"),
    subscription(TEMPLATE, "/{b}", subscriber="old"),
]


@pytest.mark.parametrize(
    ("path", "old", "found"),
    [
        ("", False, [0, 1, 2, 3]),
        ("", True, [4, 5]),
        ("/exact/https%3A%2F%2Fexample.com%2Fa%3Fb%23c", False, [0, 1]),
        ("/exact/https%3a%2f%2fexample.com%2fa%3fb%23c", False, [0, 1]),
        ("/exact/%2A", False, [3]),
        ("/exact/*", False, [3]),  # as encodeURIComponent writes it
        ("/urlpattern/%2F%3Ab", False, [2]),
        ("/urlpattern/%2F:b", False, [2]),
        ("/exact/%2F%3Ab", False, []),
        ("/exact/none", False, []),
        ("/topic/x", False, []),
        ("/https%3A%2F%2Fexample.com%2Fa%3Fb%23c", True, [4]),
        ("/%2F%7Bb%7D", True, [5]),
        ("/none", True, []),
    ],
)
def test_collections_of_subscriptions(path: str, old: bool, found: list[int]) -> None:
    assert find(BASE + path, ACTIVE, HUB, old=old) == {
        "id": BASE + path,
        "type": "Subscriptions" if old else "subscriptions",
        "subscriptions": [ACTIVE[index].document(HUB) for index in found],
    }


@pytest.mark.parametrize("one", ACTIVE, ids=lambda one: one.subscriber)
def test_the_path_of_one_subscription(one: Subscription) -> None:
    assert find(one.path(HUB), ACTIVE, HUB, old=one.is_old) == one.document(HUB)
    assert find(one.path(HUB).lower(), ACTIVE, HUB, old=one.is_old) == one.document(HUB)


@pytest.mark.parametrize(
    ("path", "old"),
    [
        (f"{BASE}/exact/%2A/two", False),
        (f"{BASE}/exact/%252A/one", False),
        (f"{BASE}/urlpattern/%2A/one", False),
        (f"{BASE}/Exact/%2A/one", False),
        (f"{BASE}/exact", False),
        (f"{BASE}/", False),
        (f"{BASE}/exact/%2A/one/", False),
        (f"{BASE}/exact/%2A/one/x", False),
        (f"{BASE}x/exact/%2A", False),
        (f"{BASE}x/a", True),
        ("/subscriptions", False),
        ("", False),
        (f"{BASE}/%2F%7Bb%7D/other", True),
        (f"{BASE}/a/b/c", True),
    ],
)
def test_paths_without_subscriptions(path: str, old: bool) -> None:
    assert find(path, ACTIVE, HUB, old=old) is None


def test_a_document_of_0x_has_its_context_and_cursor() -> None:
    assert old_document({"id": "/x"}, "urn:1") == {
        "@context": "https://mercure.rocks/",
        "id": "/x",
        "lastEventID": "urn:1",
    }


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
def test_the_requested_cursor(header: str | None, query: Pairs, old_names: bool, found: str | None) -> None:
    assert requested_cursor(header, query, old_names=old_names) == found
