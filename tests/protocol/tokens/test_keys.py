"""Key material as people really configure it, whole or mangled."""

from __future__ import annotations

import datetime
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from typing import Literal

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x448, x25519
from cryptography.x509.oid import NameOID

from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.tokens import keys
from mercure_hub.protocol.tokens.asymmetric import PrivateKey, generate_pair
from mercure_hub.protocol.tokens.keys import ALGORITHMS, Key, generate_secret

SECRET = "correct-horse-battery-staple-0123456789-abcdefghijklmnopqrstuvwxyz"
RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}
EC = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()

FAMILIES: list[tuple[str, PrivateKey]] = [
    *((name, RSA) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    *EC.items(),
    ("EdDSA", ED25519),
    ("EdDSA", ED448),
]
IDS = [f"{name}-{type(key).__name__}" for name, key in FAMILIES]

load = partial(keys.load, exists=lambda _: False)
Encoding, Private, Public = serialization.Encoding, serialization.PrivateFormat, serialization.PublicFormat


def private_pem(
    key: PrivateKey, passphrase: str = "", form: serialization.PrivateFormat = Private.PKCS8
) -> str:
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(Encoding.PEM, form, protection).decode()


def public_pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, Public.SubjectPublicKeyInfo).decode()


def certificate_pem(key: PrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub.example.com")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, start, start + datetime.timedelta(days=365)
    )
    algorithm = (
        None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    )
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def works(signing: Key, verifying: Key, algorithm: str) -> bool:
    token = jwt.encode({"a": 1}, signing.material, algorithm)  # type: ignore[arg-type]
    return bool(jwt.decode(token, verifying.material, list(verifying.algorithms)) == {"a": 1})  # type: ignore[arg-type]


def refused(
    value: str,
    algorithm: str = "",
    purpose: Literal["sign", "verify"] = "verify",
    passphrase: str | None = None,
) -> str:
    with pytest.raises(KeyMaterialError) as refusal:
        load(value, algorithm, purpose=purpose, passphrase=passphrase)
    message = str(refusal.value)
    secrets = [
        value,
        passphrase or "",
        *value.splitlines(),
        *(value[i : i + 20] for i in range(0, len(value), 20)),
    ]
    leaked = [part for part in secrets if len(part) > 12 and "-----" not in part and part in message]
    assert leaked == [], "the message shows the key"
    assert refusal.value.__cause__ is None, "nor does its cause"
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    return message


@pytest.mark.parametrize(("algorithm", "key"), FAMILIES, ids=IDS)
class TestFamilies:
    def test_each_family_signs_and_verifies(self, algorithm: str, key: PrivateKey) -> None:
        signing = load(private_pem(key), algorithm, purpose="sign")
        assert signing.algorithms == (algorithm,)
        for pem in (public_pem(key), private_pem(key), certificate_pem(key)):
            assert works(signing, load(pem, algorithm), algorithm)

    def test_verifying_never_holds_the_private_half(self, algorithm: str, key: PrivateKey) -> None:
        assert not isinstance(load(private_pem(key), algorithm).material, PrivateKey)

    def test_read_again_it_is_the_same_key(self, algorithm: str, key: PrivateKey) -> None:
        """A reload of the hub would end all streams otherwise."""
        pem = public_pem(key)
        assert load(pem, algorithm) == load(pem, algorithm)

    def test_the_algorithm_is_inferred(self, algorithm: str, key: PrivateKey) -> None:
        inferred = load(public_pem(key)).algorithms
        assert inferred == (("RS256",) if isinstance(key, rsa.RSAPrivateKey) else (algorithm,))

    def test_signing_needs_the_private_half(self, algorithm: str, key: PrivateKey) -> None:
        for pem in (public_pem(key), certificate_pem(key)):
            assert "signing needs the private one" in refused(pem, algorithm, "sign")

    def test_another_algorithm_does_not_fit(self, algorithm: str, key: PrivateKey) -> None:
        for other in ALGORITHMS:
            same = other == algorithm or (isinstance(key, rsa.RSAPrivateKey) and other[:2] in ("RS", "PS"))
            if not same:
                assert f"does not fit {other}" in refused(public_pem(key), other)
        assert "does not fit HS256" in refused(private_pem(key), f"{algorithm} HS256")


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_secrets_that_are_long_enough(algorithm: str, size: int) -> None:
    key = load("s" * size, algorithm)
    assert key == Key(b"s" * size, (algorithm,))
    assert works(key, load("s" * size, algorithm, purpose="sign"), algorithm)
    message = refused("x" * (size - 1), algorithm)
    assert f"{size - 1} bytes" in message
    assert "mercure-hub keys" in message


