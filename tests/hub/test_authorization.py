"""Tokens over HTTP: where they are found, what refuses them, and what the client is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest

from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.asymmetric import generate_pair
from mercure_hub.storage.interface import Resume, Resumed
from mercure_hub.storage.store import Store
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

COOKIE = "__Secure-mercure_access_token"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A hub that admits nobody without a token."""
    with running_hub(tmp_path_factory.mktemp("strict"), publish_origins="https://app.example") as running:
        yield running


def test_a_request_without_a_token_is_refused(strict: RunningHub) -> None:
    for reply in (strict.get({"match": "a"}), strict.publish({"topic": "a"}, token=None)):
        assert reply.status == 401
        challenge = reply.headers["www-authenticate"]
        assert challenge.startswith("Bearer ")
        assert "error=" not in challenge
        metadata = f"http://127.0.0.1:{strict.port}/.well-known/oauth-protected-resource/.well-known/mercure"
        assert f'resource_metadata="{metadata}"' in challenge
        assert strict.get(path=metadata.split(str(strict.port))[1]).json()["resource"] == strict.url


@pytest.mark.parametrize(
    ("headers", "query", "cause"),
    [
        ({}, {}, "no token, and MERCURE_ANONYMOUS is off"),
        (
            {"Cookie": "session=eyJ1IjoxfQ.aB3x.sig; mercure_access_token={token}"},
            {},
            f"none that has a value and the name '{COOKIE}' or 'mercureAuthorization' (MERCURE_COOKIE_NAME)"
            ": 'mercure_access_token' holds what looks like a token",
        ),
        (
            {"Cookie": f"session=hunter2; {COOKIE}="},
            {},
            f"none that has a value and the name '{COOKIE}' or 'mercureAuthorization' (MERCURE_COOKIE_NAME)",
        ),
    ],
)
def test_the_log_says_which_cookie_is_expected(
    strict: RunningHub,
    headers: dict[str, str],
    query: dict[str, str],
    cause: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("mercure_hub").propagate = True
    token = strict.token()
    with caplog.at_level(logging.INFO, "mercure_hub"):
        sent = {name: value.replace("{token}", token) for name, value in headers.items()}
        reply = strict.get({"match": "a", **query}, **sent)
    assert reply.status == 401
    assert "looks like" not in reply.text
    assert cause in caplog.text
    for secret in (token, token.split(".")[1], "hunter2", "eyJ1IjoxfQ"):
        assert secret not in caplog.text


def test_a_token_in_the_url_of_a_hub_of_1_0(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mercure_hub").propagate = True
    with caplog.at_level(logging.INFO, "mercure_hub"), running_hub(folder, protocol="1.0") as hub:
        token = hub.old_token(subscribe=["*"])
        assert hub.get({"match": "a", "authorization": token}).status == 401
        assert hub.get({"match": "a"}, Cookie=f"mercureAuthorization={token}").status == 401
    assert "a token in the URL is of protocol 0.x (MERCURE_PROTOCOL)" in caplog.text
    assert (
        f"the name '{COOKIE}' (MERCURE_COOKIE_NAME): 'mercureAuthorization' holds what looks" in caplog.text
    )
    assert token not in caplog.text


@pytest.mark.parametrize(
    "token",
    ["garbage", "a.b.c", "eyJhbGciOiJub25lIn0.eyJtZXJjdXJlIjp7InB1Ymxpc2giOlsiKiJdfX0."],
)
def test_a_token_that_is_none(strict: RunningHub, token: str) -> None:
    for reply in (strict.get({"match": "a"}, token), strict.publish({"topic": "a"}, token)):
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]
        assert "resource_metadata=" in reply.headers["www-authenticate"]


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a b", "Bearer a,b", "bearer é"])
def test_a_header_that_cannot_be_read(strict: RunningHub, value: str) -> None:
    reply = strict.request("GET", HUB_PATH + "?match=a", {"Authorization": value})
    assert reply.status == 400
    assert 'error="invalid_request"' in reply.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("claims", "cause"),
    [
        ({"aud": "https://elsewhere.example/.well-known/mercure"}, "aud is 'https://elsewhere.example"),
        ({"iss": "urn:somebody-else"}, "iss is 'urn:somebody-else'; trusted is 'urn:flask-mercure'"),
        ({"exp": 1000}, "expired"),
        ({"exp": "soon"}, "exp is 'soon', not a number"),
        ({"exp": None}, "exp"),
        ({"nbf": 9999999999}, "not valid before"),
        ({"authorization_details": {"type": "x"}}, "authorization_details is not an array"),
    ],
)
def test_the_cause_is_logged_and_not_told(
    strict: RunningHub, caplog: pytest.LogCaptureFixture, claims: dict[str, Any], cause: str
) -> None:
    logging.getLogger("mercure_hub").propagate = True
    token = strict.token(**claims)
    with caplog.at_level(logging.INFO, "mercure_hub.server"):
        reply = strict.get({"match": "a"}, token)
    assert reply.status == 401
    assert cause not in reply.text
    assert cause in caplog.text
    assert token not in caplog.text
    assert token.split(".")[2] not in caplog.text


