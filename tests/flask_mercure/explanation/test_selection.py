"""Which grant selects a topic, and which one nearly does."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from flask_mercure import EVERYTHING, URITemplate, URLPattern, build_topic
from flask_mercure.explanation.selection import Selection, selection, shown

HUB = "https://site.example/.well-known/mercure"


def asked(topic: str, *granted: Any) -> Selection:
    return selection(topic, granted, HUB)


@pytest.mark.parametrize(
    ("topic", "by"),
    [
        ("orders/42", "orders/42"),
        ("orders/42", EVERYTHING),
        ("https://site.example/orders/42", URLPattern("/orders/:id")),
        ("https://site.example/orders/42", URLPattern("https://site.example/*")),
        ("orders/42", URITemplate("orders/{id}")),
        (build_topic("users/{}", "Ada & Co"), build_topic("users/{}", "Ada & Co")),
    ],
)
def test_the_grant_that_selects_it(topic: str, by: Any) -> None:
    assert asked(topic, "other", by) == Selection(by=by)


@pytest.mark.parametrize(
    ("topic", "near", "words"),
    [
        ("orders/42", "Orders/42", "differs in upper and lower case"),
        ("orders/42", "orders/42/", "differs in a slash at the end"),
        ("orders/42/", "orders/42", "differs in a slash at the end"),
        ("/orders/42", "orders/42", "differs in a slash at the beginning"),
        ("users/Ada & Co", "users/Ada%20%26%20Co", "differs in the percent-encoding"),
        ("https://site.example/orders/42", "/orders/42", "one being a path and the other a whole URL"),
        ("orders/42?page=2", "orders/42", "differs in the query or the fragment"),
        ("orders/42 ", "orders/42", "differs in spaces around it"),
        (
            "https://site.example/orders/42",
            "/orders/*",
            "is granted as plain text, which selects only itself",
        ),
        ("orders/42", "orders/{id}", "grant a URITemplate"),
        ("orders/42", URLPattern("/orders/:id"), "a slash at the beginning"),
        (
            "https://site.example/orders/42/",
            URLPattern("/orders/:id"),
            "selects 'https://site.example/orders/42', which differs in a slash at the end",
        ),
        ("https://site.example/Orders/42", URLPattern("/orders/:id"), "upper and lower case"),
        ("orders/42/", URITemplate("orders/{id}"), "a slash at the end"),
    ],
)
def test_the_nearest_miss(topic: str, near: Any, words: str) -> None:
    found = asked(topic, "other", near)
    assert (found.by, found.near) == (None, near)
    assert words in found.why


@pytest.mark.parametrize(
    "granted", [(), ("orders/43",), (URLPattern("/users/:id"),), (URITemplate("users/{id}"),)]
)
def test_nothing_near(granted: tuple[Any, ...]) -> None:
    assert asked("orders/42", *granted) == Selection()


def test_patterns_need_the_libraries_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mercure_hub.protocol.matching.matcher", None)
    found = asked("https://site.example/orders/42", URLPattern("/orders/:id"), "orders/42/")
    assert (found.by, found.skipped) == (None, 1)


def test_a_pattern_that_hubs_refuse_selects_nothing() -> None:
    assert asked("orders/42", URLPattern("/(")).by is None


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        ("a'b", '"a\'b"'),
        (EVERYTHING, "everything"),
        (URLPattern("/a"), "'/a' (URL Pattern)"),
        (URITemplate("{a}"), "'{a}' (URI Template)"),
    ],
)
def test_a_grant_in_words(grant: Any, words: str) -> None:
    assert shown(grant) == words
