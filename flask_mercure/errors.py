"""What the extension raises on purpose, as one tree.

    MercureError
    ├── ConfigurationError      a configuration key is missing or wrong
    ├── InvalidArgument         a topic, an id, a lifetime … breaks a rule of the protocol
    ├── TokenError              the token factory did not give a usable token
    │   └── TokenUnavailable    the app's own factory or provider raised an error
    ├── CookieError             a browser would refuse the authorization cookie
    ├── NotGranted              the current user may not read a topic
    ├── EncryptionError         a key cannot be used to encrypt updates
    ├── Refused                 the hub does not admit a subscriber
    └── PublishError            the hub did not publish the update
        ├── HubUnreachable      it gave no answer
        └── SomeHubsFailed      of several hubs, not all published it

The tree does not grow from ``mercure_hub.protocol.errors``: there, each class is an answer of the hub to a
client and carries an HTTP status; here, the application learns what went wrong. A value of the wrong type
raises :class:`TypeError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from werkzeug.exceptions import HTTPException

from mercure_hub import INSTALL


class MercureError(RuntimeError):
    """Root of everything that this package raises on purpose."""


class ConfigurationError(MercureError):
    """The configuration of the app does not work.

    :param problems: one sentence for each problem; it names the configuration key, what is wrong with
        its value and what to do. It never holds a secret.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class InvalidArgument(MercureError, ValueError):
    """An argument breaks a rule of the protocol; nothing was sent to the hub."""


class TokenError(MercureError):
    """The token factory did not give a token that a hub could accept."""


class TokenUnavailable(TokenError):
    """The app's own token factory or provider raised an error, which is the cause; it may work later.

    The message has the type of that error and where it was raised, not its text, which may hold a secret.
    """


class CookieError(MercureError):
    """A browser would refuse the authorization cookie, or would not send it to the hub."""


class NotGranted(MercureError, HTTPException):
    """The current user may not read a topic, as ``subscribe_grants`` tells.

    A view that does not handle it answers 403, or 401 when nobody is signed in.

    :param description: what is not granted; the client reads it.
    :param code: HTTP status of the answer.
    """

    def __init__(self, description: str, code: int = 403) -> None:
        super().__init__(description)
        self.description = description
        self.code = code
        self.response = None


class EncryptionError(MercureError, ValueError):
    """A key cannot be used to encrypt; nothing was sent to the hub. The message never holds a secret."""


class Refused(MercureError):
    """The hub does not admit the subscriber.

    :param message: what the hub answered.
    :param status: HTTP status of the answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PublishError(MercureError):
    """The hub did not publish the update, or did not confirm it.

    :param message: what happened and what to do.
    :param status: HTTP status of the hub's answer, ``None`` without an answer.
    :param reason: what the hub said: the detail of its problem document (RFC 9457), or the error code of
        its challenge (RFC 6750).
    :param possibly_published: whether the update may have been published, because the request went out and
        no answer came back, or the hub's database did not answer the hub. Publish again only if this is
        false, or with the same id: a hub of this project stores the same update once, and elsewhere
        subscribers recognize the repeat.
    :param retry_after: seconds that the hub asked to wait before the next attempt (RFC 9110 section 10.2.3).
    :param from_hub: whether the answer looks like a hub's, rather than a proxy's, such as an HTML page.
    :param is_storage_away: whether the hub said that its database cannot be reached, or did not answer, so
        that the next update would fare no better.

    ``published`` has the ids of those updates of a batch that were published, in order: a hub without batches
    gets one update after the other. With a hub of this project it is empty.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: str | None = None,
        possibly_published: bool = False,
        retry_after: float | None = None,
        from_hub: bool = True,
        is_storage_away: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.possibly_published = possibly_published
        self.retry_after = retry_after
        self.from_hub = from_hub
        self.is_storage_away = is_storage_away
        self.published: tuple[str, ...] = ()


class HubUnreachable(PublishError):
    """The hub could not be reached, or gave no answer in time."""


class SomeHubsFailed(PublishError):
    """An update for several hubs was not published on all of them.

    :param published_ids: the ids of the update by the names of the hubs that have it.
    :param errors: what each of the others raised, by its name.
    """

    def __init__(self, *, published_ids: Mapping[str, str], errors: Mapping[str, Exception]) -> None:
        self.published_ids = dict(published_ids)
        self.errors = dict(errors)
        reasons = "; ".join(
            # only our own errors are known to hold no secret
            f"{name!r}: {error if isinstance(error, MercureError) else type(error).__name__}"
            for name, error in errors.items()
        )
        published = ", ".join(map(repr, published_ids)) or "none"
        super().__init__(
            f"the update was published on {published}, and not on {len(errors)} of "
            f"{len(errors) + len(published_ids)} hubs: {reasons}",
            possibly_published=any(
                isinstance(one, PublishError) and one.possibly_published for one in errors.values()
            ),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Task queues pickle errors, and the default passes no keyword arguments.
        return partial(type(self), published_ids=self.published_ids, errors=self.errors), (), self.__dict__


@contextmanager
def requiring_sqlalchemy(user: str) -> Iterator[None]:
    """Import modules that need SQLAlchemy.

    :param user: what needs them, as the subject of the message.
    :raises ConfigurationError: SQLAlchemy, or what it needs, is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{user} needs a package that is not installed ({error.name}); {INSTALL.format('outbox')}"
        ) from None
