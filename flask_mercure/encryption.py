"""Updates that the hub cannot read: JSON Web Encryption, and the keys for it (spec, Encryption; RFC 7516).

The content is always encrypted with ``A256GCM`` under a key of its own, which is wrapped for each recipient.
The recipient's key decides how (RFC 7517, RFC 7518); there is nothing else to choose. These are the two
algorithms that the spec recommends, and one for a secret that both sides have; ``RSA1_5`` and the rest are
refused.

=========  ======================  ==========================================================
``kty``    ``alg``                 the key
=========  ======================  ==========================================================
``EC``     ``ECDH-ES+A256KW``      on P-256, P-384 or P-521
``RSA``    ``RSA-OAEP-256``        2048 to 8192 bits
``oct``    ``A256KW``              256 bits. Not ``dir``: there the same key would encrypt every update, and
                                   two equal nonces of GCM would reveal it
=========  ======================  ==========================================================

joserfc, of the extra ``encryption``, is imported when the first key is read.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from flask_mercure.errors import ConfigurationError, EncryptionError, InvalidArgument
from flask_mercure.topics import check_media_type
from mercure_hub import INSTALL

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OctKey, RSAKey

    JWK: TypeAlias = Mapping[str, Any] | ECKey | RSAKey | OctKey
    """A key as joserfc has it, or as the object that JSON gives."""

    Recipients: TypeAlias = JWK | "KeySet" | Iterable[JWK | "KeySet"]

Algorithm = Literal["ECDH-ES+A256KW", "RSA-OAEP-256", "A256KW"]

_LONGEST_ID = 256
_RSA_BITS = range(2048, 8193)
_NEW_RSA_BITS = 3072
_OCT_BITS = 256
_CURVES = ("P-256", "P-384", "P-521")
_SIGNING = frozenset(("sign", "verify"))
_SECRET_MEMBERS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_CONTENT = "A256GCM"
_MEMBER = "keys"
"""Of the object that is a JWK set (RFC 7517 section 5)."""


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
class EncryptionKey:
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


def _is_native(value: object) -> bool:
    """Whether this is a key of joserfc. Its keys can be iterated, by an accident of ``__getitem__``."""
    jwk = _joserfc().jwk
    return isinstance(value, jwk.ECKey | jwk.RSAKey | jwk.OctKey | jwk.OKPKey)


def _read_key(given: object, *, private: bool) -> EncryptionKey:
    """Check a key. Messages name its ``kid`` and never show another member.

    :param given: JWK.
    :param private: whether it is one of the application's own. A private key that was given by somebody else
        is refused, though its public half would do: it was not meant to be given away.
    """
    jwk: Mapping[str, Any]
    if _is_native(given):
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
    return EncryptionKey(key_id or imported.thumbprint(), kind.algorithm, imported)


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
            bits = int.from_bytes(_bytes_of(jwk, "n"), "big").bit_length()
            if bits not in _RSA_BITS:
                raise EncryptionError(
                    f"{name} has {bits} bits; an RSA key needs {_RSA_BITS[0]}, and at most {_RSA_BITS[-1]}"
                )
        case "oct":
            bits = len(_bytes_of(jwk, "k")) * 8
            if bits != _OCT_BITS:
                raise EncryptionError(f"{name} has {bits} bits; a secret for A256KW has {_OCT_BITS}")


def _text(jwk: Mapping[str, Any], member: str) -> str:
    value = jwk.get(member)
    return value if isinstance(value, str) else ""


def _bytes_of(jwk: Mapping[str, Any], member: str) -> bytes:
    """The bytes that a member encodes; none if it is damaged."""
    text = _text(jwk, member)
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""


def _imported(members: dict[str, Any]) -> ECKey | RSAKey | OctKey | None:
    """The key as joserfc has it. Its own errors end here: they are raised with the key in their context."""
    joserfc = _joserfc()
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


def _generate_jwk(algorithm: str) -> dict[str, Any]:
    jwk = _joserfc().jwk
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


def _joserfc() -> Any:
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
        self._keys = tuple(_read_key(key, private=True) for key in keys)
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
        return cls([_generate_jwk(algorithm)])

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
        document = _parsed(given)
        keys = document.get(_MEMBER, [document]) if isinstance(document, dict) else None
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
        new = _generate_jwk(self._keys[0].algorithm)
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
        return _compact_json({_MEMBER: self._jwks()})

    def _jwks(self) -> list[dict[str, Any]]:
        return [key.jwk(private=True) for key in self._keys]

    def _newest(self) -> EncryptionKey:
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
    return _compact_json({_MEMBER: list(jwks.values())})


def _parsed(text: str | bytes) -> object:
    """The JSON value, or ``None``: the parser's error would show the whole text."""
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def encrypt(content: str | bytes, recipients: Recipients, content_type: str) -> str:
    """Encrypt the content of an update.

    :param content: text is encoded as UTF-8.
    :param recipients: keys of those who can read it: a public JWK, a secret one, a :class:`KeySet` (its
        newest key), or several of these.
    :param content_type: media type of the content; it stays readable, as the header ``cty``.
    :returns: a JWE: in compact serialization for one recipient, in general JSON serialization for several.
    :raises EncryptionError: a key cannot be used.
    :raises ConfigurationError: the extra ``encryption`` is not installed.
    """
    keys = _recipients(recipients)
    plain = content if isinstance(content, bytes) else _encoded(content)
    if plain is None:
        raise InvalidArgument("data holds a lone surrogate, which UTF-8 cannot carry")
    header = {"enc": _CONTENT, "cty": _short(check_media_type(content_type, "content_type"))}
    message = _sealed(plain, keys, header)
    if message is None:
        # A public key that another side made up: its numbers have the right size, and no cipher takes them.
        raise EncryptionError(f"nothing can be encrypted for {', '.join(repr(key.id) for key in keys)}")
    return message


