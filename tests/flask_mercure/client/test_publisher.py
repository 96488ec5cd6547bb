"""Publishing: what is sent, and what each kind of answer turns into."""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from flask import Flask
from flask.json.provider import DefaultJSONProvider
from urllib3.exceptions import InsecureRequestWarning

from flask_mercure import (
    CookieError,
    HubUnreachable,
    InvalidArgument,
    Mercure,
    MercureError,
    PublishError,
    TokenError,
    Update,
)
from flask_mercure.extension import state_of
from flask_mercure.publishing.retry import Verdict, verdict
from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt
from mercure_hub.protocol.http import error_answer
from mercure_hub.protocol.update import PublicationLimits, from_form
from tests.certificates import self_signed
from tests.flask_mercure.fake_hub import (
    PATH,
    SECRET,
    Answer,
    Dropped,
    FakeHub,
    Silent,
    make_app,
    publishing,
    running,
)

pytestmark = pytest.mark.minutes

STORES_ONCE = Answer(b"", 204, None, {"Mercure-Once": "?1"})
KNOWS_NOT = Answer(b"", 204, None, {"Mercure-Once": "?0"})
TAKES_BATCHES = Answer(b"", 204, None, {"Accept-Post": "application/json"})

Publish = Callable[..., str]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def publish(hub: FakeHub) -> Iterator[Publish]:
    with publishing(hub) as publish:
        yield publish


def test_an_update_arrives_as_a_form(hub: FakeHub, publish: Publish) -> None:
    assert publish("https://e.example/é?a=1&b=+", "one\ntwo & = é") == "urn:uuid:1"
    (request,) = hub.received
    assert (request.method, request.target) == ("POST", PATH)
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["User-Agent"].startswith("flask-mercure/")
    assert request.given == [("topic", "https://e.example/é?a=1&b=+"), ("data", "one\ntwo & = é")]
    scheme, _, token = request.headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=hub.url)
    (detail,) = claims["authorization_details"]
    assert (detail["actions"], detail["topics"]) == (["publish"], [{"match": "*"}])


def test_every_field_is_as_the_hub_reads_it(hub: FakeHub, publish: Publish) -> None:
    publish(["b", "a", "b"], "x", private=True, id="urn:x", type="change", retry=0)
    update = from_form(hub.received[0].pairs, PublicationLimits())
    assert update.topics == ("b", "a")
    assert (update.data, update.id, update.private, update.type, update.retry) == (
        "x",
        "urn:x",
        True,
        "change",
        0,
    )


def test_updates_are_public_by_default(hub: FakeHub, publish: Publish) -> None:
    publish("a")
    publish("a", private=False)
    assert [request.given for request in hub.received] == [[("topic", "a"), ("data", "")]] * 2


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ("", ""),
        ("text", "text"),
        ('"', '"'),
        ({"b": 1, "a": "é"}, '{"a": "\\u00e9", "b": 1}'),
        ([1, 2], "[1, 2]"),
        (None, "null"),
        (0, "0"),
        (True, "true"),
        (datetime(2026, 1, 1, tzinfo=UTC), '"Thu, 01 Jan 2026 00:00:00 GMT"'),
    ],
)
def test_data_that_is_no_text_becomes_json(hub: FakeHub, publish: Publish, data: object, sent: str) -> None:
    publish("a", data)
    assert dict(hub.received[0].pairs)["data"] == sent


