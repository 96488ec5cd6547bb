"""One hub of the app: what a view calls to publish, to let browsers subscribe, to make the hub known."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from flask import Response, after_this_request, current_app
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure import grants, page_session, revocation
from flask_mercure.config.values import OnFailure
from flask_mercure.errors import InvalidArgument, requiring_sqlalchemy
from flask_mercure.pages import add_links, hub_link, page_url, self_link
from flask_mercure.publishing import recorder
from flask_mercure.publishing.pipeline import Pipeline, pipeline_of
from flask_mercure.publishing.progress import FAILED, Progress
from flask_mercure.publishing.runs import Attempt, Run, ending
from flask_mercure.publishing.stream import (
    BROKEN_OFF,
    Grouping,
    delivery_to,
    publish_async_text,
    publish_text,
)
from flask_mercure.reading import presence
from flask_mercure.reading.people import Presence, PresenceCount, count_grants_for, grants_for
from flask_mercure.reading.position import position
from flask_mercure.reading.presence import ActiveSubscriptions
from flask_mercure.reading.subscriber import Gap, Subscription
from flask_mercure.state import HubState, state_of
from flask_mercure.tokens import User
from flask_mercure.topics import Topic, Topics, check_characters, matchers, subscription_url
from flask_mercure.updates import UNSET, Batch, Unset, Update, publications
from mercure_hub.protocol.update import EARLIEST

if TYPE_CHECKING:
    from flask_mercure.database.outbox import OutboxWriter, Target
    from flask_mercure.database.rules import Topics as BroadcastTopics
    from flask_mercure.encryption import Recipients


_P = ParamSpec("_P")
_R = TypeVar("_R")
_Model = TypeVar("_Model", bound=type[Any])
_Callback = TypeVar("_Callback", bound=Callable[[], Any])
_SignIn = TypeVar("_SignIn", bound=Callable[[str], Any])
# flask.redirect() gives this one, flask.make_response() a subclass
_Response = TypeVar("_Response", bound=BaseResponse)


class HubOperations(ABC):
    """What an app does with a hub, and what :class:`~flask_mercure.HubClient` does without an app."""

    @property
    @abstractmethod
    def _state(self) -> HubState:
        """The hub."""

    @property
    @abstractmethod
    def _pipeline(self) -> Pipeline:
        """The path of updates to it."""

    @abstractmethod
    def _position(self) -> str | None:
        """The hub's position."""

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        private: bool = True,
        id: str | None = None,
        type: str | None = None,
        retry: int | None = None,
        encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET,
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish an update (spec, Publication).

        It is sent once. After :class:`~flask_mercure.PublishError`, the attribute ``possibly_published``
        tells whether subscribers may get the update twice if it is published again.

        :param topics: the canonical topic, or several: the canonical one and its alternates.
        :param data: a ``str`` is sent as it is, a :class:`~flask_mercure.TurboStream` as HTML with the type
            ``turbo``, anything else as JSON, by Flask's provider.
        :param private: ``False`` for an update that everybody who can connect may read.
        :param id: of the update; by default the hub makes one.
        :param type: event type, for ``addEventListener`` in the browser. Of the types ``turbo`` and ``htmx``
            pages take HTML: the data must be :class:`~markupsafe.Markup`, or with ``turbo`` a
            :class:`~flask_mercure.TurboStream`.
        :param retry: milliseconds after which a browser that lost the connection tries again.
        :param encrypt_for: keys of those who can read the update, as in :meth:`Mercure.encrypt`; by default
            the update is not encrypted.
        :param on_failure: what happens if it cannot be published: ``raise``; ``log``; or ``background``:
            a thread sends it and the caller never waits. Default: ``MERCURE_ON_FAILURE``. With ``log``
            and ``background`` the id is returned in any case.
        :returns: the id of the update.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update, or the type is of HTML and the data is not.
        :raises PublishError: the hub refused it, or could not be reached.
        :raises TypeError: an argument has the wrong type, or ``data`` cannot be written as JSON.
        """
        publication = Update(topics, data, private, id, type, retry, encrypt_for).publication()
        return self._pipeline.publish(self._state, [publication], on_failure)[0]

    def publish_many(self, updates: Iterable[Update], *, on_failure: OnFailure | None = None) -> list[str]:
        """Publish updates together, in order (docs/protocol.md, Batches).

        A hub of this project gets them in one request and stores all or none of them. Another hub gets one
        request for each; when one fails, ``published`` of the error has the ids of those before it.

        :param updates: at most 1000, or none.
        :param on_failure: as of :meth:`publish`. With ``background`` each is sent alone.
        :returns: their ids, in order.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse an update, whose index is in the message.
        :raises PublishError: the hub refused them, or could not be reached.
        :raises TypeError: an element is not an :class:`~flask_mercure.Update`, or a value has the wrong type.
        """
        checked = publications(updates)
        return self._pipeline.publish(self._state, checked, on_failure) if checked else []

    def batch(self, *, on_failure: OnFailure | None = None) -> Batch:
        """Collect updates in a ``with`` block and publish them together at its end, unless it raises.

        :param on_failure: as of :meth:`publish_many`.
        :returns: an object with ``publish``, which takes the arguments of :meth:`publish`, and later ``ids``.
        """
        return Batch(lambda updates: self._pipeline.publish(self._state, updates, on_failure))

    def stream(
        self,
        topics: str | Iterable[str],
        tokens: Iterable[str],
        *,
        private: bool = True,
        type: str | None = None,
        stream_id: str | None = None,
        interval: float = 0.1,
        size: int = 2000,
        error: str = BROKEN_OFF,
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish text while it is made, such as the tokens of a language model.

        Tokens are joined to updates; each is a JSON object with ``stream``, ``seq`` (counted from 0) and
        ``kind``: ``text``, ``done`` with the whole text, or ``error`` with ``message``. While the hub is
        away, for 30 seconds at most, an update is tried again under the same id and ``seq``. The last one is
        tried even if others failed. To stop, let ``tokens`` end: subscribers get ``done`` with the text so
        far.

        :param topics: the canonical topic, or several.
        :param tokens: gives the text, piece by piece; a generator is closed at the end.
        :param private: ``False`` for an update that everybody who can connect may read.
        :param type: event type.
        :param stream_id: tells this text from others of the topic; default: a new UUID.
        :param interval: seconds from one update to the next, at least.
        :param size: characters that are sent at once, whatever the interval.
        :param error: what subscribers get when ``tokens`` raises, in place of its message, which may hold
            secrets.
        :param on_failure: as of :meth:`publish`, for an update that could not be published: ``raise`` ends
            the source; with ``log`` and ``background`` it goes on, and the text is returned in any case.
        :returns: the whole text.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        :raises PublishError: the hub refused an update, or could not be reached, and does not have the end.
        :raises TypeError: ``tokens`` is not iterable, or gives something other than ``str``.
        :raises Exception: what ``tokens`` raises, after an update of the kind ``error``.
        """
        delivery = delivery_to(
            self._pipeline, self._state, topics, private=private, type=type, on_failure=on_failure
        )
        grouping = Grouping(interval, size)
        return publish_text(tokens, delivery, grouping, stream_id=stream_id, error=error)

    async def astream(
        self,
        topics: str | Iterable[str],
        tokens: AsyncIterable[str],
        *,
        private: bool = True,
        type: str | None = None,
        stream_id: str | None = None,
        interval: float = 0.1,
        size: int = 2000,
        error: str = BROKEN_OFF,
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish text of an asynchronous source, in an ``async def`` view or task; see :meth:`stream`.

        Requests to the hub run in a thread, so that the event loop does not wait for them. When the task is
        cancelled, subscribers get ``error``.

        :param tokens: gives the text to ``async for``; closed at the end if it can be.
        :returns: the whole text.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        :raises PublishError: the hub refused an update, or could not be reached, and does not have the end.
        :raises TypeError: ``tokens`` is not an async iterable, or gives something other than ``str``.
        :raises Exception: what ``tokens`` raises, after an update of the kind ``error``.
        """
        delivery = delivery_to(
            self._pipeline, self._state, topics, private=private, type=type, on_failure=on_failure
        )
        grouping = Grouping(interval, size)
        return await publish_async_text(tokens, delivery, grouping, stream_id=stream_id, error=error)

    def progress(
        self,
        topic: str,
        total: float | None = None,
        *,
        private: bool = True,
        type: str = "progress",
        interval: float = 0.25,
        error: str = FAILED,
        will_retry: bool = False,
    ) -> Progress:
        """Publish how far a job is, in a ``with`` block: how it goes on, and exactly one end. ::

            with mercure.progress(build_topic("jobs/{}", job.id)) as step:
                for row in step.of(rows):
                    save(row)

        Pages follow with ``mercure_progress()``, from the present state on whenever they are loaded. The job
        does not wait for the hub and does not fail because of it: updates that the hub does not take are
        logged and left out. The end is tried again for 30 seconds.

        :param topic: of this run of the job alone.
        :param total: number of steps, if it is known.
        :param private: ``False`` for updates that everybody who can connect may read.
        :param type: event type.
        :param interval: seconds from one update to the next, at least; a hundredth of the time that the job
            has taken, if that is longer.
        :param error: what pages get when the block raises, in place of its message, which may hold secrets.
        :param will_retry: the job is tried again when the block raises: pages get no end then.
        :returns: what the block calls after each step: ``step()``, ``step(10)``, ``step(label="page 3")``,
            ``step.set(7)``. ``step.of(items)`` counts while it iterates. ``step.result`` goes to the pages
            with the end of a job that is done.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        """
        delivery = delivery_to(
            self._pipeline, self._state, topic, private=private, type=type, on_failure="raise"
        )
        return Progress(delivery, total, interval, None if will_retry else error)

    def stream_events(
        self,
        topic: str,
        events: Iterable[Any] | AsyncIterable[Any],
        *,
        private: bool = True,
        type: str | None = None,
        interval: float = 0.1,
        size: int = 2000,
        error: str = BROKEN_OFF,
        will_retry: bool = False,
    ) -> Run:
        """Publish a run: events on a topic of their own while they are made, and exactly one end. ::

            @celery.task(acks_late=True)
            def answer(topic, messages):
                run = mercure.stream_events(topic, model.generate(messages))
                save(messages, run.text)

        Call it in a job or a thread, not in a view, whose request would wait. Pages follow the run from its
        beginning whenever they are loaded, with ``runs.js`` or ``ai.js`` (docs/llm.md). It ends when
        ``events`` does (``done``), when that raises (``error``), or with :meth:`stop`, in whichever process.
        If the job is tried again, pages go over to the new attempt; if the run had ended, ``events`` is not
        started, and the events are those of the earlier attempt.

        :param topic: of this run alone, such as ``build_topic("/users/{}/runs/{}", user.id, uuid4())``.
        :param events: gives strings, or what can be written as JSON; closed at the end if it can be.
        :param private: ``False`` for updates that everybody who can connect may read.
        :param type: event type.
        :param interval: seconds from one update to the next, at least.
        :param size: characters, as JSON, that are sent at once, whatever the interval.
        :param error: what subscribers get when ``events`` raises, in place of its message, which may hold
            secrets.
        :param will_retry: the job is tried again when this raises: subscribers get no end then.
        :returns: how it ended, and the events.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        :raises PublishError: the hub refused an update, or could not be reached for 30 seconds.
        :raises TypeError: ``events`` is not iterable, or gives what cannot be written as JSON.
        :raises Exception: what ``events`` raises.
        """
        if isinstance(events, AsyncIterable):
            if _is_in_event_loop():
                raise RuntimeError("events would block the event loop; await mercure.astream_events()")
        elif not isinstance(events, Iterable) or isinstance(events, str):
            raise TypeError(f"events is a {events.__class__.__name__}; give an iterable of events")
        attempt = self._attempt(topic, Grouping(interval, size), private=private, type=type)
        told = None if will_retry else error
        if isinstance(events, AsyncIterable):
            return asyncio.run(attempt.publish_async(events, told))
        return attempt.publish(events, told)

    async def astream_events(
        self,
        topic: str,
        events: AsyncIterable[Any],
        *,
        private: bool = True,
        type: str | None = None,
        interval: float = 0.1,
        size: int = 2000,
        error: str = BROKEN_OFF,
        will_retry: bool = False,
    ) -> Run:
        """Publish a run in an asynchronous task; arguments and result are those of :meth:`stream_events`.

        :param events: gives the events to ``async for``; closed at the end if it can be.
        :raises InvalidArgument: a value is out of range, or the hub would refuse it.
        :raises PublishError: the hub refused an update, or could not be reached for 30 seconds.
        :raises TypeError: ``events`` is no async iterable, or gives what cannot be written as JSON.
        :raises Exception: what ``events`` raises.
        """
        if not isinstance(events, AsyncIterable):
            raise TypeError(
                f"events is a {events.__class__.__name__}, not an async iterable; use mercure.stream_events()"
            )
        attempt = self._attempt(topic, Grouping(interval, size), private=private, type=type)
        return await attempt.publish_async(events, None if will_retry else error)

    def stop(
        self, topic: str, *, private: bool = True, type: str | None = None, error: str | None = None
    ) -> None:
        """End a run of :meth:`stream_events` from any process, also one that has not begun or has died.

        Its subscribers get the end at once. The job learns of it in less than a second, closes ``events``
        at the next one that it gives, and returns. A run that has ended stays as it is.

        Check first that the user may stop it: build the topic from the user's id and the id of the run.

        :param topic: of the run.
        :param private: as of the run.
        :param type: as of the run.
        :param error: the run has failed, and subscribers get this sentence; for a supervisor that finds that
            its worker is gone.
        :raises InvalidArgument: the hub would refuse the topic.
        :raises PublishError: the hub refused the update, or could not be reached.
        """
        data, id = ending(topic, error)
        self.publish(topic, data, private=private, id=id, type=type, on_failure="raise")

    def _attempt(self, topic: str, grouping: Grouping, *, private: bool, type: str | None) -> Attempt:
        delivery = delivery_to(
            self._pipeline, self._state, topic, private=private, type=type, on_failure="raise"
        )
        # Nobody answers in tests with record().
        subscribe = None if recorder.is_recording() else partial(self.subscribe, topic, EARLIEST)
        return Attempt(topic, delivery, grouping, subscribe)

    def subscribe(
        self,
        topics: Topics,
        last_event_id: str | None = None,
        timeout: float | None = None,
        *,
        on_gap: Callable[[Gap], object] | None = None,
        payload: Any = None,
        last_value: bool = False,
    ) -> Subscription:
        """Read updates, in a worker, a command or a test; not in a view, whose request would wait.

        The token comes from the app's factory, a fresh one for each connection. ::

            with mercure.subscribe("books/1") as events:
                for event in events:
                    print(event.type, event.json())

        :param topics: to subscribe to: a topic, a :class:`~flask_mercure.URLPattern`,
            :data:`~flask_mercure.EVERYTHING`, or several.
        :param last_event_id: of the last update that is known; ``earliest`` for all that the hub has.
        :param timeout: seconds without an event after which the iteration ends; default: never.
        :param on_gap: called with a :class:`~flask_mercure.Gap` when the hub does not have all updates that
            were missed: read the resource again. By default the log gets a warning.
        :param payload: shown with the active subscriptions.
        :param last_value: without ``last_event_id``, begin with the newest update of each topic; the hub has
            to be of this project.
        :returns: an iterator of events with ``data``, ``id``, ``type`` and ``json()``; it is subscribed.
        :raises HubUnreachable: there is no connection. Later ones that fail are tried again.
        :raises InvalidArgument: a topic or the id cannot be expressed, or there is no topic.
        :raises Refused: the hub does not admit the subscriber.
        :raises TokenError: the factory cannot make a token.
        """
        configuration = self._state.configuration
        wanted = matchers(topics, configuration.protocol, "topics")
        if not wanted:
            raise InvalidArgument("topics is empty; name what to subscribe to")
        if last_event_id is not None:
            check_characters(last_event_id, "last_event_id")
        context = self._pipeline.context

        def token() -> str:
            with context():  # the factory may need it, and a worker's thread has none
                return configuration.tokens.create(wanted, None, configuration.own_claims, payload)

        return Subscription(
            subscription_url(configuration.url, configuration.protocol, wanted, last_value=last_value),
            token,
            verify=configuration.verify_tls,
            connect_timeout=configuration.connect_timeout,
            last_event_id=last_event_id,
            timeout=timeout,
            on_gap=on_gap,
            begins_with_values=last_value,
        )

    def last_event_id(self) -> str | None:
        """The hub's position: give it to the page, whose stream then begins there and misses nothing.

        Call it **before** the data of the page is read: an update in between comes again with the stream,
        and an update that comes twice is better than one that never does. ::

            position = mercure.last_event_id()
            order = db.get_or_404(Order, id)
            return render_template("order.html", order=order, position=position)

        It takes one short request, whatever ``MERCURE_SUBSCRIPTIONS`` says; further calls during the same
        request of the app give the same answer. With other hubs it needs active subscriptions. While the
        hub is away it takes a second at most, and is logged.

        :returns: id of the hub's newest update; ``earliest`` when it has none; ``None`` when the hub does not
            tell, and in tests with :meth:`Mercure.record`: the page's stream then begins when it is open.
        """
        return self._position()

    def _beginning(self, last_event_id: str | None, *, last_value: bool) -> str | None:
        """Where the stream of a page begins."""
        if last_value and last_event_id is not None:
            raise InvalidArgument("give last_event_id or last_value, not both")
        return self.last_event_id() if last_event_id is None and not last_value else last_event_id

    def subscriptions(self, topic: Topic | None = None) -> ActiveSubscriptions:
        """Who is connected now (spec, Subscription API); the hub needs ``MERCURE_SUBSCRIPTIONS=1``.

        To see who comes and goes from then on, without a gap::

            active = mercure.subscriptions()
            for event in mercure.subscribe(active.events, active.last_event_id):
                print(event.json()["subscriber"], event.json()["active"])

        :param topic: only the subscriptions of this topic or pattern, as the subscribers wrote it.
        :raises HubUnreachable: the hub gave no answer.
        :raises InvalidArgument: the topic cannot be expressed.
        :raises Refused: the hub does not show it, or does not have the feature.
        :raises TokenError: the factory cannot make a token.
        """
        configuration = self._state.configuration
        wanted = presence.resource(topic, configuration)
        allowed = presence.token_topics(wanted, configuration)
        # The token is not in a variable: error trackers send the variables of each frame of a traceback.
        return presence.fetch(
            wanted, configuration, configuration.tokens.create(allowed, None, configuration.own_claims)
        )

    def presence(self, topic: str) -> Presence:
        """Who is at a topic now, one entry a person; the hub needs ``MERCURE_SUBSCRIPTIONS=1``.

        A browser may see the people of a topic when its cookie has these grants::

            @mercure.subscribe_grants
            def may_read():
                return Grants(["items/7", *mercure.presence("items/7").grants], payload={"name": ...})

        :param topic: an exact topic. Who has subscribed to it by a pattern is not at the topic.
        :returns: an iterable of people, with ``people``, ``count``, ``grants``, ``events`` and
            ``last_event_id``. The hub is asked when one of these but ``grants`` is first read.
        :raises InvalidArgument: the topic cannot be expressed, or is too long.
        :raises TypeError: it is no exact topic.
        """
        grants = grants_for(topic, self._state.configuration)
        return Presence(topic, grants, partial(self.subscriptions, topic))

    def presence_count(self, topic: str) -> PresenceCount:
        """How many are connected to a topic, without who; for this project's hub (docs/protocol.md, Counts).

        It is meant for topics with thousands of readers: the hub tells a number once a second at most, and no
        event for each who comes or goes. ::

            @mercure.subscribe_grants
            def may_read():
                return ["rooms/big", *mercure.presence_count("rooms/big").grants]

        :param topic: an exact topic. Counted are the connections whose token has these grants.
        :returns: an object with ``grants`` and ``count``. The hub is asked when ``count`` is first read.
        :raises InvalidArgument: the topic cannot be expressed, or is too long.
        :raises TypeError: it is no exact topic.
        """
        grants = count_grants_for(topic, self._state.configuration)
        return PresenceCount(topic, grants, partial(self._count, topic))

    def _count(self, topic: str) -> int:
        configuration = self._state.configuration
        wanted = presence.count_of(topic)
        allowed = presence.token_topics(wanted, configuration)
        # The token is not in a variable: error trackers send the variables of each frame of a traceback.
        return presence.fetch_count(
            wanted, configuration, configuration.tokens.create(allowed, None, configuration.own_claims)
        )

    def url(self, topics: Topics = (), last_event_id: str | None = None, *, last_value: bool = False) -> str:
        """The URL to open an ``EventSource`` with; templates have it as ``mercure_url``.

        :param topics: to subscribe to; none gives the hub's URL.
        :param last_event_id: of the last update that the page includes.
        :param last_value: begin with the newest update of each topic; the hub has to be of this project.
        :raises InvalidArgument: a topic or the id holds forbidden characters.
        """
        configuration = self._state.configuration
        return subscription_url(
            page_url(configuration), configuration.protocol, topics, last_event_id, last_value=last_value
        )

    def create_token(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        *,
        lifetime: float | timedelta | None = None,
        payload: Any = None,
        user: User | None = None,
    ) -> str:
        """Make a token with the app's factory, for a client that is no browser or sends a header.

        :param subscribe: topics whose private updates may be read: a topic, a
            :class:`~flask_mercure.URLPattern`, :data:`~flask_mercure.EVERYTHING`, or several.
        :param publish: topics on which updates may be published, in the same forms.
        :param additional_claims: replace or join those of the token.
        :param lifetime: seconds or a timedelta; default: ``MERCURE_TOKEN_LIFETIME``.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :param user: whose token it is, its ``sub``; default: the current user of Flask-Login or
            Flask-JWT-Extended. Without any, ``sub`` is random.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        :raises TokenError: the factory cannot make such a token.
        """
        return grants.create_token(
            self._state,
            subscribe,
            publish,
            additional_claims,
            lifetime=lifetime,
            payload=payload,
            user=user,
        )

    def revoke(
        self,
        user: User | None = None,
        *,
        topics: Topics = (),
        sid: str | None = None,
        jti: str | None = None,
        lifetime: float | timedelta | None = None,
    ) -> None:
        """End access at once (docs/protocol.md, Revocations); the hub needs ``MERCURE_REVOCATIONS=1``.

        The streams and WebSockets end within a second, in all processes of the hub, and the hub refuses the
        tokens until they would have expired. What is issued from now on counts: a user who may still sign in
        gets a new cookie. In a view, the response gives the browser of that request a new one. ::

            mercure.revoke(user)  # the account is locked, or the password has changed
            mercure.revoke(user.id, topics=[build_topic("rooms/{}", room.id)])  # no longer a member

        :param user: user whose tokens end, on all browsers and devices: an id, or an object whose ``get_id``
            returns it.
        :param topics: only those of the user's tokens that grant one of these: topics, or patterns as they
            were granted. Such a token is refused as a whole.
        :param sid: in place of the user: tokens with this claim, of a session.
        :param jti: in place of the user: the token with this claim.
        :param lifetime: seconds or a timedelta for which such tokens may still be valid; default: 30 days,
            or ``MERCURE_TOKEN_LIFETIME`` if that is longer.
        :raises HubUnreachable: the hub gave no answer; calling it again does no harm.
        :raises InvalidArgument: nobody is named, or a topic cannot be expressed.
        :raises Refused: the hub does not allow it, or does not have the feature.
        :raises TypeError: the user, ``sid`` or ``jti`` is no id.
        :raises TokenError: the factory cannot make a token.
        """
        revocation.revoke(self._state, user, topics, sid=sid, jti=jti, lifetime=lifetime)

    def claims(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        payload: Any = None,
    ) -> dict[str, Any]:
        """All claims of a token for the app's hub, to be signed by a JWT library of the app's own.

        Meant for the object of ``MERCURE_TOKEN_FACTORY``, which passes its arguments on. In protocol 1.0 the
        header of the token must have ``"typ": "at+jwt"`` (RFC 9068).

        :param subscribe: as in :meth:`create_token`.
        :param publish: as in :meth:`create_token`.
        :param additional_claims: replace or join the standard claims.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        """
        factory = self._state.configuration.own_factory
        return factory.claims(subscribe, publish, additional_claims, payload)


class Hub(HubOperations):
    """A hub that the configuration names; :meth:`flask_mercure.Mercure.hub` gives it.

    The object belongs to no app; what it does concerns the app whose context is active.

    :param name: in the configuration; ``None`` for the default hub.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._user_cookie = grants.UserCookie(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self._name is None else repr(self._name)})"

    @property
    def _state(self) -> HubState:
        """The hub, in the app whose context is active."""
        return state_of(current_app).hub(self._name)

    @property
    def _pipeline(self) -> Pipeline:
        return pipeline_of(current_app)

    def _position(self) -> str | None:
        return position(current_app._get_current_object(), self._state)  # type: ignore[attr-defined]

    @overload
    def discover(
        self,
        response: _Response,
        *,
        topic: str | None = None,
        last_event_id: str | None = None,
        content_type: str | None = None,
        type: str | None = None,
        key_set: str | None = None,
    ) -> _Response: ...

    @overload
    def discover(
        self,
        response: None = None,
        *,
        topic: str | None = None,
        last_event_id: str | None = None,
        content_type: str | None = None,
        type: str | None = None,
        key_set: str | None = None,
    ) -> None: ...

    def discover(
        self,
        response: _Response | None = None,
        *,
        topic: str | None = None,
        last_event_id: str | None = None,
        content_type: str | None = None,
        type: str | None = None,
        key_set: str | None = None,
    ) -> _Response | None:
        """Advertise the hub, and the topic of the resource, in ``Link`` headers (spec, Discovery; RFC 8288).

        Calling it again for a response replaces what it added before. Scripts of other origins read the
        headers only when ``Access-Control-Expose-Headers`` names ``Link``.

        :param response: to add the links to; without one, the response of the current request gets them.
        :param topic: canonical topic of the resource, advertised with ``rel="self"``.
        :param last_event_id: of the last update that the resource includes.
        :param content_type: media type of the updates, where it is not that of the resource.
        :param type: event type of the updates, where they have one.
        :param key_set: URL of the view with the keys (:meth:`key_set`), where the updates are encrypted.
        :returns: the response that was given.
        :raises InvalidArgument: a value cannot be written into a header.
        """
        configuration = self._state.configuration
        links = [
            hub_link(
                page_url(configuration),
                last_event_id=last_event_id,
                content_type=content_type,
                type=type,
                key_set=key_set,
            )
        ]
        if topic is not None:
            links.insert(0, self_link(check_characters(topic, "topic")))
        if response is not None:
            add_links(response.headers, *links)
            return response

        @after_this_request
        def advertise(late: Response) -> Response:
            add_links(late.headers, *links)
            return late

        return None

    def set_cookie(
        self,
        response: _Response,
        subscribe: Topics = (),
        *,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        lifetime: float | timedelta | None = None,
        payload: Any = None,
        user: User | None = None,
    ) -> _Response:
        """Give the browser a token, in the cookie that it sends to the hub (spec, Cookie).

        The cookie ends with the token. Set it where the user signs in, and again before it ends.

        :param response: to add the cookie to.
        :param subscribe: topics whose private updates the browser may read: a topic, a
            :class:`~flask_mercure.URLPattern`, :data:`~flask_mercure.EVERYTHING`, or several.
        :param publish: topics on which the browser itself may publish; seldom needed.
        :param additional_claims: replace or join those of the token.
        :param lifetime: seconds or a timedelta; default: ``MERCURE_TOKEN_LIFETIME``.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :param user: whose token it is, its ``sub``; default: the current user of Flask-Login or
            Flask-JWT-Extended. Without any, ``sub`` is random.
        :returns: the response.
        :raises CookieError: a browser would refuse the cookie, or not send it to the hub.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        :raises TokenError: the factory cannot make such a token.
        """
        grants.set_cookie(
            self._state,
            response,
            subscribe,
            publish=publish,
            additional_claims=additional_claims,
            lifetime=lifetime,
            payload=payload,
            user=user,
        )
        return response

    def session(
        self,
        topics: Topics = (),
        last_event_id: str | None = None,
        *,
        token: bool = False,
        last_value: bool = False,
    ) -> Response:
        """The answer of a view with all that a page needs for its stream, for a single-page application. ::

            @app.get("/session")
            @login_required
            def session():
                return mercure.session(["orders/42"])

        In the page, ``connect(await (await fetch("/session")).json())`` takes it as it is. It sets the cookie
        with what :meth:`subscribe_grants` tells, and says where and when the page renews that. Without
        ``subscribe_grants`` there is no cookie: add one with :meth:`set_cookie`, or read public updates only.

        :param topics: that ``connect()`` subscribes to. The page can subscribe to others later.
        :param last_event_id: of the last update that the page has; default: :meth:`last_event_id` of now, so
            that the page misses nothing of what it fetches afterwards.
        :param token: put a token into the answer in place of the cookie, for a page whose browser sends no
            cookie to the hub: one of another site than the hub, or an app of a phone.
        :param last_value: begin with the newest update of each topic, in place of a position.
        :returns: a JSON document that no cache keeps.
        :raises ConfigurationError: a token is wanted, and nothing tells what it may read.
        :raises CookieError: a browser would refuse the cookie, or not send it to the hub.
        :raises InvalidArgument: a topic or the id cannot be expressed.
        :raises NotGranted: the user may not read a topic, or nobody is signed in; the view then answers 403
            or 401.
        :raises TokenError: the factory cannot make such a token.
        """
        position = self._beginning(last_event_id, last_value=last_value)
        return page_session.session(
            self._state, self._user_cookie, topics, position, token=token, last_value=last_value
        )

    def clear_cookie(self, response: _Response) -> _Response:
        """Make the browser delete the cookie, where the user signs out.

        The token in it stays valid until its end, and so does a stream that is open: the page closes it by
        leaving. With ``MERCURE_REVOKE_ON_LOGOUT``, the hub ends both.

        :param response: to add the empty cookie to.
        :returns: the response.
        :raises CookieError: no browser can have the cookie from this host.
        """
        grants.clear_cookie(self._state, response)
        return response

    @overload
    def subscribe_grants(self, callback: _Callback, /) -> _Callback: ...

    @overload
    def subscribe_grants(self, *, automatic: bool = True) -> Callable[[_Callback], _Callback]: ...

    def subscribe_grants(self, callback: Any = None, *, automatic: bool = True) -> Any:
        """Register what tells which topics the current user may read.

        The callback takes no argument and is called in the context of the request, after its view. It returns
        topics, :class:`~flask_mercure.Grants`, or ``None`` for a visitor who gets no cookie. The cookie is
        then set when the browser has none, is renewed in the last third of its life, is replaced when the
        user or the topics are others, and is deleted when there is no user any more; other responses
        stay as they are. What a view sets with :meth:`set_cookie` wins in its response.

        What the callback raises is logged, and the response left as it is, but for the cookie of an earlier
        user; in tests and debug mode it is raised, but not in place of an error.

        :param callback: the function; the decorator can be used without parentheses.
        :param automatic: whether each response may give the cookie; ``False``: only views with
            :meth:`subscriber` give it, and all responses still replace or delete it.
        """

        def register(function: _Callback) -> _Callback:
            self._user_cookie.register(function, automatic=automatic)
            return function

        return register if callback is None else register(callback)

    def explain_user(self, function: _SignIn, /) -> _SignIn:
        """Register what makes a user the current one, for ``flask mercure explain``.

        Needed by apps without Flask-Login and Flask-JWT-Extended. The function is given the user's id, in the
        context of a request of its own, before :meth:`subscribe_grants` is asked. ::

            @mercure.explain_user
            def sign_in(user_id):
                session["user"] = user_id

        :param function: does what a login of the app does.
        """
        self._user_cookie.sign_in = function
        return function

    def subscriber(self, view: Callable[_P, _R]) -> Callable[_P, _R]:
        """Have a view give the browser the cookie, with what :meth:`subscribe_grants` tells.

        Needed with ``subscribe_grants(automatic=False)``; put it below ``@app.route``.

        :param view: whose page opens a stream.
        """
        return self._user_cookie.given_by(view)

    def outbox(self, target: Target | None = None) -> OutboxWriter:
        """Publish within a transaction: the update is stored by its commit, and a relay sends it.

        :param target: a SQLAlchemy session, or a connection that has a transaction; default: the app's
            current session, and without such a thing a transaction for each update.
        :returns: an object with ``publish``, which takes the arguments of :meth:`publish`.
        :raises ConfigurationError: SQLAlchemy is not installed; from ``publish``: the app has no outbox.
        """
        with requiring_sqlalchemy("mercure.outbox()"):
            from flask_mercure.database.outbox import OutboxWriter  # noqa: PLC0415
        return OutboxWriter(self._name, target)

    @overload
    def broadcast(
        self,
        topics: BroadcastTopics,
        *,
        columns: Collection[str],
        private: bool | Callable[[Any], bool] = ...,
        on: str | Iterable[str] = ...,
        type: str | Callable[[Any], str | None] | None = ...,
        deleted: Any = ...,
        on_failure: OnFailure | None = ...,
    ) -> Callable[[_Model], _Model]: ...

    @overload
    def broadcast(
        self,
        topics: BroadcastTopics,
        *,
        serializer: Any,
        private: bool | Callable[[Any], bool] = ...,
        on: str | Iterable[str] = ...,
        type: str | Callable[[Any], str | None] | None = ...,
        deleted: Any = ...,
        on_failure: OnFailure | None = ...,
    ) -> Callable[[_Model], _Model]: ...

    @overload
    def broadcast(
        self,
        topics: BroadcastTopics,
        *,
        template: str,
        private: bool | Callable[[Any], bool] = ...,
        target: str | Callable[[Any], str] | None = ...,
        actions: Mapping[str, str] | None = ...,
        format: Literal["turbo", "htmx"] | None = ...,
        on: str | Iterable[str] = ...,
        on_failure: OnFailure | None = ...,
    ) -> Callable[[_Model], _Model]: ...

    def broadcast(
        self,
        topics: BroadcastTopics,
        *,
        columns: Collection[str] | None = None,
        serializer: Any = None,
        private: bool | Callable[[Any], bool] = True,
        on: str | Iterable[str] = ("create", "update", "delete"),
        type: str | Callable[[Any], str | None] | None = None,
        deleted: Any = None,
        on_failure: OnFailure | None = None,
        template: str | None = None,
        target: str | Callable[[Any], str] | None = None,
        actions: Mapping[str, str] | None = None,
        format: Literal["turbo", "htmx"] | None = None,
    ) -> Callable[[_Model], _Model]:
        """Mark a SQLAlchemy model: what happens to its objects is published when it is committed. ::

            @mercure.broadcast("books/{id}", columns=("id", "title"), private=False)
            class Book(db.Model): ...

            @mercure.broadcast("orders", template="_order.html", private=True)
            class Order(db.Model): ...

        The content has no default: say ``columns``, ``serializer`` or ``template``.

        Each object gets one update for a transaction, with its last state. With ``MERCURE_OUTBOX`` the update
        is written in the transaction; without, it is sent after the commit. Statements that bypass the
        session, such as ``update(Book).where(...)``, publish nothing. A topic that an object loses by an
        update gets a deletion, if ``on`` has ``delete``.

        :param topics: ``"books/{id}"``, a format string over the object's attributes, which are encoded as by
            :func:`~flask_mercure.build_topic`; a callable that is given the object and returns a topic,
            several, or none to publish nothing; or several of these.
        :param columns: names of attributes: all that subscribers can read.
        :param serializer: in their place a callable that is given the object, or an object with ``dump``,
            such as a marshmallow schema.
        :param private: ``False`` for an update that everybody who can connect may read; or a callable that
            is given the object and returns ``True`` or ``False``.
        :param on: ``create``, ``update``, ``delete``, or several.
        :param type: event type, or a callable that is given one of these three words; not with ``template``.
        :param deleted: serializer for deletions; default: the primary key and ``"deleted": true``.
        :param on_failure: as for :meth:`publish`; default: ``MERCURE_ON_FAILURE``, or ``log`` where that is
            ``raise``. An object that cannot be serialised or rendered is logged too, unless this is
            ``raise``, with which the commit fails.
        :param template: a partial, in place of ``columns``: pages add, replace and remove the element that it
            makes. It has the object as ``order`` for the class ``Order``, and writes
            ``id="{{ dom_id(order) }}"``. It is rendered within the transaction and without the request.
        :param target: id of the element that holds those elements, or a callable that is given the object;
            default: the first topic, if that is a plain string.
        :param actions: what pages do, where it is not ``append``, ``replace`` and ``remove``:
            ``{"create": "prepend"}``; with Turbo also ``{"update": "morph"}``, and ``refresh`` for each.
        :param format: ``turbo`` (default) for Turbo Streams, or ``htmx`` for its out-of-band swaps; it is the
            event type of the updates, too.
        :returns: a decorator for classes.
        :raises ConfigurationError: SQLAlchemy is not installed.
        :raises InvalidArgument: a value is not one of those that there are.
        :raises TypeError: a value is of the wrong type, or the class is no model.
        """
        with requiring_sqlalchemy("mercure.broadcast()"):
            from flask_mercure.database.models import broadcast_model  # noqa: PLC0415
            from flask_mercure.database.rules import make_rule  # noqa: PLC0415
        rule = make_rule(
            self._name,
            topics,
            columns=columns,
            serializer=serializer,
            private=private,
            on=on,
            type=type,
            deleted=deleted,
            on_failure=on_failure,
            template=template,
            target=target,
            actions=actions,
            format=format,
        )
        return lambda model: broadcast_model(model, rule)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
