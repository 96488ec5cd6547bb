"""The hub's answers to every frame that is right or wrong (RFC 9113, RFC 7541), over h2c and TLS."""

from __future__ import annotations

import pytest

from tests.http2.cases import CASES, H2SPEC, Case
from tests.http2.client import open_socket
from tests.http2.playing import failure
from tests.hub.running import RunningHub

pytestmark = pytest.mark.minutes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(hub: RunningHub, case: Case) -> None:
    assert failure(case, open_socket(hub)) == ""


@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.name)
def test_case_in_pieces(hub: RunningHub, case: Case) -> None:
    """Frames may arrive cut at any byte."""
    assert failure(case, open_socket(hub), 7) == ""


def test_the_table_has_what_h2spec_has() -> None:
    assert len(H2SPEC) == 147
    assert len({case.name for case in CASES}) == len(CASES)
