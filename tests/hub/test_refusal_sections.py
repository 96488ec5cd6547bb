"""What the hub refuses leads to the section that explains it: the log to the precise one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import jwt
import pytest

from mercure_hub.protocol.errors import Section, problem_type, reference
from mercure_hub.server.access_log import AccessLog
from tests.hub.running import HUB_PATH, SECRET, TIMEOUT, RunningHub, running_hub

pytestmark = pytest.mark.minutes


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def token(hub: RunningHub, section: Section) -> str:
    """A token with the mistake that a section is about."""
    good = {"iss": "urn:flask-mercure", "aud": hub.url, "exp": 2**40, "authorization_details": []}
    header: Mapping[str, Any] = {"typ": "at+jwt"}
    secret, algorithm = SECRET, "HS256"
    match section:
        case Section.SIGNATURE:
            secret += "!"
        case Section.ALGORITHM:
            secret, algorithm = SECRET * 2, "HS512"
        case Section.ISSUER:
            good["iss"] = "urn:other"
        case Section.AUDIENCE:
            good["aud"] = "https://other.example"
        case Section.TOKEN_EXPIRED:
            good["exp"] = 1
        case Section.TOKEN_NOT_YET_VALID:
            good["nbf"] = 2**39
        case Section.TOKEN_CLAIMS:
            good["authorization_details"] = "all"
        case Section.GENERATION:
            header = {"typ": "JWT"}
        case Section.TOKEN_MALFORMED:
            return "abc"
    return jwt.encode(good, secret, algorithm, dict(header))


CAUSES = [
    Section.SIGNATURE,
    Section.ALGORITHM,
    Section.ISSUER,
    Section.AUDIENCE,
    Section.TOKEN_EXPIRED,
    Section.TOKEN_NOT_YET_VALID,
    Section.TOKEN_CLAIMS,
    Section.GENERATION,
    Section.TOKEN_MALFORMED,
]


@pytest.mark.parametrize("section", CAUSES)
def test_the_cause_is_in_the_log_alone(
    strict: RunningHub, caplog: pytest.LogCaptureFixture, section: Section
) -> None:
    with caplog.at_level(logging.INFO, "mercure_hub.server"):
        reply = strict.get({"match": "a"}, token(strict, section))
    assert reply.status == 401
    (line,) = [record.getMessage() for record in caplog.records if "refused with 401" in record.getMessage()]
    assert line.endswith(f", see {reference(section)}")
    assert reply.json()["type"] == problem_type(Section.TOKEN_REFUSED)
    assert str(section) not in reply.text.replace("token-refused", "")


def test_a_missing_token_names_its_section(strict: RunningHub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mercure_hub.server"):
        reply = strict.get({"match": "a"})
    assert reply.json()["help"] == reference(Section.TOKEN_MISSING)
    assert reference(Section.TOKEN_MISSING) in caplog.text


def test_what_is_no_token_to_blame_for(strict: RunningHub) -> None:
    assert strict.get(path="/nowhere").json()["type"] == problem_type(Section.NOT_FOUND)
    wrong = strict.request("DELETE", HUB_PATH)
    assert (wrong.status, wrong.json()["type"]) == (405, problem_type(Section.METHOD))
    assert strict.publish({"topic": "*"}).json()["type"] == problem_type(Section.BAD_REQUEST)
    narrow = strict.publish({"topic": "a"}, strict.token(publish=["b"]))
    assert narrow.json()["type"] == problem_type(Section.SCOPE)


def test_bytes_that_are_no_request(strict: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is written when the answer has left: it is waited for."""
    lines: Queue[str] = Queue()
    monkeypatch.setattr(AccessLog, "write_refused", lambda _, peer, status, reason: lines.put(reason))
    assert reference(Section.BAD_REQUEST).encode() in strict.raw(b"\x16\x03\x01 hello\r\n\r\n")
    assert lines.get(timeout=TIMEOUT).endswith(f"See {reference(Section.BAD_REQUEST)}")


def test_a_request_of_another_url(folder: Path) -> None:
    with running_hub(folder, allowed_urls="https://hub.example/.well-known/mercure") as hub:
        assert hub.get().json()["type"] == problem_type(Section.MISDIRECTED)
