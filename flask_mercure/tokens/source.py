"""Where tokens come from: the factory that is configured, and what it gives, checked and kept."""

from __future__ import annotations

import inspect
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from flask_mercure.errors import MercureError, TokenError, TokenUnavailable
from flask_mercure.tokens.factory import as_list
from flask_mercure.topics.matchers import Topics

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MARGIN = 60.0
"""Seconds before its end at which the publisher's token is replaced: more than clocks differ."""


_END_OF_TIME = 1e15
"""Seconds since the epoch that no token has as its end; an int can be too large for a float."""


class TokenSource:
    """Asks a factory for tokens, and checks what it gives.

    :param factory: an object with ``create``, or a callable of the same shape.
    :raises TypeError: it is neither, or it does not take the arguments of :class:`CreatesTokens`.
    """

    def __init__(self, factory: object) -> None:
        create = getattr(factory, "create", factory)
        if not callable(create) or isinstance(factory, type):
            raise TypeError(f"{factory!r} is neither an object with a create method nor callable")
        self._create: Callable[..., object] = create
        self._takes_payload = _takes(create, "payload")
        if not _takes(create):
            raise TypeError(f"{factory!r} does not take the arguments subscribe, publish, additional_claims")

    def create(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        payload: Any = None,
    ) -> str:
        """Make a token with the factory; the arguments are those of :meth:`TokenFactory.create`.

        :raises TokenError: the factory gave no JWT, or does not take the payload.
        """
        arguments: dict[str, Any] = {
            "subscribe": as_list(subscribe),
            "publish": as_list(publish),
            "additional_claims": dict(additional_claims or {}),
        }
        if payload is not None:
            if not self._takes_payload:
                raise TokenError("the object of MERCURE_TOKEN_FACTORY does not take a payload argument")
            arguments["payload"] = payload
        return check_compact(self._create(**arguments), "the object of MERCURE_TOKEN_FACTORY")


def check_compact(token: object, origin: str) -> str:
    """Refuse what is no JWT in compact serialization.

    :param token: to be checked.
    :param origin: where it comes from, for the error.
    :raises TokenError: it is none.
    """
    if isinstance(token, str) and _COMPACT.fullmatch(token):
        return token
    kind = type(token).__name__
    del token  # error trackers send the variables of each function that an error comes through
    raise TokenError(
        f"{origin} gave a {kind} that is no JWT in compact serialization (three parts of base64url, joined "
        "by dots)"
    )


def _takes(create: Callable[..., object], *more: str) -> bool:
    try:
        signature = inspect.signature(create)
    except ValueError:  # some callables of C have none
        return not more
    names = ("subscribe", "publish", "additional_claims", *more)
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError:
        return False
    return True


def expiry(token: str) -> float | None:
    """The ``exp`` of a token, read without verification: the caller made the token.

    :returns: seconds since the epoch, or ``None`` when it has no end.
    :raises TokenError: this is no JWT, or its ``exp`` is no number.
    """
    problem = ""
    value = None
    try:
        value = jwt.decode(token, options={"verify_signature": False}).get("exp")
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        problem = str(error)
    del token  # as in check_compact
    if problem:
        raise TokenError(f"the token factory gave something that is no JWT: {problem}")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _END_OF_TIME:
        raise TokenError(f"the exp claim of the token is {str(value)[:40]!r}, not a number of seconds")
    return float(value)


@dataclass(frozen=True, slots=True)
class PublisherSource:
    """Where the app has the token from with which it publishes.

    :param make: gives one; it is asked again shortly before that one ends.
    :param origin: what it is, for errors.
    :param advice: what to do about a token that has expired.
    """

    make: Callable[[], object] = field(repr=False)
    origin: str
    advice: str = "it must give one that is valid"

    @classmethod
    def static(cls, token: str, setting: str) -> PublisherSource:
        """A token that is configured.

        :param token: in compact serialization.
        :param setting: the name of its setting.
        """
        advice = "put a new one there, or give the app the key with MERCURE_JWT_SECRET to make its own"
        return cls(lambda: token, setting, advice)


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, out of sight of what shows variables.

    :param worn_at: when another one is to be made, in seconds since the epoch.
    """

    token: str = field(repr=False)
    worn_at: float


class PublisherToken:
    """The token with which the app itself publishes, on every topic, made anew shortly before its end.

    :param source: gives it.
    :param lifetime: seconds for which a token without ``exp`` is kept.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(
        self, source: PublisherSource, lifetime: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._source = source
        self._lifetime = lifetime
        self._clock = clock
        self._held: _Held | None = None
        self._making = threading.Lock()

    def get(self) -> str:
        """The current token; threads that find it worn wait for the one that makes the next.

        :raises TokenUnavailable: what the app makes its tokens with raised an error.
        :raises MercureError: the factory cannot make it.
        """
        held = self._held
        if held is not None and self._clock() < held.worn_at:
            return held.token
        with self._making:
            held = self._held
            if held is None or self._clock() >= held.worn_at:
                held = self._held = self._make()
            return held.token

    def forget(self, token: str) -> None:
        """Drop a token that the hub has refused, so that the next one is fresh."""
        held = self._held
        if held is not None and held.token == token:
            self._held = None

    def _make(self) -> _Held:
        now = self._clock()
        try:
            made = _Held(check_compact(self._source.make(), self._source.origin), now + self._lifetime)
        except MercureError:
            raise
        except Exception as error:  # every way of publishing knows what to do with errors of ours
            raise TokenUnavailable(
                f"no token to publish with: {self._source.origin} raised {_place(error)}"
            ) from error
        end = expiry(made.token)
        if end is None:
            return made
        remaining = end - now
        if remaining <= 0:
            raise TokenError(
                f"the token of {self._source.origin}, to publish with, has expired at {_utc(end)}, "
                f"{timedelta(seconds=int(-remaining))} ago: {self._source.advice}"
            )
        return _Held(made.token, end - min(_MARGIN, remaining / 10))


def _place(error: Exception) -> str:
    """The kind of an error, and where it was raised; not its text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _utc(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):  # a year that the calendar does not have
        return f"{seconds:g} s since 1970"
