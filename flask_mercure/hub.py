"""One hub of the app: what a view calls to publish, to let browsers subscribe, to make the hub known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from flask import Response, after_this_request, current_app
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure.broadcast.transactions import PublishesTransactions
from flask_mercure.grants.renewal import FollowsUsers
from flask_mercure.pages import add_links, hub_link, page_url, self_link
from flask_mercure.publishing.batching import PublishesMany
from flask_mercure.publishing.delivery import deliver
from flask_mercure.publishing.settings import OnFailure
from flask_mercure.reading.subscribing import Reads
from flask_mercure.state import HubState, state_of
from flask_mercure.topics import Topics, check_characters, subscription_url
from flask_mercure.updates import UNSET, Unset, Update

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients


# flask.redirect() gives this one, flask.make_response() a subclass
_Response = TypeVar("_Response", bound=BaseResponse)


class Hub(PublishesMany, PublishesTransactions, Reads, FollowsUsers):
    """A hub that the configuration names; :meth:`flask_mercure.Mercure.hub` gives it.

    The object belongs to no app; what it does concerns the app whose context is active.

    :param name: in the configuration; ``None`` for the default hub.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self._name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self._name is None else repr(self._name)})"

    @property
    def _state(self) -> HubState:
        """The hub, in the app whose context is active."""
        return state_of(current_app).hub(self._name)

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        private: bool = False,
        id: str | None = None,
        type: str | None = None,
        retry: int | None = None,
        encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET,
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish an update (spec, Publication).

        It is sent once; after :class:`~flask_mercure.PublishError` the attribute ``possibly_published`` tells
        whether subscribers may see it twice when it is published again.

        :param topics: the canonical topic, or several: the canonical one and its alternates.
        :param data: a ``str`` is sent as it is, anything else as JSON, by Flask's provider.
        :param private: deliver only to subscribers whose token allows one of the topics.
        :param id: of the update; without one the hub makes it.
        :param type: event type, for ``addEventListener`` in the browser.
        :param retry: milliseconds after which a browser that lost the connection tries again.
        :param encrypt_for: who shall read the update, as in :meth:`Mercure.encrypt`; left out: all who may.
        :param on_failure: what happens when it cannot be published: ``raise``; ``log``; or ``background``:
            a thread sends it and the caller never waits. Default: ``MERCURE_ON_FAILURE``. With ``log``
            and ``background`` the id comes back in any case.
        :returns: the id of the update.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update.
        :raises PublishError: the hub refused it, or could not be reached.
        :raises TypeError: an argument has the wrong type, or ``data`` cannot be written as JSON.
        """
        publication = Update(topics, data, private, id, type, retry, encrypt_for).publication()
        return deliver(self._state, [publication], on_failure)[0]

    def url(self, topics: Topics = (), last_event_id: str | None = None) -> str:
        """The URL to open an ``EventSource`` with; templates have it as ``mercure_url``.

        :param topics: to subscribe to; none gives the hub's URL.
        :param last_event_id: of the last update that the page includes.
        :raises InvalidArgument: a topic or the id holds forbidden characters.
        """
        read = self._state.configuration
        return subscription_url(page_url(read), read.protocol, topics, last_event_id)

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
        read = self._state.configuration
        links = [
            hub_link(
                page_url(read),
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
