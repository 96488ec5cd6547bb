"""Reading from a hub: subscriptions of the application's own, and who is connected."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from flask import current_app

from flask_mercure.errors import InvalidArgument
from flask_mercure.reading import presence
from flask_mercure.reading.position import position
from flask_mercure.reading.presence import ActiveSubscriptions
from flask_mercure.reading.subscriber import Gap, Subscription
from flask_mercure.state import HubState
from flask_mercure.topics import Topic, Topics, check_characters, matchers, subscription_url


class Reads:
    """The part of :class:`flask_mercure.Hub` that reads."""

    @property
    @abstractmethod
    def _state(self) -> HubState: ...

    def subscribe(
        self,
        topics: Topics,
        last_event_id: str | None = None,
        timeout: float | None = None,
        *,
        on_gap: Callable[[Gap], object] | None = None,
        payload: Any = None,
    ) -> Subscription:
        """Read updates, in a worker, a command or a test; never in a view, which it would hold up.

        The token comes from the app's factory, a fresh one for each connection. ::

            with mercure.subscribe("books/1") as events:
                for event in events:
                    print(event.type, event.json())

        :param topics: to subscribe to: a topic, a :class:`~flask_mercure.URLPattern`,
            :data:`~flask_mercure.EVERYTHING`, or several.
        :param last_event_id: of the last update that is known; ``earliest`` for all that the hub has.
        :param timeout: seconds without an event after which the iteration ends; default: never.
        :param on_gap: called with a :class:`~flask_mercure.Gap` when the hub does not have all that was
            missed: read the resource anew. Without it there is a warning in the log.
        :param payload: shown with the active subscriptions.
        :returns: an iterator of events with ``data``, ``id``, ``type`` and ``json()``; it is subscribed.
        :raises HubUnreachable: there is no connection. Later ones that fail are tried again.
        :raises InvalidArgument: a topic or the id cannot be expressed, or there is no topic.
        :raises Refused: the hub does not admit the subscriber.
        :raises TokenError: the factory cannot make a token.
        """
        read = self._state.configuration
        wanted = matchers(topics, read.protocol, "topics")
        if not wanted:
            raise InvalidArgument("topics is empty; name what to subscribe to")
        if last_event_id is not None:
            check_characters(last_event_id, "last_event_id")
        app = current_app._get_current_object()  # type: ignore[attr-defined]

        def token() -> str:
            with app.app_context():  # the factory may need it, and a worker's thread has none
                return read.tokens.create(wanted, None, read.own_claims, payload)

        return Subscription(
            subscription_url(read.url, read.protocol, wanted),
            token,
            verify=read.verify_tls,
            connect_timeout=read.connect_timeout,
            last_event_id=last_event_id,
            timeout=timeout,
            on_gap=on_gap,
        )

    def last_event_id(self) -> str | None:
        """Where the hub is now: give it to the page, whose stream then begins there, and nothing is missed.

        Call it **before** the data of the page is read: an update in between comes again with the stream,
        and an update that comes twice is better than one that never does. ::

            position = mercure.last_event_id()
            order = db.get_or_404(Order, id)
            return render_template("order.html", order=order, position=position)

        It takes one short request, whatever ``MERCURE_SUBSCRIPTIONS`` says; further calls during the same
        request of the app give the same answer. With hubs of others it needs active subscriptions. While the
        hub is away it takes a second at most, and is logged.

        :returns: id of the hub's newest update; ``earliest`` when it has none; ``None`` when the hub does not
            tell, in tests with :meth:`Mercure.record` too: the page's stream then begins when it is open.
        """
        return position(current_app._get_current_object(), self._state)  # type: ignore[attr-defined]

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
        read = self._state.configuration
        wanted = presence.resource(topic, read)
        allowed = presence.token_topics(wanted, read)
        # The token is in no variable: error trackers send those that an error comes through.
        return presence.fetch(wanted, read, read.tokens.create(allowed, None, read.own_claims))
