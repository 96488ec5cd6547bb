"""What a user may read: the answer of the app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask_mercure.topics import Topics, URLPattern


@dataclass(frozen=True, slots=True)
class Grants:
    """What the current user's browser may read; see :meth:`~flask_mercure.Mercure.subscribe_grants`.

    :param topics: whose private updates may be read, in the forms of
        :meth:`~flask_mercure.Mercure.set_cookie`; none at all makes a cookie that only connects.
    :param payload: shown with the active subscriptions, to everybody who may see those.
    :param user: whose grants they are. Left out, Flask-Login or Flask-JWT-Extended tell it, or else the
        whole content of the session stands for it.
    :param additional_claims: such as ``{"sub": "https://example.com/users/1"}``.
    :param lifetime: seconds or a timedelta; default: ``MERCURE_TOKEN_LIFETIME``.
    """

    topics: Topics = ()
    payload: Any = None
    user: str | int | None = None
    additional_claims: Mapping[str, Any] | None = None
    lifetime: float | timedelta | None = None


def as_grants(answer: object) -> Grants | None:
    """The answer of a callback as grants.

    :param answer: topics in any of their forms, :class:`Grants`, or ``None``.
    :raises TypeError: it is something else, such as ``False``, of which nobody knows what it allows.
    """
    match answer:
        case None | Grants():
            return answer
        case str() | URLPattern() | Mapping():
            return Grants(answer)
        case list() | tuple() | set() | frozenset():
            return Grants(tuple(answer))
    raise TypeError(
        f"the callback of subscribe_grants gave a {type(answer).__name__}; it gives topics, Grants, or None "
        "for a visitor who gets no cookie"
    )
