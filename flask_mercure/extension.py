"""The extension object, of which an application makes one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Unpack

from flask import Flask, Response, current_app, request, request_finished

from flask_mercure import grants, page_session, pages
from flask_mercure.client.publisher import Publisher
from flask_mercure.config.settings import AppSettings, read_app, read_hubs, unknown_names
from flask_mercure.config.values import OnFailure
from flask_mercure.encryption import KeySet, merged_json
from flask_mercure.errors import ConfigurationError, InvalidArgument, requiring_sqlalchemy
from flask_mercure.grants import UserCookie, end_sessions, keep_cookies_private, renew_all, warn_of_unread
from flask_mercure.hub import Hub
from flask_mercure.publishing import background, pipeline
from flask_mercure.publishing.pipeline import Pipeline, UpdateStore, pipeline_of
from flask_mercure.publishing.recorder import Recording, record
from flask_mercure.state import KEY, HubState, MercureState, state_of
from flask_mercure.updates import Update, UpdateOptions, encrypted

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients

__all__ = ["Mercure", "MercureState", "state_of"]

_log = logging.getLogger("flask_mercure")


class Mercure(Hub):
    """Publishes updates and lets browsers subscribe to them.

    It is the default hub of the app whose context is active, and gives the others by their names. One object
    can serve any number of apps.

    :param app: calls :meth:`init_app` with it.
    """

    def __init__(self, app: Flask | None = None) -> None:
        super().__init__()
        self._named: dict[str, Hub] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read and check the configuration of an app, and give its templates ``mercure_url``.

        The table in ``flask_mercure.config.settings`` has every key; the page on the extension shows it under
        Settings. For several hubs, ``MERCURE_HUBS`` maps names to the settings of each, without the prefix:
        ``{"eu": {"URL": "https://…"}}``. What a hub does not have of its own is taken from the keys of the
        app; but a hub with a URL or keys of its own takes none of these from there.

        :param app: the application.
        :raises ConfigurationError: a key is missing or wrong, or the app has the extension already.
        """
        if KEY in app.extensions:
            raise ConfigurationError(
                f"the app {app.name!r} has Mercure already; call init_app once and share the object"
            )
        for warning in unknown_names(app.config, os.environ):
            _log.warning("%s", warning)
        configurations, default = read_hubs(app.config)
        hubs = {name: HubState(name, read, Publisher(read)) for name, read in configurations.items()}
        state = MercureState(MappingProxyType(hubs), default, partial(self._has_grants, default))
        settings = read_app(app.config)
        outbox = _open_outbox(app, settings)
        pages.install(app, state, settings.static_path)
        app.extensions[grants.KEY] = partial(self._cookie_of, default)
        page_session.install(app, settings.static_path)
        app.extensions[pipeline.KEY] = Pipeline(app.app_context, settings, outbox)
        app.extensions[KEY] = state
        request_finished.connect(keep_cookies_private, app)
        request_finished.connect(end_sessions, app)

        @app.after_request
        def renew(response: Response) -> Response:
            if request.endpoint != pages.ENDPOINT:
                renew_all(self._user_cookies(), response)
                warn_of_unread(state)
            return response

    def _user_cookies(self) -> Iterator[UserCookie]:
        return (hub._user_cookie for hub in (self, *self._named.values()))

    def _cookie_of(self, default: str, name: str) -> UserCookie | None:
        """The cookie of a hub's users, if ``subscribe_grants`` is used for it."""
        used = (one for one in self._user_cookies() if one.is_used and name == (one.hub or default))
        return next(used, None)

    def _has_grants(self, default: str, name: str) -> bool:
        return self._cookie_of(default, name) is not None

    def hub(self, name: str | None = None) -> Hub:
        """One of the hubs that the configuration names; it can be called before there is an app.

        :param name: of the hub; ``None`` for the default one, which this object is.
        """
        return self if name is None else self._named.setdefault(name, Hub(name))

    @property
    def hubs(self) -> Mapping[str, Hub]:
        """All hubs of the app whose context is active, by name."""
        return {name: self.hub(name) for name in state_of(current_app).hubs}

    def publish_to_all(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        on_failure: OnFailure | None = None,
        hubs: Iterable[str] | None = None,
        **options: Unpack[UpdateOptions],
    ) -> dict[str, str]:
        """Publish an update on all hubs, or some, under one id.

        The hubs get it one after the other; if one fails, the others still get it. The arguments are those of
        :meth:`publish`, and in addition:

        :param hubs: names of hubs; default: all hubs of the app.
        :returns: the ids of the update by the names of the hubs.
        :raises SomeHubsFailed: after all were tried; ``errors`` has the error of each hub that failed,
            ``published_ids`` the hubs that have the update.
        :raises ConfigurationError: the app has no hub of a name; nothing was sent.
        """
        state = state_of(current_app)
        if isinstance(hubs, str):
            raise TypeError(f"hubs is the str {hubs!r}; give a list of names")
        chosen = [state.hub(name) for name in dict.fromkeys(state.hubs if hubs is None else hubs)]
        if not chosen:
            raise InvalidArgument("hubs is empty; leave it out for all hubs")
        publication = Update(topics, data, **options).publication()
        return pipeline_of(current_app).publish_everywhere(chosen, publication, on_failure)

    def flush(self, timeout: float = background.DRAIN) -> bool:
        """Send now the updates that wait in this process because of ``on_failure="background"``.

        Each process does so at its end, and so do children of ``multiprocessing`` and Celery; in RQ each
        ``publish`` does. Call it before ``os._exit``.

        :param timeout: seconds, for all hubs and apps together.
        :returns: whether all are sent.
        """
        return background.flush(timeout)

    def record(self) -> AbstractContextManager[Recording]:
        """Record what is published, on all hubs and in all threads, instead of sending it; for tests.

        ::

            with mercure.record() as updates:
                client.post("/books", json={"title": "Ulysses"})
            assert updates.one("books/1").json == {"title": "Ulysses"}

        :returns: a context manager that gives a :class:`~flask_mercure.Recording`, a list of what was
            published. It may be nested.
        """
        return record()

    def encrypt(self, data: Any, keys: Recipients, *, content_type: str | None = None) -> str:
        """Encrypt data that the hub must not read, to publish it (spec, Encryption; RFC 7516).

        A JSON Web Encryption protects the content against reading and change. It does not hide topics, times
        and sizes, does not keep the hub from delivering an old update again, and does not prove who wrote it,
        since anybody with a public key can encrypt for it. If that matters, put a time or a number and the
        topic into the data, and use a secret key.

        :param data: a ``str`` or ``bytes`` as they are, anything else as JSON, by Flask's provider.
        :param keys: of those who can read it: a public JWK, as a dict or of joserfc; a secret one; a
            :class:`~flask_mercure.KeySet`, of which the newest key is used; or a list of these.
        :param content_type: media type of the data, sent in the header ``cty``, which is not secret;
            default: ``application/json``, or ``text/plain`` and ``application/octet-stream`` for ``str``
            and ``bytes``.
        :returns: the JWE, in compact serialization, or in general JSON serialization for several keys.
        :raises ConfigurationError: the extra ``encryption`` is not installed.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: ``content_type`` is not a media type, or text cannot be encoded.
        :raises TypeError: a key has the wrong type, or ``data`` cannot be written as JSON.
        """
        return encrypted(data, keys, content_type)

    def key_set(self, *key_sets: KeySet) -> Response:
        """A response with keys, **secret ones included**, for a subscriber who may read the updates.

        The view decides who that is: it must require at least the login that the updates require. Serve it
        over TLS.

        :param key_sets: the keys; several sets are joined.
        :returns: a JWK set (RFC 7517) that no cache keeps.
        :raises EncryptionError: there is no key, or two different ones have the same ``kid``.
        :raises TypeError: something is not a :class:`~flask_mercure.KeySet`.
        """
        response = current_app.response_class(merged_json(key_sets), content_type="application/jwk-set+json")
        response.headers["Cache-Control"] = "no-store, private"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _open_outbox(app: Flask, settings: AppSettings) -> UpdateStore | None:
    """The outbox of an app, if it has one. Import its module only here, since it loads SQLAlchemy.

    :raises ConfigurationError: it cannot be used.
    """
    if settings.outbox is None:
        return None
    try:
        with requiring_sqlalchemy("MERCURE_OUTBOX"):
            from flask_mercure.database.outbox import open_outbox  # noqa: PLC0415

            return open_outbox(app, settings)
    except ValueError as error:
        raise ConfigurationError(f"MERCURE_OUTBOX {error}") from None
