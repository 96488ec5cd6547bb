"""Fetching a JWK set from servers that behave, and from those that do not."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gevent.ssl
import pytest

from mercure_hub.protocol.tokens.issuer import RemoteKeys
from mercure_hub.protocol.tokens.keys import ASYMMETRIC
from mercure_hub.server import jwks
from mercure_hub.server.jwks import Address, Fetcher, FetchError
from tests.certificates import self_signed
from tests.hub.key_server import KeyServer, key_server

pytestmark = pytest.mark.minutes


def remote(url: str, *, allow_private: bool = True) -> RemoteKeys:
    return RemoteKeys(url, ASYMMETRIC, allow_private=allow_private)


def refusal(url: str, fetcher: Fetcher | None = None, *, allow_private: bool = True) -> str:
    with pytest.raises(FetchError) as caught:
        (fetcher or Fetcher())(remote(url, allow_private=allow_private))
    message = str(caught.value)
    assert "hunter2" not in message
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def server() -> Any:
    with key_server() as running:
        yield running


def test_a_key_set_is_fetched(server: KeyServer) -> None:
    server.headers = {"Cache-Control": "public, max-age=7200", "Age": "200"}
    found = Fetcher()(remote(server.url))
    assert found.body == server.body
    assert found.lifetime == 7000
    ((path, headers),) = server.requests
    assert path == "/keys?secret=hunter2"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["accept"].startswith("application/jwk-set+json")
    assert headers["user-agent"].startswith("mercure-hub/")
    assert not {"cookie", "authorization", "referer"} & set(headers)


def test_a_key_set_without_content_length_and_path_is_fetched(server: KeyServer) -> None:
    server.headers = {"Content-Length": ""}
    found = Fetcher()(remote(f"http://localhost:{server.port}"))
    assert found.body == server.body
    assert found.lifetime == 3600
    assert server.requests[0][0] == "/"


def test_a_key_set_in_chunks_is_fetched(server: KeyServer) -> None:
    server.headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    server.body = b'8\r\n{"keys":\r\n3\r\n[]}\r\n0\r\n\r\n'

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        server.reply(handler)

    server.answer = answer
    assert Fetcher()(remote(server.url)).body == b'{"keys":[]}'


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 303, 304, 307, 308, 401, 404, 500, 503])
def test_an_answer_with_another_status_is_refused(server: KeyServer, status: int) -> None:
    server.status = status
    with key_server() as other:
        server.headers = {"Location": other.url}
        message = refusal(server.url)
        assert other.requests == []
    assert f"the status {status}" in message
    assert ("redirects are not followed" in message) == (300 <= status < 400)


@pytest.mark.parametrize("length", ["", "300000", "99999999999999999999"])
def test_a_key_set_that_is_too_long_is_refused(server: KeyServer, length: str) -> None:
    server.body = b" " * 300_000
    server.headers = {"Content-Length": length}
    assert refusal(server.url) == "the answer is over 262144 bytes"


def raw(data: bytes) -> Any:
    return lambda handler: handler.connection.sendall(data)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hunter2\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"HTTP/1.1 OK\r\n\r\n",
        b"SSH-2.0-hunter2\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n", b"HTTP/1.1 \xff\r\n\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_an_answer_that_is_not_http_is_refused(server: KeyServer, data: bytes) -> None:
    server.answer = raw(data)
    assert refusal(server.url) in ("the answer is not HTTP", "Connection reset by peer")


def drip(handler: BaseHTTPRequestHandler) -> None:
    """One byte after the other, so that no single wait is long."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000:
        handler.connection.sendall(bytes([byte]))
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["hang", "drip"])
def test_a_fetch_has_a_deadline(server: KeyServer, way: str) -> None:
    server.answer = server.hang if way == "hang" else drip
    started = time.monotonic()
    assert refusal(server.url, Fetcher(deadline=0.2)) == "it did not arrive within 0.2 s"
    assert time.monotonic() - started < 8  # all of it takes ten


def test_a_fetch_from_a_closed_port_fails() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert refusal(f"http://127.0.0.1:{sock.getsockname()[1]}/") == "Connection refused"


def test_a_fetch_from_an_unknown_host_fails() -> None:
    def resolve(host: str, port: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert "its host is not found" in refusal("https://keys.invalid/", Fetcher(resolve=resolve))
    assert "is not a valid host name" in refusal(f"https://{'a' * 70}.example/")


def test_a_fetch_without_a_thread_for_the_lookup_fails() -> None:
    def resolve(host: str, port: int) -> Sequence[Address]:
        raise RuntimeError("can't start new thread")

    assert refusal("https://keys.example/", Fetcher(resolve=resolve)) == "can't start new thread"


def test_proxies_of_the_environment_are_not_used(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with key_server() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        Fetcher()(remote(server.url))
        assert proxy.requests == []


# --- where the host really is ---


def resolving(*hosts: str) -> Any:
    """A name server that gives these addresses, and counts how often it is asked."""

    def resolve(host: str, port: int) -> Sequence[Address]:
        resolve.count += 1  # type: ignore[attr-defined]
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(families[":" in one], (one, port)) for one in hosts]

    resolve.count = 0  # type: ignore[attr-defined]
    return resolve


@pytest.mark.parametrize(
    "hosts",
    [
        ["127.0.0.1"],
        ["10.0.0.1", "192.168.1.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["0.0.0.0"],
    ],
)
def test_a_name_that_leads_to_a_private_address(server: KeyServer, hosts: list[str]) -> None:
    fetcher = Fetcher(resolve=resolving(*hosts))
    message = refusal(f"https://keys.example:{server.port}/", fetcher, allow_private=False)
    assert "only private addresses; permit it with allow_private" in message
    assert server.requests == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "is_public", lambda address: address == "127.0.0.1")
    tried: list[object] = []
    connect = gevent.socket.socket.connect

    def connecting(sock: Any, address: object) -> None:
        tried.append(address)
        connect(sock, address)

    monkeypatch.setattr(gevent.socket.socket, "connect", connecting)
    resolve = resolving("10.0.0.1", "127.0.0.1", "192.168.0.1")
    assert Fetcher(resolve=resolve)(remote(f"http://keys.example:{server.port}/", allow_private=False)).body
    assert tried == [("127.0.0.1", server.port)]
    assert resolve.count == 1


def test_plain_http_goes_no_further_than_this_host() -> None:
    fetcher = Fetcher(resolve=resolving("93.184.216.34", "10.0.0.1"))
    assert "plain HTTP goes no further" in refusal("http://localhost/", fetcher)


def test_of_several_addresses_the_next_is_tried(server: KeyServer) -> None:
    fetcher = Fetcher(resolve=resolving("127.0.0.2", "127.0.0.1"))
    assert fetcher(remote(server.url)).body == server.body


# --- TLS ---


def test_the_certificate_of_an_issuer_is_checked(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate)
    trusting = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(certificate)
    with key_server(certificate=own) as server:
        url = f"https://localhost:{server.port}/"
        assert Fetcher(trusting)(remote(url)).body == server.body
        assert refusal(url).startswith("its certificate is not trusted: self-signed")
        elsewhere = Fetcher(trusting, resolve=resolving("127.0.0.1"))
        assert "Hostname mismatch" in refusal(f"https://keys.example:{server.port}/", elsewhere)
        assert len(server.requests) == 1


def test_an_issuer_without_tls_is_refused(server: KeyServer) -> None:
    assert refusal(f"https://127.0.0.1:{server.port}/").startswith(("TLS failed: ", "Connection reset"))
