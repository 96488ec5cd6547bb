"""What a hub's answer to a token means: tables, without a hub."""

from __future__ import annotations

import pytest

from flask_mercure.doctor import tokens
from flask_mercure.doctor.findings import Level, Symptom, apache, app, hub, nginx
from flask_mercure.topics import Protocol
from mercure_hub.protocol.errors import Section
from mercure_hub.protocol.tokens.claims import Role


@pytest.mark.parametrize(("role", "holder"), [("publish", "publisher"), ("subscribe", "subscriber")])
def test_a_token_that_is_accepted(role: Role, holder: str) -> None:
    finding = tokens.accepted(role, "MERCURE_URL")
    assert (finding.check, finding.level, finding.section) == ("token", Level.OK, None)
    assert finding.summary == f"the {holder}'s token is accepted at MERCURE_URL"


@pytest.mark.parametrize(
    ("role", "status", "section", "summary"),
    [
        ("publish", 403, Section.SCOPE, "the hub at X answers 403 to the publisher's token"),
        ("subscribe", 403, Section.SCOPE, "the hub at X answers 403 to the subscriber's token"),
        ("publish", 500, Section.DEFECT, "the hub at X answers 500 to the publisher's token"),
        ("publish", 302, Section.DEFECT, "the hub at X answers 302 to the publisher's token"),
        ("subscribe", 404, Section.DEFECT, "the hub at X answers 404 to the subscriber's token"),
        ("subscribe", 0, Section.DEFECT, "the hub at X answers nothing to the subscriber's token"),
    ],
)
def test_a_valid_token_with_another_answer_than_expected(
    role: Role, status: int, section: Section, summary: str
) -> None:
    finding = tokens.forbidden(role, "X", status)
    assert (finding.check, finding.level, finding.section) == ("token", Level.PROBLEM, section)
    assert finding.summary == summary
    assert finding.remedies == ()


@pytest.mark.parametrize(("by_cookie", "level"), [(True, Level.WARNING), (False, Level.PROBLEM)])
def test_a_token_that_is_lost_on_the_way_through_the_proxy(by_cookie: bool, level: Level) -> None:
    finding = tokens.refused_at_the_proxy("MERCURE_PUBLIC_URL", 401, by_cookie=by_cookie)
    assert (finding.check, finding.level, finding.section) == ("token", level, Symptom.HEADER_LOST)
    assert "at MERCURE_PUBLIC_URL the answer is 401" in finding.summary
    assert ("In the cookie the token arrives" in finding.summary) is by_cookie
    assert [line.where for line in finding.remedies] == [nginx("").where, apache("").where]


@pytest.mark.parametrize(("ours", "other"), [("1.0", "0.x"), ("0.x", "1.0")])
def test_a_hub_that_knows_the_parameters_of_the_other_generation_only(ours: Protocol, other: str) -> None:
    finding = tokens.other_parameters("X", ours)
    assert (finding.check, finding.level, finding.section) == ("token", Level.PROBLEM, Section.GENERATION)
    assert finding.summary.endswith(f"answers 400 to the parameters of protocol {ours}")
    assert finding.remedies == (app(f'MERCURE_PROTOCOL = "{other}"'), hub("MERCURE_PROTOCOL=both"))