def test_json_is_written_by_the_provider_of_the_app(hub: FakeHub) -> None:
    class Provider(DefaultJSONProvider):
        ensure_ascii = False
        sort_keys = False

    mercure = Mercure()
    app = make_app(mercure, URL=hub.url)
    app.json = Provider(app)
    with app.app_context():
        mercure.publish("a", {"z": "é", "a": 1})
    state_of(app).publisher.close()
    assert dict(hub.received[0].pairs)["data"] == '{"z": "é", "a": 1}'


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"topics": []}, InvalidArgument, "at least one"),
        ({"topics": ""}, InvalidArgument, "empty"),
        ({"topics": ["a", ""]}, InvalidArgument, "empty"),
        ({"topics": "*"}, InvalidArgument, "wildcard"),
        ({"topics": ["a", "*"]}, InvalidArgument, "wildcard"),
        ({"topics": "a\r\nb"}, InvalidArgument, "U+000D"),
        ({"topics": "a\u202eb"}, InvalidArgument, "U+202E"),
        ({"topics": "a\ud800"}, InvalidArgument, "U+D800"),
        ({"topics": None}, TypeError, "topics is None"),
        ({"topics": b"a"}, TypeError, "bytes"),
        ({"topics": 5}, TypeError, "int"),
        ({"topics": ["a", 5]}, TypeError, "int"),
        ({"data": b"x"}, TypeError, "bytes"),
        ({"data": bytearray(b"x")}, TypeError, "bytes"),
        ({"data": object()}, TypeError, "not JSON serializable"),
        ({"data": "\ud800"}, InvalidArgument, "surrogate"),
        ({"private": None}, TypeError, "True or False"),
        ({"private": "false"}, TypeError, "True or False"),
        ({"private": 1}, TypeError, "True or False"),
        ({"id": ""}, InvalidArgument, "id"),
        ({"id": "#1"}, InvalidArgument, "#1"),
        ({"id": "earliest"}, InvalidArgument, "earliest"),
        ({"id": "a\n"}, InvalidArgument, "U+000A"),
        ({"id": 5}, TypeError, "id is a int"),
        ({"type": "mercure"}, InvalidArgument, "own events"),
        ({"type": "a\nid: 5"}, InvalidArgument, "U+000A"),
        ({"retry": -1}, InvalidArgument, "0 or more"),
        ({"retry": "1"}, TypeError, "whole number"),
        ({"retry": 1.5}, TypeError, "whole number"),
        ({"retry": True}, TypeError, "whole number"),
    ],
)
def test_what_cannot_be_published_is_not_sent(
    hub: FakeHub, publish: Publish, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        publish(**{"topics": "a", "data": "x", **arguments})
    assert words in str(caught.value)
    assert hub.received == []


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"urn:uuid:1", "text/plain; charset=utf-8", "urn:uuid:1"),
        (b"urn:uuid:1\n", "TEXT/PLAIN", "urn:uuid:1"),
        (b"#17", "text/plain", "#17"),
        ("é".encode(), "text/plain", "é"),
        (b"urn:uuid:1", None, "urn:uuid:1"),
    ],
)
def test_publishing_returns_the_id_that_the_hub_gave(
    hub: FakeHub, publish: Publish, body: bytes, content_type: str | None, expected: str
) -> None:
    hub.answers = [Answer(body, content_type=content_type)]
    assert publish("a") == expected


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"<!doctype html><title>Welcome</title>", "text/html", "an HTML page"),
        (b"<html>", "text/plain", "an HTML page"),
        (b"urn:uuid:1", "text/html", "an HTML page"),
        (b"", "text/plain", "an empty body"),
        (b" \n", "text/plain", "an empty body"),
        (b'{"id": "urn:uuid:1"}', "application/json", "application/json"),
        (b'{"id": "urn:uuid:1"}', None, "unknown"),
        (b"one\ntwo", "text/plain", "not with the id"),
        (b"x" * 3000, "text/plain", "not with the id"),
        (b"x" * 300_000, "text/plain", "not with the id"),
        (b"\xff\xfe", "text/plain", "not with the id"),
    ],
)
def test_an_answer_200_that_does_not_come_from_a_hub(
    hub: FakeHub, publish: Publish, body: bytes, content_type: str | None, words: str
) -> None:
    hub.answers = [Answer(body, content_type=content_type)]
    with pytest.raises(PublishError, match="MERCURE_URL") as caught:
        publish("a")
    assert words in str(caught.value)
    assert caught.value.status == 200


PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (Answer(b'{"title": "T", "detail": "D"}', 400, PROBLEM), "D", "answered 400 Bad Request (D)"),
        (Answer(b'{"title": "T"}', 413, PROBLEM), "T", "MERCURE_MAX_REQUEST_BODY_SIZE"),
        (Answer(b'{"title": 5}', 400, PROBLEM), None, "400"),
        (Answer(b"{", 400, PROBLEM), None, "400"),
        (Answer(b"[" * 60000, 400, PROBLEM), None, "400"),
        (Answer(b"[]", 400, PROBLEM), None, "400"),
        (Answer(b"Unauthorized\nmore", 401), "Unauthorized", "MERCURE_ISSUER='urn:flask-mercure'"),
        (
            Answer(b"", 401, None, {"WWW-Authenticate": 'Bearer realm="mercure", error="invalid_token"'}),
            "invalid_token",
            "MERCURE_PUBLISHER_JWT_KEY or MERCURE_JWT_SECRET",
        ),
        (
            Answer(
                b'{"detail": "No."}', 403, PROBLEM, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
            ),
            "insufficient_scope: No.",
            "hub's log has the cause",
        ),
        (Answer(b"", 401, None), None, "MERCURE_PUBLIC_URL='http://127.0.0.1"),
        (Answer(b"<html>", 404, "text/html"), None, "with an HTML page"),
        (Answer(b"nope", 404), "nope", "path of MERCURE_URL"),
        (Answer(b"", 405, None), None, "path of MERCURE_URL"),
        (Answer(b"", 201, None), None, "answered 201 Created"),
        (Answer(b"", 204, None), None, "answered 204 No Content"),
        (Answer(b"", 503, None), None, "cannot serve now"),
        (Answer(b"", 599, None), None, "answered 599"),
        (Answer("a\x1b[31m\u2028b".encode(), 500), "a [31m", "500"),
    ],
)
def test_a_refusal_tells_status_and_reason(
    hub: FakeHub, publish: Publish, answer: Answer, reason: str | None, words: str
) -> None:
    hub.answers = [answer]
    with pytest.raises(PublishError) as caught:
        publish("a")
    assert (caught.value.status, caught.value.reason) == (answer.status, reason)
    assert words in str(caught.value)
    assert "eyJ" not in str(caught.value)
    assert isinstance(caught.value, MercureError)
    assert len(hub.received) == 1


def seen_by_an_error_tracker(error: BaseException) -> str:
    """What is in the variables of all functions that an error, and what led to it, came through."""
    found: list[str] = []
    done: set[int] = set()

    def look(value: object, depth: int) -> None:
        if id(value) in done or depth > 6:
            return
        done.add(id(value))
        found.append(repr(value))
        if isinstance(value, dict):
            for one in (*value, *value.values()):
                look(one, depth + 1)
        elif isinstance(value, list | tuple | set):
            for one in value:
                look(one, depth + 1)
        elif isinstance(value, requests.Request | requests.PreparedRequest | requests.Response):
            look(vars(value), depth + 1)

    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in done:
            continue
        look(vars(one), 0)
        pending += [one.__cause__, one.__context__]
        trace = one.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                look(dict(trace.tb_frame.f_locals), 0)
            trace = trace.tb_next
    return "\n".join(found)


@pytest.mark.parametrize(
    "answer", [Dropped(), Answer(b"no", 403), Answer(b"<html>"), Answer(b"", 302), Answer(b"no", 401)]
)
def test_no_error_shows_the_token(hub: FakeHub, publish: Publish, answer: Answer) -> None:
    hub.answers = [answer]
    with pytest.raises(PublishError) as caught:
        publish("a")
    token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
    assert token.count(".") == 2
    assert token.rpartition(".")[2] not in seen_by_an_error_tracker(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("answer", [Dropped(), Answer(b"no", 403), Answer(b"<html>")])
def test_no_error_of_active_subscriptions_shows_the_token(hub: FakeHub, answer: Answer) -> None:
    hub.answers = [answer]
    mercure = Mercure()
    with make_app(mercure, URL=hub.url).app_context(), pytest.raises(MercureError) as caught:
        mercure.subscriptions()
    token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
    assert token.count(".") == 2
    assert token.rpartition(".")[2] not in seen_by_an_error_tracker(caught.value)


@pytest.mark.parametrize(
    ("host", "topics", "claims"),
    [
        ("site.example", ["x" * 5000], {}),  # too large for a cookie
        ("elsewhere.test", ["a"], {}),
        ("site.example", ["a"], {"exp": 1}),
        ("site.example", ["a"], {"exp": "soon"}),
    ],
)
def test_no_error_of_the_cookie_shows_the_token(host: str, topics: list[str], claims: dict[str, Any]) -> None:
    made: list[str] = []

    def create(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        made.append(jwt.encode({"mercure": {"subscribe": subscribe}, **claims}, SECRET, "HS256"))
        return made[0]

    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL="https://site.example/hub", TOKEN_FACTORY=create)
    with (
        app.test_request_context(base_url=f"https://{host}"),
        pytest.raises((CookieError, TokenError)) as caught,
    ):
        mercure.set_cookie(app.make_response(""), topics)
    assert made[0].rpartition(".")[2] not in seen_by_an_error_tracker(caught.value)


def test_no_error_shows_the_token_while_there_is_no_hub() -> None:
    mine = jwt.encode({"mercure": {"publish": ["*"]}}, SECRET, "HS256")
    mercure = Mercure()
    app = make_app(mercure, URL="http://127.0.0.1:9/x", JWT=mine)
    with app.app_context(), pytest.raises(HubUnreachable, match="Connection refused") as caught:
        mercure.publish("a")
    assert mine not in seen_by_an_error_tracker(caught.value)
    assert len(traceback.format_exception(caught.value)) < 20
    state_of(app).publisher.close()


@pytest.mark.parametrize("claims", [{"exp": 1}, {"exp": "soon"}])
def test_no_error_shows_a_token_that_cannot_be_used(claims: dict[str, Any]) -> None:
    mine = jwt.encode(claims, SECRET, "HS256")
    mercure = Mercure()
    app = make_app(mercure, TOKEN_PROVIDER=lambda: mine)
    with app.app_context(), pytest.raises(TokenError) as caught:
        mercure.publish("a")
    assert mine not in seen_by_an_error_tracker(caught.value)
    state_of(app).publisher.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hub: FakeHub, publish: Publish, status: int) -> None:
    hub.answers = [Answer(b"", status, None, {"Location": f"{hub.url}/?secret=1"}), Answer()]
    with pytest.raises(PublishError, match="a redirect to http://127") as caught:
        publish("a")
    assert "secret" not in str(caught.value)
    assert len(hub.received) == 1


