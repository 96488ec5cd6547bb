"""The doctor before a real hub that is set up wrongly, in one respect each time."""

from __future__ import annotations

import datetime
import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flask_mercure import Mercure
from flask_mercure.cli import mercure
from flask_mercure.doctor import storage
from flask_mercure.doctor.connection import Endpoint, HubClient
from flask_mercure.extension import state_of
from tests.certificates import self_signed
from tests.engines import RedisServer
from tests.engines import running as running_engine
from tests.flask_mercure.fake_hub import Answer, Dropped, make_app
from tests.flask_mercure.fake_hub import running as fake_hub
from tests.flask_mercure.proxies import proxy
from tests.hub.running import HUB_PATH, SECRET, RunningHub, running_hub
from tests.needs import need

pytestmark = pytest.mark.minutes

OTHER_SECRET = "another secret that is long enough for HMAC-SHA-256"
KEY_SETTINGS = ("MERCURE_PUBLISHER_JWT_KEY", "MERCURE_SUBSCRIBER_JWT_KEY")


def url(port: int, scheme: str = "http", path: str = HUB_PATH) -> str:
    return f"{scheme}://127.0.0.1:{port}{path}"


def run(*arguments: str, app_url: str | None = None, patience: str = "0", **config: object) -> Result:
    app = make_app(**{"JWT_SECRET": SECRET, **config})
    where = ["--app-url", app_url] if app_url else []
    result = app.test_cli_runner().invoke(
        mercure, ["doctor", "--patience", patience, "--within", "1", *where, *arguments]
    )
    for hub in state_of(app).hubs.values():
        hub.publisher.close()
    assert not re.search(r"eyJ[\w-]+\.", result.output), "a token is shown"
    for secret in (SECRET, OTHER_SECRET):
        assert secret not in result.output
    return result


def findings(*arguments: str, **config: Any) -> list[dict[str, Any]]:
    result = run("--json", *arguments, **config)
    document = json.loads(result.stdout)
    (hub,) = document["hubs"]
    assert result.exit_code == (0 if document["healthy"] else 1)
    assert hub["healthy"] == all(one["level"] != "problem" for one in hub["findings"])
    return list(hub["findings"])


def problems(*arguments: str, **config: Any) -> list[tuple[str, str]]:
    """Check and section of the problems."""
    return [
        (one["check"], one["section"]) for one in findings(*arguments, **config) if one["level"] == "problem"
    ]


def lines(reported: list[dict[str, Any]], section: str) -> list[str]:
    return [
        f"{line['where']}: {line['line']}"
        for one in reported
        if one["section"] == section
        for line in one["remedies"]
    ]


def level(reported: list[dict[str, Any]], section: str) -> list[str]:
    return [one["level"] for one in reported if one["section"] == section]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("doctor"), heartbeat=1) as running:
        yield running


def test_an_app_and_a_hub_that_fit_together(good: RunningHub) -> None:
    result = run(URL=good.url, app_url=good.url, patience="5")
    assert result.exit_code == 0, result.output
    for check in ("url", "clock", "token", "delivery", "cookie", "patience"):
        assert re.search(rf"^ok +{check} ", result.output, re.MULTILINE)
    assert "with a heartbeat" in result.output
    assert "PROBLEM" not in result.output


def test_a_hub_that_ends_no_access_at_a_logout(good: RunningHub, tmp_path: Path) -> None:
    assert not any(one["check"] == "revocation" for one in findings(URL=good.url, app_url=good.url))
    asked: dict[str, Any] = {"REVOKE_ON_LOGOUT": True}
    assert problems(URL=good.url, app_url=good.url, **asked) == [("revocation", "token-revoked")]
    with running_hub(tmp_path, revocations=1) as other:
        assert problems(URL=other.url, app_url=other.url, **asked) == []


def test_updates_of_the_doctor_reach_nobody_else(good: RunningHub) -> None:
    """The update is private, and of a type that no ``onmessage`` hears."""
    anyone = good.subscribe({"match": "*"}, good.token(subscribe=["a"]))
    owner = good.subscribe({"match": "*"}, good.token(subscribe=["*"]))
    assert run(URL=good.url, app_url=good.url).exit_code == 0
    good.send("a", "after")
    assert owner.next().type == "flask-mercure-doctor"
    assert anyone.next().data == "after"


