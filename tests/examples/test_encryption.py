"""``examples/encrypted`` in headless Chromium: what pages can read, and what the hub has."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import requests
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from flask import Flask
from joserfc import jwk
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from flask_mercure import KeySet, Mercure
from flask_mercure.encryption import Algorithm
from flask_mercure.extension import state_of
from tests.examples.browser import ROOT, Page, end, free_ports, spawn, wait_for_answer, windows_of

pytestmark = pytest.mark.servers

_APP = ROOT / "examples" / "encrypted" / "app.py"
_SECRET = "a secret of the tests with more than 32 bytes"
_TOPIC = "notes"
_ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_EXAMPLES = json.loads(Path(__file__).with_name("jwe_examples.json").read_text(encoding="utf-8"))

JWK = dict[str, Any]


class Site:
    """A hub and the notes, on free ports; cookies as they are by default.

    :param directory: for the database, the keys and the logs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        hub_port, port = free_ports(2)
        self.url = f"http://localhost:{port}"
        self.hub_url = f"http://localhost:{hub_port}/.well-known/mercure"
        hub = {
            "MERCURE_LISTEN": f"127.0.0.1:{hub_port}",
            "MERCURE_PUBLISHER_JWT_KEY": _SECRET,
            "MERCURE_CORS_ORIGINS": self.url,
            "MERCURE_TRANSPORT_URL": f"sqlite:///{directory}/hub.db",
        }
        app = {
            "FLASK_SECRET_KEY": "of the tests",
            "FLASK_MERCURE_URL": self.hub_url,
            "FLASK_MERCURE_JWT_SECRET": _SECRET,
            "FLASK_KEYS": str(directory / "private" / "keys.json"),
        }
        self._hub = spawn(directory, "hub", ["-m", "mercure_hub"], hub)
        self._app = spawn(
            directory, "app", ["-m", "flask", "--app", str(_APP), "run", "--port", str(port)], app
        )
        wait_for_answer(self.hub_url.replace("/.well-known/mercure", "/healthz"), self._hub)
        wait_for_answer(f"{self.url}/sign-in", self._app)

    def keys(self) -> KeySet:
        """The keys of the application."""
        return KeySet.load(f"@{self.directory}/private/keys.json")

    def publish(self, data: str) -> None:
        """Publish as a hub could that has turned against the application."""
        app = Flask("hub")
        app.config.update(MERCURE_URL=self.hub_url, MERCURE_JWT_SECRET=_SECRET)
        mercure = Mercure(app)
        with app.app_context():
            mercure.publish(_TOPIC, data, private=True)
        state_of(app).publisher.close()

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.directory / f"{name}.log").read_text()

    def close(self) -> None:
        """End both processes."""
        end(self._app)
        end(self._hub)


