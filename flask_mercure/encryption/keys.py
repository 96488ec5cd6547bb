"""Keys to encrypt with: which ones can be used, and for what (spec, Encryption; RFC 7517, RFC 7518).

What wraps the key of an update follows from the recipient's key, and there is nothing else to choose: the
two algorithms that the spec recommends, and one for a secret that both sides have. ``RSA1_5`` and the rest
are refused.

=========  ======================  ==========================================================
``kty``    ``alg``                 the key
=========  ======================  ==========================================================
``EC``     ``ECDH-ES+A256KW``      on P-256, P-384 or P-521
``RSA``    ``RSA-OAEP-256``        2048 to 8192 bits
``oct``    ``A256KW``              256 bits. Not ``dir``: there the same key would encrypt every update, and
                                   two equal nonces of GCM give it away
=========  ======================  ==========================================================

joserfc, of the extra ``encryption``, is imported when the first key is read.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from flask_mercure.errors import ConfigurationError, EncryptionError
from mercure_hub import INSTALL

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OctKey, RSAKey

    JWK: TypeAlias = Mapping[str, Any] | ECKey | RSAKey | OctKey
    """A key as joserfc has it, or as the object that JSON gives."""

Algorithm = Literal["ECDH-ES+A256KW", "RSA-OAEP-256", "A256KW"]

_LONGEST_ID = 256
_RSA_BITS = range(2048, 8193)
_NEW_RSA_BITS = 3072
_OCT_BITS = 256
_CURVES = ("P-256", "P-384", "P-521")
_SIGNING = frozenset(("sign", "verify"))
_SECRET_MEMBERS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a key of one ``kty`` is made of and good for."""

    algorithm: Algorithm
    public: tuple[str, ...]
    secret: tuple[str, ...]


