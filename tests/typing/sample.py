"""An application that uses the extension, as its authors write it; mypy checks what it gets back.

It is checked with the tree, in strict mode, and again by test_typing.py with the errors that it must have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, assert_type

from flask import Flask, Response, make_response, redirect
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure import (
    CreatesTokens,
    Grants,
    Hub,
    HubClient,
    KeySet,
    Mercure,
    Progress,
    PublishError,
    Run,
    SomeHubsFailed,
    TokenFactory,
    TurboStream,
    URLPattern,
    dom_id,
)

mercure = Mercure()


class Tokens:
    """A token factory of the app's own."""

    def create(
        self,
        subscribe: Sequence[Any] | None = None,
        publish: Sequence[Any] | None = None,
        additional_claims: Mapping[str, Any] | None = None,
    ) -> str:
        assert_type(mercure.claims(subscribe, publish, additional_claims), dict[str, Any])
        return ""


def create_app() -> Flask:
    app = Flask(__name__)
    factory: CreatesTokens = Tokens()
    app.config.update(MERCURE_TOKEN_FACTORY=factory, MERCURE_TOKEN_LIFETIME=timedelta(minutes=5))
    mercure.init_app(app)
    app.add_url_rule("/", view_func=index)
    return app


@mercure.subscribe_grants
def grants() -> Grants | None:
    return Grants(["a", URLPattern("https://e.example/:id")], payload={"name": "x"}, user=1)


@mercure.hub("eu").subscribe_grants(automatic=False)
def topics() -> list[str]:
    return ["a"]


assert_type(grants(), Grants | None)
assert_type(topics(), list[str])


@mercure.subscriber
def index(page: int = 1) -> str:
    return str(page)


assert_type(index(2), str)


def login() -> BaseResponse:
    response = redirect("/")
    assert_type(mercure.set_cookie(response, ["a"], lifetime=60, payload={"x": 1}), BaseResponse)
    return mercure.set_cookie(response, subscribe={"match": "a"})


def page_session() -> Response:
    assert_type(mercure.session(last_value=True), Response)
    return mercure.session(["a", URLPattern("/b/:id")], "urn:uuid:1", token=True)


def without_an_app() -> None:
    with HubClient("http://hub/", {"kty": "oct"}, token_lifetime=60, verify_tls=False) as hub:
        assert_type(hub.publish("a", {"x": 1}, private=True), str)
        assert_type(hub.cookie(["a"], "e.example", lifetime=timedelta(hours=1)), str)
        assert_type(hub.expired_cookie(), str)
        assert_type(hub.session("a", token=hub.create_token("a")), dict[str, Any])
        assert_type(hub.close(), bool)


def logout() -> Response:
    response = mercure.clear_cookie(make_response("bye"))
    assert_type(response, Response)
    assert_type(mercure.discover(response, topic="a"), Response)
    assert_type(mercure.discover(topic="a", key_set="/keys"), None)
    return response


def publish(keys: KeySet) -> None:
    assert_type(mercure.publish("a", {"any": "thing"}), str)
    assert_type(mercure.last_event_id(), str | None)
    mercure.publish(("a", "b"), "text", private=True, id="x", type="t", retry=5, encrypt_for=keys)
    hub = mercure.hub("eu")
    shared: Hub = hub
    shared.publish("a")
    assert_type(mercure.hubs["eu"].url(["a"], last_event_id="x"), str)
    assert_type(mercure.create_token("a", publish=["b"], lifetime=timedelta(1)), str)
    assert_type(mercure.encrypt(b"x", keys), str)
    assert_type(mercure.key_set(keys), Response)
    try:
        assert_type(mercure.publish_to_all("a", hubs=["eu"]), dict[str, str])
    except SomeHubsFailed as error:
        assert_type(error.published_ids, dict[str, str])
        assert_type(error.errors, dict[str, Exception])
    except PublishError as error:
        assert_type(error.status, int | None)
        assert_type(error.reason, str | None)
        assert_type(error.possibly_published, bool)


async def answer(topic: str, tokens: Iterator[str], events: AsyncIterator[dict[str, Any]]) -> None:
    assert_type(mercure.stream(topic, tokens), str)
    assert_type(mercure.stream_events(topic, tokens, private=False), Run)
    assert_type(mercure.stream_events(topic, events, will_retry=True).text, str)
    assert_type(await mercure.astream_events(topic, events), Run)
    mercure.stop(topic, error="The worker is gone.")


def sign() -> str:
    return TokenFactory(issuer="urn:x", audience=["https://e.example/m"]).create(subscribe="a")


def add(order: object) -> ResponseReturnValue:
    stream = TurboStream.append("orders", template="_order.html", order=order)
    assert_type(stream + TurboStream.remove(order) + TurboStream.refresh(), TurboStream)
    mercure.publish("orders", stream, private=True)
    assert_type(dom_id(order), str)
    return stream


@mercure.broadcast("orders", template="_order.html", private=True, actions={"create": "prepend"})
class Order:
    """Not mapped, but types do not tell."""


assert_type(Order(), Order)


def load(rows: list[int]) -> None:
    with mercure.progress("jobs/7", len(rows), interval=1) as step:
        assert_type(step, Progress)
        for row in step.of(rows):
            assert_type(row, int)
        step(2, label="page 3")
        step.set(1.5)
        step.result = {"url": "/"}