class Window(Page):
    """A browser as its user sees it."""

    def sign_in(self, site: Site, name: str) -> None:
        """Sign in; the page with the notes is open then."""
        self.driver.get(f"{site.url}/sign-in")
        self.driver.find_element("id", "name").send_keys(name, Keys.ENTER)
        self.wait("signed in", lambda: self.driver.current_url == f"{site.url}/")

    def write(self, text: str) -> None:
        """Write a note, and wait until the app has taken it."""
        box = self.driver.find_element("id", "text")
        box.send_keys(text, Keys.ENTER)
        self.wait_for("the box", lambda: str(box.get_property("value")), "")

    def shown(self, selector: str) -> list[str]:
        """Text of some elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def wait_notes(self, *expected: str) -> None:
        """Wait until exactly these notes are shown, the newest first."""
        self.wait_for("notes", lambda: self.shown("#notes .text"), list(expected))

    def requests_for_keys(self, site: Site) -> int:
        """How often the page has fetched the keys."""
        script = "return performance.getEntriesByName(arguments[0]).length"
        return int(self.run(script, f"{site.url}/keys"))

    def decrypt(self, jwks: list[JWK], message: str, *, rfc: bool = False) -> dict[str, str]:
        """Decrypt with the example's script.

        :param rfc: also with the algorithms in the examples of RFC 7520, which the script refuses otherwise.
        :returns: the text and the content type, or the code of the error.
        """
        found: dict[str, str] = self.run(
            """
            return (async (keys, message, rfc) => {
              const { KeySet, ecdhEs, rsaOaep, aesKw } = await import("/static/jwe.js");
              const management = {
                "ECDH-ES+A128KW": ecdhEs("ECDH-ES+A128KW", 128),
                "RSA-OAEP": rsaOaep("SHA-1"),
                A128KW: aesKw(128),
              };
              const tables = rfc ? { management, content: { A128GCM: 128, A256GCM: 256 } } : {};
              try {
                const { text, contentType } = await new KeySet({ keys }, tables).decrypt(message);
                return { text, contentType };
              } catch (error) {
                return { code: error.code ?? String(error) };
              }
            })(...arguments)
            """,
            jwks,
            message,
            rfc,
        )
        return found


@pytest.fixture
def windows(
    chromium: Callable[[int], list[webdriver.Chrome]],
) -> Iterator[Callable[[int], list[Window]]]:
    with windows_of(Window, chromium) as several:
        yield several


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A hub and the notes."""
    site = Site(tmp_path)
    yield site
    site.close()
    for name in ("hub", "app"):
        assert "Traceback" not in site.log(name), site.log(name)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that only serves its script."""
    site = Site(tmp_path_factory.mktemp("still"))
    yield site
    site.close()


@pytest.fixture
def script(still: Site, windows: Callable[[int], list[Window]]) -> Window:
    """A page of the site, to run the example's script in."""
    [window] = windows(1)
    window.driver.get(f"{still.url}/sign-in")
    return window


def stored(site: Site) -> bytes:
    """Everything that the hub has on its disk."""
    return b"".join(path.read_bytes() for path in site.directory.glob("hub.db*"))


# -- the pages ------------------------------------------------------------------------------------


def test_pages_read_what_the_hub_cannot(site: Site, windows: Callable[[int], list[Window]]) -> None:
    ada, grace = windows(2)
    ada.sign_in(site, "Ada")
    grace.sign_in(site, "Grace")
    ada.write("the treasure is under the oak")
    ada.write("<b>dig</b> at midnight")
    for window in (ada, grace):
        window.wait_notes("<b>dig</b> at midnight", "the treasure is under the oak")
    assert f"key {site.keys().ids[0][:8]}" in grace.shown("#notes .details")[1]
    grace.driver.refresh()
    grace.wait_notes("<b>dig</b> at midnight", "the treasure is under the oak")

    assert grace.requests_for_keys(site) == 1

    grace.driver.get(f"{site.url}/hub")
    grace.wait("updates", lambda: len(grace.shown("#updates li")) == 2)
    sealed = grace.shown("#updates .sealed")
    assert [text.count(".") for text in sealed] == [4, 4]
    assert json.loads(grace.shown("#updates .header")[0]) == {
        "alg": "ECDH-ES+A256KW",
        "enc": "A256GCM",
        "cty": "json",
        "kid": site.keys().ids[0],
    }
    page = grace.driver.page_source
    on_disk = stored(site)
    for word in ("treasure", "midnight", "Ada"):
        assert word not in page
        assert word.encode() not in on_disk
    for text in sealed:
        assert text.encode() in on_disk
    assert grace.requests_for_keys(site) == 0


def test_the_key_is_changed_under_open_pages(site: Site, windows: Callable[[int], list[Window]]) -> None:
    ada, grace = windows(2)
    ada.sign_in(site, "Ada")
    grace.sign_in(site, "Grace")
    ada.write("one")
    grace.wait_notes("one")

    def change() -> None:
        before = site.keys().ids[0]
        ada.driver.find_element("css selector", "#change button").click()
        ada.wait("a new key", lambda: site.keys().ids[0] != before)

    change()
    ada.write("two")
    change()
    ada.write("three")
    for window in (ada, grace):
        window.wait_notes("three", "two", "one")
        assert len({details[-9:] for details in window.shown("#notes .details")}) == 3

    for _ in range(3):
        change()
    grace.driver.refresh()  # the first key is not served any more
    grace.wait_notes("three", "two", "This note cannot be read.")
    assert "no key for this message" in grace.shown("#notes .details")[2]