@pytest.mark.parametrize("role", ["publisher", "subscriber"])
def test_a_key_that_differs_for_one_role(folder: Path, role: str) -> None:
    keys: dict[str, Any] = {
        "publisher_jwt_key": SECRET,
        "subscriber_jwt_key": SECRET,
        f"{role}_jwt_key": OTHER_SECRET,
    }
    with running_hub(folder, **keys) as hub:
        reported = findings(URL=hub.url, app_url=hub.url)
    (problem,) = [one for one in reported if one["level"] == "problem"]
    assert (problem["check"], problem["section"]) == ("token", "signature")
    assert f"the {role}'s token" in problem["summary"]
    assert any(
        line.startswith(f"hub: MERCURE_{role.upper()}_JWT_KEY=") for line in lines(reported, "signature")
    )


def test_the_keys_are_exchanged(folder: Path) -> None:
    with running_hub(folder, publisher_jwt_key=SECRET, subscriber_jwt_key=OTHER_SECRET) as hub:
        config = {"PUBLISHER_JWT_KEY": OTHER_SECRET, "SUBSCRIBER_JWT_KEY": SECRET, "URL": hub.url}
        reported = findings(app_url=hub.url, **config)
    wrong = [one for one in reported if one["level"] == "problem"]
    assert [one["section"] for one in wrong] == ["signature", "signature"]
    assert all("exchanged" in one["summary"] for one in wrong)


def test_an_algorithm_that_differs(folder: Path) -> None:
    long = SECRET * 2
    with running_hub(folder, publisher_jwt_key=long, publisher_jwt_alg="HS512") as hub:
        reported = findings(URL=hub.url, app_url=hub.url, JWT_SECRET=long)
    assert 'app: MERCURE_PUBLISHER_JWT_ALG = "HS512"' in lines(reported, "algorithm")
    assert "hub: MERCURE_PUBLISHER_JWT_ALG=HS256" in lines(reported, "algorithm")


def test_white_space_around_the_secret(folder: Path) -> None:
    with running_hub(folder, publisher_jwt_key=SECRET) as hub:
        reported = findings(URL=hub.url, app_url=hub.url, JWT_SECRET=SECRET + "\n", PROTOCOL="0.x")
    assert any("white space" in one["summary"] for one in reported)


@pytest.mark.parametrize(("ours", "theirs"), [("1.0", "0.x"), ("0.x", "1.0")])
def test_a_generation_of_the_protocol_that_differs(folder: Path, ours: str, theirs: str) -> None:
    with running_hub(folder, protocol=theirs) as hub:
        reported = findings(URL=hub.url, app_url=hub.url, PROTOCOL=ours)
    assert set(level(reported, "protocol-generation")) == {"problem"}
    assert f'app: MERCURE_PROTOCOL = "{theirs}"' in lines(reported, "protocol-generation")
    assert "hub: MERCURE_PROTOCOL=both" in lines(reported, "protocol-generation")


@pytest.mark.parametrize("protocol", ["both", "1.0"])
def test_an_issuer_that_differs(folder: Path, protocol: str) -> None:
    with running_hub(folder, protocol=protocol) as hub:
        reported = findings(URL=hub.url, app_url=hub.url, ISSUER="https://app.example")
    assert "hub: MERCURE_ISSUER=https://app.example" in lines(reported, "issuer")
    assert 'app: MERCURE_ISSUER = "urn:flask-mercure"  # if the hub is right' in lines(reported, "issuer")


def test_an_issuer_that_nobody_guesses(folder: Path) -> None:
    with running_hub(folder, issuer="urn:nobody") as hub:
        reported = findings(URL=hub.url, app_url=hub.url)
    assert "the key is right" in next(one["summary"] for one in reported if one["section"] == "issuer")
    assert "hub: MERCURE_ISSUER=urn:flask-mercure" in lines(reported, "issuer")


