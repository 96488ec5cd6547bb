"""The topics that come with an update: those that a subscriber's matchers select. The bytes stay shared."""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.output import Delivery, Output
from mercure_hub.fanout.receivers import Pace, Receivers, named_topics
from mercure_hub.fanout.writer import Writer
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.update import Update
from tests.fanout.bench import LEFT, Bench, Reader, exact, may_read, pattern, subscriber, template
from tests.hub.running import Frames

SITE = "https://topics.example"
BOOK, MINE, YOURS = f"{SITE}/books/1", f"{SITE}/users/1/books", f"{SITE}/users/2/books"


def topics_in(reader: Reader) -> list[list[str]]:
    """The topics named with each event that has arrived."""
    reader.read()
    content = bytes(reader.received)
    form = reader.subscriber.form
    if form.is_websocket:
        return [json.loads(one[one.index(b"{") :])["topics"] for one in content.split(b"\x81")[1:]]
    if form.is_chunked:
        pieces, rest = [], content
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            pieces.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        content = b"".join(pieces)
    if form.is_compressed:
        content = Frames().decode(content)
    events = content.decode().split("\n\n")[:-1]
    return [
        [line.removeprefix("topic: ") for line in event.split("\n") if line.startswith("topic: ")]
        for event in events
    ]


CASES: list[tuple[str, Sequence[Matcher], Grant, Update, list[str] | None]] = [
    ("the topic", [exact("a")], Grant(), Update(("a",), "", "1"), ["a"]),
    ("an alternate topic that nobody asked for", [exact("a")], Grant(), Update(("a", "b"), "", "1"), ["a"]),
    ("only an alternate topic", [exact("b")], Grant(), Update(("a", "b", "c"), "", "1"), ["b"]),
    (
        "in the order of the update",
        [exact("b"), exact("a")],
        Grant(),
        Update(("a", "b"), "", "1"),
        ["a", "b"],
    ),
    ("each once", [exact("a"), exact("*")], Grant(), Update(("a", "b"), "", "1"), ["a", "b"]),
    (
        "by a pattern",
        [pattern("/books/:id")],
        Grant(),
        Update(("/books/1", "/users/1"), "", "1"),
        ["/books/1"],
    ),
    ("by a template", [template("/books/{id}")], Grant(), Update(("/books/1", "x"), "", "1"), ["/books/1"]),
    ("everything", [exact("*")], Grant(), Update(("a", "b"), "", "1"), ["a", "b"]),
    ("nothing", [exact("c")], Grant(), Update(("a", "b"), "", "1"), None),
    (
        "private: the canonical topic, whatever the token covers",
        [pattern(f"{SITE}/books/:id")],
        may_read(exact(MINE)),
        Update((BOOK, MINE, YOURS), "", "1", private=True),
        [BOOK],
    ),
    (
        "private: a wildcard tells no alternate topic beyond the token",
        [exact("*")],
        may_read(exact(MINE)),
        Update((BOOK, MINE, YOURS), "", "1", private=True),
        [BOOK, MINE],
    ),
    (
        "private: nor does a pattern",
        [pattern(f"{SITE}/users/:id/books")],
        may_read(exact(MINE)),
        Update((BOOK, MINE, YOURS), "", "1", private=True),
        [MINE],
    ),
    (
        "private: a topic that is written out is no secret",
        [exact(YOURS)],
        may_read(exact(MINE)),
        Update((BOOK, MINE, YOURS), "", "1", private=True),
        [YOURS],
    ),
    (
        "private: nothing that may be told",
        [pattern(f"{SITE}/users/2/:what")],
        may_read(exact(BOOK)),
        Update((BOOK, MINE, YOURS), "", "1", private=True),
        [],
    ),
    ("private: not for this token", [exact("*")], may_read(exact("x")), Update((BOOK,), "", "1", True), None),
]


