"""A hub without a Flask app: what an app does with it, and what pages of other frameworks get."""

from __future__ import annotations

import json
import os
import threading
import typing
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.cookies import SimpleCookie
from typing import Any

import jwt
import pytest

from flask_mercure import (
    STATIC_FOLDER,
    ConfigurationError,
    CookieError,
    HubClient,
    HubUnreachable,
    InvalidArgument,
    PublishError,
    Refused,
    Update,
    URLPattern,
    update_published,
)
from flask_mercure.config.settings import OF_A_HUB
from flask_mercure.hub_client import HubClientSettings
from tests.flask_mercure.fake_hub import FakeHub, running
from tests.hub.running import SECRET, RunningHub

HUB = "https://hub.site.example/.well-known/mercure"


@pytest.fixture
def client(hub: RunningHub) -> Iterator[HubClient]:
    with HubClient(hub.url, SECRET) as client:
        yield client


@pytest.fixture
def browser_side() -> HubClient:
    """A client whose hub is not asked anything."""
    return HubClient("http://127.0.0.1:9/", SECRET, public_url=HUB)


def topic() -> str:
    return f"urn:uuid:{uuid.uuid4()}"


# -- settings ---------------------------------------------------------------------------------------


def test_its_settings_are_those_of_a_hub_in_an_app() -> None:
    names = {name.upper() for name in typing.get_type_hints(HubClientSettings)}
    of_requests = {"REVOKE_ON_LOGOUT"}
    assert names == set(OF_A_HUB) - {"URL", "JWT_SECRET"} - of_requests


def test_a_name_that_is_no_setting_is_refused_with_the_one_that_may_be_meant() -> None:
    wrong: dict[str, Any] = {"public_uri": HUB}
    with pytest.raises(TypeError, match="no setting 'public_uri'; do you mean public_url"):
        HubClient("http://127.0.0.1:9/", SECRET, **wrong)
    hidden: dict[str, Any] = {"jwt_secret": SECRET}
    with pytest.raises(TypeError, match="no setting 'jwt_secret'"):
        HubClient("http://127.0.0.1:9/", **hidden)


@pytest.mark.parametrize(
    ("url", "key", "settings", "message"),
    [
        ("hub", SECRET, {}, r"^url is 'hub'"),
        ("http://127.0.0.1:9/", "short", {}, "^key cannot be used"),
        ("http://127.0.0.1:9/", None, {}, "HubClient has no key"),
        ("http://127.0.0.1:9/", "", {}, "no key"),
        ("http://127.0.0.1:9/", SECRET, {"token_lifetime": -1}, "^token_lifetime is -1"),
        ("http://127.0.0.1:9/", SECRET, {"cookie_name": "a b"}, "^cookie_name is 'a b'"),
    ],
)
def test_wrong_settings_are_named_as_they_were_given(
    url: str, key: str | None, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        HubClient(url, key, **settings)
    assert "short" not in str(caught.value)
    assert "app.config" not in str(caught.value)


def test_other_credentials_take_the_place_of_the_key() -> None:
    token = jwt.encode({"exp": 1 << 40}, SECRET)
    HubClient("http://127.0.0.1:9/", jwt=token)
    HubClient("http://127.0.0.1:9/", publisher_jwt_key=SECRET)
    HubClient("http://127.0.0.1:9/", token_provider=lambda: token)
    key = {"kty": "oct", "k": "A" * 64, "alg": "HS256"}
    assert HubClient("http://127.0.0.1:9/", key).create_token("a")


def test_a_wrong_policy_is_refused() -> None:
    wrong: Any = "never"
    with pytest.raises(ValueError, match="never"):
        HubClient("http://127.0.0.1:9/", SECRET, on_failure=wrong)


def test_it_shows_the_hub_and_no_secret(browser_side: HubClient) -> None:
    assert repr(browser_side) == "HubClient('http://127.0.0.1:9/')"


# -- tokens, cookies, documents ---------------------------------------------------------------------


def test_a_cookie_is_what_a_browser_takes(browser_side: HubClient) -> None:
    cookies: SimpleCookie = SimpleCookie()
    cookies.load(browser_side.cookie(["users/7"], "app.site.example:8443", user=7, lifetime=60))
    ((name, morsel),) = cookies.items()
    assert name == "__Secure-mercure_access_token"
    assert (morsel["domain"], morsel["path"]) == ("site.example", "/.well-known/mercure")
    assert 58 <= int(morsel["max-age"]) <= 60
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "Strict")
    claims = jwt.decode(morsel.value, SECRET, algorithms=["HS256"], audience=HUB)
    assert (claims["sub"], claims["authorization_details"][0]["topics"]) == ("7", [{"match": "users/7"}])


