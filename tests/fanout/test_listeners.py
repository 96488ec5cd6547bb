"""One listener, some, and none any more."""

from __future__ import annotations

from mercure_hub.fanout.listeners import Listeners, each, joined, left
from tests.fanout.bench import subscriber


def test_one_stands_for_himself_and_several_keep_their_order() -> None:
    first, second, third = subscriber(), subscriber(), subscriber()
    listeners: Listeners = joined(None, first)
    assert listeners is first and each(listeners) == [first]
    assert joined(listeners, first) is first
    listeners = joined(listeners, second)
    assert each(listeners) == [first, second]
    assert joined(listeners, third) is listeners
    assert joined(listeners, first) is listeners
    assert each(listeners) == [first, second, third]


def test_those_who_leave() -> None:
    first, second, stranger = subscriber(), subscriber(), subscriber()
    assert left(first, stranger) is first
    assert left(first, first) is None
    both = joined(first, second)
    assert left(both, stranger) is both
    assert left(both, first) is both
    assert each(both) == [second]
    assert left(both, second) is None