def test_a_hub_that_tampers(site: Site, windows: Callable[[int], list[Window]]) -> None:
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    ada.write("genuine")
    ada.driver.get(f"{site.url}/hub")
    [sealed] = ada.wait("the update", lambda: ada.shown("#updates .sealed"))
    ada.driver.get(site.url)
    ada.wait_notes("genuine")

    site.publish(sealed)  # again
    site.publish(change_byte(sealed, 3))
    site.publish("no JWE")
    app = Flask("elsewhere")
    app.config.update(MERCURE_JWT_SECRET=_SECRET)
    with app.app_context():
        other = {
            "id": "1",
            "topic": "other",
            "from": "Ada",
            "sent": "",
            "text": "moved",
        }
        site.publish(Mercure(app).encrypt(other, site.keys()))
    ada.wait_notes(*["This note cannot be read."] * 3, "genuine")
    assert ada.shown("#notes .details")[:3] == [
        "this note was written for another topic",
        "this is no JWE",
        "the message was changed on its way, or is for another key",
    ]
    ada.write("the end")
    ada.wait_notes("the end", *["This note cannot be read."] * 3, "genuine")


def test_who_gets_the_keys(site: Site) -> None:
    with requests.Session() as session:
        for answer in (session.get(f"{site.url}/keys"), session.post(f"{site.url}/keys")):
            assert (answer.status_code, answer.text) == (401, "Sign in first.")
        assert session.post(f"{site.url}/sign-in", data={"name": "Ada"}).status_code == 200
        answer = session.get(f"{site.url}/keys")
        assert answer.headers["Content-Type"] == "application/jwk-set+json"
        assert answer.headers["Cache-Control"] == "no-store, private"
        assert answer.text == site.keys().to_json()
        page = session.get(f"{site.url}/")
        assert 'key-set="/keys"' in page.headers["Link"]
        assert 'content-type="application/jose"' in page.headers["Link"]
        assert answer.json()["keys"][0]["d"] not in page.text
        for text in ("", " ", "x" * 2001):
            assert session.post(f"{site.url}/notes", data={"text": text}).status_code == 422
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self' 'nonce-")
        assert f"connect-src 'self' {site.hub_url}; " in policy
        # Another site can neither change the key nor write.
        session.headers["Sec-Fetch-Site"] = "cross-site"
        for path in ("/keys", "/notes"):
            assert session.post(site.url + path, data={"text": "a"}).status_code == 403
    assert oct((site.directory / "private" / "keys.json").stat().st_mode)[-3:] == "600"
    assert [path.name for path in (site.directory / "private").iterdir()] == ["keys.json"]
    for name in ("hub", "app"):
        assert answer.json()["keys"][0]["d"] not in site.log(name)


