"""Real-time updates for Flask, over the Mercure protocol.

The application publishes updates to a hub with one HTTP request and gives its users' browsers a cookie with
an access token; the browsers hold their connections to the hub, not to the application.

* ``flask_mercure.extension`` - :class:`Mercure`, what an application calls;
* ``flask_mercure.configuration``, ``conversion`` - the ``MERCURE_`` keys of ``app.config`` and their values;
* ``flask_mercure.publication``, ``publisher`` and ``answer`` - the update, the request, what the hub says;
* ``flask_mercure.matchers`` - topics, as an application writes them;
* ``flask_mercure.tokens``, ``token_source`` - claims, what signs them, what is configured to;
* ``flask_mercure.cookie`` - the cookie, and what browsers make of it;
* ``flask_mercure.discovery`` - URLs to subscribe with, ``Link`` headers;
* ``flask_mercure.encryption`` - updates that the hub cannot read, and the keys to them;
* ``flask_mercure.cli``, ``development``, ``subscriber`` - ``flask mercure``, at the shell;
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
    TokenError,
)
from flask_mercure.extension import Mercure
from flask_mercure.matchers import URLPattern
from flask_mercure.tokens import CreatesTokens, TokenFactory

__all__ = [
    "ConfigurationError",
    "CookieError",
    "CreatesTokens",
    "EncryptionError",
    "HubUnreachable",
    "InvalidArgument",
    "KeySet",
    "Mercure",
    "MercureError",
    "PublishError",
    "TokenError",
    "TokenFactory",
    "URLPattern",
]