@pytest.mark.parametrize("form", [form for form in Form if form.names_topics and not form.is_multiplexed])
@pytest.mark.parametrize(
    ("matchers", "grant", "update", "named"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_is_named(
    form: Form, matchers: Sequence[Matcher], grant: Grant, update: Update, named: list[str] | None
) -> None:
    bench = Bench(EngineLimits(compress_from=0))
    try:
        reader = bench.connect(*matchers, grant=grant, form=form)
        bench.publish(*update.topics, private=update.private, data="x")
        assert topics_in(reader) == ([] if named is None else [named])
        if named is not None:
            assert list(named_topics(reader.subscriber, Scope(matchers), update)) == named
    finally:
        bench.close()


def test_the_history_and_live_updates_name_the_same(bench: Bench) -> None:
    """Whatever the matchers, the token and the topics are."""
    rng = random.Random(5)
    topics = [f"{SITE}/{a}/{b}" for a in "abc" for b in "123"]
    matchers = [*map(exact, topics), *[pattern(f"{SITE}/{a}/:x") for a in "abc"], exact("*")]
    readers = [
        bench.connect(*rng.sample(matchers, 2), grant=may_read(rng.choice(matchers)), form=Form.PLAIN_TOPICS)
        for _ in range(40)
    ]
    live: list[Update] = []
    for _ in range(60):
        chosen, private = rng.sample(topics, rng.randint(1, 4)), rng.random() < 0.5
        live.append(bench.publish(*chosen, private=private).update)
    for reader in readers:
        wanted = Scope(reader.subscriber.matchers)
        scope = reader.subscriber.grant.subscribe
        mine = [
            one
            for one in live
            if wanted.covers_any(one.topics) and (not one.private or scope.covers_any(one.topics))
        ]
        assert topics_in(reader) == [list(named_topics(reader.subscriber, wanted, one)) for one in mine]


def test_other_streams_are_as_they_were(bench: Bench) -> None:
    plain, named = (bench.connect(exact("a"), form=form) for form in (Form.PLAIN, Form.PLAIN_TOPICS))
    entry = bench.publish("a", "b", data="x\ny")
    plain.read(), named.read()
    assert bytes(plain.received) == entry.update.encode()
    assert bytes(named.received) == b"topic: a\n" + entry.update.encode()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """To how many sockets the same bytes were written at once."""
    found: list[int] = []
    write = Writer.write

    def count(self: Writer, fds: array[int], data: bytes) -> object:
        found.append(len(fds))
        return write(self, fds, data)

    monkeypatch.setattr(Writer, "write", count)
    return found


@pytest.mark.parametrize(
    "topics", [("all",), ("all", "unselected"), ("all", "also")], ids=["one", "unselected", "two"]
)
def test_who_selects_the_same_topics_gets_the_same_bytes(
    bench: Bench, writes: list[int], monkeypatch: pytest.MonkeyPatch, topics: tuple[str, ...]
) -> None:
    encoded: Counter[str] = Counter()
    encode = Update.encode

    def count(self: Update, topics: tuple[str, ...] | None = None) -> bytes:
        encoded[self.id] += 1
        return encode(self, topics)

    monkeypatch.setattr(Update, "encode", count)
    readers = [bench.connect(exact("all"), exact("also"), form=Form.CHUNKED_TOPICS) for _ in range(300)]
    bench.publish(*topics)
    assert encoded == {"1": 1}
    assert writes == [300]
    assert len({reader.read() for reader in readers}) == 1


def test_streams_with_and_without_topics_are_written_at_once_each(bench: Bench, writes: list[int]) -> None:
    readers = [
        bench.connect(exact("a"), form=(Form.CHUNKED, Form.CHUNKED_TOPICS)[number % 2])
        for number in range(200)
    ]
    bench.publish("a")
    assert writes == [100, 100]
    bench.dispatch(bench.update("a"), bench.update("b"), bench.update("a"))
    assert writes == [100, 100]  # what differs is gathered for each
    for reader in readers:
        reader.read()
        assert reader.received.count(b"id: ") == 3


def test_many_groups_are_gathered(bench: Bench, writes: list[int]) -> None:
    readers = [bench.connect(exact(f"{n}"), form=Form.PLAIN_TOPICS) for n in range(30)]
    bench.publish(*[f"{n}" for n in range(30)])
    assert writes == []
    assert [topics_in(reader) for reader in readers] == [[[f"{n}"]] for n in range(30)]


def test_an_update_with_many_topics_for_many_readers_pauses(bench: Bench) -> None:
    readers = [bench.connect(pattern(f"{SITE}/:any"), form=Form.PLAIN_TOPICS) for _ in range(400)]
    slices = bench.dispatch(bench.update(*[f"{SITE}/{n}" for n in range(100)]))
    assert slices > 2
    assert [len(one) for reader in readers for one in topics_in(reader)] == [100] * 400


@pytest.mark.parametrize("is_private", [False, True], ids=["listeners", "tokens"])
def test_many_listeners_of_one_topic_are_named_it_with_pauses(is_private: bool) -> None:
    receivers = Receivers(Pace())
    if is_private:  # each token is asked about the alternate topic
        readers = [subscriber(exact("*"), grant=may_read(exact("a"), exact(f"{n}"))) for n in range(2000)]
    else:
        readers = [subscriber(exact("a"), exact("b")) for _ in range(20_000)]
    for one in readers:
        receivers.add(one)
    steps = list(receivers.by_topics(readers, Update(("a", "b"), "", "1", private=is_private)))
    assert len(steps) >= 3


def test_what_is_encoded_for_many_groups_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group gets bytes of its own: a large update must not be in memory for all of them at once."""
    monkeypatch.setattr("mercure_hub.fanout.engine._PREPARED", 20_000)
    sizes: list[int] = []
    deliver = Output.deliver

    def count(self: Output, deliveries: Sequence[Delivery], *, are_disjoint: bool = False) -> Iterator[None]:
        sizes.append(sum(len(data) for data, _ in deliveries))
        return deliver(self, deliveries, are_disjoint=are_disjoint)

    monkeypatch.setattr(Output, "deliver", count)
    readers = [bench.connect(exact(f"{n}"), form=Form.PLAIN_TOPICS) for n in range(30)]
    everything = bench.connect(exact("*"))
    bench.dispatch(
        bench.update("0"), bench.update(*[f"{n}" for n in range(30)], data="x" * 3000), bench.update("0")
    )
    assert max(sizes) < 30_000
    assert [reader.ids() for reader in readers] == [["1", "2", "3"], *[["2"]] * 29]
    assert everything.ids() == ["1", "2", "3"]


def test_a_subscriber_that_leaves_in_a_pause_is_passed_over() -> None:
    bench = Bench(EngineLimits(pause_after=1))
    try:
        readers = [bench.connect(exact("*"), form=Form.PLAIN_TOPICS) for _ in range(3)]

        def leave(_: int) -> None:
            if readers[0].subscriber.is_connected and bench.engine.dispatched:
                bench.engine.drop(readers[0].subscriber, LEFT)

        bench.dispatch(bench.update("a", "b"), between=leave)
        assert [topics_in(reader) for reader in readers] == [[], [["a", "b"]], [["a", "b"]]]
    finally:
        bench.close()


def test_the_form_is_an_entry_of_the_same_kind() -> None:
    for form in Form:
        if not form.names_topics:
            named = form.naming_topics(wanted=True)
            assert form.naming_topics(wanted=False) is form
            for kind in ("is_websocket", "is_chunked", "is_compressed", "is_multiplexed"):
                assert getattr(named, kind) is getattr(form, kind)
            assert named.names_topics
    assert subscriber(exact("a")).form.names_topics is False