def test_an_invalid_token_is_refused_where_none_is_needed(hub: RunningHub) -> None:
    assert hub.get({"match": "a"}, "garbage").status == 401


def test_the_hint_for_a_proxy_that_ends_tls(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mercure_hub").propagate = True
    with running_hub(folder) as hub, caplog.at_level(logging.INFO, "mercure_hub.server"):
        token = hub.token(aud=hub.url.replace("http:", "https:"))
        assert hub.get({"match": "a"}, token, X_Forwarded_Proto="https").status == 401
    assert "MERCURE_TRUSTED_PROXIES" in caplog.text


def test_a_trusted_proxy_says_which_url_was_used(folder: Path) -> None:
    with running_hub(folder, trusted_proxies="127.0.0.0/8") as hub:
        token = hub.token(aud="https://example.com/.well-known/mercure")
        hub.subscribe({"match": "a"}, token, Host="example.com", X_Forwarded_Proto="https")
        assert hub.get({"match": "a"}, token, Host="example.com").status == 401


class TestCookie:
    def test_subscribing(self, strict: RunningHub) -> None:
        assert (
            strict.subscribe({"match": "a"}, Cookie=f"x=1; {COOKIE}={strict.token()}; y=2").reply.status
            == 200
        )

    def test_the_header_wins(self, strict: RunningHub) -> None:
        cookie = f"{COOKIE}={strict.token()}"
        assert strict.get({"match": "a"}, "garbage", Cookie=cookie).status == 401
        stream = strict.subscribe({"match": "a"}, strict.token(), Cookie=f"{COOKIE}=garbage")
        assert stream.reply.status == 200

    def test_another_scheme_in_the_header_is_somebody_elses(self, strict: RunningHub) -> None:
        cookie = f"{COOKIE}={strict.token()}"
        assert strict.subscribe({"match": "a"}, Cookie=cookie, Authorization="Basic eDp5").reply.status == 200

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Referer": "https://evil.example/page"}, 403),
            ({"Referer": "nonsense"}, 403),
            ({"Origin": "https://evil.example", "Referer": "https://app.example/"}, 403),
            ({"Origin": "https://app.example"}, 200),
            ({"Referer": "https://app.example/page?x"}, 200),
            ({"Origin": "{own}"}, 200),
        ],
    )
    def test_publishing(self, strict: RunningHub, headers: dict[str, str], status: int) -> None:
        own = f"http://127.0.0.1:{strict.port}"
        fields = {name: value.replace("{own}", own) for name, value in headers.items()}
        cookie = {"Cookie": f"{COOKIE}={strict.token()}"}
        assert strict.publish({"topic": "a"}, token=None, headers=cookie | fields).status == status

    def test_another_name(self, folder: Path) -> None:
        with running_hub(folder, cookie_name="hub_token") as hub:
            hub.subscribe({"match": "a"}, Cookie=f"hub_token={hub.token()}")
            assert hub.get({"match": "a"}, Cookie=f"{COOKIE}={hub.token()}").status == 401