@pytest.mark.parametrize(("status", "possibly"), [(502, True), (504, True), (503, False), (401, False)])
def test_a_proxy_may_have_lost_the_answer(
    hub: FakeHub, publish: Publish, status: int, possibly: bool
) -> None:
    hub.answers = [Answer(b"", status, None)]
    with pytest.raises(PublishError) as caught:
        publish("a")
    assert caught.value.possibly_published is possibly


@pytest.mark.parametrize(
    ("error", "possibly", "retry_after"),
    [(StorageAway("no route"), False, 2), (StorageInDoubt("no answer"), True, 5)],
)
def test_a_hub_whose_database_is_away_says_what_became_of_the_update(
    hub: FakeHub, publish: Publish, error: StorageError, possibly: bool, retry_after: int
) -> None:
    answer = error_answer(error)
    headers = dict(answer.headers)
    hub.answers = [Answer(answer.body, answer.status, headers.pop("Content-Type"), headers)]
    with pytest.raises(PublishError, match="The database") as caught:
        publish("a")
    assert caught.value.possibly_published is possibly
    assert caught.value.retry_after == retry_after
    assert caught.value.is_storage_away
    assert verdict(caught.value) is Verdict.UNREACHABLE


def test_a_publication_that_gets_no_answer_in_time() -> None:
    with running() as hub, publishing(hub, TIMEOUT=0.05) as publish:
        hub.answers = [Silent()]
        with pytest.raises(HubUnreachable, match=r"within 0.05 s \(MERCURE_TIMEOUT\)") as caught:
            publish("a")
        assert caught.value.possibly_published
        assert (caught.value.status, caught.value.reason) == (None, None)
        assert len(hub.received) == 1


@pytest.mark.parametrize("asked", [Answer(b"", 405), Answer(b"", 204), KNOWS_NOT, Dropped()])
def test_a_connection_that_breaks_is_not_tried_again(hub: FakeHub, publish: Publish, asked: Answer) -> None:
    hub.answers = [Answer(), Dropped(), asked, Answer()]
    publish("a")
    with pytest.raises(HubUnreachable, match="may have been published") as caught:
        publish("a")
    assert caught.value.possibly_published
    assert [request.method for request in hub.received] == ["POST", "POST", "OPTIONS"]


@pytest.mark.parametrize("lost", [Dropped(), Answer(b"", 502, None), Answer(b"", 504, None)])
def test_a_hub_that_stores_an_update_once_gets_it_again(hub: FakeHub, publish: Publish, lost: Answer) -> None:
    hub.answers = [lost, STORES_ONCE, Answer(b"urn:uuid:2")]
    assert publish("a", "text") == "urn:uuid:2"
    first, asked, again = hub.received
    assert (first.method, asked.method, again.method) == ("POST", "OPTIONS", "POST")
    assert first.pairs == again.pairs
    assert dict(first.pairs)["id"].startswith("urn:uuid:")
    assert ("once", "on") in first.pairs
    assert "Authorization" not in asked.headers


