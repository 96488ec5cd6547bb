"""An application's own keys, which it keeps, rotates and serves to those who may read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask_mercure.encryption.keys import Algorithm, Key, generate, read
from flask_mercure.errors import EncryptionError, InvalidArgument

if TYPE_CHECKING:
    from flask_mercure.encryption.keys import JWK

MEMBER = "keys"
"""Of the object that is a JWK set (RFC 7517 section 5)."""


class KeySet:
    """An application's own keys, for subscribers that fetch them from it (:meth:`Mercure.key_set`).

    Updates are encrypted for the first key, the newest. The others are there for updates that were
    encrypted before it was made, which the hub may still replay.

    :param keys: private or secret JWKs, newest first.
    :raises EncryptionError: a key is missing, or cannot be used.
    :raises ConfigurationError: the extra ``encryption`` is not installed.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[JWK]) -> None:
        if isinstance(keys, Mapping | str):
            raise TypeError("keys is one value; give a list of JWKs, or use KeySet.load")
        self._keys = tuple(read(key, private=True) for key in keys)
        if not self._keys:
            raise EncryptionError("the key set is empty")
        if len(set(self.ids)) < len(self._keys):
            raise EncryptionError(f"two keys of the key set have the same kid: {', '.join(self.ids)}")

    @classmethod
    def generate(cls, algorithm: Algorithm = "ECDH-ES+A256KW") -> KeySet:
        """A set with one new key.

        :param algorithm: that the key is for: ``ECDH-ES+A256KW`` (a key on P-256), ``RSA-OAEP-256`` or
            ``A256KW`` (a secret, with which subscribers can also write updates).
        """
        return cls([generate(algorithm)])

    @classmethod
    def load(cls, value: str) -> KeySet:
        """The keys that :meth:`to_json` wrote.

        :param value: JSON of a JWK set or of one JWK, or ``@`` and the path of a file with it.
        :raises EncryptionError: the file cannot be read, or a key cannot be used.
        """
        given: str | bytes = value
        if value.startswith("@"):
            try:
                given = Path(value[1:]).read_bytes()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise EncryptionError(f"the key set {value[1:]!r} cannot be read: {reason}") from None
        found = _parsed(given)
        keys = found.get(MEMBER, [found]) if isinstance(found, dict) else None
        if not isinstance(keys, list):
            raise EncryptionError(
                "this is no key set: give the JSON of a JWK set, or @ and the path of its file"
            )
        return cls(keys)

    def rotate(self, keep: int = 1) -> KeySet:
        """A set that begins with a new key; this one stays as it is.

        Publish with it from the moment on at which every process serves it.

        :param keep: how many of the present keys stay: as many as the hub's history has updates of.
        """
        if keep < 0:
            raise InvalidArgument(f"keep is {keep}; give the number of keys that stay, 0 or more")
        new = generate(self._keys[0].algorithm)
        return KeySet([new, *(key.jwk(private=True) for key in self._keys[:keep])])

    @property
    def ids(self) -> tuple[str, ...]:
        """The ``kid`` of each key."""
        return tuple(key.id for key in self._keys)

    @property
    def public_key(self) -> dict[str, Any]:
        """The public half of the newest key, for a process that publishes and must not read.

        :raises EncryptionError: a secret of both sides has no public half.
        """
        if self._keys[0].algorithm == "A256KW":
            raise EncryptionError(f"the key {self.ids[0]!r} is one secret, and has no public half")
        return self._keys[0].jwk(private=False)

    def to_json(self) -> str:
        """The JWK set, **with its secrets**: to be stored, or given to those who may read the updates."""
        return compact_json({MEMBER: self._jwks()})

    def _jwks(self) -> list[dict[str, Any]]:
        return [key.jwk(private=True) for key in self._keys]

    def _newest(self) -> Key:
        return self._keys[0]

    def __repr__(self) -> str:
        return f"<KeySet {' '.join(map(repr, self.ids))}>"


def merged_json(key_sets: Iterable[KeySet]) -> str:
    """One JWK set, with the secrets, of all keys of several sets.

    :raises EncryptionError: there is no key, or two different ones have the same ``kid``.
    :raises TypeError: something is not a :class:`KeySet`.
    """
    jwks: dict[str, dict[str, Any]] = {}
    for key_set in key_sets:
        if not isinstance(key_set, KeySet):
            # A list of JWKs could hold public keys of others, or keys that sign.
            raise TypeError(f"a key set is a {type(key_set).__name__}; it must be a KeySet")
        for jwk in key_set._jwks():
            if jwks.setdefault(jwk["kid"], jwk) != jwk:
                raise EncryptionError(f"two key sets have different keys with the kid {jwk['kid']!r}")
    if not jwks:
        raise EncryptionError("there is no key to serve")
    return compact_json({MEMBER: list(jwks.values())})


def _parsed(text: str | bytes) -> object:
    """The JSON value, or ``None``: the error of the parser has the whole text in it."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found


def compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