def test_a_secret_is_for_hs256_unless_said_otherwise() -> None:
    assert load(SECRET).algorithms == ("HS256",)
    assert load(SECRET, "HS512 HS256").algorithms == ("HS512", "HS256")


@pytest.mark.parametrize(
    "value", ["", " ", "!ChangeMe!", "!ChangeThisMercureHubJWTSecretKey", "secret", "é" * 15]
)
def test_weak_secrets_are_refused(value: str) -> None:
    if len(value.encode()) < 32:
        assert "needs at least 32" in refused(value)
    else:
        assert load(value).algorithms == ("HS256",)


def test_a_secret_counts_in_bytes() -> None:
    assert load("é" * 16).material == ("é" * 16).encode()


def test_a_secret_with_bytes_that_are_not_utf8() -> None:
    """As os.environ gives them."""
    data = b"\xff\xfe" * 20
    assert load(data.decode("utf-8", "surrogateescape")).material == data
    assert "cannot be encoded" in refused("\ud800" * 40)


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "hs256", "HS1", "RS1", "RSA-OAEP", "HS256,HS384", "EdDSA HS", "dir"]
)
def test_unknown_algorithms_are_refused(algorithm: str) -> None:
    assert "is not known; use one of HS256" in refused(SECRET, algorithm)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "HS256 RS256"])
def test_an_asymmetric_algorithm_needs_a_pem(algorithm: str) -> None:
    assert "needs a PEM key" in refused(SECRET, algorithm)


@pytest.mark.parametrize("value", ["/etc/mercure/public", "keys/public", "~/jwt/key"])
def test_a_path_without_its_at(value: str) -> None:
    message = refused(value, "RS256") if len(value) < 12 else _message(value, "RS256")
    assert "write @ before a path" in message


def _message(value: str, algorithm: str) -> str:
    with pytest.raises(KeyMaterialError) as refusal:
        load(value, algorithm)
    return str(refusal.value)


def _body(pem: str) -> str:
    return "".join(line for line in pem.splitlines() if "-----" not in line)


DISGUISES: dict[str, Callable[[str], str]] = {
    "the lines between": _body,
    "with line ends": lambda pem: "\n".join(pem.splitlines()[1:-1]),
    "with escaped line ends": lambda pem: "\\n".join(pem.splitlines()[1:-1]),
    "in quotes": lambda pem: f'"{_body(pem)}"',
    "without padding": lambda pem: _body(pem).rstrip("="),
    "base64url": lambda pem: _body(pem).translate(str.maketrans("+/", "-_")),
    "base64 of the PEM": lambda pem: b64encode(pem.encode()).decode(),
    "base64url of the PEM": lambda pem: urlsafe_b64encode(pem.encode()).decode(),
}


@pytest.mark.parametrize("algorithm", ["", "HS256", "RS256"])
@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES.keys())
@pytest.mark.parametrize("key", [RSA, *EC.values(), ED25519, ED448], ids=["RSA", *EC, "Ed25519", "Ed448"])
def test_a_key_without_its_pem_header_is_no_secret(
    key: PrivateKey, disguise: Callable[[str], str], algorithm: str
) -> None:
    """Everybody who has the public key could sign with it."""
    encrypted = private_pem(key, "open sesame, please")
    for pem in (public_pem(key), private_pem(key), certificate_pem(key), encrypted):
        assert "@ and the path of its file" in refused(disguise(pem), algorithm)


@pytest.mark.parametrize("form", [Private.TraditionalOpenSSL, Private.PKCS8], ids=["traditional", "PKCS8"])
def test_a_private_key_of_any_form_is_no_secret(form: serialization.PrivateFormat) -> None:
    traditional: list[PrivateKey] = [RSA, *EC.values()]
    for key in traditional:
        assert "without its BEGIN and END lines" in refused(_body(private_pem(key, form=form)))
    public = RSA.public_key().public_bytes(Encoding.PEM, Public.PKCS1).decode()
    assert "without its BEGIN and END lines" in refused(_body(public))


def test_keys_of_other_kinds_are_no_secret_either() -> None:
    for other in (x25519.X25519PrivateKey.generate(), x448.X448PrivateKey.generate()):
        pem = other.public_key().public_bytes(Encoding.PEM, Public.SubjectPublicKeyInfo).decode()
        assert "without its BEGIN and END lines" in refused(_body(pem))


@pytest.mark.parametrize("key", [RSA, EC["ES256"], ED25519], ids=["RSA", "EC", "Ed25519"])
def test_a_key_of_openssh_is_no_secret(key: PrivateKey) -> None:
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    text = key.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode()
    assert "OpenSSH" in refused(f"{text} me@example.com")


