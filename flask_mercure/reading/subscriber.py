"""A subscriber in Python, which reconnects after every loss of its connection (spec, Subscription)."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from flask_mercure.client import connection
from flask_mercure.client.answer import reason
from flask_mercure.client.connection import StreamedAnswer, describe
from flask_mercure.client.session import USER_AGENT
from flask_mercure.errors import HubUnreachable, MercureError, Refused
from mercure_hub.protocol.event_stream import WITH, WITH_TOPICS, Event, Parser
from mercure_hub.protocol.topics import forbidden_character
from mercure_hub.protocol.update import EARLIEST

_DEFAULT_RETRY = 2000
"""Milliseconds between two connections, until the hub sends ``retry``."""

_SILENCE = 120.0
"""Seconds without a byte after which the connection counts as lost: three heartbeats of the hub."""

_LONGEST_PAUSE = 60.0
_SHORTEST_PAUSE = 0.1  # seconds, before it is doubled, for a hub that asks for no pause at all
_MAX_DOUBLINGS = 10
_MAX_REASON = 4096  # bytes of an answer in which its reason is looked for
_ANSWER_TIMEOUT = 10.0  # seconds for the head of an answer

_log = logging.getLogger("flask_mercure")


@dataclass(frozen=True, slots=True)
class Gap:
    """The hub could not resume where the subscriber asked to: updates may be missing (spec, Reconciliation).

    :param requested: id of the last update that the subscriber has; ``None`` when there was none yet.
    :param resumed_after: id after which the hub resumed, or ``earliest``; ``None`` when it did not tell.
    :param reason: ``start``: the hub does not have the update after which the subscription was to begin;
        ``history``: the hub no longer has the last update before the connection was lost; ``position``: the
        connection was lost before the first update, and this hub does not tell its position.
    """

    requested: str | None
    resumed_after: str | None
    reason: Literal["start", "history", "position"]


class Subscription(Iterator[Event]):
    """The events of a subscription, for ever or until a timeout; use it in a ``with`` block, or close it.

    The constructor connects. After a loss it reconnects after the last event, with a fresh token and after a
    pause that grows while the hub does not answer; only the first connection must succeed. Any thread may
    close it while another one waits for an event.

    :param url: of the subscription, with its matchers.
    :param token: makes a fresh access token for each connection.
    :param verify: whether to check the certificate: True, False, or the path of a CA file.
    :param connect_timeout: seconds for each connection.
    :param last_event_id: to start after; ``earliest`` for all that the hub has.
    :param timeout: seconds without an event after which iteration ends and the subscription closes; ``None``
        for never.
    :param on_gap: called when the hub cannot resume where it should, before the events that follow.
    :param begins_with_values: the URL asks for the last values, as long as nothing has been received.
    :param clock: monotonic time in seconds.
    :param pause: waits for a number of seconds between two connections, or until the subscription is closed;
        the arguments are those of :meth:`threading.Event.wait`.
    :param jitter: gives random numbers from 0 to 1, which spread the reconnections to a restarted hub.
    :raises Refused: the hub answered with something other than a stream.
    :raises HubUnreachable: there is no connection.

    ``last_event_id`` is the position of the subscription: store it to resume in another process. ``gap`` is
    the last :class:`Gap`, or ``None``.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        verify: bool | str = True,
        connect_timeout: float = 2.0,
        last_event_id: str | None = None,
        timeout: float | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        begins_with_values: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.gap: Gap | None = None
        self._closed = threading.Event()
        self._lock = (
            threading.RLock()
        )  # held by the reading thread; reentrant, for close() in a signal handler
        self._connection: StreamedAnswer | None = None
        # This project's hub names topics then; others do not know the parameter.
        self._url = f"{url}{'&' if '?' in url else '?'}{WITH}={WITH_TOPICS}"
        self._token = token
        self._verify = verify
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._on_gap = on_gap
        self._begins_with_values = begins_with_values
        self._clock = clock
        self._pause = pause or self._closed.wait
        self._jitter = jitter
        self._parser = Parser(last_event_id or "")
        self._retry = _DEFAULT_RETRY
        self._ready: list[Event] = []
        self._last_event_id = last_event_id or ""
        self._failures = 0
        self._heard_at = 0.0
        self._was_connected = False
        self._resume_at: float | None = None
        broken = ""
        try:
            self._connect()
        except OSError as error:
            broken = describe(error)
        if broken:  # raised here, without its cause, in whose traceback the token is a variable
            raise HubUnreachable(f"no connection to {self._hub}: {broken}. Does the hub run?")

    @property
    def last_event_id(self) -> str | None:
        """Id of the last event that was returned, or the cursor that the subscription began with."""
        return self._last_event_id or None

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more events."""
        return self._closed.is_set()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()

    def __next__(self) -> Event:
        try:
            return self.wait(self._timeout)
        except TimeoutError:
            self.close()
        except _ClosedError:
            pass
        raise StopIteration

    def wait(self, timeout: float | None = None) -> Event:
        """The next event; unlike iteration, a timeout leaves the subscription open.

        :param timeout: seconds, ``None`` for ever.
        :raises TimeoutError: there was none in that time.
        :raises Refused: the hub no longer admits the subscriber.
        :raises RuntimeError: the subscription is closed.
        """
        deadline = None if timeout is None else self._clock() + timeout
        with self._lock:
            try:
                while not self._ready:
                    self._step(deadline)
            except MercureError:
                self.close()
                raise
            event = self._ready.pop(0)
            self._last_event_id = event.id
            return event

    def close(self) -> None:
        """End the subscription and its connection; a thread that waits for an event stops waiting."""
        self._closed.set()
        current = self._connection
        if current is not None:
            current.wake()
        with self._lock:
            self._ready.clear()
            self._drop()

    # The methods below run with the lock held.

    def _step(self, deadline: float | None) -> None:
        """Connect, or read once."""
        if self._closed.is_set():
            raise _ClosedError("the subscription is closed")
        try:
            if self._connection is None:
                self._wait_to_connect(deadline)
                self._connect()
            else:
                self._read(self._connection, deadline)
        except _OutOfTimeError:
            raise TimeoutError("no event in that time") from None
        except OSError as error:
            if not self._closed.is_set():
                _log.debug("the connection to %s was lost: %s", self._hub, describe(error))
                self._lost()

    def _read(self, current: StreamedAnswer, deadline: float | None) -> None:
        silent_at = self._heard_at + _SILENCE
        until = silent_at if deadline is None else min(silent_at, deadline)
        try:
            data = current.read(max(0.0, until - self._clock()))
        except TimeoutError:
            if until == deadline:
                raise _OutOfTimeError from None
            raise
        if not data:
            raise connection.ConnectionBroken("the hub ended the stream")
        self._heard_at = self._clock()
        self._failures = 0
        self._ready.extend(self._parser.feed(data))

    def _lost(self) -> None:
        """Plan the next connection."""
        self._drop()
        step = self._retry if self._parser.retry is None else self._parser.retry
        self._retry = step
        # At least what the hub asks for, more with each failure, and never for all subscribers alike.
        seconds = step / 1000
        if self._failures > 1:
            doublings = min(self._failures - 1, _MAX_DOUBLINGS)
            longest = max(seconds, _LONGEST_PAUSE)
            seconds = min(longest, max(seconds, _SHORTEST_PAUSE) * 2**doublings)
        self._failures += 1
        self._resume_at = self._clock() + seconds * (1 + self._jitter() / 2)
        # The hub sends an event that was cut off again, so its beginning is dropped.
        self._parser = Parser(self._parser.last_event_id)

    def _wait_to_connect(self, deadline: float | None) -> None:
        now = self._clock()
        resume_at = now if self._resume_at is None else self._resume_at
        until = resume_at if deadline is None else min(resume_at, deadline)
        if until > now:
            self._pause(until - now)
        if self._closed.is_set():
            raise _ClosedError("the subscription is closed")
        if deadline is not None and deadline < resume_at:
            raise _OutOfTimeError

    def _open(self, cursor: str) -> StreamedAnswer:
        headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self._token()}",
            "Cache-Control": "no-cache",
            # An empty one asks for the hub's position, to resume there if the connection is lost before the
            # first event.
            # An id that the spec forbids may have no form in HTTP; the gap that follows is told.
            "Last-Event-ID": "" if forbidden_character(cursor) else cursor,
            "User-Agent": USER_AGENT,
        }
        return connection.get(
            self._url,
            headers,
            verify=self._verify,
            connect_timeout=self._connect_timeout,
            answer_timeout=_ANSWER_TIMEOUT,
        )

    def _connect(self) -> None:
        cursor = self._parser.last_event_id
        # No variable here holds the token: error trackers send the variables of each frame of a traceback.
        opened = self._open(cursor)
        try:
            self._check(opened)
        except BaseException:
            opened.close()
            raise
        is_first = not self._was_connected
        self._connection = opened
        self._was_connected = True
        self._heard_at = self._clock()
        self._note_cursor(cursor, opened, is_first=is_first)

    def _check(self, opened: StreamedAnswer) -> None:
        """Check that an answer is an event stream; a 5xx is temporary, unless it is the first answer."""
        head = opened.head
        if head.status == 200 and head.media_type == "text/event-stream":
            return
        said = reason(head, _beginning(opened))
        message = f"the hub answered {head.status}" + (f" ({said})" if said else "")
        if self._was_connected and (head.status >= 500 or head.status == 429):
            raise connection.ConnectionBroken(message)
        raise Refused(f"{message}, not an event stream; its log has the cause", head.status)

    def _note_cursor(self, requested: str, opened: StreamedAnswer, *, is_first: bool) -> None:
        headers = opened.head.headers
        answered = headers.get("Mercure-Last-Event-ID", headers.get("Last-Event-ID"))
        if answered is None:
            if not requested and not is_first and not self._begins_with_values:
                self._tell(Gap(None, None, "position"))
            return
        resumed_after = answered.encode("latin-1").decode("utf-8", "replace")
        if not requested:
            if not is_first:
                self._tell(Gap(None, resumed_after, "position"))
            self._parser = Parser(resumed_after)
            self._last_event_id = resumed_after
        elif requested not in (resumed_after, EARLIEST):
            self._tell(Gap(requested, resumed_after, "start" if is_first else "history"))

    def _tell(self, gap: Gap) -> None:
        self.gap = gap
        if self._on_gap is not None:
            self._on_gap(gap)
        elif gap.requested is None:
            _log.warning("the connection was lost before the first update: updates may be missing")
        else:
            _log.warning(
                "the hub does not have the update %r any more and resumed after %r: updates may be missing",
                gap.requested,
                gap.resumed_after,
            )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _hub(self) -> str:
        return f"{self._url.partition('?')[0]} (MERCURE_URL)"


class _ClosedError(RuntimeError):
    """The subscription is closed."""


class _OutOfTimeError(Exception):
    """The caller's deadline has passed; a TimeoutError of the socket is something else."""


def _beginning(opened: StreamedAnswer) -> bytes:
    """The beginning of an answer, to find the reason in it."""
    body = b""
    try:
        while len(body) < _MAX_REASON:
            data = opened.read(2.0)
            if not data:
                break
            body += data
    except OSError:
        pass
    return body
