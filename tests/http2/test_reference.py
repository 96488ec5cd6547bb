"""The table of cases on nghttpd, a server that others wrote: is the table right?"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.front import free_ports, is_listening, wait_until
from tests.examples.browser import end
from tests.http2.cases import CASES, Case
from tests.http2.playing import failure
from tests.hub.running import HUB_PATH, TIMEOUT
from tests.needs import need

pytestmark = pytest.mark.servers

LENIENT = {
    "5.1.1 a stream below an earlier one": "it passes over the second request",
    "5.1.1 the last stream there can be": "likewise",
    "6.9.2 an initial window that takes a stream's above the maximum": "it ends the stream only",
    "8.3.1 host other than :authority": "it answers; a server SHOULD refuse",
}
"""Where nghttpd does less than RFC 9113 demands."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of an nghttpd with a file at the hub's path."""
    need("nghttp2-server")
    folder = tmp_path_factory.mktemp("nghttpd")
    served = Path(f"{folder}{HUB_PATH}")
    served.parent.mkdir()
    served.write_text("a text\n")
    (number,) = free_ports(1)
    with (folder / "output").open("wb") as output:
        child = subprocess.Popen(
            ["nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", str(folder), str(number)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: is_listening(number) or child.poll() is not None, "nghttpd does not listen")
        yield number
    finally:
        end(child)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(port: int, case: Case) -> None:
    failed = failure(case, socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
    assert bool(failed) == (case.name in LENIENT), failed
