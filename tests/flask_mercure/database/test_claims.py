"""Which updates may go: checked against the definition, for every small outbox that hypothesis thinks of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flask_mercure.database.claims import Order, Waiting

_topics = st.sets(st.sampled_from("abcd"), min_size=1, max_size=3)
_entries = st.lists(st.tuples(_topics, st.booleans()), max_size=12).map(
    lambda rows: [
        Waiting(number, tuple(("hub", topic) for topic in sorted(topics)), is_due)
        for number, (topics, is_due) in enumerate(rows)
    ]
)


def shares(one: Waiting, other: Waiting) -> bool:
    return not set(one.lanes).isdisjoint(other.lanes)


@given(_entries, st.integers(1, 5))
def test_a_head_has_no_update_before_it_on_its_topics(entries: list[Waiting], page: int) -> None:
    order = Order()
    heads = [
        head for start in range(0, len(entries), page) for head in order.add(entries[start : start + page])
    ]
    assert heads == [
        entry.sequence
        for position, entry in enumerate(entries)
        if entry.is_due and not any(shares(entry, earlier) for earlier in entries[:position])
    ]


@given(_entries, st.sets(st.integers(0, 11)))
def test_a_relay_sends_its_heads_and_what_only_they_hold_back(entries: list[Waiting], some: set[int]) -> None:
    order = Order()
    held = some & set(order.add(entries))
    allowed: set[int] = set()
    for position, entry in enumerate(entries):
        before = [earlier for earlier in entries[:position] if shares(entry, earlier)]
        follows = bool(before) and entry.is_due and all(one.sequence in allowed for one in before)
        if entry.sequence in held or follows:
            allowed.add(entry.sequence)
    assert order.sendable(held) == sorted(allowed)


@given(_entries)
def test_two_relays_never_share_a_topic(entries: list[Waiting]) -> None:
    order = Order()
    heads = order.add(entries)
    first, second = order.sendable(set(heads[::2])), order.sendable(set(heads[1::2]))
    assert not any(shares(entries[one], entries[other]) for one in first for other in second)


def test_hubs_have_topics_of_their_own() -> None:
    order = Order()
    assert order.add([Waiting(1, (("eu", "a"),), False), Waiting(2, (("us", "a"),), True)]) == [2]
