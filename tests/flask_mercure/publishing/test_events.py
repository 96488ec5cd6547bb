"""Signals, the log and spans: what is told of a publication, and what is not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from flask_mercure import Mercure, PublishError, Update, publish_failed, update_published
from flask_mercure.extension import state_of
from flask_mercure.publishing import events
from flask_mercure.updates import Publication
from tests.flask_mercure.fake_hub import Answer, FakeHub, make_app, running

pytestmark = pytest.mark.minutes

mercure = Mercure()
Heard = list[tuple[object, dict[str, Any]]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def app(hub: FakeHub) -> Iterator[Flask]:
    app = make_app(mercure, URL=hub.url)
    with app.app_context():
        yield app
    state_of(app).publisher.close()


@pytest.fixture
def published() -> Iterator[Heard]:
    heard: Heard = []

    def hear(sender: object, **values: Any) -> None:
        heard.append((sender, values))

    with update_published.connected_to(hear):
        yield heard


@pytest.fixture
def failed() -> Iterator[Heard]:
    heard: Heard = []

    def hear(sender: object, **values: Any) -> None:
        heard.append((sender, values))

    with publish_failed.connected_to(hear):
        yield heard


@pytest.fixture(scope="module")
def provider() -> TracerProvider:
    """OpenTelemetry takes one provider for each process."""
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    return provider


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()  # it takes no more


def test_signal_of_a_published_update(app: Flask, published: Heard, failed: Heard) -> None:
    mercure.publish(["a", "b"], "x", private=True, type="t")
    ((sender, values),) = published
    assert sender is app
    assert values.pop("seconds") > 0
    assert values == {
        "hub": "default",
        "update": Publication(["a", "b"], "x", True, type="t"),
        "id": "urn:uuid:1",
    }
    assert failed == []


def test_signal_of_a_failed_update(app: Flask, hub: FakeHub, published: Heard, failed: Heard) -> None:
    hub.answers = [Answer(b"", 403)]
    with pytest.raises(PublishError) as refusal:
        mercure.publish("a", "x", private=False)
    ((sender, values),) = failed
    assert sender is app
    assert (values["error"], values["update"].topics, values["hub"]) == (refusal.value, ["a"], "default")
    assert published == []


def test_signals_of_a_batch_that_failed_halfway(
    app: Flask, hub: FakeHub, published: Heard, failed: Heard
) -> None:
    hub.answers = [Answer(b"", 405), Answer(b"urn:1"), Answer(b"", 500)]
    with pytest.raises(PublishError):
        mercure.publish_many(
            [Update("a", private=False), Update("b", private=False), Update("c", private=False)]
        )
    assert [(values["update"].topics, values["id"]) for _, values in published] == [(["a"], "urn:1")]
    assert [values["update"].topics for _, values in failed] == [["b"], ["c"]]


def test_signal_receiver_that_raises_changes_nothing(
    app: Flask, published: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object, **__: object) -> None:
        raise LookupError

    with update_published.connected_to(broken):
        assert mercure.publish("a", private=False) == "urn:uuid:1"
    assert len(published) == 1
    (record,) = caplog.records
    assert record.name == "flask_mercure"
    assert record.exc_info is not None


def test_signal_receivers_may_listen_to_one_app(app: Flask, published: Heard) -> None:
    heard: list[object] = []

    def hear(sender: object, **_: object) -> None:
        heard.append(sender)

    with update_published.connected_to(hear, sender=make_app(URL="http://127.0.0.1:9/")):
        mercure.publish("a", private=False)
    assert heard == []
    assert len(published) == 1


def test_signal_of_a_recorded_update(app: Flask, hub: FakeHub, published: Heard) -> None:
    with mercure.record() as updates:
        mercure.publish("a", private=False)
    assert [values["id"] for _, values in published] == [updates.one().id]
    assert hub.received == []


def test_debug_log_has_topics_and_ids_and_no_data(
    app: Flask, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flask_mercure")
    mercure.publish([f"topic-{n}" for n in range(9)], "the-secret", private=True)
    hub.answers = [Answer(b"", 403)]
    with pytest.raises(PublishError):
        mercure.publish("refused", "the-secret", private=False)
    published, refused = caplog.messages
    assert published.startswith("published 'topic-0', 'topic-1'")
    assert "and 4 more on the hub 'default' as 'urn:uuid:1' in " in published
    assert refused.startswith("not published 'refused' on the hub 'default' after ")
    token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
    assert "the-secret" not in caplog.text
    assert token not in caplog.text


def test_span_of_a_publication(app: Flask, hub: FakeHub, spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("view"):
        mercure.publish(["a", "b"], "the-secret", private=True)
    span, view = spans.get_finished_spans()
    assert (span.name, span.kind) == ("mercure publish", SpanKind.PRODUCER)
    assert span.parent is not None
    assert view.context is not None
    assert span.parent.span_id == view.context.span_id
    port = int(hub.url.split(":")[2].split("/")[0])
    assert dict(span.attributes or {}) == {
        "messaging.system": "mercure",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "mercure.topic_count": 2,
        "messaging.message.id": "urn:uuid:1",
        "messaging.message.body.size": 10,
        "mercure.private": True,
        "mercure.hub": "default",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert "the-secret" not in span.to_json()
    (request,) = hub.received  # the trace stays here
    assert "traceparent" not in {name.lower() for name in request.headers}
    assert dict(request.pairs)["data"] == "the-secret"


def test_span_of_a_failure(app: Flask, hub: FakeHub, spans: InMemorySpanExporter) -> None:
    hub.answers = [Answer(b"", 403)]
    with pytest.raises(PublishError):
        mercure.publish("a", private=False)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert "403" in (span.status.description or "")
    assert (span.attributes or {})["error.type"] == "403"
    token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
    assert token not in span.to_json()


def test_span_of_a_batch(app: Flask, spans: InMemorySpanExporter) -> None:
    mercure.publish_many([Update("a", private=False), Update("b", private=False)])
    (span,) = spans.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert attributes["messaging.batch.message_count"] == 2
    assert "mercure.topic_count" not in attributes


def test_publish_without_opentelemetry(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_trace", None)
    assert mercure.publish("a", private=False) == "urn:uuid:1"
