"""Keys that sign and verify tokens, read from the text of a secret or a PEM (RFC 7518).

What goes wrong most often is a multi-line PEM that went through an environment variable. ``load`` repairs
what needs no guessing (``\\n`` escapes, lines joined by spaces) and explains the rest.
"""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from mercure_hub.protocol.errors import KeyMaterialError

if TYPE_CHECKING:
    from mercure_hub.protocol.tokens.asymmetric import PrivateKey, PublicKey
# Their module is imported late: a hub whose keys are secrets does without cryptography, some 10 MiB.

_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 section 3.2
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
ASYMMETRIC = (*RSA, *CURVES.values(), "EdDSA")
ALGORITHMS = (*_HMAC_BYTES, *ASYMMETRIC)

_SEQUENCE = b"0"  # what any key or certificate in DER begins with
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_KEY_FILES = (".pem", ".key", ".crt", ".cer", ".der", ".pub")
_SSH = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")
_SSH_BYTES = tuple(prefix.encode() for prefix in _SSH)
_ARMOUR = re.compile(rb"----[- ](?:BEGIN|END) ")


@dataclass(frozen=True, slots=True)
class Key:
    """A key ready for use, with the algorithms it may be used with.

    :param material: the bytes of a secret, or a key object.
    :param algorithms: JWA names; the first one is used for signing.
    :param kid: the name that a JWK set gives it.
    """

    material: bytes | PrivateKey | PublicKey
    algorithms: tuple[str, ...]
    kid: str | None = None

    def __repr__(self) -> str:
        named = "" if self.kid is None else f"kid={self.kid!r}, "
        return f"Key({named}algorithms={self.algorithms})"

    @property
    def fingerprint(self) -> bytes:
        """Hash of a secret or of a public key; both halves of a pair have the same one."""
        if isinstance(self.material, bytes):
            return sha256(self.material).digest()
        from mercure_hub.protocol.tokens.asymmetric import public_bytes  # noqa: PLC0415

        return sha256(public_bytes(self.material)).digest()


def load(
    value: str,
    algorithm: str = "",
    *,
    exists: Callable[[str], bool],
    purpose: Literal["sign", "verify"] = "verify",
    passphrase: str | None = None,
) -> Key:
    """Read a configured key.

    :param value: a secret, or a PEM text (key, key pair or certificate).
    :param algorithm: JWA names separated by spaces; empty: HS256 for a secret, else what fits the key.
    :param exists: tells whether a path exists; such a value was meant as ``@`` and the path, not as a secret.
    :param purpose: ``verify`` turns a private key into its public half; ``sign`` needs the private one.
    :param passphrase: of an encrypted PEM.
    :raises KeyMaterialError: with the reason and the remedy.
    """
    names = tuple(algorithm.split())
    for name in names:
        if name not in ALGORITHMS:
            raise KeyMaterialError(f"the algorithm {name!r} is not known; use one of {', '.join(ALGORITHMS)}")
    if "-----" in value:
        from mercure_hub.protocol.tokens.asymmetric import load_pem  # noqa: PLC0415

        material, fits = load_pem(value, purpose, passphrase)
        if not names:
            return Key(material, fits[:1])
        for name in names:
            if name not in fits:
                raise KeyMaterialError(f"the key does not fit {name}; it fits {', '.join(fits)}")
        return Key(material, names)
    _refuse_lookalike(value, exists)
    return _load_secret(value, names)