def test_an_audience_that_differs(folder: Path) -> None:
    with running_hub(folder, public_url="https://hub.example/.well-known/mercure") as hub:
        reported = findings(URL=hub.url, app_url=hub.url)
    assert set(level(reported, "audience")) == {"problem"}
    assert f"hub: MERCURE_PUBLIC_URL={hub.url}" in lines(reported, "audience")


def test_a_url_with_a_port_where_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert problems(URL=url(port)) == [("url", "unreachable")]


def test_a_url_with_a_host_that_does_not_exist() -> None:
    assert problems(URL="http://hub.invalid/m") == [("url", "unreachable")]


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reported = findings(URL=url(listening.getsockname()[1]), CONNECT_TIMEOUT=0.2, TIMEOUT=0.2)
    assert level(reported, "unreachable") == ["problem"]


@pytest.mark.parametrize(
    ("answer", "section"),
    [
        (Answer(b"<html>hello</html>", 200, "text/html"), "not-a-hub"),
        (Answer(b"<html>no</html>", 404, "text/html"), "not-a-hub"),
        (Answer(b"", 401, None, {"WWW-Authenticate": "Basic realm=x"}), "not-a-hub"),
        (Answer(b"", 301, None, {"Location": "https://127.0.0.1/.well-known/mercure"}), "redirect"),
        (Answer(b"", 302, None, {"Location": "http://[broken\x1b"}), "redirect"),
        (Answer(b"", 502, None), "proxy-error"),
        (Answer(b"", 421, None), "misdirected"),
    ],
)
def test_a_server_that_is_not_a_hub(answer: Answer, section: str) -> None:
    with fake_hub() as fake:
        fake.answers = [answer]
        result = run("--json", URL=fake.url)
    assert "\x1b" not in result.output
    reported = json.loads(result.stdout)["hubs"][0]["findings"]
    assert level(reported, section) == ["problem"]
    assert all("Authorization" not in received.headers for received in fake.received), (
        "a token went to no hub"
    )


def test_an_http_url_of_a_hub_with_tls(folder: Path) -> None:
    certificate = self_signed(folder)
    with running_hub(folder, tls_cert=certificate) as hub:
        assert problems(URL=url(hub.port)) == [("url", "unreachable")]


def test_an_https_url_of_a_hub_without_tls(good: RunningHub) -> None:
    reported = findings(URL=url(good.port, "https"))
    assert f'app: MERCURE_URL = "{good.url}"' in lines(reported, "certificate")


def test_a_self_signed_certificate(folder: Path) -> None:
    certificate = self_signed(folder)
    with running_hub(folder, tls_cert=certificate) as hub:
        refused = findings(URL=hub.url)
        trusted = findings(URL=hub.url, VERIFY_TLS=str(certificate), app_url=hub.url)
        blind = findings(URL=hub.url, VERIFY_TLS=False, app_url=hub.url)
    assert level(refused, "certificate") == ["problem"]
    assert "self-signed" in next(one["summary"] for one in refused if one["section"] == "certificate")
    assert any("MERCURE_VERIFY_TLS" in line for line in lines(refused, "certificate"))
    assert level(trusted, "certificate") == ["warning"]  # browsers do not trust it
    assert [one["level"] for one in trusted if one["check"] == "delivery"] == ["ok"]
    assert level(blind, "certificate") == ["warning", "warning"]


def test_an_expired_certificate(folder: Path) -> None:
    certificate = self_signed(folder, days=-2)
    with running_hub(folder, tls_cert=certificate) as hub:
        reported = findings(URL=hub.url, VERIFY_TLS=str(certificate))
    assert level(reported, "certificate-expired") == ["problem"]


def test_a_certificate_that_ends_soon(folder: Path) -> None:
    certificate = self_signed(folder, days=5)
    with running_hub(folder, tls_cert=certificate) as hub:
        reported = findings(URL=hub.url, VERIFY_TLS=str(certificate), app_url=hub.url)
    assert level(reported, "certificate-expired") == ["warning"]


