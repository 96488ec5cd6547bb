"""curl, nghttp and h2load on the hub, over plain connections and TLS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deployment.front import curl
from tests.hub.running import HUB_PATH, RunningHub
from tests.needs import need

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def programs() -> None:
    need("curl", "nghttp2-client")


@pytest.fixture
def version(hub: RunningHub) -> str:
    """What makes curl speak HTTP/2."""
    return "--http2" if hub.scheme == "https" else "--http2-prior-knowledge"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


class TestCurl:
    def test_a_stream(self, hub: RunningHub, version: str) -> None:
        stored = hub.send("curl", "stored")
        with curl(version, "-i", f"{hub.url}?match=curl&last_event_id=earliest") as output:
            assert output.readline().startswith(b"HTTP/2 200")
            while output.readline().strip():
                pass
            while (line := output.readline()) in (b":\n", b"\n"):
                pass
            assert line == f"id: {stored}\n".encode()
            for number in range(5):
                hub.send("curl", str(number))
                while (line := output.readline()) != f"data: {number}\n".encode():
                    assert line, "the stream ended"

    def test_a_compressed_stream(self, hub: RunningHub, version: str) -> None:
        text = "compressible " * 1000
        hub.send("curl-zstd", text)
        with curl(version, "--compressed", f"{hub.url}?match=curl-zstd&last_event_id=earliest") as output:
            while (line := output.readline()) != f"data: {text}\n".encode():
                assert line, "the stream ended"

    def test_a_publication(self, hub: RunningHub, version: str) -> None:
        stream = hub.subscribe({"match": "curl-post"})
        text = "x" * 90_000
        fields = ("-H", f"Authorization: Bearer {hub.token()}", "-d", "topic=curl-post", "-d", f"data={text}")
        with curl(version, "-w", "\n%{http_version} %{http_code}", *fields, hub.url) as output:
            assert output.read().endswith(b"\n2 200")
        assert stream.take(1) == [text]

    def test_a_refusal(self, hub: RunningHub, version: str) -> None:
        with curl(version, "-w", "\n%{http_version} %{http_code}", "-d", "topic=x", hub.url) as output:
            assert output.read().endswith(b"\n2 401")

    def test_a_connection_that_is_used_again(self, hub: RunningHub, version: str) -> None:
        url = hub.url.replace(HUB_PATH, "/livez")
        format_ = "%{http_version} %{num_connects}\n"
        with curl(
            version, "-w", format_, *(part for _ in range(3) for part in ("-o", "/dev/null", url))
        ) as output:
            assert output.read() == b"2 1\n2 0\n2 0\n"


class TestNghttp:
    def test_many_streams_on_one_connection(self, hub: RunningHub) -> None:
        url = hub.url.replace(HUB_PATH, "/livez")
        told = run("nghttp", "-nv", "--no-verify-peer", "-m", "50", url)
        assert len(re.findall(r":status: 200", told)) == 50
        assert "GOAWAY" in told  # its own, at the end
        assert not re.search(r"RST_STREAM|error_code=(?!NO_ERROR)", told)

    @pytest.mark.parametrize("window", ["4", "16"])
    def test_small_windows(self, hub: RunningHub, window: str) -> None:
        """2^4 - 1 bytes of each stream at a time."""
        url = f"{hub.url}/debugger/"
        whole = hub.get(path=f"{HUB_PATH}/debugger/").text
        assert run("nghttp", "--no-verify-peer", "-w", window, "-W", window, url) == whole


def test_h2load(hub: RunningHub, tmp_path: Path) -> None:
    """Publications as fast as they go: each is answered, and each arrives."""
    stream = hub.subscribe({"match": "load"})
    form = tmp_path / "form"
    form.write_text("topic=load&data=x")
    told = run(
        *("h2load", "-n", "2000", "-c", "4", "-m", "50", "-d", str(form)),
        *(
            "-H",
            "content-type: application/x-www-form-urlencoded",
            "-H",
            f"authorization: Bearer {hub.token()}",
        ),
        hub.url,
    )
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    assert stream.take(2000) == ["x"] * 2000
