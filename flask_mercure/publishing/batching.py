"""Publishing more than one update: batches, and text that comes bit by bit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from flask import current_app

from flask_mercure.errors import MercureError
from flask_mercure.publishing import token_stream
from flask_mercure.publishing.background import log_failure
from flask_mercure.publishing.delivery import deliver
from flask_mercure.publishing.reliability import reliability_of
from flask_mercure.publishing.settings import OnFailure, check_policy
from flask_mercure.publishing.token_stream import Delivery, Grouping
from flask_mercure.state import HubState
from flask_mercure.topics import exact_topics
from flask_mercure.updates import Batch, Publication, Update, as_text, publications


class PublishesMany:
    """The part of :class:`flask_mercure.Hub` that publishes more than one update."""

    @property
    @abstractmethod
    def _state(self) -> HubState: ...

    def publish_many(self, updates: Iterable[Update], *, on_failure: OnFailure | None = None) -> list[str]:
        """Publish updates together, in order (docs/protocol.md, Batches).

        A hub of this project gets them in one request and stores all of them or none. Another hub gets one
        request for each; when one fails, ``published`` of the error has the ids of those before it.

        :param updates: at most 1000; none is fine.
        :param on_failure: as of :meth:`publish`. With ``background`` each is sent alone.
        :returns: their ids, in order.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse an update, which the message names by its index.
        :raises PublishError: the hub refused them, or could not be reached.
        :raises TypeError: something is no :class:`~flask_mercure.Update`, or a value has the wrong type.
        """
        made = publications(updates)
        return deliver(self._state, made, on_failure) if made else []

    def batch(self, *, on_failure: OnFailure | None = None) -> Batch:
        """Collect updates in a ``with`` block and publish them together when it ends.

        When the block raises, nothing is published.

        :param on_failure: as of :meth:`publish_many`.
        :returns: an object with ``publish``, which takes the arguments of :meth:`publish`, and later ``ids``.
        """
        return Batch(partial(self.publish_many, on_failure=on_failure))

    def stream(
        self,
        topics: str | Iterable[str],
        tokens: Iterable[str],
        *,
        private: bool = False,
        type: str | None = None,
        stream_id: str | None = None,
        interval: float = 0.1,
        size: int = 2000,
        error: str = "The answer broke off.",
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish text as it is made, such as the tokens of a language model.

        Tokens are joined to updates; each is a JSON object with ``stream``, ``seq`` (counted from 0) and
        ``kind``: ``text``, ``done`` with the whole text, or ``error`` with ``message``. While the hub is
        away, for 30 seconds at most, an update is tried again under the same id and ``seq``. The last one is
        tried whatever became of the others. To stop, let ``tokens`` end: subscribers get ``done`` with the
        text so far.

        :param topics: the canonical topic, or several.
        :param tokens: gives the text, bit by bit; a generator is closed at the end.
        :param private: deliver only to subscribers whose token allows one of the topics.
        :param type: event type.
        :param stream_id: tells this text from others of the topic; default: a new UUID.
        :param interval: seconds from one update to the next, at least.
        :param size: characters that leave at once, whatever the time.
        :param error: what subscribers read when ``tokens`` raises: not its message, which may say too much.
        :param on_failure: as of :meth:`publish`, for an update that could not be published: ``raise`` ends
            the source; with ``log`` and ``background`` it goes on, and the text comes back in any case.
        :returns: the whole text.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        :raises PublishError: the hub refused an update, or could not be reached, and does not have the end.
        :raises TypeError: ``tokens`` is no iterable, or gives something else than ``str``.
        :raises Exception: what ``tokens`` raises, after an update of the kind ``error``.
        """
        delivery = _delivery(self._state, topics, private, type, on_failure)
        return token_stream.stream(
            tokens, delivery, Grouping(interval, size), stream_id=stream_id, error=error
        )

    async def astream(
        self,
        topics: str | Iterable[str],
        tokens: AsyncIterable[str],
        *,
        private: bool = False,
        type: str | None = None,
        stream_id: str | None = None,
        interval: float = 0.1,
        size: int = 2000,
        error: str = "The answer broke off.",
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish text of an asynchronous source, in an ``async def`` view or task; see :meth:`stream`.

        Requests to the hub run in a thread, so that the event loop does not wait for it. When the task is
        cancelled, subscribers get ``error``.

        :param tokens: gives the text to ``async for``; closed at the end where it can be.
        :returns: the whole text.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        :raises PublishError: the hub refused an update, or could not be reached, and does not have the end.
        :raises TypeError: ``tokens`` is no async iterable, or gives something else than ``str``.
        :raises Exception: what ``tokens`` raises, after an update of the kind ``error``.
        """
        delivery = _delivery(self._state, topics, private, type, on_failure)
        return await token_stream.astream(
            tokens, delivery, Grouping(interval, size), stream_id=stream_id, error=error
        )


def _delivery(
    state: HubState,
    topics: str | Iterable[str],
    private: bool,
    type: str | None,
    on_failure: OnFailure | None,
) -> Delivery:
    """How the updates of a text are published; what is wrong is told before the source starts."""
    named = exact_topics(topics)
    usual = reliability_of(current_app).settings.on_failure
    policy = usual if on_failure is None else check_policy(on_failure)
    sent: OnFailure = "background" if policy == "background" else "raise"
    template = Publication(named, "", private, type=type)

    def publish(data: dict[str, Any], id: str) -> None:
        deliver(state, [replace(template, data=as_text(data), id=id)], sent, now=True)

    def log(id: str, error: MercureError) -> None:
        log_failure(replace(template, id=id), str(error))

    return Delivery(publish, log, raises=policy == "raise")