def test_a_hub_that_is_replaced_gets_nothing_twice(hub: FakeHub, publish: Publish) -> None:
    hub.answers = [Answer(headers=STORES_ONCE.headers), Dropped(), Answer(b"", 405), Answer()]
    publish("a")
    with pytest.raises(HubUnreachable, match="may have been published"):
        publish("a")
    assert [request.method for request in hub.received] == ["POST", "POST", "OPTIONS"]


def test_a_batch_is_sent_again_too(hub: FakeHub) -> None:
    mercure = Mercure()
    app = make_app(mercure, URL=hub.url)
    answers = [Answer(b'{"ids": ["1", "2"]}', content_type="application/json")]
    hub.answers = [TAKES_BATCHES, Dropped(), STORES_ONCE, *answers]
    with app.app_context():
        assert mercure.publish_many([Update("a"), Update("b")]) == ["1", "2"]
    state_of(app).publisher.close()
    assert [request.method for request in hub.received] == ["OPTIONS", "POST", "OPTIONS", "POST"]


def test_an_update_that_a_hub_refuses_in_the_second_attempt_may_be_published(
    hub: FakeHub, publish: Publish
) -> None:
    hub.answers = [Dropped(), STORES_ONCE, Answer(b"no", 403)]
    with pytest.raises(PublishError) as caught:
        publish("a")
    assert (caught.value.status, caught.value.possibly_published) == (403, True)
    assert caught.value.__context__ is None


def test_an_answer_to_a_publication_that_is_cut(hub: FakeHub, publish: Publish) -> None:
    hub.answers = [Answer(b"", 200, "text/plain", {"Transfer-Encoding": "chunked"}, closes=True)]
    with pytest.raises(PublishError):
        publish("a")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_publishing_to_a_port_where_nobody_listens() -> None:
    mercure = Mercure()
    app = make_app(mercure, URL=f"http://127.0.0.1:{closed_port()}{PATH}")
    with app.app_context(), pytest.raises(HubUnreachable, match="Connection refused") as caught:
        mercure.publish("a")
    assert not caught.value.possibly_published


def test_a_connection_that_the_hub_does_not_accept() -> None:
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())  # fills the queue: the kernel drops those that come next
        mercure = Mercure()
        port = server.getsockname()[1]
        app = make_app(mercure, URL=f"http://127.0.0.1:{port}{PATH}", CONNECT_TIMEOUT=0.05)
        with app.app_context(), pytest.raises(HubUnreachable, match="CONNECT_TIMEOUT") as caught:
            mercure.publish("a")
    assert not caught.value.possibly_published


def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    mercure = Mercure()
    app = make_app(mercure, URL=f"http://no-such-host.invalid{PATH}")
    with app.app_context(), pytest.raises(HubUnreachable, match="Name or service not known") as caught:
        mercure.publish("a")
    assert not caught.value.possibly_published


def test_tls_to_a_hub_without_tls(hub: FakeHub) -> None:
    mercure = Mercure()
    app = make_app(mercure, URL=hub.url.replace("http:", "https:"))
    with app.app_context(), pytest.raises(HubUnreachable, match="MERCURE_VERIFY_TLS") as caught:
        mercure.publish("a")
    state_of(app).publisher.close()
    assert not caught.value.possibly_published


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path, names=["127.0.0.1"])


def test_a_hub_with_a_certificate_of_its_own(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))  # has no say here
    with running(certificate) as hub:
        with publishing(hub, VERIFY_TLS=certificate) as publish:
            assert publish("a") == "urn:uuid:1"
        with publishing(hub, VERIFY_TLS=False) as publish:  # a warning would be an error here
            assert publish("a") == "urn:uuid:1"
            assert publish("a") == "urn:uuid:1"
        (record,) = caplog.records
        assert record.getMessage().startswith("MERCURE_VERIFY_TLS is False: whoever can answer in place of ")
        with (
            publishing(hub) as publish,
            pytest.raises(HubUnreachable, match="certificate verify failed: self-signed") as caught,
        ):
            publish("a")
        assert not caught.value.possibly_published
        assert len(hub.received) == 3
        with pytest.warns(InsecureRequestWarning):  # of other servers the app hears as before
            requests.get(hub.url.replace("127.0.0.1", "localhost"), verify=False, timeout=5)


def test_the_connection_is_used_again(hub: FakeHub, publish: Publish) -> None:
    for _ in range(3):
        publish("a")
    assert len({request.connection for request in hub.received}) == 1
    assert len({request.headers["Authorization"] for request in hub.received}) == 1


