"""Who is connected, and who comes and goes from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flask_mercure import (
    ActiveSubscription,
    HubUnreachable,
    InvalidArgument,
    Mercure,
    Person,
    Refused,
    URITemplate,
    URLPattern,
)
from tests.flask_mercure.fake_hub import Answer, Dropped, FakeHub, make_app
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.minutes

PATIENCE = 10.0
mercure = Mercure()


def test_subscriptions_of_the_hub_and_of_a_topic(app: Any) -> None:
    pattern = URLPattern("/p-rooms/:id")
    with (
        mercure.subscribe(["p/a?b=c&ü", pattern], payload={"name": "Ada"}),
        mercure.subscribe("p-2") as second,
    ):
        everyone = mercure.subscriptions()
        assert len(everyone) == 3
        assert len(everyone.subscribers) == 2
        (one,) = mercure.subscriptions("p/a?b=c&ü")
        assert (one.topic, one.match_type, one.payload) == ("p/a?b=c&ü", "exact", {"name": "Ada"})
        (two,) = mercure.subscriptions(pattern)
        assert (two.topic, two.match_type, two.subscriber) == ("/p-rooms/:id", "urlpattern", one.subscriber)
        (three,) = mercure.subscriptions("p-2")
        assert three == ActiveSubscription("p-2", "exact", three.subscriber)
        assert mercure.subscriptions("p-none")[:] == ()
        second.close()


def test_subscriptions_can_be_followed_without_a_gap(app: Any) -> None:
    active = mercure.subscriptions("p-follow")
    assert active.last_event_id is not None
    with mercure.subscribe("p-follow"), mercure.subscribe("p-elsewhere"):
        pass
    with mercure.subscribe(active.events, active.last_event_id) as events:
        came, went = events.wait(PATIENCE), events.wait(PATIENCE)
        assert (came.type, came.json()["match"], came.json()["active"]) == ("mercure", "p-follow", True)
        assert (went.json()["subscriber"], went.json()["active"]) == (came.json()["subscriber"], False)
        with pytest.raises(TimeoutError):
            events.wait(0.1)


def test_people_at_a_topic_and_nowhere_else(app: Any) -> None:
    topic = "p-items/7"
    with (
        mercure.subscribe(topic, payload={"sub": "ada", "name": "Ada"}),
        mercure.subscribe([topic, "p-items/8"], payload={"sub": "ada", "name": "Ada"}),
        mercure.subscribe(topic),  # a worker of the app: nobody
        mercure.subscribe("p-items/8", payload={"sub": "bo"}),
        mercure.subscribe(URLPattern("/p-items/:id"), payload={"sub": "cleo"}),
    ):
        found = mercure.presence(topic)
        assert list(found) == [Person("ada", {"sub": "ada", "name": "Ada"}, 2)]
        assert (found.count, len(found), found.people[0].user) == (1, 1, "ada")
        assert mercure.presence("p-items/9").count == 0
        position = found.last_event_id
    with mercure.subscribe(found.events, position) as events:
        told: list[Any] = []
        while sum(not one["active"] for one in told) < 3:
            told.append(events.wait(PATIENCE).json())
    assert {one["match"] for one in told} == {topic}


def test_a_reader_with_the_grants_sees_the_people_of_one_topic(hub: RunningHub, app: Any) -> None:
    grants = mercure.presence("p-seen").grants
    token = mercure.create_token(grants, user="eve")
    path = grants[0]
    assert isinstance(path, str)
    with mercure.subscribe(["p-seen", "p-hidden"], payload={"sub": "ada"}):
        reply = hub.get(path=path, token=token)
        assert [one["payload"] for one in reply.json()["subscriptions"]] == [{"sub": "ada"}]
        for hidden in (path.replace("p-seen", "p-hidden"), path.rpartition("/")[0], path.split("/exact")[0]):
            assert hub.get(path=hidden, token=token).status == 403
        # Whatever it subscribes to, it gets the events of this topic alone.
        everything = {"match": "*", "last_event_id": "earliest"}
        stream = hub.subscribe(everything, token)
    told = [json.loads(stream.next().data)["match"] for _ in range(2)]
    assert set(told) == {"p-seen"}


def test_how_many_are_at_a_topic(hub: RunningHub, app: Any) -> None:
    topic = "p-counted"
    assert mercure.presence_count(topic).count == 0
    token = mercure.create_token([topic, *mercure.presence_count(topic).grants], user="ada")
    streams = [hub.subscribe({"match": topic}, token) for _ in range(3)]
    with mercure.subscribe(topic):  # a worker of the app, which is not counted
        assert mercure.presence_count(topic).count == 3
        assert len(mercure.subscriptions(topic)) == 1  # and nobody else is announced
    for stream in streams:
        stream.close()


def test_another_hub_has_no_counts(other: FakeHub) -> None:
    other.answers = [Answer(b'{"type": "subscriptions"}', 200, "application/json")]
    with (
        make_app(URL=other.url).app_context(),
        pytest.raises(Refused, match="only this project's hub counts"),
    ):
        _ = Mercure().presence_count("a").count


def test_subscriptions_in_protocol_0x(hub: RunningHub) -> None:
    old = Mercure()
    with app_on(hub, old, PROTOCOL="0.x"):
        with old.subscribe(URITemplate("p-old/{id}"), payload="Ada"):
            (one,) = old.subscriptions(URITemplate("p-old/{id}"))
            assert (one.topic, one.match_type, one.payload) == ("p-old/{id}", None, "Ada")
            active = old.subscriptions()
            assert one in active
        with old.subscribe(active.events, active.last_event_id, PATIENCE) as events:
            # What the list had already may be told again.
            assert any(event.json()["active"] is False for event in events)


def test_subscriptions_of_a_hub_with_another_public_url(folder: Path) -> None:
    public = "https://example.com/hub/.well-known/mercure"
    with running_hub(folder, subscriptions=1, public_url=public) as hub:
        own = Mercure()
        with app_on(hub, own, PUBLIC_URL=public), own.subscribe("a"):
            assert [one.topic for one in own.subscriptions()] == ["a"]


def test_subscriptions_of_a_hub_without_the_feature(folder: Path) -> None:
    with running_hub(folder) as hub, app_on(hub, Mercure()):
        with pytest.raises(Refused, match="MERCURE_SUBSCRIPTIONS") as refusal:
            Mercure().subscriptions()
        assert refusal.value.status == 404


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"no json", 200, "application/json"),
        Answer(b"[]", 200, "application/json"),
        Answer(b'{"subscriptions": 1}', 200, "application/json"),
        Answer(b'{"subscriptions": [{"subscriber": "x"}]}', 200, "application/json"),
        Answer(b"", 302, None, {"Location": "/"}),
        Answer(b"", 401, None),
    ],
)
def test_subscriptions_refuse_other_answers(other: FakeHub, answer: Answer) -> None:
    other.answers = [answer]
    with make_app(URL=other.url).app_context(), pytest.raises(Refused):
        Mercure().subscriptions()


@pytest.mark.parametrize(
    ("link", "cursor"),
    [
        ('<https://e.example/>; rel="mercure"; last-event-id="a\\"b\\\\"; type="mercure"', 'a"b\\'),
        ("<https://e.example/>; rel=mercure; Last-Event-Id*=UTF-8''%C3%A9", "é"),
        ('<https://e.example/>; rel="mercure"', None),
    ],
)
def test_subscriptions_cursor_from_the_link_header(other: FakeHub, link: str, cursor: str | None) -> None:
    other.answers = [Answer(b'{"subscriptions": []}', 200, "application/json", {"Link": link})]
    with make_app(URL=other.url).app_context():
        assert Mercure().subscriptions().last_event_id == cursor


def test_subscriptions_without_an_answer_and_of_an_empty_topic(other: FakeHub) -> None:
    other.answers = [Dropped()]
    with make_app(URL=other.url).app_context():
        with pytest.raises(HubUnreachable):
            Mercure().subscriptions()
        with pytest.raises(InvalidArgument):
            Mercure().subscriptions("")


@pytest.mark.parametrize("topic", [".", ".."])
def test_subscriptions_refuse_a_topic_that_is_a_dot_segment(topic: str) -> None:
    with make_app(URL="http://127.0.0.1:9/m").app_context(), pytest.raises(InvalidArgument, match="no URL"):
        Mercure().subscriptions(topic)
