"""What a user's text can reach in topics, patterns and grants, by the code with which the hub decides it."""

from __future__ import annotations

import copy
import json
import pickle
import random
import uuid
from typing import Any

import pytest

from flask_mercure import EVERYTHING, InvalidArgument, URITemplate, URLPattern, build_topic
from flask_mercure.tokens import authorization_claims
from flask_mercure.topics import Protocol, Topics, subscription_url
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.tokens.grant import grant_of, old_grant_of
from mercure_hub.protocol.tokens.keys import Key

BASE = "https://hub.example/.well-known/mercure"
KEY = Key(b"a secret that is long enough for HMAC", ("HS256",))

REFUSED = ["", ".", "..", "%2e", "%2E%2e", ".%2E", "a\x00b", "a\nb", "a\x85b", "\ud800", "\ud83d\ude00"]
HOSTILE = [
    "*", ":id", ":tenant(.*)", "(.*)", "([a-z]+)", "{*}", "{+x}", "{x}", "{/x*}", "{x}*", "{g}lobex", "+",
    "?", "globex?",
    "globex#", "globex/*", "globex/orders", "/globex", "//globex", "globex\\", "\\globex", "\\:id",
    "a/../globex",
    "a/../../tenants/globex", "a/%2e%2e/globex", "a\\..\\globex", "%67lobex", "%2a", "%252e%252e",
    "globex%2F", "globex%00",
    "GLOBEX", "\uff47lobex", "\u24d6lobex", "*lobex", "g:x", "glob+ex", "g.obex", "globex;x",
    "globex,acme", "globex@acme",
    "http://hub.example/tenants/globex", "javascript:x", "...", " globex", "globex ", "glöbex",
    "glo\u0308bex", "🦉", "$",
]  # fmt: skip
FORMATTED = [
    "glo\u200bbex", "\u202eglobex", "\ufeffglobex",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "👨\u200d👩\u200d👧", "❤\ufe0f\u200d🔥",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
]  # fmt: skip
VICTIMS = [
    "/tenants/globex/orders/1", "https://hub.example/tenants/globex/orders/1", "tenants/globex/orders/1",
    "/tenants/globex",
    "/tenants/globex/", "/tenants/globex/orders", "/tenants/acme/orders/1", "/tenants/g/orders/1",
    "/tenants//orders/1",
    "/tenants/orders/1", "/orders/1", "/tenants/x/orders/1", "https://globex.example/orders/1", "/", "secret",
]  # fmt: skip


def scope(topics: Topics, protocol: Protocol = "1.0") -> Scope:
    """What the hub lets the owner of a token with this grant read."""
    claims = authorization_claims(topics, protocol=protocol)
    if protocol == "0.x":
        return old_grant_of(claims, BASE).subscribe
    return grant_of(claims["authorization_details"], BASE).subscribe


def of_tenant(name: str, protocol: Protocol) -> Topics:
    """The grant that the documentation shows."""
    if protocol == "0.x":
        return [URITemplate.build("/tenants/{}/{{+rest}}", name)]
    return [URLPattern.build("/tenants/{}/*", name)]


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
@pytest.mark.parametrize("name", [*HOSTILE, *FORMATTED], ids=ascii)
def test_a_built_pattern_reaches_its_own_topics_and_no_others(name: str, protocol: Protocol) -> None:
    allowed = scope(of_tenant(name, protocol), protocol)
    assert allowed.covers(build_topic("/tenants/{}/orders/{}", name, 1))
    assert [one for one in VICTIMS if allowed.covers(one)] == []
    others = [
        one
        for one in [*HOSTILE, *FORMATTED]
        if one != name and allowed.covers(build_topic("/tenants/{}/x", one))
    ]
    assert others == []


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
@pytest.mark.parametrize("name", [*HOSTILE, *FORMATTED], ids=ascii)
def test_an_update_on_a_built_topic_reaches_nobody_else(name: str, protocol: Protocol) -> None:
    topic = build_topic("/tenants/{}/orders/1", name)
    for victim in ("globex", "acme", "g", "x", "tenants"):
        assert not scope(of_tenant(victim, protocol), protocol).covers(topic)
    assert scope([topic], protocol).covers(topic)


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_what_encoding_cannot_make_harmless_is_refused(name: str) -> None:
    for build in (build_topic, URLPattern.build, URITemplate.build):
        with pytest.raises(InvalidArgument):
            build("/tenants/{}/orders", name)


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
@pytest.mark.parametrize("name", [*HOSTILE, *FORMATTED, *REFUSED], ids=ascii)
def test_an_exact_topic_with_a_fixed_beginning_is_that_topic_alone(name: str, protocol: Protocol) -> None:
    topic = f"/tenants/{name}/orders/1"
    try:
        allowed = scope([topic], protocol)
    except InvalidArgument:  # the hub would read it otherwise, or not at all
        assert name in [*FORMATTED, *REFUSED] or (protocol == "0.x" and "{" in name)
        return
    assert allowed.covers(topic)
    assert [one for one in VICTIMS if one != topic and allowed.covers(one)] == []


