"""Users' text in pages.

Invariant: whatever is in a name, a page that has it has the elements of any other page, and scripts read the
name as it was.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser

from flask import Flask, render_template_string
from hypothesis import example, given
from hypothesis import strategies as st

from flask_mercure import InvalidArgument, Mercure, build_topic
from mercure_hub.protocol.topics import forbidden_character

APP = Flask("fuzzed")
APP.config.update(MERCURE_JWT_SECRET="a secret of the tests with more than 32 bytes")
Mercure(APP)

PAGE = (
    "{{ mercure_script(topic, position, refresh=name) }}"
    '{{ mercure_on("turbo", topics=topic) }}<a href="{{ mercure_url(topic, position) }}"></a>'
)
PIECES = [
    *(
        "</script>",
        "<!--",
        "<script",
        "]]>",
        "&lt;",
        "&#39;",
        '"',
        "'",
        "<",
        "\u2028",
        "\\",
        "\\u003c",
        "{{",
        "%00",
    ),
    *(
        "\u200d",
        "\ufe0f",
        "\ufeff",
        "\u202e",
        "\U0001f468",
        "\U000e0067",
        "\ud83d",
        "\ude00",
        "\x00",
        "\r\n",
        "é",
    ),
]

names = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=6).map("".join)


class Elements(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.scripts and data.strip():
            self.scripts[-1] += data


@given(names, names)
@example("\ud83d\ude00", "x")
def test_a_page_holds_any_text(name: str, position: str) -> None:
    """A name that cannot be in a topic is refused where the topic is built, before the page."""
    try:
        topic = build_topic("/rooms/{}", name)
    except InvalidArgument:
        assert not name or name.strip(".") == "" or "%2" in name or any(map(_is_control, name))
        topic = "/rooms/other"
    cursor = None if not position or forbidden_character(position) else position
    with APP.test_request_context():
        page = render_template_string(PAGE, topic=topic, position=cursor, name=name)
    page.encode()  # also a lone surrogate is written as what the page can carry
    elements = Elements()
    elements.feed(page)
    elements.close()
    assert [tag for tag, _ in elements.found] == ["link", "meta", "script", "script", "mercure-on", "a"]
    options = json.loads(elements.found[1][1]["content"] or "")
    # in JSON two halves of a character are that character
    read = name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert (options["topics"], options["refresh"]) == ([topic], read)
    assert options.get("lastEventId") == cursor


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character < "\xa0" or "\ud800" <= character < "\ue000"
