"""What is told of each publication: a signal of blinker, a log line, a span of OpenTelemetry.

A signal's receiver watches: it cannot stop a publication, and its errors are logged and go no further.

A span is of the kind *producer*, with the attributes of the semantic conventions for messaging, where the
application has OpenTelemetry's API installed. No trace context is sent to the hub, which would pass it on to
every subscriber. A span has neither data nor topics: a topic may name a person, and people who may read
traces are not always those who may read updates.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blinker import NamedSignal, Namespace
from flask import current_app, has_app_context

from flask_mercure.errors import MercureError, PublishError

if TYPE_CHECKING:
    from flask_mercure.state import HubState
    from flask_mercure.updates import Publication

_signals = Namespace()
_log = logging.getLogger("flask_mercure")

#: An update was published. The sender is the app, or ``None`` outside of an app context. Values:
#:
#: * ``hub``: name of the hub in the app's configuration, a ``str``;
#: * ``update``: a :class:`flask_mercure.updates.Publication`, with ``topics``, ``data``, ``private``, ``id``
#:   (as asked for), ``type`` and ``retry``. It includes private data: mind where you write it;
#: * ``id``: of the update, as the hub answered;
#: * ``seconds``: that the request to the hub took, a ``float``; the updates of a batch share one request.
update_published: NamedSignal = _signals.signal("mercure-update-published")

#: An update was not published, or the hub did not say so. The sender and the values ``hub``, ``update`` and
#: ``seconds`` are those of :data:`update_published`; in place of ``id`` there is
#:
#: * ``error``: the :class:`~flask_mercure.MercureError`, often a :class:`~flask_mercure.PublishError` with
#:   ``status``, ``reason`` and ``possibly_published``.
publish_failed: NamedSignal = _signals.signal("mercure-publish-failed")

_trace: Any = None
with contextlib.suppress(ImportError):
    # Not later, in a thread: a fork during an import leaves the child an import lock that nobody releases.
    _trace = import_module("opentelemetry.trace")

SPAN_NAME = "mercure publish"
_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True)
class Outcome:
    """The ids of the updates that were published, in order; set by the block of :func:`observed`."""

    ids: Sequence[str] = field(default=())


@contextlib.contextmanager
def observed(
    hub: HubState, publications: Sequence[Publication], clock: Callable[[], float] = time.monotonic
) -> Iterator[Outcome]:
    """Trace the block that publishes updates, then log and signal its outcome.

    The log gets topics, ids and times, at level debug; never data or tokens.

    :param hub: to which the updates go.
    :param publications: the updates.
    :param clock: monotonic time in seconds.
    :raises MercureError: of the block.
    """
    outcome = Outcome()
    start = clock()
    try:
        with _span(hub, publications) as span:
            yield outcome
            if span is not None and len(outcome.ids) == 1:
                span.set_attribute("messaging.message.id", outcome.ids[0])
    except MercureError as error:
        _tell_failed(hub.name, publications, error, clock() - start)
        raise
    _tell_published(hub.name, publications, outcome.ids, clock() - start)


def _tell_published(
    hub: str, publications: Sequence[Publication], ids: Sequence[str], seconds: float
) -> None:
    sender = _app()
    is_logged = _log.isEnabledFor(logging.DEBUG)
    for publication, update_id in zip(publications, ids, strict=False):
        if is_logged:
            _log.debug(
                "published %s on the hub %r as %r in %.1f ms",
                _topics(publication),
                hub,
                update_id,
                seconds * 1000,
            )
        _send(update_published, sender, hub=hub, update=publication, id=update_id, seconds=seconds)


def _tell_failed(hub: str, publications: Sequence[Publication], error: MercureError, seconds: float) -> None:
    """A hub without batches may have taken the first updates before one failed."""
    ids = error.published if isinstance(error, PublishError) else ()
    _tell_published(hub, publications[: len(ids)], ids, seconds)
    sender = _app()
    for publication in publications[len(ids) :]:
        _log.debug(
            "not published %s on the hub %r after %.1f ms: %s",
            _topics(publication),
            hub,
            seconds * 1000,
            type(error).__name__,
        )
        _send(publish_failed, sender, hub=hub, update=publication, error=error, seconds=seconds)


def log_failure(publication: Publication, reason: str, error: Exception | None = None) -> None:
    """Log that an update was not published: its topics, id and the reason, never its data.

    :param publication: the update.
    :param reason: a phrase without secrets, such as the message of a :class:`MercureError`.
    :param error: an error of another kind, to be logged with its traceback.
    """
    _log.error(
        "update %s on %s was not published: %s",
        publication.id or "without id",
        publication.topics,
        reason,
        exc_info=error,
    )


def _send(signal: NamedSignal, sender: object, **values: object) -> None:
    """Call the receivers one by one; the error of one does not keep the signal from the others."""
    if not signal.receivers:
        return
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **values)
        except Exception:
            _log.exception("a receiver of the signal %s failed", signal.name)


def _topics(publication: Publication) -> str:
    """Topics for a log line: at most five, since their number is not limited."""
    shown = ", ".join(map(repr, publication.topics[:5]))
    more = len(publication.topics) - 5
    return f"{shown} and {more} more" if more > 0 else shown


def _app() -> object:
    return current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined]


@contextlib.contextmanager
def _span(hub: HubState, publications: Sequence[Publication]) -> Iterator[Any]:
    """The span of one request to the hub, or ``None`` without OpenTelemetry; records the block's error."""
    if _trace is None:
        yield None
        return
    tracer = _trace.get_tracer("flask_mercure")
    with tracer.start_as_current_span(
        SPAN_NAME,
        kind=_trace.SpanKind.PRODUCER,
        attributes=_attributes(hub, publications),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", _error_type(error))
            # The messages of our own errors hold no secret; others might.
            is_ours = isinstance(error, PublishError)
            span.set_status(_trace.StatusCode.ERROR, str(error) if is_ours else type(error).__name__)
            raise


def _attributes(hub: HubState, publications: Sequence[Publication]) -> dict[str, Any]:
    url = urlsplit(hub.configuration.url)
    attributes: dict[str, Any] = {
        "messaging.system": "mercure",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "server.address": url.hostname or "",
        "server.port": url.port or _PORTS.get(url.scheme, 0),
        "mercure.hub": hub.name,
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
