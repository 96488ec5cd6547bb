"""The keys that a hub trusts in a run, one after another, and the tokens that they sign."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import jwt

from chaos.topics import ALL, Matcher

ISSUER = "urn:flask-mercure"
PUBLIC_URL = "http://hub.example/.well-known/mercure"
"""The hub's identity, the same on whatever way a client reaches it."""

_DETAIL = "https://mercure.rocks/authorization-detail"
_NOTHING = {"match": "https://example.com/none"}


class Keys:
    """The key file of a hub.

    :param path: of the file, which is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._secrets = [_secret()]
        self._write()

    @property
    def current(self) -> int:
        """The generation of the key that is in the file."""
        return len(self._secrets) - 1

    def rotate(self) -> int:
        """Put another key into the file; the hub has to be told.

        :returns: its generation.
        """
        self._secrets.append(_secret())
        self._write()
        return self.current

    def token(
        self,
        key: int,
        now: float,
        lifetime: float,
        *,
        publish: bool = False,
        subscribe: Sequence[Matcher] | None = None,
        session: str = "",
        old: bool = False,
        audience: str = PUBLIC_URL,
    ) -> str:
        """Sign a token.

        :param key: generation of the key.
        :param now: what the hub's wall clock shows, in seconds since the epoch.
        :param lifetime: in seconds.
        :param publish: allow every topic.
        :param subscribe: what private updates may be read; ``None``: it is no subscriber's token.
        :param session: goes into the payload.
        :param old: in the shape of protocol 0.x.
        :param audience: the hub that a token of 1.0 is for.
        """
        secret = self._secrets[key]
        if old:
            mercure: dict[str, object] = {"publish": ["*"]} if publish else {}
            if subscribe is not None:
                mercure |= {"subscribe": [one.selector for one in subscribe], "payload": {"session": session}}
            return jwt.encode({"mercure": mercure, "exp": now + lifetime}, secret, "HS256")
        details: list[dict[str, object]] = []
        if publish:
            details.append({"type": _DETAIL, "actions": ["publish"], "topics": [ALL.claim]})
        if subscribe is not None:
            topics = [one.claim for one in subscribe] or [_NOTHING]
            details.append({"type": _DETAIL, "actions": ["subscribe"], "topics": topics})
            details[-1]["payload"] = {"session": session}
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "sub": "chaos",
            "client_id": "chaos",
            "iat": int(now),
            "exp": now + lifetime,
            "jti": str(uuid.uuid4()),
            "authorization_details": details,
        }
        return jwt.encode(claims, secret, "HS256", headers={"typ": "at+jwt"})

    def _write(self) -> None:
        # Renamed into place: a hub that reads meanwhile gets the old key or the new one.
        aside = self._path.with_suffix(".new")
        aside.write_text(self._secrets[-1])
        aside.chmod(0o600)
        aside.rename(self._path)


def _secret() -> str:
    return uuid.uuid4().hex + uuid.uuid4().hex