def _sealed(content: bytes, keys: list[EncryptionKey], header: dict[str, str]) -> str | None:
    """The JWE; ``None`` when a key does not work after all."""
    joserfc = _joserfc()
    try:
        return _serialized(joserfc.jwe, content, keys, header)
    except (joserfc.errors.JoseError, ValueError):
        return None


def _serialized(jwe: Any, content: bytes, keys: list[EncryptionKey], header: dict[str, str]) -> str:
    algorithms = [_CONTENT, *dict.fromkeys(key.algorithm for key in keys)]
    if len(keys) == 1:
        (key,) = keys
        header |= {"alg": key.algorithm, "kid": key.id}
        compact: str = jwe.encrypt_compact(header, content, key.native, algorithms=algorithms)
        return compact
    message = jwe.GeneralJSONEncryption(header, content)
    for key in keys:
        message.add_recipient({"alg": key.algorithm, "kid": key.id}, key.native)
    return _compact_json(jwe.encrypt_json(message, None, algorithms=algorithms))


def _recipients(recipients: object) -> list[EncryptionKey]:
    if isinstance(recipients, Mapping) and _MEMBER in recipients:
        raise EncryptionError(
            "this is a whole JWK set: give KeySet.load(...) of your own keys, to use the newest of them, or "
            "the list jwk_set['keys'], to encrypt for each of its public keys"
        )
    if isinstance(recipients, str | bytes):
        raise TypeError("the key is text; give a JWK as a dict, or KeySet.load(...)")
    several = recipients if isinstance(recipients, Iterable) else [recipients]
    if isinstance(recipients, Mapping) or _is_native(recipients):
        several = [recipients]
    keys = [one._newest() if isinstance(one, KeySet) else _read_key(one, private=False) for one in several]
    if not keys:
        raise EncryptionError("there is no key to encrypt for; nobody could read the update")
    return keys


def _encoded(text: str) -> bytes | None:
    """Text as UTF-8, or ``None``: the codec's error would show the whole text."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _short(media_type: str) -> str:
    """The form that ``cty`` has: ``application/`` is left out where nothing is lost (RFC 7516, 4.1.12)."""
    rest = media_type.removeprefix("application/")
    return media_type if "/" in rest else rest
