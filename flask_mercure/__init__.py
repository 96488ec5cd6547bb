"""Real-time updates for Flask, over the Mercure protocol.

The application publishes updates to a hub with one HTTP request and gives its users' browsers a cookie with
an access token; the browsers hold their connections to the hub, not to the application.

The parts, each of which knows those above it only:

* ``contexts`` - app contexts in the middle of a transaction;
* ``errors`` - the exceptions that all of these raise;
* ``topics`` - topics and patterns, and the URL to subscribe with;
* ``html`` - partials, Turbo Streams, swaps of htmx;
* ``encryption`` - updates that the hub cannot read, and the keys to them;
* ``tokens``, ``cookies`` - access tokens, and the cookie that carries one;
* ``updates`` - updates, and the form that is sent;
* ``configuration`` - the ``MERCURE_`` keys of ``app.config``;
* ``client`` - requests to a hub, and its answers;
* ``state`` - the hubs of an app;
* ``publishing`` - the path of updates to a hub, also while it is down;
* ``reading`` - reading updates, and who is connected;
* ``grants`` - what the current user may read, and the cookie that follows it;
* ``pages`` - template functions, the JavaScript module, ``Link`` headers;
* ``page_session`` - the same for pages without a template, and the view that renews their access;
* ``database`` - publishing with the commits of a database;
* ``hub_client`` - :class:`HubClient`, a hub for programs that are no Flask app;
* ``hub`` and ``extension`` - :class:`Hub` and :class:`Mercure`, what an application calls;
* ``development``, ``doctor``, ``debug_panel`` - for developers: a hub, diagnosis, published updates;
* ``cli`` - ``flask mercure``, at the shell.
"""

from flask_mercure.encryption import KeySet
from flask_mercure.errors import (
    ConfigurationError,
    CookieError,
    EncryptionError,
    HubUnreachable,
    InvalidArgument,
    MercureError,
    NotGranted,
    PublishError,
    Refused,
    SomeHubsFailed,
    TokenError,
    TokenUnavailable,
)
from flask_mercure.extension import Mercure
from flask_mercure.grants import Grants
from flask_mercure.html import TurboStream, dom_id
from flask_mercure.hub import Hub
from flask_mercure.hub_client import HubClient
from flask_mercure.pages import STATIC_FOLDER
from flask_mercure.publishing.events import publish_failed, update_published
from flask_mercure.publishing.progress import Progress
from flask_mercure.publishing.recorder import RecordedRevocation, RecordedUpdate, Recording
from flask_mercure.publishing.runs import Run
from flask_mercure.reading.people import Person, Presence, PresenceCount
from flask_mercure.reading.presence import ActiveSubscription, ActiveSubscriptions
from flask_mercure.reading.subscriber import Gap, Subscription
from flask_mercure.tokens import CreatesTokens, TokenFactory
from flask_mercure.topics import EVERYTHING, URITemplate, URLPattern, build_topic
from flask_mercure.updates import Update
from mercure_hub import __version__
from mercure_hub.protocol.event_stream import Event

__all__ = [
    "EVERYTHING",
    "STATIC_FOLDER",
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
    "HubClient",
    "HubUnreachable",
    "InvalidArgument",
    "KeySet",
    "Mercure",
    "MercureError",
    "NotGranted",
    "Person",
    "Presence",
    "PresenceCount",
    "Progress",
    "PublishError",
    "RecordedRevocation",
    "RecordedUpdate",
    "Recording",
    "Refused",
    "Run",
    "SomeHubsFailed",
    "Subscription",
    "TokenError",
    "TokenFactory",
    "TokenUnavailable",
    "TurboStream",
    "URITemplate",
    "URLPattern",
    "Update",
    "__version__",
    "build_topic",
    "dom_id",
    "publish_failed",
    "update_published",
]
