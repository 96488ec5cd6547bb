"""Subscription requests, and the paths that subscriptions get.

Invariant: any parameters give between one and a hundred distinct matchers or ``InvalidRequest``. No name of
the ``match`` namespace is passed over. Each subscription is found at its path, and nowhere else.
"""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import example, given
from hypothesis import strategies as st

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.matching.matcher import make
from mercure_hub.protocol.subscription import MAX_MATCHERS, Subscription, matchers_from, requested_cursor
from mercure_hub.protocol.topics import MatcherType
from tests.protocol.listing import find

HUB = Identity("https://hub.example.com/.well-known/mercure")
KNOWN = {"match", "match_exact", "match_urlpattern"}
NAMES = st.one_of(
    st.sampled_from([*KNOWN, "topic", "Match", "match_", "match_topic", "MATCH_exact", "matches", "m", ""]),
    st.text(max_size=8),
)
VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["*", "https://example.com/:id", "/a/*", "{", "{a}", "(", ":", "", "a b", "\u202e", "é"]),
)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
CLEAN = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Cn"]), max_size=20)


@given(PAIRS, st.sampled_from([(True, True), (True, False), (False, True)]))
@example([("match", "a")] * 101, (True, True))
@example([("match_urlpattern", "https://example.com/(a|b)")] * 11, (True, False))
@example([("matchtopic", "a"), ("match", "b")], (True, True))
@example([("matchtopic", "a"), ("topic", "b")], (False, True))
def test_any_parameters_are_read_or_refused(pairs: Pairs, generations: tuple[bool, bool]) -> None:
    current, old = generations
    try:
        matchers = matchers_from(pairs, HUB, current=current, old=old)
    except InvalidRequest:
        return
    assert 1 <= len(matchers) <= MAX_MATCHERS
    assert len({(one.type, one.value) for one in matchers}) == len(matchers)
    asked = {name for name, _ in pairs}
    if current:
        assert all(name in KNOWN for name in asked if name[:5].lower() == "match")
    names = (KNOWN if current else set()) | ({"topic"} if old else set())
    assert {one.value for one in matchers} == {value for name, value in pairs if name in names}


@given(st.one_of(st.none(), st.text(max_size=9)), PAIRS, st.booleans())
@example("", [("last_event_id", ""), ("last_event_id", "x")], True)
def test_any_cursor_is_read_or_refused(header: str | None, pairs: Pairs, old_names: bool) -> None:
    found = requested_cursor(header, pairs, old_names=old_names)
    assert found is None or found in {header, *(value for _, value in pairs)}
    if header:
        assert found == header


@given(st.lists(st.tuples(st.sampled_from(list(MatcherType)), CLEAN), min_size=1, max_size=4))
@example([(MatcherType.EXACT, "a/b"), (MatcherType.EXACT, "a%2Fb"), (MatcherType.EXACT, "")])
@example([(MatcherType.TEMPLATE, "exact"), (MatcherType.EXACT, "urn:uuid:0")])
@example([(MatcherType.TEMPLATE, "exact/a"), (MatcherType.EXACT, "a")])
def test_a_subscription_is_found_at_its_path(wanted: list[tuple[MatcherType, str]]) -> None:
    active: list[Subscription] = []
    for index, (type_, value) in enumerate(wanted):
        try:
            active.append(Subscription(make(type_, value, HUB.url), f"urn:uuid:{index}"))
        except InvalidRequest:
            continue
    for one in active:
        path = one.path(HUB)
        assert [unquote(part) for part in path.split("/")[4:]] == one.segments
        assert path.count("/") == (5 if one.is_old else 6)
        assert find(path, active, HUB, old=one.is_old) == one.document(HUB)
        collection = find(path.rpartition("/")[0], active, HUB, old=one.is_old)
        assert collection is not None
        assert one.document(HUB) in collection["subscriptions"]  # type: ignore[operator]
        everything = find(HUB.subscriptions_path, active, HUB, old=not one.is_old)
        assert everything is not None
        assert one.document(HUB) not in everything["subscriptions"]  # type: ignore[operator]
