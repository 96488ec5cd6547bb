"""Many updates: in one request where the hub takes that, one by one elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flask_mercure import HubUnreachable, InvalidArgument, Mercure, PublishError, Update
from flask_mercure.client.publisher import BatchSupport
from flask_mercure.client.session import open_session
from flask_mercure.extension import state_of
from tests.flask_mercure.fake_hub import PATH, Answer, Dropped, FakeHub, make_app
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.minutes

mercure = Mercure()


def test_publish_many_keeps_the_order(app: Any, hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "many"}, hub.token())
    ids = mercure.publish_many(
        Update(["many", "also"], {"n": n}, private=bool(n % 2), type="t", id=f"urn:n:{n}") for n in range(5)
    )
    events = [stream.next() for _ in range(5)]
    assert ids == [f"urn:n:{n}" for n in range(5)] == [event.id for event in events]
    assert [(event.json(), event.type) for event in events] == [({"n": n}, "t") for n in range(5)]


def test_batch_is_published_at_the_end_of_the_block(app: Any, hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "block"})
    content = ["early"]
    with mercure.batch() as batch:
        batch.publish("block", content, private=False)
        content.append("late")
        batch.publish("block", "2", retry=5, private=False)
        assert len(batch) == 2
        assert batch.ids == []
    assert [stream.next().id for _ in range(2)] == batch.ids
    with pytest.raises(RuntimeError, match="over"):
        batch.publish("block", "3", private=False)


def test_batch_is_not_published_when_the_block_raises(app: Any) -> None:
    with mercure.record() as updates, pytest.raises(LookupError), mercure.batch() as batch:
        batch.publish("block", "1", private=False)
        raise LookupError
    assert updates == []
    assert batch.ids == []


def test_batch_may_be_empty(app: Any) -> None:
    assert mercure.publish_many([]) == []
    with mercure.batch() as batch:
        pass
    assert batch.ids == []


@pytest.mark.parametrize(
    "bad",
    [
        Update("*", private=False),
        Update("b", id="#1", private=False),
        Update([], private=False),
        Update("b", type="mercure", private=False),
    ],
)
def test_publish_many_names_a_bad_update_and_sends_nothing(app: Any, bad: Update) -> None:
    with mercure.record() as updates:
        with pytest.raises(InvalidArgument, match="update 1 "):
            mercure.publish_many([Update("a", private=False), bad])
        with pytest.raises(TypeError, match="update 0 is a str"):
            mercure.publish_many(["a"])  # type: ignore[list-item]
    assert updates == []


def test_publish_many_takes_at_most_a_thousand_updates(app: Any) -> None:
    with mercure.record() as updates:
        mercure.publish_many([Update("a", private=False)] * 1000)
        assert len(updates) == 1000
        with pytest.raises(InvalidArgument, match="more than 1000"):
            mercure.publish_many([Update("a", private=False)] * 1001)


def test_batch_that_the_hub_refuses(folder: Path) -> None:
    with running_hub(folder, max_request_body_size=1000) as hub, app_on(hub, Mercure()):
        with pytest.raises(PublishError) as refusal:
            Mercure().publish_many([Update("a", "x" * 600, private=False)] * 2)
        assert (refusal.value.status, refusal.value.published) == (413, ())
        with pytest.raises(InvalidArgument, match="surrogate"):
            Mercure().publish_many([Update("a", "\ud800", private=False)] * 2)


def test_hub_without_batches_gets_one_request_for_each_update_over_one_connection(other: FakeHub) -> None:
    other.answers = [Answer(b"", 405), Answer(b"urn:1"), Answer(b"urn:2"), Answer(b"urn:3"), Answer(b"urn:4")]
    app = make_app(URL=other.url)
    with app.app_context():
        assert Mercure().publish_many([Update("a", "1", private=False), Update("b", "2", private=False)]) == [
            "urn:1",
            "urn:2",
        ]
        assert Mercure().publish_many([Update("c", private=False), Update("d", private=False)]) == [
            "urn:3",
            "urn:4",
        ]
        state_of(app).publisher.close()
    assert [one.method for one in other.received] == ["OPTIONS", "POST", "POST", "POST", "POST"]
    assert len({one.connection for one in other.received}) == 1
    assert other.received[1].given == [("topic", "a"), ("data", "1")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 399, 405, 500])
def test_hub_whose_answer_to_options_is_not_a_success_gets_no_batch(other: FakeHub, status: int) -> None:
    """A proxy or a login page that redirects is asked for nothing more, and is not the hub."""
    says = {"Accept-Post": "application/json", "Location": f"{other.url}/elsewhere"}
    other.answers = [Answer(b"", status, None, says), Answer(b"urn:1"), Answer(b"urn:2")]
    app = make_app(URL=other.url)
    with app.app_context():
        assert Mercure().publish_many([Update("a", private=False), Update("b", private=False)]) == [
            "urn:1",
            "urn:2",
        ]
    state_of(app).publisher.close()
    assert [(one.method, one.target) for one in other.received] == [
        ("OPTIONS", PATH),
        ("POST", PATH),
        ("POST", PATH),
    ]


def test_publish_error_has_the_ids_published_before_it(other: FakeHub) -> None:
    other.answers = [Answer(b"", 405), Answer(b"urn:1"), Answer(b"urn:2"), Answer(b"", 503)]
    app = make_app(URL=other.url)
    with app.app_context(), pytest.raises(PublishError) as failure:
        Mercure().publish_many([Update("a", private=False)] * 4)
    state_of(app).publisher.close()
    assert failure.value.published == ("urn:1", "urn:2")
    assert len(other.received) == 4


def test_hub_replaced_by_one_without_batches_gets_single_updates(other: FakeHub) -> None:
    takes = Answer(b"", 204, None, {"Accept-Post": "application/x-www-form-urlencoded, application/json"})
    other.answers = [takes, Answer(b"", 415), Answer(b"urn:1"), Answer(b"urn:2")]
    app = make_app(URL=other.url)
    with app.app_context():
        assert Mercure().publish_many([Update("a", private=False), Update("b", private=False)]) == [
            "urn:1",
            "urn:2",
        ]
        Mercure().publish_many([Update("a", private=False), Update("b", private=False)])
    state_of(app).publisher.close()
    kinds = [one.headers.get("Content-Type", one.method) for one in other.received]
    form = "application/x-www-form-urlencoded"
    assert kinds == ["OPTIONS", "application/json", form, form, form, form]


@pytest.mark.parametrize(
    "body", [b"urn:1", b"[]", b'{"ids": ["urn:1"]}', b'{"ids": [1, 2]}', b'{"ids": null}']
)
def test_batch_answered_without_the_ids_is_possibly_published(other: FakeHub, body: bytes) -> None:
    takes = Answer(b"", 204, None, {"Accept-Post": "application/json;charset=utf-8"})
    other.answers = [takes, Answer(body, 200, "application/json")]
    app = make_app(URL=other.url)
    with app.app_context(), pytest.raises(PublishError, match="not with their ids") as failure:
        Mercure().publish_many([Update("a", private=False), Update("b", private=False)])
    state_of(app).publisher.close()
    assert failure.value.possibly_published


def test_hub_that_does_not_answer_options_is_unreachable(other: FakeHub) -> None:
    other.answers = [Dropped()]
    app = make_app(URL=other.url)
    with app.app_context(), pytest.raises(HubUnreachable, match="nothing was published") as failure:
        Mercure().publish_many([Update("a", private=False), Update("b", private=False)])
    state_of(app).publisher.close()
    assert not failure.value.possibly_published


def test_batch_follows_the_failure_policy(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(URL="http://127.0.0.1:9/.well-known/mercure")
    with app.app_context():
        with Mercure().batch(on_failure="log") as batch:
            batch.publish("a", id="urn:1", private=False)
            batch.publish("b", id="urn:2", private=False)
        with pytest.raises(HubUnreachable), Mercure().batch() as raising:
            raising.publish("a", private=False)
            raising.publish("b", private=False)
    state_of(app).publisher.close()
    assert batch.ids == ["urn:1", "urn:2"]
    assert raising.ids == []
    assert "urn:1" in caplog.text
    assert "urn:2" in caplog.text


def test_batch_with_policy_log_is_all_or_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, large = (
        Update("a", "x", id="urn:small", private=False),
        Update("a", "x" * 2000, id="urn:large", private=False),
    )
    with running_hub(folder, anonymous=1, max_request_body_size=1000) as hub, app_on(hub, Mercure()):
        assert Mercure().publish_many([small, large], on_failure="log") == ["urn:small", "urn:large"]
        assert [one.getMessage().count("was not published") for one in caplog.records] == [1, 1]
        assert (
            Mercure().publish_many([small, Update("a", "y", private=False)], on_failure="log")[0]
            == "urn:small"
        )
        stream = hub.subscribe({"match": "a", "last_event_id": "earliest"})
        assert [stream.next().data for _ in range(2)] == ["x", "y"]


def test_batch_with_policy_log_logs_only_what_was_not_published(
    other: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    other.answers = [Answer(b"", 405), Answer(b"urn:1"), Answer(b"no", 403)]
    app = make_app(URL=other.url)
    with app.app_context():
        updates = [Update("a", "1", id=f"urn:{number}", private=False) for number in (1, 2, 3)]
        assert Mercure().publish_many(updates, on_failure="log") == ["urn:1", "urn:2", "urn:3"]
        state_of(app).publisher.close()
    lost = [one.getMessage() for one in caplog.records if "was not published" in one.getMessage()]
    assert len(lost) == 2
    assert "urn:2" in lost[0]
    assert "urn:3" in lost[1]


def test_hub_without_batches_is_asked_again_later(other: FakeHub) -> None:
    now = [1000.0]
    other.answers = [Answer(b"", 405), Answer(b"", 204, None, {"Accept-Post": "application/json"})]
    support = BatchSupport(state_of(make_app(URL=other.url)).configuration, lambda: now[0])
    with open_session() as session:
        assert not support.are_taken(session)
        now[0] += 599
        assert not support.are_taken(session)
        now[0] += 2
        assert support.are_taken(session)
        now[0] += 100_000
        assert support.are_taken(session)
    assert len(other.received) == 2
