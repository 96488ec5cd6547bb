"""The chat, and a page that shows the hubs behind it.

The chat is ``examples/chat``, unchanged: it publishes to the proxy, which hides how many hubs there are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from flask import Blueprint, Flask, abort, current_app, jsonify, render_template, render_template_string
from flask.typing import ResponseReturnValue

from flask_mercure import URLPattern

from .parts import Part, Trouble, status_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "chat"))

from app import create_app as create_chat
from app import mercure

NUMBERS = "/numbers"
_SUBSCRIPTIONS = "/.well-known/mercure/subscriptions"

pages = Blueprint("hubs", __name__, url_prefix="/hubs", static_folder="static", template_folder="templates")


@dataclass(frozen=True)
class Cluster:
    """What the page shows.

    :param hubs: with their ports.
    :param engine: that they share.
    """

    hubs: Sequence[tuple[Part, int]]
    engine: Part

    def part(self, name: str) -> Part:
        """The part that a request names, ``1``, ``2`` or ``engine``."""
        parts = {str(number): hub for number, (hub, _) in enumerate(self.hubs, 1)}
        return {**parts, "engine": self.engine}.get(name) or abort(404)


def create_app(config: Mapping[str, Any], cluster: Cluster) -> Flask:
    """Make the application.

    :param config: settings.
    """
    app = create_chat(config)
    app.extensions["cluster"] = cluster
    app.register_blueprint(pages)
    return app


def publish_number(number: int, name: str) -> None:
    """Publish what the page counts.

    :param name: id of the update.
    """
    mercure.publish(NUMBERS, {"number": number}, id=name, private=False)


def _cluster() -> Cluster:
    cluster: Cluster = current_app.extensions["cluster"]
    return cluster


@pages.get("/")
def index() -> ResponseReturnValue:
    """The page: one stream through the proxy, and one directly to each hub."""
    public = mercure.url(NUMBERS)
    page = {
        "stream": f"{public}&page=hubs",
        "direct": [f"/hub-{number}/.well-known/mercure" for number in range(1, len(_cluster().hubs) + 1)],
        "topic": NUMBERS,
        "mercure": render_template_string("{{ mercure_module() }}"),
    }
    return render_template("hubs.html", page=page, cluster=_cluster())


@pages.get("/state")
def state() -> ResponseReturnValue:
    """How the parts are, and who is connected as each hub knows it."""
    cluster = _cluster()
    token = mercure.create_token(subscribe=[_SUBSCRIPTIONS, URLPattern(_SUBSCRIPTIONS + "/*")])
    with ThreadPoolExecutor() as pool:
        hubs = list(pool.map(lambda hub: _state_of(hub[0], hub[1], token), cluster.hubs))
    return jsonify(hubs=hubs, engine={"running": cluster.engine.is_running})


def _state_of(hub: Part, port: int, token: str) -> dict[str, object]:
    origin = f"http://127.0.0.1:{port}"
    people: list[str] | None = None
    try:
        answer = requests.get(
            origin + _SUBSCRIPTIONS, headers={"Authorization": f"Bearer {token}"}, timeout=2
        )
        if answer.ok:
            found = [one.get("payload") or {} for one in answer.json()["subscriptions"]]
            people = sorted({payload["name"] for payload in found if "name" in payload})
    except requests.RequestException:
        pass  # it is down, and the page says so
    return {
        "running": hub.is_running,
        "ready": status_of(f"{origin}/readyz") == 200,
        "people": people,
    }


@pages.post("/kill/<name>")
def kill(name: str) -> ResponseReturnValue:
    """Pull the plug of a part."""
    _cluster().part(name).kill()
    return "", 204


@pages.post("/start/<name>")
def start(name: str) -> ResponseReturnValue:
    """Start a part again."""
    try:
        _cluster().part(name).start()
    except Trouble as trouble:
        abort(503, str(trouble))
    return "", 204