def test_a_pooled_connection_that_the_hub_has_closed(hub: FakeHub, publish: Publish) -> None:
    hub.answers = [Answer(closes=True), Answer(b"urn:uuid:2")]
    publish("a")
    assert hub.closed.wait(5)
    assert publish("a") == "urn:uuid:2"
    assert len({request.connection for request in hub.received}) == 2


def test_a_refused_token_is_not_kept(hub: FakeHub, publish: Publish) -> None:
    hub.answers = [Answer(), Answer(b"", 401, None), Answer()]
    publish("a")
    with pytest.raises(PublishError):
        publish("a")
    publish("a")
    first, second, third = (request.headers["Authorization"] for request in hub.received)
    assert first == second != third


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_no_proxy_of_the_environment_sees_the_token(
    hub: FakeHub, publish: Publish, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port()}")
    assert publish("a")


def test_no_netrc_replaces_the_token(
    hub: FakeHub, publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password y\n")
    monkeypatch.setenv("NETRC", str(netrc))
    publish("a")
    assert hub.received[0].headers["Authorization"].startswith("Bearer ")


def test_cookies_of_the_hub_are_of_no_use(hub: FakeHub, publish: Publish) -> None:
    hub.answers = [Answer(headers={"Set-Cookie": "a=1; Path=/"}), Answer()]
    publish("a")
    publish("a")
    assert "Cookie" not in hub.received[1].headers


def test_threads_publish_from_one_app(hub: FakeHub) -> None:
    mercure = Mercure()
    app = make_app(mercure, URL=hub.url)
    start = threading.Barrier(8)

    def work(number: int) -> str:
        start.wait()
        with app.app_context():
            return mercure.publish(f"t{number}", str(number))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {"urn:uuid:1"}
    state_of(app).publisher.close()
    assert sorted(dict(request.pairs)["data"] for request in hub.received) == [str(n) for n in range(8)]
    assert len({request.headers["Authorization"] for request in hub.received}) == 1


def test_apps_do_not_share_connections_or_tokens(hub: FakeHub) -> None:
    mercure = Mercure()
    apps = [make_app(mercure, URL=hub.url, ISSUER=f"urn:{n}") for n in range(2)]
    for app in apps:
        with app.app_context():
            mercure.publish("a")
        state_of(app).publisher.close()
    first, second = hub.received
    assert first.connection != second.connection
    assert first.headers["Authorization"] != second.headers["Authorization"]


def in_a_child(work: Callable[[], object]) -> None:
    """Run something in a forked process, as pre-forking servers do after they have loaded the app."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(hub: FakeHub, publish: Publish) -> None:
    publish("a", "parent")
    in_a_child(lambda: publish("a", "child"))
    publish("a", "parent")
    first, child, last = hub.received
    assert dict(child.pairs)["data"] == "child"
    assert child.connection != first.connection == last.connection


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_making_a_token(hub: FakeHub) -> None:
    """A lock that another thread holds at the fork is held for ever in the child."""
    inside, leave = threading.Event(), threading.Event()
    parent = os.getpid()

    def slow(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        if os.getpid() == parent:
            inside.set()
            leave.wait(10)
        return jwt.encode({"x": 1}, SECRET)

    with publishing(hub, TOKEN_FACTORY=slow) as publish, ThreadPoolExecutor(1) as pool:
        running_publish = pool.submit(publish, "a", "parent")
        assert inside.wait(10)
        in_a_child(lambda: publish("a", "child"))
        leave.set()
        assert running_publish.result(10)
    assert [dict(request.pairs)["data"] for request in hub.received] == ["child", "parent"]


def test_publishing_after_close_opens_another_connection(hub: FakeHub) -> None:
    mercure = Mercure()
    app = make_app(mercure, URL=hub.url)
    with app.app_context():
        for _ in range(2):
            mercure.publish("a")
            state_of(app).publisher.close()
            state_of(app).publisher.close()
    assert len({request.connection for request in hub.received}) == 2


def test_publishing_in_an_app_context_without_a_request(hub: FakeHub) -> None:
    app = Flask("worker")
    app.config.update(MERCURE_URL=hub.url, MERCURE_PUBLISHER_JWT_KEY=SECRET)
    mercure = Mercure(app)
    with app.app_context():
        assert mercure.publish("a") == "urn:uuid:1"
    state_of(app).publisher.close()
