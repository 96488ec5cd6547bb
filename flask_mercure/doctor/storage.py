"""What the hub says about its storage."""

from __future__ import annotations

import json

from flask_mercure.doctor.connection import DatedAnswer, HubClient, Unreachable
from flask_mercure.doctor.findings import Finding, Remedy, note, ok, problem, warning
from mercure_hub.protocol.errors import Section, problem_type

_READY = "/readyz"
_MOST = 200  # characters of an answer that are shown
_WORDS = {
    Section.STORAGE: "cannot store updates",
    Section.STORAGE_AWAY: "cannot reach the database in which it stores updates",
    Section.STORAGE_IN_DOUBT: "lost its database while it stored an update, which may be stored or not",
}
_LOOK = (
    Remedy("shell", "mercure-hub history stats  # in the hub's environment: tries its database"),
    Remedy("shell", "journalctl -u mercure-hub"),
)


def not_stored(where: str, answer: DatedAnswer) -> Finding | None:
    """Why a publication was not stored, if the hub says that this is about its storage.

    :param where: the setting that the hub's URL comes from.
    """
    try:
        document = json.loads(answer.body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    for section, words in _WORDS.items():
        if document.get("type") == problem_type(section):
            detail = str(document.get("detail", ""))[:_MOST]
            return problem("storage", f"the hub at {where} {words}: {detail}", section, *_LOOK)
    return None


def readiness(client: HubClient) -> Finding | None:
    """What ``/readyz`` says beside the hub; ``None`` if a proxy or a setting keeps it from the app.

    :param client: for ``MERCURE_URL``.
    """
    try:
        answer = client.ask("GET", path=_READY)
    except Unreachable:
        return None
    if answer.media_type != "text/plain" or answer.status not in (200, 503):
        return None
    text = answer.body.decode(errors="replace").strip()[:_MOST]
    told = f"{_READY} at {client.endpoint.setting} says: {text}"
    if answer.status == 503:
        return warning("storage", told, Section.STORAGE, *_LOOK)
    return ok("storage", told) if text == "ok" else note("storage", told)