def test_a_certificate_for_another_host(folder: Path) -> None:
    certificate = self_signed(folder, names=("hub.example",))
    with running_hub(folder, tls_cert=certificate) as hub:
        reported = findings(URL=hub.url, VERIFY_TLS=str(certificate))
    assert "hub.example" in next(one["summary"] for one in reported if one["section"] == "certificate")


def test_clocks_that_differ(good: RunningHub) -> None:
    late = format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5), usegmt=True)

    def change(content: bytes) -> bytes:
        return re.sub(rb"Date: [^\r]*", b"Date: " + late.encode(), content)

    with proxy(good.port, answer=change) as port:
        reported = findings(URL=url(port), app_url=url(port))
    assert level(reported, "clock") == ["problem"]
    assert "ahead" in next(one["summary"] for one in reported if one["section"] == "clock")


def test_two_urls_that_lead_to_different_hubs(good: RunningHub, folder: Path) -> None:
    with running_hub(folder) as other:
        reported = problems(URL=good.url, PUBLIC_URL=other.url, app_url=other.url)
    assert reported == [("delivery", "different-hubs")]


def test_a_proxy_that_does_nothing(good: RunningHub) -> None:
    with proxy(good.port) as port:
        assert problems(URL=good.url, PUBLIC_URL=url(port), app_url=url(port), patience="5") == []


def test_a_proxy_that_buffers(good: RunningHub) -> None:
    with proxy(good.port, holds=True) as port:
        reported = findings(
            URL=good.url, PUBLIC_URL=url(port), app_url=url(port), CONNECT_TIMEOUT=0.4, TIMEOUT=0.4
        )
    assert level(reported, "buffering") == ["problem"]
    assert "nginx: proxy_http_version 1.1; proxy_buffering off; proxy_cache off; gzip off;" in lines(
        reported, "buffering"
    )
    assert [one["check"] for one in reported if one["level"] == "problem"] == ["delivery"]


def test_a_proxy_that_cuts(folder: Path) -> None:
    with running_hub(folder, heartbeat=0) as hub, proxy(hub.port, silence=0.5) as port:
        reported = findings(URL=hub.url, PUBLIC_URL=url(port), app_url=url(port), patience="10")
        alone = findings(URL=url(port), app_url=url(port), patience="10")
    assert level(reported, "stream-cut") == level(alone, "stream-cut") == ["problem"]
    assert "nginx: proxy_read_timeout 1h;" in lines(reported, "stream-cut")
    assert "Apache: ProxyPass … timeout=3600" in lines(reported, "stream-cut")


def test_a_stream_without_a_heartbeat_within_the_patience(folder: Path) -> None:
    with running_hub(folder, heartbeat=0) as hub:
        reported = findings(URL=hub.url, app_url=hub.url, patience="0.3")
    assert level(reported, "stream-cut") == ["note"]


