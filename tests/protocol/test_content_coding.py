"""Accept-Encoding: who asks for a coding, who merely does not exclude it, who refuses it."""

from __future__ import annotations

import time

import pytest

from mercure_hub.protocol.http import prefers

ASKED = [
    "zstd",
    "gzip, deflate, br, zstd",  # Chromium and Firefox
    "ZSTD",
    "zstd;q=1",
    "zstd;q=1.000",
    "zstd;q=0.001",
    "zstd ; Q=0.5",
    "gzip;q=1.0,\tzstd;q=0.2\t",
    ",, zstd ,",
    "zstd;q=0.5, identity;q=0.5",
    "zstd, identity",
    "zstd, *;q=0",
    "identity;q=0, zstd",
]
NOT_ASKED: list[str | None] = [
    None,
    "",
    "gzip, deflate, br",
    "*",
    "*;q=1, gzip",
    "identity",
    "zstd;q=0",
    "zstd;q=0.0",
    "zstd;q=0.000",
    "zstd, zstd;q=0",
    "zstd;q=0, zstd",
    "zstd;q=0.4, identity;q=0.5",
    "identity, zstd;q=0.999",
    "x-zstd",
    "zstd-x",
    "zstandard",
    "z std",
    ";q=1",
]
MALFORMED: list[str | None] = [
    "zstd;q=",
    "zstd;q=2",
    "zstd;q=1.001",
    "zstd;q=0.1234",
    "zstd;q=-1",
    "zstd;q=nan",
    "zstd;q=1e-3",
    "zstd;level=3",
    "zstd;q=1;q=1",
    "zstd q=1",
    'zstd;q="1"',
    "zstd;",
]


@pytest.mark.parametrize("field", ASKED)
def test_asked_for(field: str) -> None:
    assert prefers("zstd", field)


@pytest.mark.parametrize("field", NOT_ASKED + MALFORMED)
def test_not_asked_for(field: str | None) -> None:
    assert not prefers("zstd", field)


def test_a_long_field_takes_no_long_time() -> None:
    started = time.process_time()
    for field in ("zstd;q=0" + " " * 60_000 + "x", "," * 60_000, "a;q=1," * 10_000):
        assert not prefers("zstd", field)
    assert time.process_time() - started < 1