def test_a_cookie_for_the_host_of_the_hub_has_no_domain(browser_side: HubClient) -> None:
    assert "Domain" not in browser_side.cookie(["a"])
    assert "Domain" not in browser_side.cookie(["a"], "hub.site.example")


def test_the_logout_deletes_the_same_cookie(browser_side: HubClient) -> None:
    given, expired = (
        browser_side.cookie("a", "app.site.example"),
        browser_side.expired_cookie("app.site.example"),
    )
    assert given.partition("=")[0] == expired.partition("=")[0]
    assert "Max-Age=0" in expired
    for attribute in ("Domain=site.example", "Path=/.well-known/mercure"):
        assert attribute in given
        assert attribute in expired


@pytest.mark.parametrize(
    ("host", "message"),
    [("app.example", "no cookie can reach both"), ("127.0.0.1:8000", "IP address"), ("[", "no domain|IP")],
)
def test_a_cookie_that_cannot_reach_the_hub_is_refused(
    browser_side: HubClient, host: str, message: str
) -> None:
    with pytest.raises(CookieError, match=message):
        browser_side.cookie("a", host)


def test_a_secure_cookie_needs_tls() -> None:
    client = HubClient("http://10.0.0.1/hub", SECRET)
    with pytest.raises(CookieError, match=r"not on https.*cookie_secure=False"):
        client.cookie("a")
    assert HubClient("http://localhost:3000/hub", SECRET).cookie("a", "localhost:8000")


def test_a_lifetime_or_a_topic_that_cannot_be_is_refused(browser_side: HubClient) -> None:
    with pytest.raises(InvalidArgument):
        browser_side.cookie("*")
    with pytest.raises(InvalidArgument):
        browser_side.cookie("a", lifetime=0)


def test_the_document_for_connect(browser_side: HubClient) -> None:
    assert browser_side.session(["a", URLPattern("/b/:id")], "urn:1") == {
        "url": HUB,
        "protocol": "1.0",
        "topics": ["a", {"match": "/b/:id", "match_type": "urlpattern"}],
        "lastEventId": "urn:1",
    }
    with_token = browser_side.session("a", "urn:1", token="t", refresh="/renew")
    assert (with_token["token"], with_token["refresh"], with_token["refreshAfter"]) == ("t", "/renew", 2880)


def test_the_module_is_in_a_folder_that_others_can_serve() -> None:
    assert (STATIC_FOLDER / "mercure.js").is_file()


# -- a recording ------------------------------------------------------------------------------------


def test_a_recording_takes_what_is_published(browser_side: HubClient) -> None:
    with browser_side.record() as updates:
        browser_side.publish("a", {"x": 1}, private=False)
        assert browser_side.last_event_id() is None
    assert updates.one("a").json == {"x": 1}


# -- on a hub ---------------------------------------------------------------------------------------


@pytest.mark.minutes
def test_it_publishes_and_reads(client: HubClient) -> None:
    own = topic()
    with client.subscribe(own, timeout=5) as events:
        published = client.publish(own, {"n": 1}, private=True, type="count")
        event = events.wait(5)
    assert (event.id, event.type, event.json()) == (published, "count", {"n": 1})
    assert client.last_event_id() is not None


@pytest.mark.minutes
def test_what_json_does_not_know_is_written_as_flask_does_it(client: HubClient) -> None:
    own, key = topic(), uuid.uuid4()
    with client.subscribe(own, timeout=5) as events:
        client.publish(
            own, {"at": datetime(2026, 1, 2, tzinfo=UTC), "price": Decimal("1.5"), "id": key}, private=False
        )
        assert events.wait(5).json() == {
            "at": "Fri, 02 Jan 2026 00:00:00 GMT",
            "price": "1.5",
            "id": str(key),
        }
    with pytest.raises(TypeError):
        client.publish(own, object(), private=False)


@pytest.mark.minutes
def test_it_publishes_batches_and_text(client: HubClient) -> None:
    own = topic()
    with client.subscribe(own, timeout=5) as events:
        ids = client.publish_many([Update(own, "1", private=False), Update(own, "2", private=False)])
        with client.batch() as batch:
            batch.publish(own, "3", private=False)
        assert client.stream(own, iter(["a", "b"]), private=False) == "ab"
        seen = [events.wait(5) for _ in range(4)]
    assert [one.id for one in seen[:3]] == [*ids, *batch.ids]
    assert json.loads(seen[3].data)["text"] == "ab"


