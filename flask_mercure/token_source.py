"""Where tokens come from: the factory that is configured, and what it gives, checked and kept."""

from __future__ import annotations

import inspect
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from flask_mercure.errors import TokenError
from flask_mercure.matchers import Topics
from flask_mercure.tokens import as_list

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MARGIN = 60.0
"""Seconds before its end at which the publisher's token is replaced: more than clocks differ."""


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
        token = self._create(**arguments)
        if not isinstance(token, str) or not _COMPACT.fullmatch(token):
            raise TokenError(
                f"the object of MERCURE_TOKEN_FACTORY gave a {type(token).__name__} that is no JWT in "
                "compact serialization (three parts of base64url, joined by dots)"
            )
        return token


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
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise TokenError(f"the token factory gave something that is no JWT: {error}") from None
    value = claims.get("exp")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenError(f"the exp claim of the factory's token is {value!r}, not a number of seconds")
    return float(value)


class PublisherToken:
    """The token with which the app itself publishes, on every topic, made anew shortly before its end.

    :param source: makes it.
    :param lifetime: seconds for which a token without ``exp`` is kept.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(self, source: TokenSource, lifetime: float, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._lifetime = lifetime
        self._clock = clock
        self._token: tuple[str, float] | None = None
        self._making = threading.Lock()

    def get(self) -> str:
        """The current token; threads that find it worn wait for the one that makes the next.

        :raises MercureError: the factory cannot make it.
        """
        held = self._token
        if held is not None and self._clock() < held[1]:
            return held[0]
        with self._making:
            held = self._token
            if held is None or self._clock() >= held[1]:
                held = self._token = self._make()
            return held[0]

    def forget(self, token: str) -> None:
        """Drop a token that the hub has refused, so that the next one is fresh."""
        held = self._token
        if held is not None and held[0] == token:
            self._token = None

    def _make(self) -> tuple[str, float]:
        now = self._clock()
        token = self._source.create(publish=["*"])
        end = expiry(token)
        if end is None:
            return token, now + self._lifetime
        remaining = end - now
        if remaining <= 0:
            raise TokenError("the token factory gave a publisher's token that has expired already")
        return token, end - min(_MARGIN, remaining / 10)
