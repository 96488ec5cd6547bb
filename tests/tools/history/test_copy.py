"""``mercure-hub history copy`` between engines: what was there is there, and a hub goes on with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from mercure_hub.cli import main
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.storage.address import address_of
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.interface import Presence, Resume, Retention
from mercure_hub.storage.store import Store
from mercure_hub.tools.history.copying import copy
from mercure_hub.tools.history.engines import opened
from mercure_hub.tools.history.history import (
    EVERYTHING,
    History,
    HistoryError,
    Marks,
    Row,
    Selection,
    prune,
    select,
)
from tests.storage.log import update

_PATIENCE = 30.0
ENGINES = ("sqlite", "postgresql", "valkey")


class Hub:
    """What a hub does with a history."""

    def __init__(self, url: str, retention: Retention | None = None) -> None:
        self.store: Store[int] = Store(link_to(address_of(url), retention or Retention()))
        self._woken = threading.Event()
        self.store.open(self._woken.set)

    def _wait(self, count: int) -> None:
        tickets = 0
        while tickets < count:
            assert self._woken.wait(_PATIENCE), "the store did not answer"
            self._woken.clear()
            for commit in self.store.collect():
                assert commit.error is None
                tickets += len(commit.tickets)

    def append(self, *ids: str, topic: str = "a") -> None:
        for number, one in enumerate(ids):
            self.store.append((update(topic, f"{topic}/{one}", data=f"data of {one} é\0", id=one),), number)
        self._wait(len(ids))

    def announce(self, *keys: str, is_end: bool = False) -> None:
        for number, key in enumerate(keys):
            event = update("/subscriptions/x", data="begins", id=f"event {key} {is_end}")
            self.store.append((event,), number, Presence(key, None if is_end else "record"))
        self._wait(len(keys))

    def place_of(self, event_id: str) -> int | None:
        return self.store.resume([Resume(event_id, 0, None, 0)])[0].after


@contextmanager
def hub_at(url: str, retention: Retention | None = None) -> Iterator[Hub]:
    hub = Hub(url, retention)
    try:
        yield hub
    finally:
        hub.store.close()


def fill(url: str) -> None:
    """Six updates with events of subscriptions between them: 1 e 2 e 3 4 e 5 6, of two topics."""
    with hub_at(url) as hub:
        hub.append("id1")
        hub.announce("x")
        hub.append("id2", topic="b")
        hub.announce("y")
        hub.append("id3", "id4")
        hub.announce("x", "y", is_end=True)
        hub.append("id5", "id6", topic="b")


def everything(url: str) -> tuple[list[Row], Marks]:
    """What is there; Redis has times in milliseconds."""
    with opened(url) as history:
        rows = list(select(history, EVERYTHING))
        return [replace(row, published_at=round(row.published_at, 3)) for row in rows], history.marks()


def copied(source: str, target: str) -> tuple[int, int, bool, bool]:
    with opened(source) as one, opened(target, is_made=True) as other:
        done = copy(one, other, lambda _: None)
    return done.updates, done.events, done.is_continued, done.is_behind


NewUrl = Callable[[str], str]


@pytest.fixture
def new_url(tmp_path: Path, request: pytest.FixtureRequest) -> NewUrl:
    """Makes the URL of a new history in an engine."""
    count = 0

    def make(engine: str) -> str:
        nonlocal count
        count += 1
        if engine == "sqlite":
            return f"sqlite:///{tmp_path}/{count}.db"
        server = request.getfixturevalue(f"{engine}_engine")
        url: str = server.url()
        return url

    return make


def _mark(engine: str) -> tuple[pytest.MarkDecorator, ...]:
    return () if engine == "sqlite" else (pytest.mark.minutes,)


@pytest.fixture(params=[pytest.param(one, marks=_mark(one)) for one in ENGINES])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(
    params=[
        pytest.param((one, other), id=f"{one}-{other}", marks=_mark(one) or _mark(other))
        for one in ENGINES
        for other in ENGINES
    ]
)
def both(request: pytest.FixtureRequest, new_url: NewUrl) -> tuple[str, str]:
    """The URLs of two new histories."""
    one, other = request.param
    return new_url(one), new_url(other)


def test_revocations_are_copied(both: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    source, target = both
    fill(source)
    some = [
        Revocation(b"a" * 16, "", 2.0**53, 2000.0),
        Revocation(b"b" * 16, "topic \N{SNOWMAN}", 100.25, 2.0**40),
    ]
    with hub_at(source) as hub:
        hub.store.revoke(some, 0.0)
    for _ in range(2):  # again, as after what the source has stored since
        assert main(["history", "copy", source, target]) == 0
        assert "2 revocations were copied" in capsys.readouterr().err
    with hub_at(target) as hub:
        assert list(hub.store.revocations(0, 10).revocations) == some


class TestCopy:
    def test_everything_is_there_and_a_hub_goes_on_with_it(self, both: tuple[str, str]) -> None:
        source, target = both
        fill(source)
        assert copied(source, target) == (6, 4, False, False)
        rows, marks = everything(target)
        assert (rows, marks) == everything(source)
        assert [row.update.id for row in rows if not row.is_event] == [f"id{n}" for n in range(1, 7)]
        assert marks == Marks(10, 4, 0, 0)
        with hub_at(target) as hub:
            assert hub.place_of("id3") == 5
            assert hub.store.size().updates == 6
            hub.append("new")
            assert hub.place_of("new") == 11
            page = hub.store.read(0, 11, ["b"], 10)
            assert [entry.update.id for entry in page.entries] == ["id2", "id5", "id6"]

    def test_a_second_copy_brings_what_is_new(self, both: tuple[str, str]) -> None:
        source, target = both
        fill(source)
        copied(source, target)
        assert copied(source, target) == (0, 0, True, False)
        with hub_at(source) as hub:
            hub.append("id7", "id8")
            assert copied(source, target) == (2, 0, True, True)
            hub.announce("z")
        assert copied(source, target) == (0, 1, True, False)
        assert everything(target) == everything(source)

    def test_what_was_discarded_is_missing_in_the_copy_too(self, both: tuple[str, str]) -> None:
        source, target = both
        fill(source)
        with opened(source) as history:
            assert prune(history, Selection(), 3, lambda _: None) == 3
            assert prune(history, Selection(frozenset({"b/id5"})), 0, lambda _: None) == 1
        copied(source, target)
        rows, marks = everything(target)
        assert (rows, marks) == everything(source)
        assert [row.update.id for row in rows if not row.is_event] == ["id4", "id6"]
        assert marks.updates_gone == 5
        with hub_at(target) as hub:
            beginning = hub.store.beginning(10)
            assert (beginning.updates, beginning.events) == (6, 1)

    def test_a_history_of_which_all_was_discarded_is_copied_and_continued(
        self, both: tuple[str, str]
    ) -> None:
        source, target = both
        fill(source)
        with opened(source) as history:
            for topics in ((), ("/subscriptions/x",)):
                prune(history, Selection(frozenset(topics)), 0, lambda _: None)
        assert copied(source, target) == (0, 0, False, False)
        assert everything(target)[1].last == 10
        with hub_at(source) as hub:
            hub.append("id7")
        assert copied(source, target) == (1, 0, True, False)
        with hub_at(target) as hub:
            assert hub.place_of("id7") == 11
            assert hub.store.beginning(11).updates == 11

    def test_an_empty_history_is_copied(self, both: tuple[str, str]) -> None:
        source, target = both
        with hub_at(source):
            pass
        assert copied(source, target) == (0, 0, False, False)
        with hub_at(source) as hub:
            hub.append("id1")
        assert copied(source, target) == (1, 0, False, False)


class TestTargets:
    def test_one_with_another_history_is_refused(self, engine: str, new_url: NewUrl) -> None:
        source, target = new_url("sqlite"), new_url(engine)
        fill(source)
        with hub_at(target) as hub:
            hub.append("other")
        with pytest.raises(HistoryError, match=r"is not a copy of the beginning of .*name a new target"):
            copied(source, target)
        assert [row.update.id for row in everything(target)[0]] == ["other"]

    def test_one_that_went_on_after_a_copy_is_refused(self, engine: str, new_url: NewUrl) -> None:
        source, target = new_url("sqlite"), new_url(engine)
        fill(source)
        copied(source, target)
        for url, one in ((source, "here"), (target, "there")):
            with hub_at(url) as hub:
                hub.append(one, topic="new")
        with pytest.raises(HistoryError, match="is not a copy"):
            copied(source, target)
        with opened(target) as history:  # the same, with what tells it hidden
            prune(history, Selection(frozenset({"new"})), 0, lambda _: None)
        with pytest.raises(HistoryError, match="is not a copy"):
            copied(source, target)

    def test_one_at_which_a_hub_is_at_work_is_refused(self, engine: str, new_url: NewUrl) -> None:
        source, target = new_url("sqlite"), new_url(engine)
        fill(source)
        with hub_at(target), pytest.raises(HistoryError, match="a hub is at work"):
            copied(source, target)
        assert copied(source, target) == (6, 4, False, False)

    def test_a_copy_that_broke_off_is_continued(
        self, engine: str, new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, target = new_url("sqlite"), new_url(engine)
        fill(source)
        monkeypatch.setattr("mercure_hub.tools.history.copying.BATCH", 4)

        def stop(_: int) -> None:
            raise KeyboardInterrupt

        with (
            pytest.raises(KeyboardInterrupt),
            opened(source) as one,
            opened(target, is_made=True) as other,
        ):
            copy(one, other, stop)
        rows, marks = everything(target)
        assert (len(rows), marks) == (4, Marks(4, 2, 0, 0))
        assert copied(source, target) == (4, 2, True, False)
        assert everything(target) == everything(source)

    def test_what_the_source_discards_between_two_copies_is_told(self, engine: str, new_url: NewUrl) -> None:
        source, target = new_url("sqlite"), new_url(engine)
        fill(source)
        copied(source, target)
        with hub_at(source) as hub:
            hub.append("id7", "id8")
        with opened(source) as history:
            prune(history, Selection(frozenset({"a/id1", "b/id2", "a/id3", "a/id4"})), 0, lambda _: None)
        copied(source, target)
        rows, marks = everything(target)
        assert len(rows) == 12  # nothing that it had went
        assert marks.updates_gone == 0

    def test_what_the_source_discards_while_it_is_read_is_told(self, engine: str, new_url: NewUrl) -> None:
        source, target = new_url("sqlite"), new_url(engine)
        fill(source)
        with opened(source) as one, opened(target, is_made=True) as other:
            copy(cast("History", _Discarding(one)), other, lambda _: None)
        rows, marks = everything(target)
        assert marks == Marks(10, 4, 8, 0)
        assert [row.sequence for row in rows if not row.is_event] == [9, 10]


class _Discarding:
    """A history that loses four updates once its end is known."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._is_done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._history, name)

    def marks(self) -> Marks:
        found = self._history.marks()
        if not self._is_done:
            self._is_done = True
            prune(self._history, Selection(), 2, lambda _: None)
        return found
