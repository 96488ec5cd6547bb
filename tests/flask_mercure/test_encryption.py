"""Encrypted updates: what is made, who can read it, and which keys are refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from flask import Flask
from joserfc import jwe, jwk
from joserfc.errors import JoseError
from werkzeug.test import TestResponse

from flask_mercure import ConfigurationError, EncryptionError, InvalidArgument, KeySet, Mercure
from flask_mercure.encryption import Algorithm
from tests.flask_mercure.fake_hub import FakeHub, make_app, publishing, running

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
TEXT = "Zündung in 3, 2, 1"

JWK = dict[str, Any]


@pytest.fixture(scope="module")
def own() -> dict[str, KeySet]:
    """A key set for each algorithm."""
    return {algorithm: KeySet.generate(algorithm) for algorithm in ALGORITHMS}


@pytest.fixture(scope="module")
def mercure() -> Mercure:
    return Mercure()


@pytest.fixture(autouse=True)
def app(mercure: Mercure) -> Iterator[Flask]:
    app = make_app(mercure)
    with app.app_context():
        yield app


def private_jwk(keys: KeySet) -> JWK:
    jwks: list[JWK] = json.loads(keys.to_json())["keys"]
    return jwks[0]


def public_jwk(keys: KeySet) -> JWK:
    """What one may encrypt for: of a secret, the secret."""
    return private_jwk(keys) if private_jwk(keys)["kty"] == "oct" else keys.public_key


def decrypt(message: str, key: JWK) -> jwe.CompactEncryption:
    """As another implementation does it: joserfc, which knows nothing of this one's rules."""
    return jwe.decrypt_compact(message, jwk.JWKRegistry.import_key(key), algorithms=[key["alg"], "A256GCM"])


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(value: int | bytes) -> str:
    if isinstance(value, int):
        value = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


# -- what is made ---------------------------------------------------------------------------------


