"""Each refusal carries what its answer needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flask_mercure.doctor.findings import Symptom
from mercure_hub import DOCUMENTATION
from mercure_hub.protocol import errors
from mercure_hub.protocol.errors import Section, problem_type, reference
from mercure_hub.protocol.http import error_answer
from tests.protocol.test_http import ANSWERS

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_all_errors_are_one_tree(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.MercureError)
    assert kind.__doc__
    assert kind.__name__ in (errors.__doc__ or "")


def test_what_errors_hold() -> None:
    request = errors.InvalidRequest("wrong", "topic")
    assert (str(request), request.detail, request.field) == ("wrong", "wrong", "topic")
    assert errors.InvalidRequest("wrong").field is None
    assert errors.MethodNotAllowed("wrong", "GET, HEAD").allow == "GET, HEAD"
    assert errors.TooManyRequests("wrong", 5).retry_after == 5
    token = errors.TokenInvalid("expired")
    assert (str(token), token.cause) == ("expired", "expired")
    assert errors.StorageError("the disk is full").detail == "the disk is full"


TEXT = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def test_the_page_has_each_section_once() -> None:
    anchors = re.findall(r'^<a id="([a-z-]+)"></a>\n### ', TEXT, re.MULTILINE)
    assert sorted(anchors) == sorted([*Section, *Symptom])


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= headings | {*Section, *Symptom}


@pytest.mark.parametrize("error", [error for error, _, _ in ANSWERS], ids=lambda error: type(error).__name__)
def test_an_answer_names_its_section(error: errors.MercureError) -> None:
    document = json.loads(error_answer(error).body)
    assert document["type"] == problem_type(error.section) == f"urn:flask-mercure:problem:{error.section}"
    assert (
        document["help"] == reference(error.section) == f"{DOCUMENTATION}/troubleshooting.md#{error.section}"
    )


def test_the_client_is_not_told_which_check_a_token_failed() -> None:
    error = errors.TokenInvalid("the precise cause", Section.SIGNATURE)
    assert (error.explained, error.section) == (Section.SIGNATURE, Section.TOKEN_REFUSED)
    assert b"signature" not in error_answer(error).body
    assert errors.TokenInvalid("x").explained is Section.TOKEN_REFUSED