@pytest.mark.parametrize(
    "text", ['{"kty": "EC", "crv": "P-256", "x": "abc"}', ' {"keys": [{"kty": "RSA"}]}\n']
)
def test_a_jwk_is_no_secret(text: str) -> None:
    assert "MERCURE_JWKS_FILE" in refused(text)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("/etc/mercure/keys/of/the/hub/public.pem", "@/etc/mercure/key.pem"),
        ("mercure-publisher-signing-secret-2026.KEY", "@/etc/mercure/key.pem"),
        ("certificates/hub.example.com/fullchain.crt ", "@/etc/mercure/key.pem"),
        ("file:///etc/mercure/publisher-jwt-secret", "@/etc/mercure/key.pem"),
        ("https://login.example.com/.well-known/jwks.json", "MERCURE_JWKS_URI"),
        ("HTTPS://LOGIN.EXAMPLE.COM/.well-known/jwks", "MERCURE_JWKS_URI"),
    ],
)
def test_a_path_or_url_is_no_secret(value: str, form: str) -> None:
    with pytest.raises(KeyMaterialError) as refusal:
        load(value)
    assert form in str(refusal.value)
    assert value.strip() not in str(refusal.value)


def test_the_path_of_something_that_exists_is_no_secret() -> None:
    value = "a-secret-that-is-in-a-file-of-this-name"
    with pytest.raises(KeyMaterialError, match="write @ before it") as refusal:
        keys.load(value, exists=lambda path: path == value)
    assert value not in str(refusal.value)
    assert load(value).material == value.encode()


@pytest.mark.parametrize(
    "secret",
    [
        "/Zm9yIGEgc2VjcmV0IHRoYXQgYmVnaW5zIHdpdGggYSBzbGFzaA==",
        "//qL8n2v0w5xM1cRk3hT7yB9sD4fG6jZaPeUoVbNtXi",
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AbutNoKeyFollows",
        "{this-is-a-template-that-nobody-has-filled}",
        "ssh is a word with which my passphrase begins",
        '{"a": "secret that somebody keeps as JSON"}',
    ],
)
def test_a_secret_may_look_odd(secret: str) -> None:
    assert load(secret).material == secret.encode()


@pytest.mark.parametrize("bits", [1024, 2047])
def test_a_weak_rsa_key(bits: int) -> None:
    key = rsa.generate_private_key(65537, bits)
    assert f"{bits} bits and needs at least 2048" in refused(public_pem(key))
    assert f"{bits} bits" in refused(private_pem(key), purpose="sign")


def test_keys_that_sign_no_token() -> None:
    for key in (x25519.X25519PrivateKey.generate(), x448.X448PrivateKey.generate()):
        pem = key.private_bytes(Encoding.PEM, Private.PKCS8, serialization.NoEncryption()).decode()
        assert "cannot sign tokens; use RSA, EC or Ed25519" in refused(pem)
    curve = ec.generate_private_key(ec.SECP224R1())
    assert "secp224r1 is not used" in refused(public_pem(curve))


MANGLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda pem: pem,
    "no line end at the end": str.strip,
    "escapes": lambda pem: pem.replace("\n", "\\n"),
    "escaped CRLF": lambda pem: pem.replace("\n", "\\r\\n"),
    "CRLF": lambda pem: pem.replace("\n", "\r\n"),
    "CR": lambda pem: pem.replace("\n", "\r"),
    "spaces": lambda pem: pem.replace("\n", " "),
    "tabs": lambda pem: pem.replace("\n", "\t"),
    "one line": lambda pem: pem.replace("\n", ""),
    "double quotes": lambda pem: f'"{pem}"',
    "single quotes and escapes": lambda pem: "'" + pem.replace("\n", "\\n") + "'",
    "indented": lambda pem: "\n".join(f"    {line}" for line in pem.splitlines()),
    "empty lines": lambda pem: pem.replace("\n", "\n\n"),
    "a byte order mark": lambda pem: "\ufeff" + pem,
    "a comment before": lambda pem: f"# the key\nBag Attributes\n{pem}",
    "text after": lambda pem: f"{pem}\n# the end",
    "two of them": lambda pem: pem + pem,
    "lines of another length": lambda pem: re.sub(r"(?m)^([^-].{20})", "\\1\n", pem),
    "the parameters of its curve before it": lambda pem: (
        f"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{pem}"
    ),
}


@pytest.mark.parametrize("mangle", MANGLINGS.values(), ids=MANGLINGS.keys())
@pytest.mark.parametrize("key", [RSA, EC["ES256"], ED25519], ids=["RSA", "EC", "Ed25519"])
def test_a_pem_that_can_be_mended(mangle: Callable[[str], str], key: PrivateKey) -> None:
    algorithm = load(public_pem(key)).algorithms[0]
    signing, verifying = Key(key, (algorithm,)), load(mangle(public_pem(key)))
    assert verifying.algorithms == (algorithm,)
    assert works(signing, verifying, algorithm)
    assert works(signing, load(mangle(certificate_pem(key))), algorithm)
    form = Private.PKCS8 if key is ED25519 else Private.TraditionalOpenSSL
    pem = private_pem(key, form=form)
    assert works(load(mangle(pem), purpose="sign"), verifying, algorithm)