FORMS: dict[str, Callable[[KeySet], Any]] = {
    "key set": lambda keys: keys,
    "JWK": public_jwk,
    "joserfc": lambda keys: jwk.JWKRegistry.import_key(public_jwk(keys)),
    "list": lambda keys: [public_jwk(keys)],
    "joserfc's set": lambda keys: jwk.KeySet([jwk.JWKRegistry.import_key(public_jwk(keys))]),
    "generator": lambda keys: (key for key in [keys]),
    "JWK with nothing but the key": lambda keys: {
        name: value
        for name, value in public_jwk(keys).items()
        if name not in ("use", "alg") and (name != "kid" or "k" in public_jwk(keys))
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_is_encrypted_for_one_recipient(
    mercure: Mercure, own: dict[str, KeySet], algorithm: str, form: Callable[[KeySet], Any]
) -> None:
    keys = own[algorithm]
    message = mercure.encrypt(TEXT, form(keys))
    assert message.count(".") == 4
    assert message.isascii()
    found = decrypt(message, private_jwk(keys))
    assert found.plaintext == TEXT.encode()
    header = found.protected
    assert header.pop("epk", {}).keys() <= {"kty", "crv", "x", "y"}
    assert header == {
        "alg": algorithm,
        "enc": "A256GCM",
        "cty": "text/plain;charset=utf-8",
        "kid": keys.ids[0],
    }


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_keys_of_each_curve_decrypt(mercure: Mercure, curve: str) -> None:
    keys = KeySet([jwk.ECKey.generate_key(curve)])
    assert decrypt(mercure.encrypt(TEXT, keys), private_jwk(keys)).plaintext == TEXT.encode()


def test_an_update_is_encrypted_for_several_recipients(mercure: Mercure, own: dict[str, KeySet]) -> None:
    other = KeySet.generate()
    text = mercure.encrypt({"a": 1}, [*own.values(), other.public_key])
    message = json.loads(text)
    assert [one["header"]["alg"] for one in message["recipients"]] == [*ALGORITHMS, "ECDH-ES+A256KW"]
    assert json.loads(decoded(message["protected"])) == {"enc": "A256GCM", "cty": "json"}
    for keys, recipient in zip((*own.values(), other), message["recipients"], strict=True):
        assert recipient["header"]["kid"] == keys.ids[0]
        alone = {name: value for name, value in message.items() if name != "recipients"} | recipient
        algorithms = [recipient["header"]["alg"], "A256GCM"]
        found = jwe.decrypt_json(alone, jwk.JWKRegistry.import_key(private_jwk(keys)), algorithms=algorithms)
        assert found.plaintext == b'{"a": 1}'


def test_two_recipients_with_one_kid_can_both_read(mercure: Mercure) -> None:
    """The kid of somebody else's key is theirs to choose: it must not take another's place."""
    pair = [jwk.ECKey.generate_key("P-256", {"kid": "1"}) for _ in range(2)]
    message = json.loads(mercure.encrypt(TEXT, [one.as_dict(private=False) for one in pair]))
    assert [one["header"]["kid"] for one in message["recipients"]] == ["1", "1"]


@pytest.mark.parametrize(
    ("data", "content_type", "content", "cty"),
    [
        ("<p>é</p>", None, "<p>é</p>".encode(), "text/plain;charset=utf-8"),
        ("<p>é</p>", "text/html", "<p>é</p>".encode(), "text/html"),
        ("", None, b"", "text/plain;charset=utf-8"),
        ({"a": [1, None]}, None, b'{"a": [1, null]}', "json"),
        (None, None, b"null", "json"),
        ({"op": 1}, "application/merge-patch+json", b'{"op": 1}', "merge-patch+json"),
        (b"\x00\xff", None, b"\x00\xff", "octet-stream"),
        (bytearray(b"GIF8"), "image/gif", b"GIF8", "image/gif"),
        (memoryview(b"a"), "application/x; a=b/c", b"a", "application/x; a=b/c"),
    ],
)
def test_encrypted_content_has_its_media_type(
    mercure: Mercure, own: dict[str, KeySet], data: Any, content_type: str | None, content: bytes, cty: str
) -> None:
    keys = own["A256KW"]
    found = decrypt(mercure.encrypt(data, keys, content_type=content_type), private_jwk(keys))
    assert (found.plaintext, found.protected["cty"]) == (content, cty)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_encryptions_of_one_content_share_nothing(
    mercure: Mercure, own: dict[str, KeySet], algorithm: str
) -> None:
    one, two = (mercure.encrypt(TEXT, own[algorithm]).split(".") for _ in range(2))
    assert [left == right for left, right in zip(one[1:], two[1:], strict=True)] == [False] * 4


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_changed_jwe_does_not_decrypt(
    mercure: Mercure, own: dict[str, KeySet], algorithm: str, part: int
) -> None:
    parts = mercure.encrypt(TEXT, own[algorithm]).split(".")
    if part == 0:
        parts[0] = encoded(decoded(parts[0]).replace(b"text/plain", b"text/xhtml"))
    else:
        changed = bytearray(decoded(parts[part]))
        changed[len(changed) // 2] ^= 1
        parts[part] = encoded(bytes(changed))
    with pytest.raises(JoseError):
        decrypt(".".join(parts), private_jwk(own[algorithm]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_does_not_decrypt_a_jwe(
    mercure: Mercure, own: dict[str, KeySet], algorithm: Algorithm
) -> None:
    other = private_jwk(KeySet.generate(algorithm))
    with pytest.raises(JoseError):
        decrypt(mercure.encrypt(TEXT, own[algorithm]), other)


# -- keys that are refused ------------------------------------------------------------------------


def ec_jwk(**changes: object) -> JWK:
    return {**jwk.ECKey.generate_key("P-256").as_dict(private=False), **changes}


def rsa_jwk(bits: int, **changes: object) -> JWK:
    numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
    return {"kty": "RSA", "n": encoded(numbers.n), "e": encoded(numbers.e), **changes}


def oct_jwk(count: int = 32, **changes: object) -> JWK:
    return {"kty": "oct", "kid": "1", "k": encoded(bytes(range(1, count + 1))), **changes}


def koblitz_jwk() -> JWK:
    numbers = ec.generate_private_key(ec.SECP256K1()).public_key().public_numbers()
    return {"kty": "EC", "crv": "secp256k1", "x": encoded(numbers.x), "y": encoded(numbers.y)}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "RSA1_5": (lambda: rsa_jwk(2048, alg="RSA1_5"), r"'RSA1_5'.*must be RSA-OAEP-256"),
    "RSA-OAEP with SHA-1": (lambda: rsa_jwk(2048, alg="RSA-OAEP"), "RSA-OAEP-256"),
    "RSA for signatures": (lambda: rsa_jwk(2048, alg="RS256"), "RSA-OAEP-256"),
    "RSA of 1024 bits": (lambda: rsa_jwk(1024), "1024 bits.*2048"),
    "RSA of 2040 bits": (lambda: rsa_jwk(2040), "2040 bits.*2048"),
    "RSA too large": (lambda: {"kty": "RSA", "n": encoded(2**8192 + 1), "e": "AQAB"}, "8193 bits.*8192"),
    "RSA without modulus": (lambda: {"kty": "RSA", "e": "AQAB"}, "0 bits"),
    "RSA of an even modulus": (lambda: {"kty": "RSA", "n": encoded(2**2048 - 2), "e": "AQAB"}, "nothing can"),
    "RSA with exponent 1": (lambda: rsa_jwk(2048, e="AQ"), "damaged"),
    "ECDH-ES alone": (lambda: ec_jwk(alg="ECDH-ES"), r"'ECDH-ES'.*ECDH-ES\+A256KW"),
    "wrapping with 128 bits": (lambda: ec_jwk(alg="ECDH-ES+A128KW"), r"ECDH-ES\+A256KW"),
    "dir": (lambda: oct_jwk(alg="dir"), "'dir'.*A256KW"),
    "HS256": (lambda: oct_jwk(alg="HS256"), "A256KW"),
    "alg of another type": (lambda: ec_jwk(alg=5), r"ECDH-ES\+A256KW"),
    "use sig": (lambda: ec_jwk(use="sig"), "signatures"),
    "use of another type": (lambda: ec_jwk(use=["enc"]), "signatures"),
    "key_ops verify": (lambda: ec_jwk(key_ops=["verify"]), "signatures"),
    "private EC": (lambda: jwk.ECKey.generate_key("P-256").as_dict(private=True), "private key"),
    "private EC of joserfc": (lambda: jwk.ECKey.generate_key("P-256"), "private key"),
    "private RSA": (lambda: jwk.RSAKey.generate_key(2048).as_dict(private=True), "private key"),
    "a prime of RSA": (lambda: rsa_jwk(2048, p="AQAB"), "private key"),
    "one private of several": (lambda: [ec_jwk(), jwk.ECKey.generate_key("P-256")], "private key"),
    "a curve of the blockchain": (koblitz_jwk, "P-256, P-384, P-521"),
    "no curve": (lambda: ec_jwk(crv=None), "P-256, P-384, P-521"),
    "a point off the curve": (lambda: ec_jwk(x="AQ", y="Ag"), "damaged"),
    "the point of nothing": (lambda: ec_jwk(x="", y=""), "damaged"),
    "no number": (lambda: ec_jwk(x=7), "damaged"),
    "no base64url": (lambda: ec_jwk(y="+/=é"), "damaged"),
    "half a point": (lambda: {"kty": "EC", "crv": "P-256", "x": "AQ"}, "damaged"),
    "secret too short": (lambda: oct_jwk(31), "248 bits.*256"),
    "secret too long": (lambda: oct_jwk(64), "512 bits.*256"),
    "secret damaged": (lambda: oct_jwk(k="a"), "0 bits"),
    "secret without kid": (lambda: oct_jwk(kid=None), "no kid"),
    "kid of another type": (lambda: ec_jwk(kid=1), "kid"),
    "kid without end": (lambda: ec_jwk(kid="a" * 257), "kid"),
    "Ed25519": (lambda: jwk.OKPKey.generate_key("Ed25519").as_dict(private=False), "kty"),
    "X25519 of joserfc": (lambda: jwk.OKPKey.generate_key("X25519", private=False), "kty"),
    "kty of another type": (lambda: {"kty": ["EC"]}, "kty"),
    "an empty JWK": (dict, "kty"),
    "no key": (list, "no key"),
    "a whole set": (lambda: {"keys": [ec_jwk()]}, "whole JWK set"),
}


@pytest.mark.parametrize(("make", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_keys_that_are_refused(mercure: Mercure, make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(EncryptionError, match=expected):
        mercure.encrypt(TEXT, make())


@pytest.mark.parametrize("given", [None, "secret", b"secret", 5, [None], ["a"], object()])
def test_a_recipient_that_is_no_key_is_refused(mercure: Mercure, given: Any) -> None:
    with pytest.raises(TypeError, match=r"JWK") as caught:
        mercure.encrypt(TEXT, given)
    assert "secret" not in str(caught.value)


def test_content_that_cannot_be_encrypted_is_refused(mercure: Mercure, own: dict[str, KeySet]) -> None:
    keys = own["A256KW"]
    with pytest.raises(InvalidArgument, match="surrogate") as caught:
        mercure.encrypt("\ud800", keys)
    assert caught.value.__context__ is None
    with pytest.raises(InvalidArgument, match="content_type"):
        mercure.encrypt("a", keys, content_type="html")
    with pytest.raises(TypeError):
        mercure.encrypt(object(), keys)


def secrets_of(value: Any) -> Iterator[str]:
    """Every secret member in a JWK, a JWK set or a list of them."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name in ("k", "d", "p", "q", "dp", "dq", "qi") and isinstance(member, str):
                yield member
            yield from secrets_of(member)
    elif isinstance(value, list):
        for one in value:
            yield from secrets_of(one)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


BAD_SETS: dict[str, Callable[[], Any]] = {
    "not JSON any more": lambda: private_jwk(KeySet.generate()) | {"d": "x" * 40 + '"'},
    "another private half": lambda: private_jwk(KeySet.generate()) | {"d": encoded(b"\x07" * 32)},
    "half the primes": lambda: {**private_jwk(KeySet.generate("RSA-OAEP-256")), "qi": ""},
    "a wrong prime": lambda: {**private_jwk(KeySet.generate("RSA-OAEP-256")), "p": encoded(b"\xfb" * 192)},
    "too short": lambda: oct_jwk(16),
    "for signatures": lambda: oct_jwk(use="sig"),
    "no text": lambda: oct_jwk(k=["a"]),
    "without kid": lambda: oct_jwk(kid=None),
    "twice": lambda: {"keys": [oct_jwk(), oct_jwk(k=encoded(b"\x09" * 32))]},
}


@pytest.mark.parametrize("make", BAD_SETS.values(), ids=BAD_SETS.keys())
@pytest.mark.parametrize("cut", [None, -3])
def test_no_error_shows_a_secret(make: Callable[[], Any], cut: int | None) -> None:
    given = make()
    secrets = [secret for secret in secrets_of(given) if secret]
    with pytest.raises(EncryptionError) as caught:
        KeySet.load(json.dumps(given)[:cut])
    for error in chain(caught.value):
        shown = f"{error} {error!r} {vars(error)}"
        assert [secret for secret in secrets if secret in shown] == []
    assert caught.value.__context__ is None


# -- key sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_set_is_stored_and_loaded(algorithm: Algorithm, tmp_path: Path, mercure: Mercure) -> None:
    keys = KeySet.generate(algorithm)
    jwk_set = json.loads(keys.to_json())
    assert [sorted(one.keys() & {"kid", "use", "alg"}) for one in jwk_set["keys"]] == [["alg", "kid", "use"]]
    file = tmp_path / "keys.json"
    file.write_text(keys.to_json())
    for given in (keys.to_json(), f"@{file}", json.dumps(jwk_set["keys"][0]), f" {keys.to_json()}\n"):
        assert KeySet.load(given).to_json() == keys.to_json()
    assert decrypt(mercure.encrypt(TEXT, KeySet.load(f"@{file}")), private_jwk(keys)).plaintext is not None


def test_a_new_key_is_as_it_should_be() -> None:
    assert KeySet.generate().to_json().count('"crv":"P-256"') == 1
    assert len(decoded(private_jwk(KeySet.generate("RSA-OAEP-256"))["n"])) * 8 == 3072
    secret = private_jwk(KeySet.generate("A256KW"))
    assert len(decoded(secret["k"])) == 32
    # Its thumbprint would be a hash of the secret, in the header of each update.
    assert secret["kid"] != jwk.OctKey.import_key(secret).thumbprint()
    with pytest.raises(EncryptionError, match=r"RSA1_5.*ECDH-ES\+A256KW"):
        KeySet.generate("RSA1_5")  # type: ignore[arg-type]


def test_updates_are_for_the_newest_key(mercure: Mercure) -> None:
    first = KeySet.generate()
    second = first.rotate()
    third = second.rotate(keep=2)
    assert second.ids[1:] == first.ids
    assert third.ids[1:] == second.ids
    assert second.rotate().ids[1:] == second.ids[:1]
    assert len(second.rotate(keep=0).ids) == 1
    assert len(set(third.ids)) == 3
    assert decrypt(mercure.encrypt(TEXT, third), private_jwk(third)).protected["kid"] == third.ids[0]
    with pytest.raises(InvalidArgument, match="keep"):
        first.rotate(-1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_changed_key_is_of_the_same_kind(algorithm: Algorithm) -> None:
    assert [one["alg"] for one in json.loads(KeySet.generate(algorithm).rotate().to_json())["keys"]] == [
        algorithm
    ] * 2


@pytest.mark.parametrize("algorithm", ["ECDH-ES+A256KW", "RSA-OAEP-256"])
def test_the_public_half_has_no_secret(own: dict[str, KeySet], algorithm: str) -> None:
    public = own[algorithm].public_key
    assert list(secrets_of(public)) == []
    assert {**private_jwk(own[algorithm]), **public} == private_jwk(own[algorithm])


def test_a_secret_has_no_public_half(own: dict[str, KeySet]) -> None:
    with pytest.raises(EncryptionError, match="no public half"):
        _ = own["A256KW"].public_key


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_repr_of_a_key_set_shows_only_ids(own: dict[str, KeySet], algorithm: str) -> None:
    keys = own[algorithm]
    assert repr(keys) == f"<KeySet {keys.ids[0]!r}>"
    assert str(keys) == repr(keys)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "empty"),
        ([ec_jwk()], "not all of d"),
        ([rsa_jwk(2048)], "not all of d, p, q"),
        ([rsa_jwk(2048, d="AQAB")], "not all of d, p, q"),
        ([{"kty": "RSA"}], "not all of d, p, q"),
        ([oct_jwk(), oct_jwk()], "same kid"),
    ],
)
def test_key_sets_that_are_refused(given: list[JWK], expected: str) -> None:
    with pytest.raises(EncryptionError, match=expected):
        KeySet(given)


@pytest.mark.parametrize("given", [oct_jwk(), "text", [5], ["text"]])
def test_a_key_set_refuses_what_is_no_list_of_keys(given: Any) -> None:
    with pytest.raises(TypeError):
        KeySet(given)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "5", '{"keys": {}}', '{"keys": null}', "[" * 100_000])
def test_loading_refuses_what_is_no_key_set(text: str) -> None:
    with pytest.raises(EncryptionError, match="no key set"):
        KeySet.load(text)


def test_a_key_set_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(EncryptionError, match=r"keys\.json' cannot be read: No such file"):
        KeySet.load(f"@{tmp_path}/keys.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(EncryptionError, match="no key set") as caught:
        KeySet.load(f"@{tmp_path}/binary")
    assert caught.value.__context__ is None


# -- a public key from a browser --------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ec_jwk(key_ops=[], ext=True),  # ECDH: a public key has no operation of its own
        rsa_jwk(2048, key_ops=["encrypt"], ext=True, alg="RSA-OAEP-256"),
        rsa_jwk(2048, key_ops=["wrapKey"], ext=True, alg="RSA-OAEP-256"),
    ],
)
def test_keys_as_webcrypto_exports_them(mercure: Mercure, given: JWK) -> None:
    assert mercure.encrypt(TEXT, given).count(".") == 4


# -- publishing -----------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.mark.minutes
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_hub_gets_what_it_cannot_read(hub: FakeHub, own: dict[str, KeySet], algorithm: str) -> None:
    with publishing(hub) as publish:
        assert publish("a", {"card": TEXT}, private=True, encrypt_for=own[algorithm]) == "urn:uuid:1"
        publish("a", {"card": TEXT}, encrypt_for=[own[algorithm], KeySet.generate().public_key])
    for request in hub.received:
        assert TEXT not in str(request.pairs)
    data = dict(hub.received[0].pairs)["data"]
    found = decrypt(data, private_jwk(own[algorithm]))
    assert json.loads(found.plaintext or b"") == {"card": TEXT}
    assert found.protected["cty"] == "json"
    assert json.loads(dict(hub.received[1].pairs)["data"])["recipients"][0]["header"]["alg"] == algorithm


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("encrypt_for", "error"),
    [
        (None, TypeError),  # a user who has no key yet
        ([], EncryptionError),
        ([None], TypeError),
        ("", TypeError),
        (False, TypeError),
        ({}, EncryptionError),
        (rsa_jwk(1024), EncryptionError),
    ],
)
def test_nothing_is_sent_in_the_clear_by_mistake(hub: FakeHub, encrypt_for: Any, error: type) -> None:
    with publishing(hub) as publish, pytest.raises(error):
        publish("a", TEXT, encrypt_for=encrypt_for)
    assert hub.received == []


# -- the key set for browsers -----------------------------------------------------------------------


def answer(*key_sets: KeySet, method: str = "GET") -> TestResponse:
    mercure = Mercure()
    app = make_app(mercure)
    app.add_url_rule("/keys", view_func=lambda: mercure.key_set(*key_sets))
    return app.test_client().open("/keys", method=method)


def test_the_key_set_is_not_kept_anywhere(own: dict[str, KeySet]) -> None:
    response = answer(own["A256KW"])
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/jwk-set+json"
    assert response.headers["Cache-Control"] == "no-store, private"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "ETag" not in response.headers
    assert response.text == own["A256KW"].to_json()
    head = answer(own["A256KW"], method="HEAD")
    assert (head.status_code, head.data) == (200, b"")


def test_several_key_sets_are_one(own: dict[str, KeySet]) -> None:
    rotated = own["A256KW"].rotate()
    found = json.loads(answer(rotated, *own.values()).text)["keys"]
    assert [one["kid"] for one in found] == [
        *rotated.ids,
        *own["ECDH-ES+A256KW"].ids,
        *own["RSA-OAEP-256"].ids,
    ]


def test_key_sets_that_cannot_be_served(mercure: Mercure) -> None:
    with pytest.raises(EncryptionError, match="no key"):
        mercure.key_set()
    with pytest.raises(EncryptionError, match="kid '1'"):
        mercure.key_set(KeySet([oct_jwk()]), KeySet([oct_jwk(k=encoded(b"\x09" * 32))]))
    with pytest.raises(TypeError, match="dict"):
        mercure.key_set({"keys": []})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/keys", "/keys"),
        ("https://e.example/keys?room=1&x=%20", "https://e.example/keys?room=1&x=%20"),
        ('/k"ey\\s é', "/k%22ey%5Cs%20%C3%A9"),
    ],
)
def test_the_key_set_is_discovered(mercure: Mercure, app: Flask, url: str, expected: str) -> None:
    response = mercure.discover(app.response_class(), key_set=url)
    (link,) = response.headers.getlist("Link")
    assert link == f'<{mercure.url()}>; rel="mercure"; key-set="{expected}"'


@pytest.mark.parametrize("url", ["", "/keys\r\nSet-Cookie: a"])
def test_key_set_urls_that_cannot_be(mercure: Mercure, app: Flask, url: str) -> None:
    with pytest.raises(InvalidArgument, match="key_set"):
        mercure.discover(app.response_class(), key_set=url)


# -- the extra ------------------------------------------------------------------------------------


def test_without_joserfc_the_error_names_the_extra(mercure: Mercure, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "joserfc"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "joserfc", None)
    for attempt in (
        KeySet.generate,
        lambda: KeySet.load(json.dumps(oct_jwk())),
        lambda: mercure.encrypt(TEXT, oct_jwk()),
        lambda: mercure.publish("a", TEXT, encrypt_for=oct_jwk(), private=False),
    ):
        with pytest.raises(ConfigurationError, match=r"pip install '\.\[encryption\]'"):
            attempt()


@pytest.mark.minutes
def test_importing_the_extension_does_not_import_joserfc() -> None:
    script = (
        "import sys; sys.modules['joserfc'] = None; import flask_mercure; "
        "import flask_mercure.encryption as e; "
        "from flask import Flask; app = Flask('a'); app.config['MERCURE_JWT_SECRET'] = 'a' * 32; "
        "flask_mercure.Mercure(app); print(flask_mercure.KeySet is e.KeySet)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "True\n"
