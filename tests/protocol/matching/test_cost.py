"""The estimate is never far below what compiling costs, and ordinary patterns stay far below the limits."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from urlpattern import URLPattern

from mercure_hub.protocol.matching.cost import TOO_MUCH, uri_template_cost, url_pattern_cost
from mercure_hub.protocol.matching.uri_template import compile_template

BASE = "https://hub.example.com/.well-known/mercure"
PARTS = [
    r"\w", r"\W", r"\d", r"\D", r"\s", r"\S", ".", "a", "[^a]", r"[^\d]", r"[\w-]", r"\pL", r"\p{Lu}",
    "[a-z]", r"\b", "(?:", "(?:", ")",
    "|", "]", "[", "[^", "[]", "{3}", "{ 20 }", "{10,}", "{2,30}", "{100}", "+", "*", "?", "\\", "^", "-",
        "&&", "(?i:", "(?x)", "{", "}",
    "\\[", "\\]", "\\)", "\\{", "#", " ", r"\x{41}", "{,9}", "[:alpha:]",
]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        ("/x", 250),
        ("https://example.com/books/:id", 350),
        ("https://example.com/users/:user/books/:book", 450),
        ("https://*:*@*:*/*?*#*", 1000),
        ("/:id(\\d+)", 400),
        ("/:id(\\w+)", 1300),
        ("/:id([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})", 3000),
    ],
)
def test_ordinary_patterns_are_cheap(pattern: str, most: int) -> None:
    assert url_pattern_cost(pattern) <= most


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(",
        "((",
        "([",
        "([^",
        "([]",
        "(\\",
        "\\",
        "(?",
        "((?",
        "({",
        "(a{",
        "(a{}",
        ")",
        "(]",
        "{",
        ":",
        "*",
    ],
)
def test_unfinished_patterns_do_no_harm(text: str) -> None:
    assert 0 < url_pattern_cost(text) <= TOO_MUCH


def test_a_count_multiplies_what_is_before_it() -> None:
    single = url_pattern_cost("/(\\w)") - 200
    assert url_pattern_cost("/(\\w{10})") > 9 * single
    assert url_pattern_cost("/((?:a\\w){10})") > 9 * single
    assert url_pattern_cost("/(a\\w{2}b{10})") < 3 * single


def test_what_passes_compiles_quickly() -> None:
    """Random patterns: none that passes the limit of 4 ms takes a multiple of it."""
    rng = random.Random(20261123)
    checked = 0
    for _ in range(600):
        pattern = "/" + "/".join(
            f"({''.join(rng.choices(PARTS, k=rng.randint(1, 10)))})" for _ in range(rng.randint(1, 2))
        )
        if url_pattern_cost(pattern) > 4000:
            continue
        checked += 1
        assert min(_compile_time(pattern) for _ in range(3)) < 0.25, pattern
    assert checked > 200


def _compile_time(pattern: str) -> float:
    start = time.thread_time()
    with contextlib.suppress(ValueError):
        URLPattern(pattern, BASE)
    return time.thread_time() - start


@pytest.mark.parametrize(
    "unit", ["(", "([", "(a{1}", "{a,b}", "\\", "(\\w", "[", "{", "(?:", ":a", "({", "(?:[", "{a:", ","]
)
def test_the_estimate_itself_is_cheap(unit: str) -> None:
    best = 9.0
    for _ in range(3):
        start = time.thread_time()
        url_pattern_cost((unit * 512)[:512])
        uri_template_cost((unit * 2048)[:2048])
        best = min(best, time.thread_time() - start)
    assert best < 0.1


@pytest.mark.parametrize(
    "template",
    [
        "{a}",
        "{a,b,c}",
        "{?" + ",".join("abcdefghij") + "}",
        "{a:200}",
        "{a*,b*,c*,d*}",
        "{a}" * 80,
        "é" * 200 + "{a}",
        "{/a,b*,c:3}",
    ],
)
def test_templates_that_pass_compile_quickly(template: str) -> None:
    assert uri_template_cost(template) <= 2000
    best = 9.0
    for _ in range(3):
        start = time.thread_time()
        assert compile_template(template) is not None
        best = min(best, time.thread_time() - start)
    assert best < 0.2