def test_a_proxy_that_compresses(good: RunningHub) -> None:
    """Each piece as a member of its own; the head becomes one of a stream that ends with the connection."""

    def change(content: bytes) -> bytes:
        head, separator, body = content.partition(b"\r\n\r\n")
        if b"text/event-stream" in head:
            head = head.replace(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip")
            return head + separator + (gzip.compress(chunk(body)) if body else b"")
        return gzip.compress(chunk(content)) if not content.startswith(b"HTTP/") else content

    def chunk(content: bytes) -> bytes:
        size, _, rest = content.partition(b"\r\n")
        return rest[: int(size, 16)]

    with proxy(good.port, answer=change) as port:
        reported = findings(URL=good.url, PUBLIC_URL=url(port), app_url=url(port))
    assert level(reported, "compression") == ["warning"]


def without(name: bytes) -> Any:
    return lambda content: re.sub(rb"(?i)\r\n" + name + rb": [^\r]*", b"", content)


def test_a_proxy_that_drops_the_header(good: RunningHub) -> None:
    with proxy(good.port, request=without(b"authorization")) as port:
        reported = findings(URL=good.url, PUBLIC_URL=url(port), app_url=url(port))
    assert level(reported, "authorization-lost") == ["warning"]
    assert [one["level"] for one in reported if one["check"] == "delivery"] == ["ok"]


@pytest.mark.parametrize("anonymous", [0, 1])
def test_a_proxy_that_drops_the_cookie(folder: Path, anonymous: int) -> None:
    with (
        running_hub(folder, anonymous=anonymous) as hub,
        proxy(hub.port, request=without(b"cookie")) as port,
    ):
        reported = problems(URL=hub.url, PUBLIC_URL=url(port), app_url=url(port))
    assert reported == [("cookie", "cookie-name")]


def test_a_name_of_the_cookie_that_differs(folder: Path) -> None:
    with running_hub(folder, cookie_name="theirs") as hub:
        reported = findings(URL=hub.url, app_url=hub.url)
    assert 'app: MERCURE_COOKIE_NAME = "theirs"' in lines(reported, "cookie-name")


def test_a_cookie_that_is_never_sent(good: RunningHub) -> None:
    reported = problems(URL=good.url, app_url="https://shop.example.com")
    assert ("cookie", "cookie-refused") in reported


def test_a_hub_that_does_not_allow_the_origin_of_a_page(good: RunningHub, folder: Path) -> None:
    page = "http://127.0.0.1:5000"
    reported = findings(URL=good.url, app_url=page)
    assert level(reported, "cors") == ["problem"]
    assert any(line.startswith(f"hub: MERCURE_CORS_ORIGINS={page}") for line in lines(reported, "cors"))
    with running_hub(folder, cors_origins=page) as hub:
        assert problems(URL=hub.url, app_url=page) == []
        assert problems("--pages-publish", URL=hub.url, app_url=page) == [("cors", "cross-site")]
        other = problems("--origin", page, "--origin", "http://127.0.0.1:1", URL=hub.url, app_url=page)
    assert other == [("cors", "cors")]


def test_a_proxy_that_adds_cors_too(folder: Path) -> None:
    page = "http://127.0.0.1:5000"

    def change(content: bytes) -> bytes:
        return content.replace(b"Vary: Origin", b"Access-Control-Allow-Origin: *", 1)

    with running_hub(folder, cors_origins=page) as hub, proxy(hub.port, answer=change) as port:
        assert problems(URL=url(port), app_url=page) == [("cors", "cors")]


def test_a_proxy_that_redirects_the_preflight_request(folder: Path) -> None:
    """A browser follows no redirect of a preflight request: neither does the doctor."""
    page = "http://127.0.0.1:5000"
    asked: list[bytes] = []

    def note(content: bytes) -> bytes:
        asked.append(content.partition(b" ")[0])
        return content

    with running_hub(folder, cors_origins=page) as hub:

        def change(content: bytes) -> bytes:
            redirect = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {hub.url}".encode()
            return content.replace(b"HTTP/1.1 204 No Content", redirect, 1)

        with proxy(hub.port, request=note, answer=change) as port:
            reported = findings(URL=url(port), app_url=page)
    assert level(reported, "cors") == ["warning"]
    (summary,) = [one["summary"] for one in reported if one["section"] == "cors"]
    assert "(OPTIONS) is answered with 307, a redirect" in summary
    assert "without the origin" not in summary
    assert asked.count(b"OPTIONS") == 1


def test_an_app_with_several_hubs(good: RunningHub) -> None:
    config: dict[str, Any] = {
        "DEFAULT_HUB": "one",
        "HUBS": {"one": {"URL": good.url}, "two": {"URL": "http://127.0.0.1:9/m"}},
    }
    both = run(app_url=good.url, **config)
    assert both.exit_code == 1
    assert "Hub 'one'" in both.output
    assert "Hub 'two'" in both.output
    assert run("--hub", "one", app_url=good.url, **config).exit_code == 0
    unknown = run("--hub", "three", **config)
    assert unknown.exit_code == 1
    assert "'three'" in unknown.output


@pytest.mark.parametrize("value", ["shop", "ftp://a", "http://u:p@a", "http://[", "http://a:b"])
def test_an_app_url_that_is_no_url(value: str) -> None:
    result = run(app_url=value)
    assert result.exit_code == 2
    assert "give a URL" in result.output


def test_an_app_that_may_not_publish_everywhere(good: RunningHub) -> None:
    reported = findings(URL=good.url, app_url=good.url, PUBLISH_TOPICS=["orders"])
    assert [one["level"] for one in reported if one["check"] == "delivery"] == ["ok"]


def test_an_app_that_is_given_its_token(good: RunningHub, folder: Path) -> None:
    reported = findings(URL=good.url, app_url=good.url, JWT_SECRET=None, JWT=good.token())
    assert [one["check"] for one in reported if one["level"] == "problem"] == []
    assert [one["level"] for one in reported if one["check"] == "token"] == ["skipped", "ok"]
    with running_hub(folder, publisher_jwt_key=OTHER_SECRET) as hub:
        stranger = findings(URL=hub.url, app_url=hub.url, JWT=hub.token())
    assert "MERCURE_JWT" in next(one["summary"] for one in stranger if one["section"] == "token-refused")


def test_a_token_factory_whose_key_the_app_does_not_have(folder: Path) -> None:
    def create(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        import jwt

        return jwt.encode({"mercure": {"publish": publish, "subscribe": subscribe}}, OTHER_SECRET, "HS256")

    with running_hub(folder) as hub:
        reported = findings(URL=hub.url, app_url=hub.url, JWT_SECRET=None, TOKEN_FACTORY=create)
    assert set(level(reported, "token-refused")) == {"problem"}


def test_ctrl_c_ends_the_doctor(good: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flask_mercure.doctor.delivery.delivered", interrupt)
    before = set(threading.enumerate())
    result = run(URL=good.url, app_url=good.url)
    assert result.exit_code == 130
    assert "interrupted" in result.output
    # Those of the hub get an object of a dummy class when they write to the log.
    assert {
        one.name for one in set(threading.enumerate()) - before if not one.name.startswith("Dummy")
    } == set()


@pytest.mark.parametrize("named", [None, "eu"])
def test_an_app_without_grants_is_told(named: str | None) -> None:
    hub = {"URL": url(9), "JWT_SECRET": SECRET}
    config: dict[str, Any] = (
        hub if named is None else {"HUBS": {"default": hub, "eu": hub | {"COOKIE_NAME": "__Secure-eu"}}}
    )
    extension = Mercure()
    app = make_app(extension, **config)

    def grants() -> dict[str, str]:
        done = app.test_cli_runner().invoke(mercure, ["doctor", "--json", "--app-url", "http://127.0.0.1"])
        return {
            hub["hub"]: one["level"]
            for hub in json.loads(done.stdout)["hubs"]
            for one in hub["findings"]
            if one["check"] == "grants"
        }

    before = grants()
    assert set(before.values()) == {"note"}
    extension.hub(named).subscribe_grants(lambda: ["orders/1"])
    assert grants() == before | {named or "default": "ok"}
    state_of(app).publisher.close()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(b"ok\n"), ("ok", None)),
        (Answer(b"ok, relaxed durability\n"), ("note", None)),
        (Answer(b"the database cannot be reached\n", 503), ("warning", "storage")),
        (Answer(b"<html>", 503, "text/html"), None),
        (Answer(b"not here", 404), None),
        (Dropped(), None),
    ],
)
def test_what_the_hub_says_of_its_storage(answer: Answer, found: tuple[str, str | None] | None) -> None:
    with fake_hub() as hub:
        hub.answers = [answer]
        finding = storage.readiness(HubClient(Endpoint(hub.url, "MERCURE_URL"), None, 5.0))
        assert hub.received[0].target == "/readyz"
    assert (None if finding is None else (finding.level, finding.section)) == found


def test_a_hub_whose_engine_is_away(tmp_path: Path) -> None:
    """Publishing fails, and the finding says so instead of blaming the token."""
    need("valkey-server")
    server = RedisServer()
    with running_engine(server), running_hub(tmp_path, transport_url=server.url()) as hub:
        assert problems(URL=hub.url, app_url=hub.url) == []
        server.kill()
        reported = findings(URL=hub.url, app_url=hub.url)
        assert ("storage", "storage-away") in [
            (one["check"], one["section"]) for one in reported if one["level"] == "problem"
        ]
        assert "cannot be reached" in " ".join(one["summary"] for one in reported)
        server.start()