@pytest.mark.minutes
def test_it_lists_who_is_connected(client: HubClient) -> None:
    own = topic()
    with client.subscribe(own, payload={"name": "Ada"}):
        active = client.subscriptions(own)
    assert [one.payload for one in active] == [{"name": "Ada"}]


@pytest.mark.minutes
def test_it_tells_who_is_at_a_topic(hub: RunningHub, client: HubClient) -> None:
    own = topic()
    people = client.presence(own)
    value = client.cookie([own, *people.grants], "127.0.0.1", user="ada", payload={"name": "Ada"})
    hub.subscribe({"match": own}, Cookie=value.partition(";")[0])
    assert [one.user for one in client.presence(own)] == ["ada"]


@pytest.mark.minutes
def test_it_publishes_jobs_and_runs(client: HubClient) -> None:
    own = topic()
    with client.progress(own, total=2) as step:
        step()
        step()
    with client.subscribe(own, "earliest", timeout=5) as events:
        assert [event.json()["state"] for event in events][-1:] == ["done"]
    run = topic()
    client.stream_events(run, iter(["a", "b"]))
    with client.subscribe(run, "earliest", timeout=5) as events:
        assert "done" in [event.json()["kind"] for event in events]


@pytest.mark.minutes
def test_its_cookie_reads_private_updates(hub: RunningHub, client: HubClient) -> None:
    own = topic()
    value = client.cookie(own, "127.0.0.1").partition(";")[0]
    stream = hub.subscribe({"match": own}, Cookie=value)
    client.publish(own, "secret", private=True)
    assert stream.take(1) == ["secret"]


@pytest.mark.minutes
def test_a_hub_with_another_key_refuses_it(hub: RunningHub) -> None:
    with HubClient(hub.url, "another secret that is as long as it has to be") as client:
        with pytest.raises(PublishError) as caught:
            client.publish("a", private=False)
        assert caught.value.status == 401
        with pytest.raises(Refused):
            client.subscribe("a")


@pytest.mark.minutes
def test_a_hub_that_is_not_there() -> None:
    with running() as fake:
        url = fake.url
    with HubClient(url, SECRET) as client, pytest.raises(HubUnreachable):
        client.publish("a", private=False)
    with HubClient(url, SECRET, on_failure="log") as client:
        assert client.publish("a", private=False).startswith("urn:uuid:")


@pytest.mark.minutes
def test_it_keeps_its_connection_and_opens_another_after_close() -> None:
    with running() as fake:
        client = HubClient(fake.url, SECRET)
        for _ in range(3):
            client.publish("a", private=False)
        assert len({one.connection for one in fake.received}) == 1
        client.close()
        client.publish("a", private=False)
        client.close()
        assert len({one.connection for one in fake.received}) == 2


@pytest.mark.minutes
def test_what_waits_is_sent_before_the_end(hub: RunningHub) -> None:
    own = topic()
    stream = hub.subscribe({"match": own})
    with HubClient(hub.url, SECRET, on_failure="background") as client:
        for number in range(20):
            client.publish(own, str(number), private=False)
    assert stream.take(20) == [str(number) for number in range(20)]
    assert client.close()


@pytest.mark.minutes
def test_all_threads_may_use_it(client: HubClient) -> None:
    own = topic()
    with client.subscribe(own, timeout=10) as events:
        threads = [threading.Thread(target=client.publish, args=(own, str(n))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {events.wait(5).data for _ in range(8)} == {str(n) for n in range(8)}


@pytest.mark.minutes
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_may_use_it() -> None:
    def child(fake: FakeHub, client: HubClient) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                client.publish("a", "child", private=False)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        return status

    with running() as fake, HubClient(fake.url, SECRET) as client:
        client.publish("a", "before", private=False)
        assert child(fake, client) == 0
        client.publish("a", "after", private=False)
        before, inside, after = fake.received
        assert [dict(one.pairs)["data"] for one in fake.received] == ["before", "child", "after"]
        assert before.connection == after.connection != inside.connection


@pytest.mark.minutes
def test_signals_name_no_app(client: HubClient) -> None:
    heard: list[Any] = []

    def hear(sender: Any, **values: Any) -> None:
        heard.append((sender, values["hub"], values["id"]))

    with update_published.connected_to(hear):
        published = client.publish(topic(), private=False)
    assert heard == [(None, "default", published)]