def test_names_made_at_random_stay_apart() -> None:
    chance = random.Random(12)
    alphabet = [
        "*",
        ":",
        "id",
        "(",
        ")",
        ".",
        "..",
        "/",
        "\\",
        "{",
        "}",
        "+",
        "?",
        "#",
        "%",
        "2e",
        "2F",
        "globex",
        "é",
        " ",
        "&",
    ]
    for _ in range(1500):
        name = "".join(chance.choices(alphabet, k=chance.randint(1, 6)))
        protocol: Protocol = chance.choice(["1.0", "0.x"])
        try:
            allowed = scope(of_tenant(name, protocol), protocol)
        except InvalidArgument:
            assert name.replace("%2e", ".") in (".", "..")
            continue
        assert allowed.covers(build_topic("/tenants/{}/orders", name)), name
        assert name == "globex" or not any(map(allowed.covers, VICTIMS)), name


ALL = "'\\*'.*EVERYTHING"


@pytest.mark.parametrize(
    "topics",
    ["*", ["*"], ["a", "*"], {"match": "*"}, {"match": "*", "match_type": "urlpattern"}, URLPattern("*")],
)
def test_everything_is_said_in_words(topics: Any) -> None:
    with pytest.raises(InvalidArgument, match=ALL):
        scope(topics)
    with pytest.raises(InvalidArgument, match=ALL):
        subscription_url("https://hub.example/m", "1.0", topics)


@pytest.mark.parametrize("topics", ["*", ["*"], {"match": "*"}, URITemplate("*"), [URITemplate("*"), "a"]])
def test_everything_is_said_in_words_in_the_old_protocol_too(topics: Any) -> None:
    with pytest.raises(InvalidArgument, match=ALL):
        scope(topics, "0.x")


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
@pytest.mark.parametrize("topics", [EVERYTHING, [EVERYTHING], ["a", EVERYTHING, EVERYTHING]])
def test_everything_covers_everything(topics: Any, protocol: Protocol) -> None:
    assert all(map(scope(topics, protocol).covers, VICTIMS))


@pytest.mark.parametrize("made", [EVERYTHING, URITemplate("/a/{b}")])
def test_a_mark_lasts_as_long_as_the_object(made: str) -> None:
    for kept in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert (type(kept), kept, repr(kept)) == (type(made), made, repr(made))
    for lost in (made.strip(), f"{made}", json.loads(json.dumps(made))):
        with pytest.raises(InvalidArgument):
            scope([lost], "0.x")


@pytest.mark.parametrize("topic", ["/users/{id}", "/users/{", "{+x}", "a}{", {"match": "/users/{id}"}])
def test_in_the_old_protocol_a_template_is_marked(topic: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"reads as a URI Template.*URITemplate\(.*build_topic"):
        scope([topic], "0.x")
    assert not scope([topic], "1.0").covers("/users/1")
    with pytest.raises(InvalidArgument, match="use URLPattern"):
        scope([URITemplate("/users/{id}")], "1.0")
    with pytest.raises(InvalidArgument, match="use URITemplate"):
        scope([URLPattern("/users/:id")], "0.x")