_KINDS: Mapping[str, _Kind] = {
    "EC": _Kind("ECDH-ES+A256KW", ("crv", "x", "y"), ("d",)),
    "RSA": _Kind("RSA-OAEP-256", ("n", "e"), ("d", "p", "q", "dp", "dq", "qi")),
    "oct": _Kind("A256KW", (), ("k",)),
}


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key that was checked.

    :param id: its ``kid``.
    :param algorithm: that it is for.
    :param native: joserfc's form, without the members that only restrict it.
    """

    id: str
    algorithm: Algorithm
    native: ECKey | RSAKey | OctKey

    def jwk(self, *, private: bool) -> dict[str, Any]:
        """The key as JSON has it; a secret of both sides is private."""
        members = {"use": "enc", "alg": self.algorithm, "kid": self.id}
        return {**self.native.as_dict(private=private), **members}


def is_native(value: object) -> bool:
    """Whether this is a key of joserfc. Its keys can be iterated, by an accident of ``__getitem__``."""
    jwk = joserfc_modules().jwk
    return isinstance(value, jwk.ECKey | jwk.RSAKey | jwk.OctKey | jwk.OKPKey)


def read(given: object, *, private: bool) -> Key:
    """Check a key. Messages name its ``kid`` and never show another member.

    :param given: JWK.
    :param private: whether it is one of the application's own. A private key that was given by somebody else
        is refused, though its public half would do: it was not meant to be given away.
    """
    jwk: Mapping[str, Any]
    if is_native(given):
        native: Any = given
        jwk = native.as_dict(private=native.is_private)
    elif isinstance(given, Mapping):
        jwk = given
    else:
        raise TypeError(
            f"a key is a {type(given).__name__}; give a JWK, as a dict or of joserfc, or a KeySet (to "
            "publish without encryption, leave encrypt_for out)"
        )

    key_id = jwk.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and 0 < len(key_id) <= _LONGEST_ID):
        raise EncryptionError(f"the kid of a key must be text of 1 to {_LONGEST_ID} characters")
    name = "the key" if key_id is None else f"the key {key_id!r}"

    kind = _KINDS.get(_text(jwk, "kty"))
    if kind is None:
        raise EncryptionError(f"{name} has no kty that can be used; use one of {', '.join(_KINDS)}")
    _check_purpose(jwk, kind, name)
    if kind.public and not private and not _SECRET_MEMBERS.isdisjoint(jwk):
        raise EncryptionError(
            f"{name} is a private key, and a public one is enough to encrypt. Whoever sent it has given it "
            "away; let them make another one. For your own keys use KeySet"
        )
    if kind.public and private and not all(_text(jwk, member) for member in kind.secret):
        raise EncryptionError(
            f"{name} has not all of {', '.join(kind.secret)}: a KeySet has private keys, subscribers decrypt "
            "with them. To encrypt for a public key of somebody else, give the JWK itself"
        )
    _check_strength(jwk, name)
    if key_id is None and not kind.public:
        raise EncryptionError("the secret key has no kid; add one, of which the secret cannot be guessed")

    wanted = (*kind.public, *(kind.secret if private or not kind.public else ()))
    members = {member: jwk[member] for member in ("kty", *wanted) if member in jwk}
    imported = _imported(members)
    if imported is None:
        raise EncryptionError(f"{name} is damaged: its members are no {members['kty']} key")
    return Key(key_id or imported.thumbprint(), kind.algorithm, imported)


def _check_purpose(jwk: Mapping[str, Any], kind: _Kind, name: str) -> None:
    use, operations, algorithm = jwk.get("use"), jwk.get("key_ops"), jwk.get("alg")
    # Browsers export a public key of ECDH with no operation at all.
    signs = isinstance(operations, list) and bool(operations) and _SIGNING.issuperset(map(str, operations))
    if use not in (None, "enc") or signs:
        raise EncryptionError(f"{name} is for signatures (its use or key_ops), not for encryption")
    if algorithm not in (None, kind.algorithm):
        raise EncryptionError(
            f"{name} is for the algorithm {str(algorithm)[:40]!r}; with this kty it must be {kind.algorithm}"
        )


def _check_strength(jwk: Mapping[str, Any], name: str) -> None:
    """Sizes, looked at before joserfc would only warn."""
    match jwk["kty"]:
        case "EC" if _text(jwk, "crv") not in _CURVES:
            raise EncryptionError(f"{name} is on no curve that can be used; use one of {', '.join(_CURVES)}")
        case "RSA":
            bits = int.from_bytes(_octets(jwk, "n"), "big").bit_length()
            if bits not in _RSA_BITS:
                raise EncryptionError(
                    f"{name} has {bits} bits; an RSA key needs {_RSA_BITS[0]}, and at most {_RSA_BITS[-1]}"
                )
        case "oct":
            bits = len(_octets(jwk, "k")) * 8
            if bits != _OCT_BITS:
                raise EncryptionError(f"{name} has {bits} bits; a secret for A256KW has {_OCT_BITS}")


def _text(jwk: Mapping[str, Any], member: str) -> str:
    value = jwk.get(member)
    return value if isinstance(value, str) else ""


def _octets(jwk: Mapping[str, Any], member: str) -> bytes:
    """What a member encodes; nothing when it is damaged."""
    text = _text(jwk, member)
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""


def _imported(members: dict[str, Any]) -> ECKey | RSAKey | OctKey | None:
    """The key as joserfc has it. Its own errors end here: they are raised with the key in their context."""
    joserfc = joserfc_modules()
    kinds: Mapping[str, Any] = {
        "EC": joserfc.jwk.ECKey,
        "RSA": joserfc.jwk.RSAKey,
        "oct": joserfc.jwk.OctKey,
    }
    try:
        key: ECKey | RSAKey | OctKey = kinds[members["kty"]].import_key(members)
    except (joserfc.errors.JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key


def generate(algorithm: str) -> dict[str, Any]:
    jwk = joserfc_modules().jwk
    new: ECKey | RSAKey | OctKey
    if algorithm == "ECDH-ES+A256KW":
        new = jwk.ECKey.generate_key("P-256")
    elif algorithm == "RSA-OAEP-256":
        new = jwk.RSAKey.generate_key(_NEW_RSA_BITS)
    elif algorithm == "A256KW":
        new = jwk.OctKey.generate_key(_OCT_BITS)
    else:
        raise EncryptionError(f"algorithm is {algorithm!r}; use one of {', '.join(get_args(Algorithm))}")
    # The thumbprint (RFC 7638) of a secret would be a hash of it for everybody to see.
    key_id = secrets.token_urlsafe(16) if algorithm == "A256KW" else new.thumbprint()
    return {**new.as_dict(private=True), "kid": key_id}


def joserfc_modules() -> Any:
    """The package joserfc, with its modules ``jwe``, ``jwk`` and ``errors``.

    :raises ConfigurationError: it is not installed.
    """
    try:
        import joserfc.errors  # noqa: PLC0415
        import joserfc.jwe  # noqa: PLC0415
        import joserfc.jwk  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            f"encrypted updates need joserfc, which is not installed; {INSTALL.format('encryption')}"
        ) from None
    return joserfc