# -- the script -----------------------------------------------------------------------------------


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def change_byte(message: str, part: int) -> str:
    """Change one bit in the middle of a part."""
    parts = message.split(".")
    changed = bytearray(decoded(parts[part]))
    changed[len(changed) // 2] ^= 1
    parts[part] = encoded(bytes(changed))
    return ".".join(parts)


def change_header(message: str, **changes: object) -> str:
    """Change the header of all recipients; ``...`` takes a member away."""
    first, rest = message.split(".", 1)
    header = {**json.loads(decoded(first)), **changes}
    kept = {name: value for name, value in header.items() if value is not ...}
    return f"{encoded(json.dumps(kept).encode())}.{rest}"


@pytest.fixture(scope="module")
def mercure() -> Iterator[Mercure]:
    app = Flask("sample")
    app.config["MERCURE_JWT_SECRET"] = _SECRET
    mercure = Mercure(app)
    with app.app_context():
        yield mercure


def jwks(*sets: KeySet) -> list[JWK]:
    return [key for one in sets for key in json.loads(one.to_json())["keys"]]


@pytest.mark.parametrize("example", _EXAMPLES, ids=[example["name"] for example in _EXAMPLES])
def test_messages_of_other_implementations(script: Window, example: dict[str, Any]) -> None:
    rfc = example["name"].startswith("RFC")
    found = script.decrypt(example["keys"], example["message"], rfc=rfc)
    assert found.get("text", found) == example["text"]
    if rfc:
        assert script.decrypt(example["keys"], example["message"]) == {"code": "unsupported"}


def test_concat_kdf(script: Window) -> None:
    """The example of RFC 7518, appendix C."""
    shared = [158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156,
              251, 49, 110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196]  # fmt: skip
    found = script.run(
        "return import('/static/jwe.js').then(async ({ concatKdf }) => { const text = new TextEncoder(); "
        "return [...new Uint8Array(await concatKdf(new Uint8Array(arguments[0]), 'A128GCM', "
        "text.encode('Alice'), text.encode('Bob'), 128))] })",
        shared,
    )
    assert encoded(bytes(found)) == "VqqN6vgjbSBcIijNcacQGg"


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_messages_of_ours(script: Window, mercure: Mercure, algorithm: Algorithm) -> None:
    keys = KeySet.generate(algorithm)
    text = 'žluťoučký "kůň" \u0000 \U0001f40e'
    message = mercure.encrypt(text, keys)
    assert script.decrypt(jwks(KeySet.generate(), keys), message) == {
        "text": text,
        "contentType": "text/plain;charset=utf-8",
    }
    large = "x" * 300_000
    assert script.decrypt(jwks(keys), mercure.encrypt({"a": large}, keys)) == {
        "text": json.dumps({"a": large}),
        "contentType": "application/json",
    }
    bare = {name: value for name, value in jwks(keys)[0].items() if name not in ("use", "alg")}
    assert script.decrypt([bare], message)["text"] == text


@pytest.mark.parametrize("curve", ["P-384", "P-521"])
def test_other_curves(script: Window, mercure: Mercure, curve: str) -> None:
    keys = KeySet([jwk.ECKey.generate_key(curve)])
    assert script.decrypt(jwks(keys), mercure.encrypt("a", keys))["text"] == "a"


def test_several_recipients(script: Window, mercure: Mercure) -> None:
    sets = [KeySet.generate(algorithm) for algorithm in _ALGORITHMS]
    message = mercure.encrypt("a", sets)
    for keys in sets:
        assert script.decrypt(jwks(keys), message)["text"] == "a"
    assert script.decrypt(jwks(KeySet.generate()), message) == {"code": "no-key"}


def test_two_recipients_with_one_kid(script: Window, mercure: Mercure) -> None:
    pair = [jwk.ECKey.generate_key("P-256", {"kid": "1"}) for _ in range(2)]
    message = mercure.encrypt("a", [one.as_dict(private=False) for one in pair])
    for one in pair:
        assert script.decrypt([dict(one.as_dict(private=True))], message)["text"] == "a"


@pytest.mark.parametrize(
    ("how", "usages"),
    [
        ({"name": "ECDH", "namedCurve": "P-256"}, ["deriveBits"]),
        (
            {"name": "RSA-OAEP", "hash": "SHA-256", "modulusLength": 2048, "publicExponent": [1, 0, 1]},
            ["wrapKey", "unwrapKey"],
        ),
        (
            {"name": "RSA-OAEP", "hash": "SHA-256", "modulusLength": 2048, "publicExponent": [1, 0, 1]},
            ["encrypt", "decrypt"],
        ),
    ],
)
def test_a_key_that_a_browser_made(
    script: Window, mercure: Mercure, how: dict[str, object], usages: list[str]
) -> None:
    """The page keeps the private half, and the application encrypts for the public one that it sends."""
    public, private = script.run(
        "const [how, usages] = arguments; if (how.publicExponent) "
        "how.publicExponent = new Uint8Array(how.publicExponent); "
        "return crypto.subtle.generateKey(how, true, usages).then(({ publicKey, privateKey }) => "
        "Promise.all([publicKey, privateKey].map((key) => crypto.subtle.exportKey('jwk', key))))",
        how,
        usages,
    )
    assert script.decrypt([private], change_header(mercure.encrypt("a", public)))["code"] == "no-key"
    kid = json.loads(decoded(mercure.encrypt("a", public).split(".")[0]))["kid"]
    assert script.decrypt([{**private, "kid": kid}], mercure.encrypt("a", public))["text"] == "a"


@pytest.mark.parametrize(
    ("how", "usage"),
    [
        ("{ name: 'ECDH', namedCurve: 'P-384' }", "deriveBits"),
        (
            "{ name: 'RSA-OAEP', hash: 'SHA-256', modulusLength: 2048, "
            "publicExponent: new Uint8Array([1, 0, 1]) }",
            "unwrapKey",
        ),
    ],
)
def test_a_private_key_that_never_leaves_the_browser(
    script: Window, mercure: Mercure, how: str, usage: str
) -> None:
    """As docs/encryption.md has it."""
    public = script.run(
        f"""
        return (async () => {{
          const usages = [arguments[0], ...(arguments[0] === "unwrapKey" ? ["wrapKey"] : [])];
          const {{ publicKey, privateKey }} = await crypto.subtle.generateKey({how}, false, usages);
          const jwk = {{ ...(await crypto.subtle.exportKey("jwk", publicKey)), kid: crypto.randomUUID() }};
          window.own = {{ keys: [{{ ...jwk, privateKey }}] }};
          return jwk;
        }})()
        """,
        usage,
    )
    found = script.run(
        "return import('/static/jwe.js').then(async ({ KeySet }) => "
        "(await new KeySet(window.own).decrypt(arguments[0])).text)",
        mercure.encrypt("a", [public, KeySet.generate()]),
    )
    assert found == "a"


@pytest.mark.parametrize("part", range(1, 5))
@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_a_changed_message_is_refused(
    script: Window, mercure: Mercure, algorithm: Algorithm, part: int
) -> None:
    keys = KeySet.generate(algorithm)
    message = change_byte(mercure.encrypt("a longer text than most", keys), part)
    assert script.decrypt(jwks(keys), message) == {"code": "tampered"}


def test_a_changed_header_is_refused(script: Window, mercure: Mercure) -> None:
    keys = KeySet.generate()
    message = mercure.encrypt("a", keys)
    epk = json.loads(decoded(message.split(".")[0]))["epk"]
    other = jwk.ECKey.generate_key("P-256").as_dict(private=False)
    changes: list[tuple[dict[str, object], str]] = [
        ({"cty": "text/html"}, "tampered"),
        ({"kid": ...}, "tampered"),  # it is found by its algorithm then
        ({"epk": other}, "tampered"),
        ({"epk": {**epk, "x": epk["y"]}}, "tampered"),  # off the curve
        ({"epk": {**epk, "crv": "P-384"}}, "tampered"),
        ({"epk": {}}, "tampered"),
        ({"epk": ...}, "tampered"),
        ({"apu": "QQ"}, "tampered"),
        ({"apu": 5}, "tampered"),
        ({"kid": "other"}, "no-key"),
        ({"kid": 5}, "no-key"),
        ({"kid": None}, "no-key"),
        ({"alg": "A256KW"}, "no-key"),
        ({"alg": "RSA-OAEP-256"}, "no-key"),
        ({"alg": "RSA1_5"}, "unsupported"),
        ({"alg": "ECDH-ES"}, "unsupported"),
        ({"alg": "dir"}, "unsupported"),
        ({"alg": "none"}, "unsupported"),
        ({"alg": "toString"}, "unsupported"),
        ({"alg": ["A256KW"]}, "no-key"),
        ({"alg": ...}, "unsupported"),
        ({"enc": "A128GCM"}, "unsupported"),
        ({"enc": "A256CBC-HS512"}, "unsupported"),
        ({"enc": "constructor"}, "unsupported"),
        ({"enc": ...}, "unsupported"),
        ({"zip": "DEF"}, "unsupported"),
        ({"crit": ["exp"], "exp": 1}, "unsupported"),
        ({"crit": []}, "unsupported"),
    ]
    found = [
        script.decrypt(jwks(keys), change_header(message, **change)).get("code") for change, _ in changes
    ]
    assert list(zip(changes, found, strict=True)) == [((change, code), code) for change, code in changes]


def test_what_is_no_message(script: Window, mercure: Mercure) -> None:
    keys = KeySet.generate("A256KW")
    message = mercure.encrypt("a", keys)
    header, wrapped, iv, ciphertext, tag = message.split(".")
    flat = {
        "protected": header, "encrypted_key": wrapped, "iv": iv, "ciphertext": ciphertext, "tag": tag
    }  # fmt: skip
    assert script.decrypt(jwks(keys), json.dumps(flat))["text"] == "a"
    malformed: list[str] = [
        "", ".", "....", "a", "{", "[]", "null", '"a"', f"{message}.", message.replace(".", "..", 1),
        f"{message}=", f" {message}", f"{message}\n", message.replace(".", "+.", 1), f"{header}A{message}",
        f"{encoded(b'[]')}.{wrapped}.{iv}.{ciphertext}.{tag}",
        f"{encoded(b'null')}.{wrapped}.{iv}.{ciphertext}.{tag}",
        f"{header}.{wrapped}.{encoded(decoded(iv)[:-1])}.{ciphertext}.{tag}",
        f"{header}.{wrapped}.{iv}.{ciphertext}.{encoded(decoded(tag)[:12])}",
        json.dumps({**flat, "recipients": 5}),
        json.dumps({**flat, "header": {"alg": "A256KW"}}),  # from two places
        json.dumps({**flat, "unprotected": {"kid": "1"}}),
        json.dumps({**flat, "header": []}),
        json.dumps({**flat, "header": None}),
        json.dumps({**flat, "protected": 5}),
        json.dumps({**flat, "iv": None}),
        json.dumps({**flat, "aad": "="}),
        json.dumps({**flat, "encrypted_key": {}}),
    ]  # fmt: skip
    found = [script.decrypt(jwks(keys), text) for text in malformed]
    assert list(zip(malformed, found, strict=True)) == [(text, {"code": "malformed"}) for text in malformed]
    for changed in ({"aad": "QQ"}, {"encrypted_key": ""}, {"encrypted_key": encoded(bytes(24))}):
        assert script.decrypt(jwks(keys), json.dumps({**flat, **changed})) == {"code": "tampered"}
    for nothing in ({**flat, "recipients": []}, {}):
        assert script.decrypt(jwks(keys), json.dumps(nothing)) == {"code": "unsupported"}


def test_keys_that_do_not_fit(script: Window, mercure: Mercure) -> None:
    keys = KeySet.generate()
    message = mercure.encrypt("a", keys)
    (key,) = jwks(keys)
    other = {**jwks(KeySet.generate())[0], "kid": key["kid"]}
    for changed, code in [
        ([], "no-key"),
        ([{**key, "use": "sig"}], "no-key"),
        ([{**key, "alg": "ECDH-ES"}], "no-key"),
        ([{**key, "kty": "oct", "k": encoded(bytes(32))}], "no-key"),
        ([other], "tampered"),
        ([{**key, "d": "AQ"}], "tampered"),
        ([keys.public_key], "tampered"),
    ]:
        assert script.decrypt(changed, message) == {"code": code}
    assert script.decrypt([other, key], message)["text"] == "a"


def test_a_short_content_key_is_refused(script: Window) -> None:
    """A key of 128 bits inside would halve what A256GCM promises."""
    secret = bytes(range(32))
    for bits, expected in ((256, {"text": "a"}), (128, {"code": "tampered"}), (192, {"code": "tampered"})):
        key = bytes(bits // 8)
        header = encoded(b'{"alg":"A256KW","enc":"A256GCM","kid":"1"}')
        sealed = AESGCM(key).encrypt(bytes(12), b"a", header.encode())
        parts = (aes_key_wrap(secret, key), bytes(12), sealed[:-16], sealed[-16:])
        message = ".".join([header, *map(encoded, parts)])
        assert (
            script.decrypt([{"kty": "oct", "kid": "1", "k": encoded(secret)}], message).items()
            >= expected.items()
        )


def test_messages_with_unknown_keys_do_not_flood_the_application(
    script: Window, mercure: Mercure, still: Site
) -> None:
    """All wait for one request; and the key set may not be there at all."""
    messages = [mercure.encrypt("a", KeySet.generate("A256KW")) for _ in range(20)]
    codes, made = script.run(
        """
        return (async (messages) => {
          const { KeySet } = await import("/static/jwe.js");
          const original = window.fetch;
          let made = 0;
          window.fetch = (...how) => {
            made++;
            return original(...how);
          };
          const keys = new KeySet("/keys");
          const codes = await Promise.all(messages.map((one) => keys.decrypt(one).catch(({ code }) => code)));
          return [codes, made];
        })(...arguments)
        """,
        messages,
    )
    assert (codes, made) == (["keys"] * 20, 1)
