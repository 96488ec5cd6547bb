"""Keys of which one half is public: reading them from PEM, and what they can be used with (RFC 7518).

Importing this takes some 10 MiB of memory, so it is imported where there is such a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from mercure_hub.protocol.errors import KeyMaterialError, PassphraseError
from mercure_hub.protocol.tokens.keys import ASYMMETRIC, CURVES, RSA

PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

# openssl ecparam -genkey writes the parameters of the curve before the key.
_PEM = re.compile(r"-----BEGIN (?!EC PARAMETERS)([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_MIN_RSA_BITS = 2048
_ALGORITHMS: Mapping[str, Algorithm] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in ASYMMETRIC
}
_EC: Mapping[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}
EC_SIZES = {name: (curve.key_size + 7) // 8 for name, curve in _EC.items()}
"""Bytes of a coordinate, by the name of a curve (RFC 7518 section 6.2)."""

OKP_SIZES = {"Ed25519": 32, "Ed448": 57}
"""Bytes of a public key, by the name of a curve (RFC 8037)."""


def load_pem(
    value: str, purpose: Literal["sign", "verify"], passphrase: str | None
) -> tuple[PrivateKey | PublicKey, tuple[str, ...]]:
    """Read a PEM text.

    :param purpose: ``verify`` turns a private key into its public half; ``sign`` needs the private one.
    :param passphrase: of an encrypted PEM.
    :returns: the key, and the algorithms that it can be used with.
    :raises KeyMaterialError: with the reason and the remedy.
    """
    key = _parse_pem(_mend(value), passphrase)
    if purpose == "sign" and not isinstance(key, PrivateKey):
        raise KeyMaterialError("this is a public key, and signing needs the private one")
    if purpose == "verify" and isinstance(key, PrivateKey):
        key = key.public_key()
    return key, fitting(key)


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


def fitting(key: PrivateKey | PublicKey) -> tuple[str, ...]:
    """The algorithms that a key can be used with.

    :raises KeyMaterialError: there is none: the key is too short or of an unusual kind.
    """
    match key:
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            if key.key_size < _MIN_RSA_BITS:
                raise KeyMaterialError(
                    f"the RSA key has {key.key_size} bits and needs at least {_MIN_RSA_BITS} (RFC 7518)"
                )
            return RSA
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            name = CURVES.get(key.curve.name)
            if name is None:
                raise KeyMaterialError(f"the curve {key.curve.name} is not used by any token algorithm")
            return (name,)
        case _:
            return ("EdDSA",)


def has_signed(key: PrivateKey | PublicKey, algorithm: str, signed: bytes, signature: bytes) -> bool:
    """Whether a key has signed a token.

    :param algorithm: its JWA name, one of the key's.
    :param signed: header and payload, encoded.
    :raises ValueError: the algorithm is not for this key.
    """
    used = _ALGORITHMS.get(algorithm)
    if used is None:
        raise ValueError(f"{algorithm} is not for a key pair")
    try:
        return used.verify(signed, used.prepare_key(key), signature)
    except PyJWTError as error:
        raise ValueError(str(error)) from None


def public_bytes(key: PrivateKey | PublicKey) -> bytes:
    """The public half of a key, as SubjectPublicKeyInfo in DER."""
    public = key.public_key() if isinstance(key, PrivateKey) else key
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def rsa_key(modulus: int, exponent: int) -> PublicKey:
    """A public key from its numbers.

    :raises ValueError: they are not those of a key.
    """
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def ec_key(curve: str, x: int, y: int) -> PublicKey:
    """A public key from its point.

    :param curve: one of ``EC_SIZES``.
    :raises ValueError: the point is not on the curve.
    """
    return ec.EllipticCurvePublicNumbers(x, y, _EC[curve]).public_key()


def okp_key(curve: str, x: bytes) -> PublicKey:
    """A public key from its bytes.

    :param curve: one of ``OKP_SIZES``.
    :raises ValueError: they are not those of a key.
    """
    kind = ed25519.Ed25519PublicKey if curve == "Ed25519" else ed448.Ed448PublicKey
    return kind.from_public_bytes(x)


def is_der(value: bytes) -> bool:
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
