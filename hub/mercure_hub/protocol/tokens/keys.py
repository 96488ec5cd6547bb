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
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate

from mercure_hub.protocol.errors import KeyMaterialError, PassphraseError

PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 section 3.2
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
ASYMMETRIC = (*_RSA, *_CURVES.values(), "EdDSA")
ALGORITHMS = (*_HMAC_BYTES, *ASYMMETRIC)

# openssl ecparam -genkey writes the parameters of the curve before the key.
_PEM = re.compile(r"-----BEGIN (?!EC PARAMETERS)([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_MIN_RSA_BITS = 2048
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_KEY_FILES = (".pem", ".key", ".crt", ".cer", ".der", ".pub")
_SSH = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")


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
        public = self.material.public_key() if isinstance(self.material, PrivateKey) else self.material
        spki = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return sha256(spki).digest()


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
        return _load_pem(value, names, purpose, passphrase)
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
    """Whether a value is a key or a certificate in DER, of any kind, also encrypted."""
    for read in (
        serialization.load_der_public_key,
        lambda der: serialization.load_der_private_key(der, None),
        load_der_x509_certificate,
    ):
        try:
            read(value)
        except ValueError:
            continue
        except (TypeError, UnsupportedAlgorithm):  # it is one, but encrypted or of an unusual kind
            return True
        return True
    return False


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


def _load_pem(value: str, names: tuple[str, ...], purpose: str, passphrase: str | None) -> Key:
    key = _parse_pem(_mend(value), passphrase)
    if purpose == "sign" and not isinstance(key, PrivateKey):
        raise KeyMaterialError("this is a public key, and signing needs the private one")
    if purpose == "verify" and isinstance(key, PrivateKey):
        key = key.public_key()
    fits = fitting(key)
    if not names:
        return Key(key, fits[:1])
    for name in names:
        if name not in fits:
            raise KeyMaterialError(f"the key does not fit {name}; it fits {', '.join(fits)}")
    return Key(key, names)


def _mend(value: str) -> str:
    """Undo what environment files do to a PEM: ``\\n`` escapes, quotes, newlines turned into spaces."""
    value = value.replace("\\r", "").replace("\\n", "\n")
    match = _PEM.search(value)
    if match is None:
        begin, end = "-----BEGIN" in value, "-----END" in value
        missing = "END" if begin and not end else "BEGIN" if end and not begin else "matching BEGIN and END"
        raise KeyMaterialError(
            f"the PEM is mangled: its {missing} line is missing (a variable that keeps only the first "
            "line does this); give it with \\n for each line end, or @ and the path of the file"
        )
    label, body = match.groups()
    if "Proc-Type" in body:  # a legacy encrypted key has headers whose line ends matter
        return match[0]
    packed = "".join(body.split())
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", packed):
        raise KeyMaterialError("the PEM is mangled: the text between its BEGIN and END lines is not base64")
    lines = [packed[i : i + 64] for i in range(0, len(packed), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _parse_pem(pem: str, passphrase: str | None) -> PrivateKey | PublicKey:
    content = pem.encode("utf-8", "surrogateescape")
    secret = passphrase.encode("utf-8", "surrogateescape") if passphrase else None
    key: object
    try:
        if "CERTIFICATE" in pem:
            key = load_pem_x509_certificate(content).public_key()
        elif "PRIVATE KEY" in pem:
            key = serialization.load_pem_private_key(content, secret)
        else:
            key = serialization.load_pem_public_key(content)
    except TypeError:
        remedy = "and no passphrase is set" if secret is None else "but a passphrase is set"
        state = "is encrypted" if secret is None else "is not encrypted"
        raise PassphraseError(f"the private key {state} {remedy}") from None
    except (ValueError, UnsupportedAlgorithm):
        read = "the PEM has its BEGIN and END lines, but no key can be read"
        if secret:
            raise PassphraseError(f"{read} or the passphrase is wrong") from None
        raise KeyMaterialError(f"{read} (a line is missing or cut)") from None
    if not isinstance(key, PrivateKey | PublicKey):
        raise KeyMaterialError(f"a {type(key).__name__} cannot sign tokens; use RSA, EC or Ed25519")
    return key


def fitting(key: bytes | PrivateKey | PublicKey) -> tuple[str, ...]:
    """The algorithms that a key can be used with.

    :raises KeyMaterialError: there is none: the key is too short or of an unusual kind.
    """
    match key:
        case bytes():
            if _is_der(key):
                raise KeyMaterialError("the secret is a key in DER, which others may have; make a random one")
            algorithms = tuple(name for name, length in _HMAC_BYTES.items() if len(key) >= length)
            if not algorithms:
                raise KeyMaterialError(f"the secret has {len(key)} bytes and needs at least 32 (RFC 7518)")
            return algorithms
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            if key.key_size < _MIN_RSA_BITS:
                raise KeyMaterialError(
                    f"the RSA key has {key.key_size} bits and needs at least {_MIN_RSA_BITS} (RFC 7518)"
                )
            return _RSA
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            name = _CURVES.get(key.curve.name)
            if name is None:
                raise KeyMaterialError(f"the curve {key.curve.name} is not used by any token algorithm")
            return (name,)
        case _:
            return ("EdDSA",)


def generate_secret() -> str:
    """A fresh secret that is strong enough for HS256, HS384 and HS512."""
    secret = secrets.token_urlsafe(64)
    while secret.startswith("-"):  # a shell would take it for a flag
        secret = secrets.token_urlsafe(64)
    return secret


def generate_pair(kind: Literal["rsa", "ec", "ed25519"]) -> tuple[str, str]:
    """A fresh key pair.

    :returns: private and public key as PEM texts (PKCS #8 and SubjectPublicKeyInfo).
    """
    private: PrivateKey
    if kind == "rsa":
        private = rsa.generate_private_key(65537, 3072)
    elif kind == "ec":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    return (
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
        private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
    )
