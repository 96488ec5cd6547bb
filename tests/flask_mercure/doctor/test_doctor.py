"""From observations to findings: tables, without a hub."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import zlib
from datetime import UTC, datetime

import pytest
from werkzeug.datastructures import Headers

from flask_mercure.client.connection import Exchange, Head
from flask_mercure.cookies import CookiePolicy
from flask_mercure.doctor import addresses, browser, certificates, command, delivery, storage
from flask_mercure.doctor.addresses import Profile
from flask_mercure.doctor.certificates import Certificate
from flask_mercure.doctor.connection import (
    DatedAnswer,
    Decoder,
    Endpoint,
    Stage,
    Unreachable,
    answer,
    dial,
    origin_of,
)
from flask_mercure.doctor.delivery import Arrival, Lifetime
from flask_mercure.doctor.findings import Finding, Level, Remedy, Symptom, hub, note, ok, problem, warning
from mercure_hub.protocol.errors import Section, problem_type, reference

NOW = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
PUBLIC = "https://hub.example.com/.well-known/mercure"


def head(status: int = 200, **fields: str) -> Head:
    return Head(status, Headers([(name.replace("_", "-"), value) for name, value in fields.items()]))


def told(finding: Finding) -> tuple[str, str | None]:
    return finding.level, finding.section


# The clock


@pytest.mark.parametrize(
    ("ahead", "lifetime", "level"),
    [
        (0, 3600, Level.OK),
        (6, 3600, Level.OK),
        (-6, 3600, Level.OK),
        (20, 3600, Level.WARNING),
        (-20, 3600, Level.WARNING),
        (20, 10, Level.PROBLEM),
        (300, 3600, Level.PROBLEM),
        (-86400, 3600, Level.PROBLEM),
    ],
)
def test_the_clocks_of_hub_and_app(ahead: float, lifetime: float, level: Level) -> None:
    finding = addresses.clock_skew(NOW + ahead, NOW, lifetime)
    assert finding.level is level
    assert ("ahead" if ahead > 0 else "behind") in finding.summary or level is Level.OK


def test_an_answer_without_a_date() -> None:
    assert addresses.clock_skew(None, NOW, 60).level is Level.OK
    assert head(date="yesterday").date is None
    assert head(date="Tue, 24 Nov 2026 00:00:00 GMT").date == NOW


# Addresses


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Example.com:443/a?b", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://[::1]:3000/m", "http://[::1]:3000"),
    ],
)
def test_the_origin_of_a_url(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("document", "profile"),
    [
        ({}, None),
        ({"resource": PUBLIC}, None),  # of another resource server
        ({"resource": 5, "mercure_cookie": "c"}, None),
        ({"resource": PUBLIC, "mercure_cookie": "c"}, Profile(PUBLIC, "c")),
        (
            {
                "resource": PUBLIC,
                "authorization_details_types_supported": [],
                "authorization_servers": ["urn:i", 1],
            },
            Profile(PUBLIC, None, ("urn:i",)),
        ),
    ],
)
def test_a_metadata_document(document: dict[str, object], profile: Profile | None) -> None:
    assert addresses.profile(json.dumps(document).encode()) == profile


@pytest.mark.parametrize(
    ("public", "pages", "sections"),
    [
        (PUBLIC, "https://example.com", []),
        ("http://127.0.0.1:3000/m", "http://localhost:5000", []),
        ("http://127.0.0.1:3000/m", "https://example.com", [Symptom.LOOPBACK]),
        ("http://hub.example.com/m", "https://example.com", [Symptom.MIXED_CONTENT]),
    ],
)
def test_a_public_url_that_browsers_cannot_use(public: str, pages: str, sections: list[Section]) -> None:
    found = addresses.suits_browsers(Endpoint(public, "MERCURE_PUBLIC_URL"), pages)
    assert [finding.section for finding in found] == sections


def test_a_hub_without_metadata() -> None:
    endpoint = Endpoint(PUBLIC, "MERCURE_URL")
    for status in (400, 401):
        answer = DatedAnswer(status, Headers({"Content-Type": "text/plain"}), b"", NOW)
        assert addresses.identify(endpoint, answer, None).level is Level.OK


def test_what_is_no_metadata_document() -> None:
    for content in (b"", b"<html>", b"[]", b"1", b'{"resource"', b"[" * 100_000):
        assert addresses.profile(content) is None


# Certificates


def served(
    days: float = 60, names: tuple[str, ...] = ("hub.example.com",), *, is_self_signed: bool = False
) -> Certificate:
    def at(offset: float) -> datetime:
        return datetime.fromtimestamp(NOW + offset * 86400, UTC)

    return Certificate(names, at(days - 400), at(days), is_self_signed)


@pytest.mark.parametrize(
    ("names", "host", "is_for"),
    [
        (("example.com",), "EXAMPLE.com", True),
        (("*.example.com",), "hub.example.com", True),
        (("*.example.com",), "a.hub.example.com", False),
        (("*.example.com",), "example.com", False),
        (("127.0.0.1",), "127.0.0.1", True),
        (("*.0.0.1",), "127.0.0.1", False),
        ((), "localhost", False),
    ],
)
def test_names_of_a_certificate(names: tuple[str, ...], host: str, is_for: bool) -> None:
    assert served(names=names).is_for(host) is is_for


@pytest.mark.parametrize(
    ("code", "certificate", "section", "words"),
    [
        (10, served(-3), Symptom.CERTIFICATE_EXPIRED, "ended on 2026-11-21"),
        (9, served(), Symptom.CLOCK, "not valid yet"),
        (62, served(names=("other.example",)), Symptom.CERTIFICATE, "for other.example"),
        (18, served(is_self_signed=True), Symptom.CERTIFICATE, "self-signed"),
        (20, served(), Symptom.CERTIFICATE, "unable to get"),
        (20, None, Symptom.CERTIFICATE, "unable to get"),
        (0, None, Symptom.CERTIFICATE, "no TLS"),
    ],
)
@pytest.mark.parametrize("by_browsers", [False, True])
def test_a_refused_certificate(
    code: int, certificate: Certificate | None, section: Section, words: str, by_browsers: bool
) -> None:
    error = Unreachable(Stage.TLS, "unable to get local issuer certificate", code)
    endpoint = Endpoint(PUBLIC, "MERCURE_PUBLIC_URL")
    finding = certificates.refused(endpoint, error, certificate, NOW, verify=True, by_browsers=by_browsers)
    assert told(finding) == (Level.PROBLEM, section)
    assert words in finding.summary


def test_bytes_that_are_no_certificate() -> None:
    assert certificates.parse(b"no") is None


# Delivery


DIRECT = Arrival("MERCURE_URL", 0.01, 0.01)


@pytest.mark.parametrize(
    ("direct", "public", "came_back", "expected"),
    [
        (DIRECT, None, None, [(Level.OK, None)]),
        (DIRECT, Arrival("P", 0.1, 0.2), None, [(Level.OK, None)]),
        (DIRECT, Arrival("P", 0.1, 2.0), None, [(Level.WARNING, Symptom.BUFFERING)]),
        (
            DIRECT,
            Arrival("P", 0.1, 0.2, "gzip"),
            None,
            [(Level.OK, None), (Level.WARNING, Symptom.COMPRESSION)],
        ),
        (Arrival("M", 0.1, 0.1, "gzip"), Arrival("P", 0.1, 0.2, "gzip"), None, [(Level.OK, None)]),
        (DIRECT, Arrival("P", 0.1, None), True, [(Level.PROBLEM, Symptom.BUFFERING)]),
        (DIRECT, Arrival("P", None, None), True, [(Level.PROBLEM, Symptom.BUFFERING)]),
        (DIRECT, Arrival("P", 0.1, None, "gzip"), True, [(Level.PROBLEM, Symptom.COMPRESSION)]),
        (DIRECT, Arrival("P", 0.1, None), None, [(Level.PROBLEM, Symptom.BUFFERING)]),
        (DIRECT, Arrival("P", 0.1, None), False, [(Level.PROBLEM, Symptom.DIFFERENT_HUBS)]),
        (Arrival("M", 0.1, None), Arrival("P", 0.1, None), None, [(Level.PROBLEM, Symptom.NOT_DELIVERED)]),
        (Arrival("M", 0.1, None), None, None, [(Level.PROBLEM, Symptom.NOT_DELIVERED)]),
    ],
)
def test_an_update_on_the_internal_and_the_public_stream(
    direct: Arrival,
    public: Arrival | None,
    came_back: bool | None,
    expected: list[tuple[Level, Section | None]],
) -> None:
    found = delivery.delivered(direct, public, within=3, came_back=came_back)
    assert [told(finding) for finding in found] == expected


@pytest.mark.parametrize(
    ("public", "direct", "level", "words"),
    [
        (Lifetime("P", 41, False, 40, 1), None, Level.OK, "heartbeat"),
        (Lifetime("P", 5, False, 5, 0), None, Level.NOTE, "--patience"),
        (Lifetime("P", 30, True, 30, 0), Lifetime("M", 30, False, 30, 0), Level.PROBLEM, "lives"),
        (Lifetime("P", 30, True, 30, 0), Lifetime("M", 30, True, 30, 0), Level.PROBLEM, "the hub ended"),
        (Lifetime("P", 30, True, 30, 0), None, Level.PROBLEM, "or by the hub"),
    ],
)
def test_how_long_a_quiet_stream_lives(
    public: Lifetime, direct: Lifetime | None, level: Level, words: str
) -> None:
    finding = delivery.kept(public, direct, 45)
    assert finding.level is level
    assert words in finding.summary


# Browsers


def policy(
    public_url: str = PUBLIC, same_site: str | None = "Strict", *, secure: bool = True
) -> CookiePolicy:
    name = "__Secure-mercure_access_token" if secure else "mercure_access_token"
    return CookiePolicy(name, public_url, "/.well-known/mercure", None, secure, same_site)


LOCAL = "http://localhost:3000/.well-known/mercure"


@pytest.mark.parametrize(
    ("rules", "app_url", "pages", "expected"),
    [
        (policy(), "https://app.example.com", "https://app.example.com", (Level.OK, None)),
        (policy(), "https://hub.example.com", "https://hub.example.com", (Level.OK, None)),
        (policy(LOCAL), "http://localhost:5000", "http://localhost:5000", (Level.OK, None)),
        (policy(), "https://shop.test", "https://shop.test", (Level.PROBLEM, Symptom.COOKIE_REFUSED)),
        (
            policy(),
            "http://app.example.com",
            "http://app.example.com",
            (Level.PROBLEM, Symptom.COOKIE_REFUSED),
        ),
        (
            policy("http://hub.example.com/.well-known/mercure"),
            "https://app.example.com",
            "https://app.example.com",
            (Level.PROBLEM, Symptom.COOKIE_REFUSED),
        ),
        (policy(), "https://app.example.com", "https://spa.test", (Level.PROBLEM, Symptom.COOKIE_LOST)),
        (
            policy(same_site="None"),
            "https://app.example.com",
            "https://spa.test",
            (Level.WARNING, Symptom.COOKIE_LOST),
        ),
        (
            policy(secure=False),
            "http://app.example.com",
            "http://app.example.com",
            (Level.PROBLEM, Symptom.COOKIE_LOST),
        ),
    ],
)
def test_what_browsers_do_with_the_cookie(
    rules: CookiePolicy, app_url: str, pages: str, expected: tuple[Level, Section | None]
) -> None:
    finding = browser.cookie(rules, "t" * 300, 3600, app_url, pages)
    assert told(finding) == expected
    assert "ttt" not in finding.summary


def test_a_cookie_that_is_too_long() -> None:
    app_url = "https://app.example.com"
    finding = browser.cookie(policy(), "t" * 5000, 3600, app_url, app_url)
    assert told(finding) == (Level.PROBLEM, Symptom.COOKIE_REFUSED)


PAGE = "https://app.example.com"
GOOD = head(access_control_allow_origin=PAGE, access_control_allow_credentials="true")


@pytest.mark.parametrize(
    ("answer", "preflight", "level"),
    [
        (GOOD, GOOD, Level.OK),
        (GOOD, None, Level.OK),
        (GOOD, Head(204, GOOD.headers), Level.OK),
        (GOOD, head(405), Level.WARNING),
        (GOOD, head(200), Level.WARNING),
        *[(GOOD, Head(status, GOOD.headers), Level.WARNING) for status in (301, 302, 307, 308)],
        (head(), GOOD, Level.PROBLEM),
        (head(access_control_allow_origin="*"), GOOD, Level.PROBLEM),
        (head(access_control_allow_origin=PAGE), GOOD, Level.PROBLEM),
        (head(access_control_allow_origin=f"{PAGE}/"), GOOD, Level.PROBLEM),
        (Head(200, Headers([*GOOD.headers, *GOOD.headers])), GOOD, Level.PROBLEM),
    ],
)
def test_whether_a_page_of_another_origin_may_read(
    answer: Head, preflight: Head | None, level: Level
) -> None:
    assert browser.cors(PAGE, answer, preflight).level is level


@pytest.mark.parametrize(
    ("preflight", "words"),
    [
        (Head(302, GOOD.headers), "302, a redirect, which browsers do not follow"),
        (Head(405, GOOD.headers), "405, and browsers want a success"),
        (head(200), "200 and without the origin"),
    ],
)
def test_cors_says_what_is_wrong_with_the_preflight(preflight: Head, words: str) -> None:
    finding = browser.cors(PAGE, GOOD, preflight)
    assert words in finding.summary
    assert any("MERCURE_CORS_ORIGINS" in one.line for one in finding.remedies) is (preflight.status == 200)


def test_publishing_from_a_page() -> None:
    assert [browser.publishing(PAGE, status).level for status in (400, 403, 401)] == [
        Level.OK,
        Level.PROBLEM,
        Level.PROBLEM,
    ]


# HTTP/2


@pytest.mark.parametrize(
    ("scheme", "protocol", "streams", "server", "level"),
    [
        ("https", "h2", 128, "nginx", Level.OK),
        ("https", "h2", None, "", Level.OK),
        ("https", "h2", 6, "nginx", Level.NOTE),
        ("https", "h2", 100, "Apache/2.4.66 (Debian)", Level.NOTE),
        ("https", "http/1.1", None, "nginx", Level.NOTE),
        ("https", None, None, "", Level.NOTE),
        ("http", None, None, "", Level.NOTE),
    ],
)
def test_how_many_streams_a_browser_can_have(
    scheme: str, protocol: str | None, streams: int | None, server: str, level: Level
) -> None:
    assert browser.connections(scheme, protocol, streams, server).level is level


def frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("!HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, 0) + payload


@pytest.mark.parametrize(
    ("sent", "streams"),
    [
        (frame(4, struct.pack("!HLHL", 1, 4096, 3, 128)), 128),
        (frame(4, b"", 1) + frame(6, b"12345678") + frame(4, struct.pack("!HL", 3, 6)), 6),
        (frame(4, b""), None),
        (frame(6, b"12345678") * 20, None),
    ],
)
def test_settings_of_http2(sent: bytes, streams: int | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        assert browser.max_concurrent_streams(ours, time.monotonic() + 5) == streams
        assert theirs.recv(100).startswith(b"PRI * HTTP/2.0")


def test_a_server_that_ends_the_connection_in_http2() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\0")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError):
            browser.max_concurrent_streams(ours, time.monotonic() + 5)


# What arrives


BODY = b"data: one\n\n:\ndata: two\n\n"


def chunked(content: bytes) -> bytes:
    pieces = [content[at : at + 5] for at in range(0, len(content), 5)]
    return b"".join(b"%x;x=y\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def zipped(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(content) + compressor.flush()


def exchange() -> Exchange:
    return Exchange("GET", "http://hub.example/m", {})


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        (b"", BODY),
        (b"Transfer-Encoding: chunked\r\n", chunked(BODY)),
        (b"Content-Encoding: gzip\r\n", zipped(BODY[:9]) + zipped(BODY[9:])),
        (b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", chunked(zipped(BODY))),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_content_of_a_stream_is_decoded_in_any_pieces(fields: bytes, sent: bytes, size: int) -> None:
    reader = exchange()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n") == b""
    assert reader.head is not None
    decoder = Decoder(reader.head)
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    assert b"".join(decoder.feed(reader.feed(piece)) for piece in pieces) == BODY


def test_content_that_is_not_gzip() -> None:
    decoder = Decoder(head(content_encoding="gzip"))
    assert decoder.feed(b"no gzip at all") == b""
    assert decoder.is_broken


@pytest.mark.parametrize(
    ("sent", "stage"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", Stage.NOT_HTTP),
        (b"HTTP/1.1 xx\r\n\r\n", Stage.NOT_HTTP),
        (b"HTTP/1.1 200", Stage.ANSWER),
        (b"x" * 70000, Stage.NOT_HTTP),
        (b"", Stage.ANSWER),
    ],
)
def test_bytes_that_are_no_answer(sent: bytes, stage: Stage) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(Unreachable) as caught:
            answer(ours, exchange(), time.monotonic() + 5)
    assert caught.value.stage is stage


def test_an_answer_that_does_not_come_in_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(Unreachable, match="in time"):
            answer(ours, exchange(), time.monotonic() + 0.05)


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        done.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(Unreachable, match="resolver"):
            dial(Endpoint("http://hub.example/m", "MERCURE_URL"), None, time.monotonic() + 0.1)
    finally:
        done.set()
        for thread in threading.enumerate():
            if thread.name == "resolver":
                thread.join()


# The report


def test_a_finding_as_text_and_as_json() -> None:
    finding = problem("token", "a long summary " * 10, Section.ISSUER, hub("MERCURE_ISSUER=" + "x" * 120))
    lines = command.as_text(finding).splitlines()
    assert lines[0].startswith("PROBLEM  token     a long summary")
    assert "hub: MERCURE_ISSUER=" + "x" * 120 in lines[-2]  # to be copied: not wrapped
    assert lines[-1].strip() == f"see {reference(Section.ISSUER)}"
    assert command.as_text(ok("clock", "fine")) == "ok       clock     fine"
    document = json.loads(json.dumps(command.as_document("eu", [finding])))
    assert document["healthy"] is False
    assert document["findings"][0]["help"] == reference(Section.ISSUER)


def test_the_last_line_of_the_report() -> None:
    bad, odd = problem("a", "b", Symptom.CORS), warning("a", "b", Symptom.CORS)
    assert command.summary([bad, bad, odd]) == "2 problems, 1 warning."
    assert command.summary([ok("a", "b"), note("a", "b", None, Remedy("app", "c"))]).startswith("Everything")


@pytest.mark.parametrize("section", [Section.STORAGE, Section.STORAGE_AWAY, Section.STORAGE_IN_DOUBT])
def test_a_hub_that_cannot_store_says_why(section: Section) -> None:
    body = json.dumps({"type": problem_type(section), "detail": "the database db is away"}).encode()
    found = storage.not_stored("MERCURE_URL", DatedAnswer(503, Headers(), body, 0.0))
    assert found is not None
    assert (found.level, found.section) == (Level.PROBLEM, section)
    assert "the database db is away" in found.summary
    assert any("history stats" in remedy.line for remedy in found.remedies)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"type": "about:blank"}', b'{"type": 5}'])
def test_a_refusal_that_is_not_about_storage(body: bytes) -> None:
    assert storage.not_stored("MERCURE_URL", DatedAnswer(503, Headers(), body, 0.0)) is None
