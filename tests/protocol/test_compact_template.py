"""Compact templates match what the expressions match, take little, and are linear."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from mercure_hub.protocol.matching.uri_template import compile_template, read_template

COMPACT = [
    "{id}", "https://example.com/books/{id}", "/books/{id}", "{id}.json", "/a/{x}/b/{y}", "/a/{x}/b/{y}.json",
    "/a/{x}?q={y}", "/a/{x};{y}:{z}", "urn:{x}:{y}", "a{x}b", "{x}/", "/{x}", "{x}/{y}", "/%41/{x}", "{a.b}",
    "{1}", "{a_b.c}", "https://example.com/{x}/%2F/{y}/", "/a(b)*{x}", "{x}:41", "%41{x}41", "{x}%41", "{x},",
    "/.well-known/mercure/subscriptions/{topic}/{subscriber}", "$ref{x}", "{x}[{y}]",
]  # fmt: skip
OTHERS = [
    "", "a", "/books", "{", "}", "{}", "{{x}}", "{x", "x}", "{x}}", "{{x}", "{x}{y}", "{x}-{y}", "{x},{y}",
    "{x}a{y}", "{x}%2F{y}", "{x,y}", "{x*}", "{x:3}", "{+x}", "{#x}", "{.x}", "{/x}", "{;x}", "{?x}", "{&x}",
    "{x..y}", "{.}", "{x.}", "{%41}", "{x y}", "é{x}", "{x}é", "a b{x}", "%{x}", "%4{x}", "{x}%", "<{x}",
    "{é}", "{x}\n",
    "\\{x}", "'{x}", '"{x}', "^{x}", "`{x}", "|{x}", "{x}/é/{y}", "a{x}a/{y}a",
]  # fmt: skip

_PIECES = [
    "", "", "a", "b", "/", "/", "a/b", ".json", "%41", "%4", "%", "41", ",", "-", "é", "日本", " ", "\n",
    "?q=", ":", ";", "\0", "{x}", "1", "~", "_", "\x7f", "\x80", "😀", "https://example.com/books/",
    "/a/", "/b/",
    "urn:", "subscriptions", "(b)*", "$ref", "[", "]",
]  # fmt: skip


@pytest.mark.parametrize("template", COMPACT)
def test_it_matches_what_the_expression_matches(template: str) -> None:
    choose = random.Random(template)
    compact, expression = read_template(template), compile_template(template)
    assert compact is not None and expression is not None
    matching = 0
    for _ in range(3000):
        text = "".join(choose.choice(_PIECES) for _ in range(choose.randrange(5)))
        if choose.random() < 0.8:  # near to what matches
            text = template
            for name in ("{x}", "{y}", "{z}", "{id}", "{topic}", "{subscriber}", "{a.b}", "{1}", "{a_b.c}"):
                text = text.replace(name, "".join(choose.choice(_PIECES) for _ in range(choose.randrange(3))))
            if choose.random() < 0.2 and text:
                place = choose.randrange(len(text))
                text = text[:place] + text[place + 1 :]
        expected = expression.fullmatch(text) is not None
        assert compact.matches(text) is expected, text
        matching += expected
    assert matching > 100


@pytest.mark.parametrize("template", OTHERS)
def test_what_is_left_to_expressions(template: str) -> None:
    assert read_template(template) is None


def test_it_takes_little() -> None:
    values = [f"https://example.com/users/{number}/{{id}}" for number in range(500)]
    tracemalloc.start()
    made = [read_template(value) for value in values]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert None not in made
    assert size / len(made) < 400


@pytest.mark.parametrize("length", [2000, 2048])
def test_hostile_ones_take_no_time(length: int) -> None:
    """All of these are quadratic or worse with an expression that goes back."""
    started = time.process_time()
    for hostile in (
        "{" + "a" * length,
        "{" + "a." * (length // 2),
        "{a" * (length // 2),
        "{a}" * (length // 3),
    ):
        assert read_template(hostile) is None
    many = read_template("/{a}" * (length // 4))
    assert many is not None
    for text in ("/" * length, "/a" * (length // 2), "/" + "%41" * (length // 3), "/" + "a" * length + "\n"):
        many.matches(text)
        single = read_template("/{a}")
        assert single is not None
        single.matches(text)
    assert time.process_time() - started < 1