def _cut(pem: str, start: int, end: int) -> str:
    lines = pem.splitlines()
    return "\n".join(lines[:start] + lines[end:])


@pytest.mark.parametrize(
    ("mangle", "said"),
    [
        (lambda pem: pem.splitlines()[0], "END line is missing"),
        (lambda pem: _cut(pem, 0, 1), "BEGIN line is missing"),
        (lambda pem: _cut(pem, -1, 99), "END line is missing"),
        (lambda pem: pem.replace("-----END PUBLIC", "-----END PRIVATE"),
            "matching BEGIN and END line is missing"),
        (lambda pem: "-----" + SECRET, "matching BEGIN and END line is missing"),
        (lambda pem: pem.replace("\n", "\nX-Header: secret, key!\n", 1), "not base64"),
        (lambda pem: pem.replace("\n", "\n...\n", 1), "not base64"),
        (lambda pem: pem.replace("\n", "\né\n", 1), "not base64"),
        (lambda pem: pem.replace("\n", "\n=\n", 1), "not base64"),
        (lambda pem: "-----BEGIN PUBLIC KEY----------END PUBLIC KEY-----", "not base64"),
        (lambda pem: _cut(pem, 2, 3), "no key can be read"),
        (lambda pem: _cut(pem, 2, -1), "no key can be read"),
        (lambda pem: pem.replace("PUBLIC KEY", "CERTIFICATE"), "no key can be read"),
        (lambda pem: pem.replace("PUBLIC KEY", "PRIVATE KEY"), "no key can be read"),
        (lambda pem: pem.replace("PUBLIC KEY", "CERTIFICATE REQUEST"), "no key can be read"),
        (lambda pem: pem.replace("PUBLIC KEY", "EC PARAMETERS"), "missing"),
        (lambda pem: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no key can be read"),
        (lambda pem: "-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----", "no key can be read"),
    ],
)  # fmt: skip
def test_a_pem_that_is_lost(mangle: Callable[[str], str], said: str) -> None:
    assert said in refused(mangle(public_pem(RSA)))


@pytest.mark.parametrize("form", [Private.PKCS8, Private.TraditionalOpenSSL])
def test_encrypted_private_keys(form: serialization.PrivateFormat) -> None:
    pem = private_pem(RSA, "open sesame, please", form)
    signing = load(pem, purpose="sign", passphrase="open sesame, please")
    assert works(signing, load(public_pem(RSA)), "RS256")
    assert works(
        load(pem.replace("\n", "\\n"), purpose="sign", passphrase="open sesame, please"),
        signing_public(),
        "RS256",
    )
    assert "is encrypted and no passphrase is set" in refused(pem, purpose="sign")
    assert "is encrypted and no passphrase is set" in refused(pem, purpose="sign", passphrase="")
    assert "the passphrase is wrong" in refused(pem, purpose="sign", passphrase="another passphrase")
    assert "is not encrypted but a passphrase is set" in refused(
        private_pem(RSA), passphrase="another passphrase"
    )


def signing_public() -> Key:
    return load(public_pem(RSA))


def test_a_key_does_not_show_itself() -> None:
    for key in (load(SECRET), load(private_pem(RSA), purpose="sign")):
        assert repr(key) == f"Key(algorithms={key.algorithms})"
        assert str(key) == repr(key)
        assert f"{key}" == repr(key)


def test_generated_secrets_fit_every_hmac() -> None:
    secret = generate_secret()
    assert secret != generate_secret()
    for algorithm in ("HS256", "HS384", "HS512"):
        assert load(secret, algorithm).algorithms == (algorithm,)


@pytest.mark.parametrize(("kind", "algorithm"), [("ec", "ES256"), ("ed25519", "EdDSA")])
def test_generated_pairs(kind: Literal["ec", "ed25519"], algorithm: str) -> None:
    private, public = generate_pair(kind)
    assert works(load(private, purpose="sign"), load(public), algorithm)


def test_a_generated_rsa_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def small(exponent: int, size: int) -> rsa.RSAPrivateKey:
        sizes.append(size)
        assert exponent == 65537
        return RSA  # making 3072 bits takes too long for a test

    monkeypatch.setattr(rsa, "generate_private_key", small)
    private, public = generate_pair("rsa")
    assert sizes == [3072]
    assert works(load(private, purpose="sign"), load(public), "RS256")