def _refuse_lookalike(value: str, exists: Callable[[str], bool]) -> None:
    """Refuse a key, a path or a URL as a secret.

    Anybody who has the public key could sign tokens with it, and a file name can be guessed.

    :raises KeyMaterialError: with the form to give the value in.
    """
    form = "give the PEM text (-----BEGIN ...-----), or @ and the path of its file"
    text = value.strip()
    if _is_asymmetric(text):
        raise KeyMaterialError(f"the value is a key without its BEGIN and END lines, not a secret; {form}")
    if text.startswith(_SSH):
        raise KeyMaterialError(
            "the value is a key in the form of OpenSSH, not a secret; convert it "
            f"(ssh-keygen -e -m PKCS8) and {form}"
        )
    if text.startswith("{") and _is_jwk(text):
        raise KeyMaterialError(
            'the value is a JWK, not a secret; write a set of it ({"keys": [...]}) to the file of '
            "MERCURE_JWKS_FILE, or give the key as PEM text"
        )
    if _URL.match(text):
        raise KeyMaterialError(
            "the value is a URL, not a secret; for a file write @ and its path (@/etc/mercure/key.pem), "
            "for a JWK set set MERCURE_JWKS_URI"
        )
    if text.lower().endswith(_KEY_FILES) or exists(text):
        raise KeyMaterialError(
            "the value is the path of a file, not a secret; write @ before it (@/etc/mercure/key.pem)"
        )


def _is_asymmetric(text: str) -> bool:
    """Whether a text is the base64 of a key or certificate, in DER or in PEM."""
    packed = re.sub(r"\\[nr]|[\s\"']", "", text).rstrip("=")
    padded = packed + "=" * (-len(packed) % 4)
    try:
        value = urlsafe_b64decode(padded) if re.search("[-_]", packed) else b64decode(padded, validate=True)
    except ValueError:
        return False
    return value.lstrip().startswith(b"-----BEGIN ") or _is_der(value)


def _is_der(value: bytes) -> bool:
    if not value.startswith(_SEQUENCE):
        return False
    from mercure_hub.protocol.tokens.asymmetric import is_der  # noqa: PLC0415

    return is_der(value)


def is_disguised(secret: bytes) -> bool:
    """Whether what is used as a secret is a key or a certificate that others may have."""
    return (
        _ARMOUR.search(secret) is not None
        or secret.startswith(_SSH_BYTES)
        or _is_der(secret)
        or (secret.lstrip().startswith(b"{") and _is_jwk(secret.decode("utf-8", "surrogateescape")))
    )


def _is_jwk(text: str) -> bool:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and ("kty" in document or "keys" in document)


def _load_secret(value: str, names: tuple[str, ...]) -> Key:
    names = names or ("HS256",)
    if any(name not in _HMAC_BYTES for name in names):
        if re.fullmatch(r"[\s\w./~-]+", value) and "/" in value:
            raise KeyMaterialError(
                f"{' '.join(names)} needs a PEM key and the value looks like a path; write @ before a path"
            )
        raise KeyMaterialError(
            f"{' '.join(names)} needs a PEM key (-----BEGIN ...-----), and the value is not one; "
            "give the PEM text, or @ and the path of its file"
        )
    try:
        material = value.encode("utf-8", "surrogateescape")  # bytes of the environment that are not UTF-8
    except UnicodeEncodeError:
        raise KeyMaterialError("the secret holds characters that cannot be encoded") from None
    for name in names:
        if len(material) < _HMAC_BYTES[name]:
            raise KeyMaterialError(
                f"the secret has {len(material)} bytes and {name} needs at least {_HMAC_BYTES[name]} "
                "(RFC 7518); make one with: mercure-hub keys"
            )
    return Key(material, names)


def fitting(key: bytes | PrivateKey | PublicKey) -> tuple[str, ...]:
    """The algorithms that a key can be used with.

    :raises KeyMaterialError: there is none: the key is too short or of an unusual kind.
    """
    if not isinstance(key, bytes):
        from mercure_hub.protocol.tokens.asymmetric import fitting as fitting_pair  # noqa: PLC0415

        return fitting_pair(key)
    if _is_der(key):
        raise KeyMaterialError("the secret is a key in DER, which others may have; make a random one")
    algorithms = tuple(name for name, length in _HMAC_BYTES.items() if len(key) >= length)
    if not algorithms:
        raise KeyMaterialError(f"the secret has {len(key)} bytes and needs at least 32 (RFC 7518)")
    return algorithms


def generate_secret() -> str:
    """A fresh secret that is strong enough for HS256, HS384 and HS512."""
    secret = secrets.token_urlsafe(64)
    while secret.startswith("-"):  # a shell would take it for a flag
        secret = secrets.token_urlsafe(64)
    return secret
