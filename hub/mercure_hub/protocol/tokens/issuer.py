"""Issuers: whose tokens the hub trusts, and with which keys.

A token is verified with the keys of its own issuer, never with a pool of several (spec, Token
Validation). Its header only chooses among them, by ``kid`` and ``alg``; a key that it brings along or
points to (``jwk``, ``jku``, ``x5c``, ``x5u``) is not looked at.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mercure_hub.protocol.errors import KeyUnknown, Section, TokenInvalid, shown
from mercure_hub.protocol.tokens.claims import HOLDERS, Role, decoded
from mercure_hub.protocol.tokens.keys import Key, is_disguised

_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_MAX_SECRETS = 256


def check_extensions(header: Mapping[str, Any]) -> None:
    """Refuse tokens that use extensions of JWS, because the hub knows none.

    :param header: of the token, not verified.
    :raises TokenInvalid: it has ``crit`` (RFC 7515 section 4.1.11) or an unencoded payload (RFC 7797).
    """
    if "crit" in header:
        raise TokenInvalid(
            f"crit is {shown(header['crit'])}; the hub knows no extension of JWS", Section.SIGNATURE
        )
    if header.get("b64") is False:
        raise TokenInvalid("b64 is false; the payload has to be in the token, encoded", Section.SIGNATURE)


def fits(token: str, algorithm: str, key: Key) -> bool:
    """Whether a key has signed a token.

    :param token: in compact serialization.
    :param algorithm: that the token names, one of the key's.
    :raises TokenInvalid: that cannot be found out.
    """
    signed, _, signature = token.rpartition(".")
    try:
        if isinstance(key.material, bytes):
            return _is_hmac(algorithm, key.material, signed.encode(), decoded(signature))
        from mercure_hub.protocol.tokens.asymmetric import has_signed  # noqa: PLC0415 - see keys.py

        return has_signed(key.material, algorithm, signed.encode(), decoded(signature))
    except (TypeError, ValueError) as error:
        raise TokenInvalid(f"the token cannot be verified: {shown(str(error))}", Section.SIGNATURE) from None


def _is_hmac(algorithm: str, secret: bytes, signed: bytes, signature: bytes) -> bool:
    """Whether a signature is the HMAC of a token (RFC 7518 section 3.2).

    :raises ValueError: the algorithm is not for a secret, or the secret is a key that others may have.
    """
    mac = _begun(algorithm, secret).copy()
    mac.update(signed)
    return hmac.compare_digest(mac.digest(), signature)


@lru_cache(maxsize=_MAX_SECRETS)  # to look at the secret and to begin takes longer than to verify
def _begun(algorithm: str, secret: bytes) -> hmac.HMAC:
    if algorithm not in _HASHES:
        raise ValueError(f"{algorithm} is not for a secret")
    if is_disguised(secret):
        raise ValueError("the secret is an asymmetric key, a certificate or a JWK")
    return hmac.new(secret, digestmod=_HASHES[algorithm])


_MAX_TRIED = 16  # keys for one token: each takes a tenth of a millisecond, and anybody can send junk


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """Keys that an issuer publishes as a JWK set and changes when it likes.

    :param url: of the set.
    :param algorithms: what its keys may be used with.
    :param roles: whose tokens they verify.
    :param allow_private: the URL may lead to an address that is not on the public internet.
    """

    url: str
    algorithms: tuple[str, ...]
    roles: tuple[Role, ...] = ("publish", "subscribe")
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer whose tokens the hub trusts.

    :param identifier: the ``iss`` of the tokens.
    :param publish: keys that sign publishers' tokens.
    :param subscribe: keys that sign subscribers' tokens.
    :param remote: where more keys come from.
    :param is_authorization_server: the metadata document names it, because clients can get tokens there.
    :param is_hub: the hub itself signs these tokens, for a page of its own.
    """

    identifier: str
    publish: tuple[Key, ...]
    subscribe: tuple[Key, ...]
    remote: RemoteKeys | None = None
    is_authorization_server: bool = False
    is_hub: bool = False

    def keys(self, role: Role) -> tuple[Key, ...]:
        """The keys of a role."""
        return self.publish if role == "publish" else self.subscribe

    def with_keys(self, keys: tuple[Key, ...]) -> Issuer:
        """The same issuer with keys from its JWK set besides its own."""
        roles = () if self.remote is None else self.remote.roles
        return replace(
            self,
            publish=self.publish + keys if "publish" in roles else self.publish,
            subscribe=self.subscribe + keys if "subscribe" in roles else self.subscribe,
        )

    def signer(self, token: str, header: Mapping[str, Any], role: Role) -> Key:
        """Find the key that signed a token.

        A ``kid`` that names a key selects only that key; any other ``kid`` selects the keys without a name;
        without ``kid``, all keys that fit are tried.

        :param header: of the token, not verified.
        :raises KeyUnknown: no key signed it, but the issuer may publish a new one.
        :raises TokenInvalid: no key signed it.
        """
        algorithm, kid = header.get("alg"), header.get("kid")
        if "kid" in header and not isinstance(kid, str):
            raise TokenInvalid(f"kid is {shown(kid)}, not a string", Section.KEY_UNKNOWN)
        check_extensions(header)
        keys = tried = self.keys(role)
        named = kid is not None and any(key.kid == kid for key in keys)
        if kid is not None:
            tried = tuple(key for key in keys if key.kid == (kid if named else None))
        fitting = [key for key in tried if algorithm in key.algorithms]
        if not fitting and not any(algorithm in key.algorithms for key in keys):
            self._check_algorithm(algorithm, role)
        if len(fitting) > _MAX_TRIED:
            raise TokenInvalid(
                f"{len(fitting)} keys of {self.identifier!r} could have signed the token; it needs a kid",
                Section.KEY_UNKNOWN,
            )
        for key in fitting:
            if fits(token, str(algorithm), key):
                return key
        if named:
            raise TokenInvalid(
                f"the signature does not match the key {shown(kid)} of {self.identifier!r} "
                f"with alg {shown(algorithm)}",
                Section.SIGNATURE,
            )
        cause, explained = f"the signature does not match the {HOLDERS[role]} key", Section.SIGNATURE
        if not keys:
            explained = Section.KEY_UNKNOWN
            cause = f"the {HOLDERS[role]} keys of {self.identifier!r} are not fetched yet"
        elif len(tried) < len(keys):
            explained = Section.KEY_UNKNOWN
            names = [key.kid for key in keys if key.kid is not None]
            cause = f"kid is {shown(kid)}; the {HOLDERS[role]} keys of {self.identifier!r} are {shown(names)}"
        if self.remote is not None and role in self.remote.roles and algorithm in self.remote.algorithms:
            raise KeyUnknown(cause, self.identifier, explained)
        raise TokenInvalid(cause, explained)

    def has_signed(self, token: str, header: Mapping[str, Any], role: Role) -> bool:
        """Whether one of the keys of a role has signed a token.

        :param header: of the token, not verified.
        """
        try:
            self.signer(token, header, role)
        except TokenInvalid:
            return False
        return True

    def _check_algorithm(self, algorithm: object, role: Role) -> None:
        allowed = dict.fromkeys(name for key in self.keys(role) for name in key.algorithms)
        if self.remote is not None and role in self.remote.roles:
            allowed |= dict.fromkeys(self.remote.algorithms)
        if not allowed:
            raise TokenInvalid(
                f"no {HOLDERS[role]} key is configured for {self.identifier!r}", Section.SIGNATURE
            )
        if algorithm not in list(allowed):
            raise TokenInvalid(
                f"alg is {shown(algorithm)}; the {HOLDERS[role]} key is used with {', '.join(allowed)} "
                f"(MERCURE_{HOLDERS[role].upper()}_JWT_ALG)",
                Section.ALGORITHM,
            )