@pytest.mark.parametrize(
    ("template", "values", "topic"),
    [
        ("/users/{}", (7,), "/users/7"),
        ("/users/{}/{}", ("a b", "c/d"), "/users/a%20b/c%2Fd"),
        ("/users/{1}/{0}", ("a", "b"), "/users/b/a"),
        ("user-{}", ("ada@example.com",), "user-ada%40example.com"),
        ("urn:user:{}", (uuid.UUID(int=1),), "urn:user:00000000-0000-0000-0000-000000000001"),
        ("{{x}}/{}", ("{x}",), "{x}/%7Bx%7D"),
        ("https://{}.example.com/{}", ("globex", "1"), "https://globex.example.com/1"),
        ("plain", (), "plain"),
    ],
)
def test_the_form_of_a_built_topic(template: str, values: tuple[Any, ...], topic: str) -> None:
    assert build_topic(template, *values) == topic


def test_fields_with_names() -> None:
    assert build_topic("/t/{tenant}/{}/{tenant}", 1, tenant="a/b") == "/t/a%2Fb/1/a%2Fb"
    assert URLPattern.build("/t/{tenant}{{/:id}}?", tenant="x").value == "/t/x{/:id}?"
    assert URITemplate.build("/t/{tenant}{{/path*}}", tenant="{x}") == "/t/%7Bx%7D{/path*}"


@pytest.mark.parametrize("host", ["GLOBEX", "\u24d6lobex", "a.b", "evil@x", "xn--x", "-a", "a_b", "*", "%67"])
@pytest.mark.parametrize(
    "template",
    [
        "https://{}.example.com/x", "//{}/x", "https:{}/x", "HTTP:/{}/x", "\\\\{}/x", "wss://a:{}/",
        "{{http}}://{}/",
    ],
)  # fmt: skip
def test_a_host_name_holds_no_text_that_is_compared_otherwise(template: str, host: str) -> None:
    for build in (build_topic, URLPattern.build):
        with pytest.raises(InvalidArgument):
            build(template, host)


@pytest.mark.parametrize(
    "template",
    [
        "{}", "{}/x", "/:{}", "/:x{}", "/:é{}", "/*{}", "/{}*", "/{}:x", "/{}-:x", "/:x-{}", "/x?{}",
        "/:x?{}", "/(a|{})",
        "/{}(.*)", "/{{{}}}?", "/{{{}}}", "/{}{{x}}", "/\\{}", "/\\\\:a{}", "/x%{}", "/x%2{}", "/{:>5}",
        "/{!r}", "/{a.b}", "/{",
        "/{/:id}?",
    ],
)  # fmt: skip
def test_a_pattern_in_which_a_value_would_be_more_than_a_value(template: str) -> None:
    with pytest.raises(InvalidArgument, match="the template"):
        URLPattern.build(template, "x")


@pytest.mark.parametrize("template", ["/{}{{x}}", "/{{x}}{}", "/{{x}},{}", "/{}{{.x}}", "{}", "{{x}}{}"])
def test_a_template_in_which_a_value_would_be_more_than_a_value(template: str) -> None:
    with pytest.raises(InvalidArgument, match="the template"):
        URITemplate.build(template, "x")


@pytest.mark.parametrize("template", ["/{}{}", "/{}.{}", "/{}-{}", "/{}%{}"])
def test_two_values_cannot_flow_together(template: str) -> None:
    with pytest.raises(InvalidArgument, match="the template"):
        build_topic(template, "a", "b")


@pytest.mark.parametrize(
    ("template", "value"), [("/a/.{}", "."), ("/a/{}.", "."), ("/%2e{}/", "."), ("{{.}}/.{}", ".")]
)
def test_a_dot_segment_cannot_be_put_together(template: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match="topics of others"):
        build_topic(template, value)


@pytest.mark.parametrize("value", [None, True, b"x", 1.5, ["a"], object()])
def test_a_value_is_text_or_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="give a str, an int or a UUID"):
        build_topic("/users/{}", value)


def test_the_fields_are_those_of_the_template() -> None:
    with pytest.raises(InvalidArgument, match="has no value for 1"):
        build_topic("/{}/{}", "a")
    with pytest.raises(InvalidArgument, match="has no field 1"):
        build_topic("/x/{}", "a", "b")
    with pytest.raises(InvalidArgument, match="has no field tenant"):
        build_topic("/x/{}", "a", tenant="b")
