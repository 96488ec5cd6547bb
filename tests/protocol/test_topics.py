"""The characters of topics, ids, types and matchers: exactly what the spec forbids."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from mercure_hub.protocol.topics import forbidden_character

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
FORMATS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"]


@pytest.mark.parametrize("char", CONTROLS, ids=lambda char: f"U+{ord(char):04X}")
def test_control_characters_are_forbidden(char: str) -> None:
    expected = f"U+{ord(char):04X}"
    assert forbidden_character(char) == expected
    assert forbidden_character(f"https://example.com/{char}") == expected
    assert forbidden_character(f"é{char}é") == expected


def test_every_format_character_that_this_python_knows_is_forbidden() -> None:
    assert len(FORMATS) > 150
    assert [char for char in FORMATS if forbidden_character(f"a{char}b") is None] == []


def test_nothing_else_is_forbidden() -> None:
    forbidden = {char for code in range(sys.maxunicode + 1) if forbidden_character(char := chr(code))}
    others = forbidden.difference(CONTROLS, FORMATS)
    assert {unicodedata.category(char) for char in others} <= {"Cs", "Cn"}, (
        "surrogates, or newer than this Python"
    )
    assert {char for char in others if unicodedata.category(char) == "Cs"} == {
        chr(code) for code in range(0xD800, 0xE000)
    }


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "*",
        "https://example.com/books/1",
        "https://example.com/é/日本語",
        "urn:uuid:e1ee88e2-532a-4d6f-ba70-f0f8bd584022",
        "😀",
        "👍🏽",  # a skin tone is no format character
        "e\u0301",  # nor is a combining accent
        "❤\ufe0f",  # nor a variation selector
        "\u00a0\u2028\u2029\u3000",  # spaces and separators
        "\ufffd\ufffe\uffff",
        "\ue000\U0010ffff",
        "\u034f",  # combining grapheme joiner, category Mn
    ],
)
def test_topics_that_are_allowed(value: str) -> None:
    assert forbidden_character(value) is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("👩\u200d💻", "U+200D"),  # the zero-width joiner of an emoji
        ("\u0645\u06cc\u200c\u062e", "U+200C"),
        ("\ufeffhttps://example.com/", "U+FEFF"),
        ("https://example.com/\u202etxt.exe", "U+202E"),
        ("a\u00adb", "U+00AD"),
        ("🏴\U000e0067\U000e007f", "U+E0067"),  # a flag with tags
        ("a\nid: forged", "U+000A"),
        ("a\rb", "U+000D"),
        ("a\x00b", "U+0000"),
        ("\x85", "U+0085"),
        ("\ud800", "U+D800"),
        ("x\x1fy\x00", "U+001F"),
    ],
)
def test_the_first_forbidden_character_is_named(value: str, found: str) -> None:
    assert forbidden_character(value) == found
