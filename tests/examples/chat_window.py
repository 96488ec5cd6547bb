"""The chat of ``examples/chat`` in a browser, as its user sees it."""

from __future__ import annotations

from typing import Protocol

from selenium.webdriver.common.keys import Keys

from tests.examples.browser import Page


class Served(Protocol):
    """A running chat."""

    @property
    def url(self) -> str:
        """Origin of its pages."""


class Window(Page):
    """A browser as its user sees it."""

    def sign_in(self, site: Served, name: str, path: str = "") -> None:
        """Sign in and wait for the stream."""
        self.driver.get(f"{site.url}/sign-in")
        self.driver.find_element("id", "name").send_keys(name, Keys.ENTER)
        self.wait("signed in", lambda: "/rooms/" in self.driver.current_url)
        if path:
            self.driver.get(site.url + path)
        self.wait_live()

    def state(self) -> str:
        """State of the connection."""
        return str(self.run("return document.getElementById('state')?.dataset.state"))

    def wait_live(self) -> None:
        """Wait until the stream has caught up."""
        self.wait_for("state", self.state, "open")

    def open(self, key: str) -> None:
        """Choose a conversation in the lists, such as ``room:lobby``."""
        selector = f"a[data-key='{key}']"
        self.wait(
            f"a link to {key}", lambda: self.run("return !!document.querySelector(arguments[0])", selector)
        )
        self.run("document.querySelector(arguments[0]).click()", selector)

    def send(self, text: str) -> None:
        """Write a message, and wait until the app has taken it."""
        lines = text.split("\n")
        box = self.driver.find_element("id", "text")
        for line in lines[:-1]:
            box.send_keys(line, Keys.SHIFT + Keys.ENTER)
        box.send_keys(lines[-1], Keys.ENTER)
        self.wait_for("the box", lambda: str(box.get_property("value")), "")

    def texts(self) -> list[str]:
        """The messages of the conversation that is shown."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('#messages .text')].map((text) => text.textContent)"
        )
        return found

    def wait_texts(self, *expected: str) -> None:
        """Wait until exactly these messages are shown, in this order."""
        self.wait_for("messages", self.texts, list(expected))

    def here(self) -> list[str]:
        """Who is in the room."""
        return self._people("here")

    def elsewhere(self) -> list[str]:
        """Who is present and not in the room."""
        return self._people("elsewhere")

    def _people(self, id_: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(`#${arguments[0]} [data-person]`)]"
            ".map((one) => one.dataset.person)",
            id_,
        )
        return sorted(found)

    def unread(self) -> dict[str, int]:
        """Numbers of unread messages by conversation."""
        found: dict[str, int] = self.run(
            "return Object.fromEntries([...document.querySelectorAll('.side a[data-unread]')]"
            ".map((one) => [one.dataset.key, parseInt(one.querySelector('.badge').textContent)]))"
        )
        return found