class TestEarlierGeneration:
    def test_subscribing(self, strict: RunningHub) -> None:
        token = strict.old_token(subscribe=["https://example.com/{id}"])
        by_header = strict.subscribe({"topic": "https://example.com/1"}, token)
        by_cookie = strict.subscribe(
            {"topic": "https://example.com/1"}, Cookie=f"mercureAuthorization={token}"
        )
        by_query = strict.subscribe({"topic": "https://example.com/1", "authorization": token})
        strict.send("https://example.com/1", "secret", private="on")
        for stream in (by_header, by_cookie, by_query):
            assert stream.take(1) == ["secret"]

    def test_publishing(self, strict: RunningHub) -> None:
        token = strict.old_token(publish=["https://example.com/{id}", "fixed"])
        assert strict.publish({"topic": ["https://example.com/1", "fixed"]}, token).status == 200
        assert strict.publish({"topic": "other"}, token).status == 403
        assert strict.publish({"topic": "fixed"}, strict.old_token(publish=[])).status == 403

    def test_a_current_token_in_the_query_is_validated_in_full(self, strict: RunningHub) -> None:
        token = strict.token(aud="elsewhere")
        assert strict.get({"topic": "a", "authorization": token}).status == 401

    def test_not_where_only_the_current_one_is_spoken(self, folder: Path) -> None:
        with running_hub(folder, protocol="1.0") as hub:
            token = hub.old_token(subscribe=["*"], publish=["*"])
            assert hub.get({"match": "a"}, token).status == 401
            assert hub.get({"match": "a", "authorization": hub.token()}).status == 401
            assert hub.get({"match": "a"}, Cookie=f"mercureAuthorization={hub.token()}").status == 401

    def test_for_another_service_where_the_url_is_configured(self, strict: RunningHub, folder: Path) -> None:
        """RFC 7519 section 4.1.3; without a configured URL, the client says what it is."""
        url = "https://hub.example.com/.well-known/mercure"
        claims: dict[str, Any] = {"mercure": {"publish": ["*"]}}

        def status(hub: RunningHub, **more: object) -> int:
            token = jwt.encode({**claims, **more}, hub.secret, "HS256")
            return hub.publish({"topic": "a"}, token).status

        with running_hub(folder, public_url=url) as hub:
            assert status(hub) == status(hub, aud=url) == status(hub, aud=[url], iss="my app") == 200
            assert status(hub, aud="https://api.example.com") == 401
        with running_hub(folder, allowed_urls="http://127.0.0.1:1/x") as hub:
            assert status(hub, aud="https://api.example.com") == 421
        assert status(strict, aud="https://api.example.com") == 200

    def test_the_query_token_is_not_logged(
        self, strict: RunningHub, caplog: pytest.LogCaptureFixture
    ) -> None:
        logging.getLogger("mercure_hub").propagate = True
        token = strict.old_token(subscribe=["*"])
        with caplog.at_level(logging.INFO, "mercure_hub"):
            strict.subscribe({"topic": "a", "authorization": token})
        assert "authorization=[redacted]" in caplog.text
        assert token not in caplog.text


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("rsa", "RS256"), ("rsa", "PS512"), ("ec", "ES256"), ("ed25519", "EdDSA")]
)
def test_tokens_of_key_pairs_are_accepted(folder: Path, kind: str, algorithm: str) -> None:
    private, public = generate_pair(kind)  # type: ignore[arg-type]
    (folder / "public.pem").write_text(public)
    one_line = public.replace("\n", "\\n")
    with running_hub(
        folder,
        publisher_jwt_key=f"@{folder}/public.pem",
        subscriber_jwt_key=one_line,
        publisher_jwt_alg=algorithm,
        subscriber_jwt_alg=algorithm,
    ) as hub:
        claims = jwt.decode(hub.token(), options={"verify_signature": False})
        token = jwt.encode(claims, private, algorithm, headers={"typ": "at+jwt"})
        stream = hub.subscribe({"match": "a"}, token)
        assert hub.publish({"topic": "a", "data": "x"}, token).status == 200
        assert stream.take(1) == ["x"]
        confused = jwt.encode(claims, hub.secret, "HS256", headers={"typ": "at+jwt"})
        assert hub.get({"match": "a"}, confused).status == 401


def test_each_role_has_its_key(folder: Path) -> None:
    other = "another secret that is long enough for HMAC"
    with running_hub(folder, subscriber_jwt_key=other) as hub:
        claims = jwt.decode(hub.token(), options={"verify_signature": False})
        reader = jwt.encode(claims, other, "HS256", headers={"typ": "at+jwt"})
        hub.subscribe({"match": "a"}, reader)
        assert hub.publish({"topic": "a"}, reader).status == 401
        assert hub.get({"match": "a"}, hub.token()).status == 401
        assert hub.publish({"topic": "a"}).status == 200


def test_a_key_that_is_taken_away_while_a_cursor_is_looked_up_opens_no_stream(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload ends the streams that there are; this one comes after it."""
    resume = Store.resume

    def take_away(store: Store[Any], wanted: Sequence[Resume]) -> list[Resumed]:
        monkeypatch.setattr(TokenVerifier, "trusts", lambda *_: False)
        return resume(store, wanted)

    with running_hub(folder) as hub:
        known = hub.send("t", "known")
        token = hub.token()
        monkeypatch.setattr(Store, "resume", take_away)
        reply = hub.get({"match": "t", "last_event_id": known}, token)
        assert (reply.status, "invalid_token" in reply.headers["www-authenticate"]) == (401, True)
