"""One request and its answer, whichever version of HTTP carries them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from mercure_hub.endpoints.monitoring import HEALTH, LIVE, READY
from mercure_hub.endpoints.request import Request, Watch
from mercure_hub.endpoints.routes import cors
from mercure_hub.endpoints.subscribe import Stream
from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.endings import Ending, Reason, took_nothing
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.metrics.catalogue import ANSWERS, REFUSED
from mercure_hub.metrics.tally import Tally
from mercure_hub.protocol.errors import (
    AuthorizationError,
    InvalidRequest,
    MercureError,
    StorageAway,
    StorageError,
    reference,
)
from mercure_hub.protocol.http import Answer, Headers, error_answer
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.websocket import WebSocket
from mercure_hub.server.channel import Outlet, Sending, Timeout
from mercure_hub.server.http import Message
from mercure_hub.server.site import Site

_ANY_URL = frozenset({HEALTH, LIVE, READY})  # paths that are served whatever the URL

_LEFT = Ending(Reason.CLOSED_BY_CLIENT)

_log = logging.getLogger("mercure_hub.server")


@dataclass(slots=True)
class Reply:
    """What a request is answered with.

    :param result: the answer, or the stream that begins.
    :param extra: header fields besides those of the result.
    :param peer: the client's address, behind trusted proxies.
    :param identity: the hub's public URL for this client; ``None`` if the request has no valid one.
    """

    result: Answer | Stream
    extra: Headers
    peer: str
    identity: Identity | None

    def release(self) -> None:
        """Stop counting the connection of a stream that did not begin."""
        if isinstance(self.result, Stream):
            self.result.slot.release()


def respond(site: Site, peer: str, message: Message, watch: Watch, *, may_switch: bool) -> Reply:
    """Serve a request; count and log it.

    :param peer: the address at the other end of the connection.
    :param message: the request, whose content is released.
    :param watch: a context manager; calls a function if the client leaves meanwhile.
    :param may_switch: the connection can switch to another protocol after this request.
    """
    started = time.perf_counter()
    identity: Identity | None = None
    request: Request | None = None
    target, _, query = message.target.partition(b"?")
    path = _origin_form(target.decode("latin-1"), message.headers)
    client = site.addressing.client(peer, message.headers)
    result: Answer | Stream
    try:
        identity = site.addressing.identity(peer, message.headers, any_url=site.any_url or path in _ANY_URL)
        request = Request(
            message.method, path, query, message.headers, message.body, client, identity, may_switch, watch
        )
        result = site.route(site.hub, request)
    except MercureError as error:
        _note(site.hub.broker.tally, error, client, message.method)
        result = error_answer(error, None if identity is None else identity.metadata_url)
    except Exception:
        _log.exception("%s %s failed; this is a defect of the hub", message.method, ascii(path))
        result = error_answer(MercureError())
    message.body, message.headers = b"", {}  # do not keep them for as long as the client takes to read
    try:
        extra = [] if request is None else cors(site.hub, request)
        status = result.status if isinstance(result, Answer) else 200 if result.accept is None else 101
        site.hub.broker.tally.add(ANSWERS, 1, str(status))
        if site.access_log.is_on:
            seconds = time.perf_counter() - started
            site.access_log.write(client, message.method, message.target, status, seconds)
        message.target = b""
    except BaseException:
        if isinstance(result, Stream):
            result.slot.release()
        raise
    return Reply(result, extra, client, identity)


def refuse(site: Site, peer: str, error: InvalidRequest) -> Answer:
    """The answer to what is not a request; count and log it.

    :param peer: the address at the other end of the connection.
    """
    site.hub.broker.tally.add(ANSWERS, 1, str(error.status))
    site.access_log.write_refused(peer, error.status, f"{error.detail} See {reference(error.section)}")
    return error_answer(error)


def begin_stream(
    site: Site, reply: Reply, form: Form, channel: Sending, send_head: Callable[[], None]
) -> Subscriber | None:
    """Begin the stream of a reply, and send the subscriber what it missed.

    :param form: how the stream is encoded.
    :param channel: to the client.
    :param send_head: sends the head of the answer.
    :returns: the subscriber, whom the engine has to start; ``None`` when the stream has to end.
    :raises OSError: the connection is broken; the subscriber is forgotten.
    """
    stream, identity = reply.result, reply.identity
    if isinstance(stream, Answer) or identity is None:
        raise TypeError("this reply is not a stream")
    broker = site.hub.broker
    now = broker.clock()
    subscriber = Subscriber(
        matchers=stream.matchers,
        grant=stream.grant,
        identity=identity,
        peer=reply.peer,
        connected_at=broker.second(now),
        ends_at=now + stream.lifetime,
        form=form,
        websocket=WebSocket(ends_with_token=stream.ends_with_token) if form.is_websocket else None,
    )
    stream.slot.keep()
    broker.enter(subscriber)
    ending = _LEFT
    is_complete = False
    try:
        send_head()
        is_complete = broker.replay(
            subscriber, stream.start, Outlet(channel, site.replay_timeout, broker.clock)
        )
    except StorageError as error:
        _log.log(_level(error), "a replay was cut: %s", error)
        ending = Ending(Reason.UNREADABLE)
    except Timeout:
        ending = took_nothing(site.replay_timeout)
    finally:
        if not is_complete:
            broker.abandon(subscriber, ending)
    if is_complete and stream.marks_live:
        broker.engine.mark_live(subscriber)
    return subscriber if is_complete else None


def _origin_form(target: str, headers: dict[str, str]) -> str:
    """The path of a target. The host of an absolute URL replaces the Host header (RFC 9112 section 3.2.2)."""
    if target.startswith("/"):
        return target
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    headers["host"], slash, path = rest.partition("/")
    return slash + path or "/"


def _note(tally: Tally, error: MercureError, peer: str, method: str) -> None:
    if isinstance(error, AuthorizationError):
        tally.add(REFUSED, 1, error.explained)
        where = reference(error.explained)
        _log.info("%s from %s refused with %d: %s, see %s", method, peer, error.status, error.cause, where)
    elif isinstance(error, StorageError):
        where = reference(error.section)
        _log.log(_level(error), "%s from %s failed: %s, see %s", method, peer, error.detail, where)


def _level(error: StorageError) -> int:
    """Debug while the engine is away: that is logged once, not with each request."""
    return logging.DEBUG if isinstance(error, StorageAway) else logging.ERROR
