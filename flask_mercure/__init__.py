"""Real-time updates for Flask, over the Mercure protocol.

The application publishes updates to a hub with one HTTP request and gives its users' browsers a cookie with
an access token; the browsers hold their connections to the hub, not to the application.

* ``flask_mercure.extension`` and ``hub`` - :class:`Mercure` and :class:`Hub`, what an application calls;
* ``flask_mercure.grants``, ``renewal`` - what the current user may read, and the cookie that follows it;
* ``flask_mercure.registry``, ``everywhere`` - several hubs;
* ``flask_mercure.state`` - what is kept for an app;
* ``flask_mercure.delivery`` - the one way of publications to a hub;
* ``flask_mercure.reliability``, ``retry``, ``background`` - when a hub is down;
* ``flask_mercure.transactions``, ``broadcast``, ``outbox`` - publishing with a database's commits;
* ``flask_mercure.configuration``, ``naming``, ``conversion`` - the ``MERCURE_`` keys of ``app.config``;
* ``flask_mercure.content``, ``publication``, ``publisher`` and ``answer`` - the update,
  the request, what the hub says;
* ``flask_mercure.matchers`` - topics, as an application writes them;
* ``flask_mercure.tokens``, ``jwk``, ``token_source`` - claims, what signs them, what is configured to;
* ``flask_mercure.cookie`` - the cookie, and what browsers make of it;
* ``flask_mercure.discovery`` - URLs to subscribe with, ``Link`` headers;
* ``flask_mercure.page`` and ``static`` - what templates put into a page, and the JavaScript module;
* ``flask_mercure.encryption`` - updates that the hub cannot read, and the keys to them;
* ``flask_mercure.update``, ``batching``, ``batch_support``, ``token_stream`` - many updates,
  and text as it is made;
* ``flask_mercure.reading``, ``subscriber``, ``connection``, ``presence`` - reading updates,
  and who is connected;
* ``flask_mercure.observation``, ``signals``, ``tracing``, ``debug_panel`` - what is told of each publication;
* ``flask_mercure.recorder``, ``testing`` - the tests of an application;
* ``flask_mercure.cli``, ``development``, ``doctor`` - ``flask mercure``, at the shell;
* ``flask_mercure.errors`` - what all of these raise.
"""

from flask_mercure.encryption import KeySet
from flask_mercure.errors import (
    ConfigurationError,
    CookieError,
    EncryptionError,
    HubUnreachable,
    InvalidArgument,
    MercureError,
    PublishError,
    SomeHubsFailed,
    TokenError,
)
from flask_mercure.extension import Mercure
from flask_mercure.grants import Grants
from flask_mercure.hub import Hub
from flask_mercure.matchers import URLPattern
from flask_mercure.presence import ActiveSubscription, ActiveSubscriptions
from flask_mercure.recorder import RecordedUpdate, Recording
from flask_mercure.signals import publish_failed, update_published
from flask_mercure.subscriber import Gap, Refused, Subscription
from flask_mercure.tokens import CreatesTokens, TokenFactory
from flask_mercure.update import Update
from hub.protocol.event_stream import Event

__all__ = [
    "ActiveSubscription",
    "ActiveSubscriptions",
    "ConfigurationError",
    "CookieError",
    "CreatesTokens",
    "EncryptionError",
    "Event",
    "Gap",
    "Grants",
    "Hub",
    "HubUnreachable",
    "InvalidArgument",
    "KeySet",
    "Mercure",
    "MercureError",
    "PublishError",
    "RecordedUpdate",
    "Recording",
    "Refused",
    "SomeHubsFailed",
    "Subscription",
    "TokenError",
    "TokenFactory",
    "URLPattern",
    "Update",
    "publish_failed",
    "update_published",
]
