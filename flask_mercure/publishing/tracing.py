"""Spans of OpenTelemetry for publications, where an application has its API installed.

A span is of the kind *producer*, with the attributes of the semantic conventions for messaging. Nothing of
the trace is sent to the hub, which would hand it to every subscriber. Neither data nor topics are put into a
span: a topic may name a person, and whoever reads traces need not be one who may read updates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask_mercure.errors import PublishError

if TYPE_CHECKING:
    from flask_mercure.updates import Publication

_TRACE: Any = None
with contextlib.suppress(ImportError):
    # Not later, by a thread: a fork during an import leaves its lock to nobody in the child.
    _TRACE = import_module("opentelemetry.trace")

SPAN_NAME = "mercure publish"
_PORTS = {"http": 80, "https": 443}


class Span:
    """The span of one request to the hub; without OpenTelemetry it does nothing.

    :param span: of OpenTelemetry, or ``None``.
    """

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def published(self, ids: Sequence[str]) -> None:
        """Note what the hub answered."""
        if self._span is not None and len(ids) == 1:
            self._span.set_attribute("messaging.message.id", ids[0])


@contextlib.contextmanager
def publishing(hub: str, url: str, publications: Sequence[Publication]) -> Iterator[Span]:
    """A span around the request that publishes; an error of the block is recorded in it and goes on.

    :param hub: name of the hub in the app's configuration.
    :param url: of the hub.
    :param publications: what the request carries.
    """
    trace = _TRACE
    if trace is None:
        yield Span()
        return
    tracer = trace.get_tracer("flask_mercure")
    with tracer.start_as_current_span(
        SPAN_NAME,
        kind=trace.SpanKind.PRODUCER,
        attributes=_attributes(hub, url, publications),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield Span(span)
        except Exception as error:
            span.set_attribute("error.type", _error_type(error))
            # The message of our own errors holds no secret; others might.
            is_ours = isinstance(error, PublishError)
            span.set_status(trace.StatusCode.ERROR, str(error) if is_ours else type(error).__name__)
            raise


def _attributes(hub: str, url: str, publications: Sequence[Publication]) -> dict[str, Any]:
    parts = urlsplit(url)
    attributes: dict[str, Any] = {
        "messaging.system": "mercure",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS.get(parts.scheme, 0),
        "mercure.hub": hub,
    }
    if len(publications) == 1:
        (one,) = publications
        attributes |= {
            "mercure.topic_count": len(one.topics),
            "messaging.message.body.size": len(one.data.encode("utf-8", "replace")),
            "mercure.private": one.private,
        }
    else:
        attributes["messaging.batch.message_count"] = len(publications)
    return attributes


def _error_type(error: Exception) -> str:
    if isinstance(error, PublishError) and error.status is not None:
        return str(error.status)
    return type(error).__qualname__
