"""What is told of each publication: a span, a line in the log, a signal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flask import current_app, has_app_context

from flask_mercure.errors import MercureError, PublishError
from flask_mercure.publishing import tracing
from flask_mercure.publishing.signals import publish_failed, tell, update_published

if TYPE_CHECKING:
    from flask_mercure.updates import Publication

_log = logging.getLogger("flask_mercure")


def observed(
    hub: str,
    url: str,
    publications: Sequence[Publication],
    send: Callable[[Sequence[Publication]], list[str]],
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Send updates, and tell how it went.

    The log gets topics, ids and times, at the level debug; never data or tokens.

    :param hub: name of the hub in the app's configuration.
    :param url: of the hub.
    :param publications: to send.
    :param send: sends them and returns their ids.
    :param clock: monotonic time in seconds.
    :returns: the ids.
    :raises MercureError: of ``send``.
    """
    start = clock()
    try:
        with tracing.publishing(hub, url, publications) as span:
            ids = send(publications)
            span.published(ids)
    except MercureError as error:
        _failed(hub, publications, error, clock() - start)
        raise
    _published(hub, publications, ids, clock() - start)
    return ids


def _published(hub: str, publications: Sequence[Publication], ids: Sequence[str], seconds: float) -> None:
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
        tell(update_published, sender, hub=hub, update=publication, id=update_id, seconds=seconds)


def _failed(hub: str, publications: Sequence[Publication], error: MercureError, seconds: float) -> None:
    """Of a hub that takes no batches, the first updates may be out when one fails."""
    ids = error.published if isinstance(error, PublishError) else ()
    _published(hub, publications[: len(ids)], ids, seconds)
    sender = _app()
    for publication in publications[len(ids) :]:
        _log.debug(
            "not published %s on the hub %r after %.1f ms: %s",
            _topics(publication),
            hub,
            seconds * 1000,
            type(error).__name__,
        )
        tell(publish_failed, sender, hub=hub, update=publication, error=error, seconds=seconds)


def _topics(publication: Publication) -> str:
    """Topics for a line of the log; their characters were checked, their number was not."""
    shown = ", ".join(map(repr, publication.topics[:5]))
    more = len(publication.topics) - 5
    return f"{shown} and {more} more" if more > 0 else shown


def _app() -> object:
    return current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined]
