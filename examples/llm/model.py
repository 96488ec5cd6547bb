"""A model that needs no network and no graphics card: it knows one answer for each of a few words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

_ANSWERS = {
    "hub": (
        "The hub holds the connections, so that your application does not have to. You publish an update "
        "with one request, and the hub sends it to everybody who subscribed to its topic. Who reconnects "
        "says which update was the last one, and gets what is missing."
    ),
    "order": (
        "Each piece of this answer is an update with a number. The hub delivers the updates of a topic in "
        "the order in which they were published, and the page puts a piece aside that it has seen before."
    ),
}
_USUAL = (
    "I am a canned model: I know a little about the word hub and about order. Put your own model in place of "
    "me; all that is asked of it is to give its text bit by bit."
)


class ModelError(RuntimeError):
    """The model failed; its message is for the log and not for the page."""


def answer(question: str, pause: Callable[[float], object] = time.sleep) -> Iterator[str]:
    """Answer, token by token.

    :param question: of a user. The word "crash" in it makes the model fail half-way.
    :param pause: waits for a number of seconds.
    :raises ModelError: the model failed.
    """
    words = question.lower()
    text = next((text for word, text in _ANSWERS.items() if word in words), _USUAL)
    tokens = re.findall(r"\s*\S{1,5}", text)
    for number, token in enumerate(tokens):
        if "crash" in words and number == 12:
            raise ModelError("out of memory on device 0")
        pause(0.02)
        yield token
