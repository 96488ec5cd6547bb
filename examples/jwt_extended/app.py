"""An API that signs its users in with Flask-JWT-Extended, and lets the same library sign Mercure tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, jwt_required

from flask_mercure import Mercure, URLPattern, build_topic

mercure = Mercure()
jwt_manager = JWTManager()

Topics = Sequence[str | URLPattern | Mapping[str, Any]]


def create_hub_token(
    subscribe: Topics | None = None,
    publish: Topics | None = None,
    additional_claims: Mapping[str, Any] | None = None,
    payload: Any = None,
) -> str:
    """What MERCURE_TOKEN_FACTORY names: the claims are Mercure's, the signature is Flask-JWT-Extended's.

    The claims that Flask-JWT-Extended adds (type, fresh, nbf, perhaps csrf) mean nothing to the hub.
    """
    claims = mercure.claims(subscribe, publish, additional_claims, payload)
    token: str = create_access_token(
        identity=claims["sub"],
        additional_claims=claims,
        # Tells the hub that this is an access token (RFC 9068), and no login token of the API.
        additional_headers={"typ": "at+jwt"},
    )
    return token


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app.

    :param config: replaces values of the configuration.
    """
    app = Flask(__name__)
    app.config.update(
        JWT_SECRET_KEY=os.environ.get("JWT_SECRET_KEY", ""),
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(minutes=15),
        # The API's own audience: without it the API would take the hub's tokens too, as the key is the same.
        JWT_ENCODE_AUDIENCE="urn:example:orders",
        JWT_DECODE_AUDIENCE="urn:example:orders",
        MERCURE_TOKEN_FACTORY=create_hub_token,
    )
    app.config.update(config or {})
    # Not needed to sign, but "flask mercure hub" hands it to the hub, which verifies with it.
    app.config.setdefault("MERCURE_JWT_SECRET", app.config["JWT_SECRET_KEY"])
    jwt_manager.init_app(app)
    mercure.init_app(app)
    app.add_url_rule("/login", view_func=login, methods=["POST"])
    app.add_url_rule("/orders/<int:number>/ship", view_func=ship, methods=["POST"])
    return app


def orders_of(name: str) -> str:
    """The topic of a user's orders; whatever a name holds, it is that user's alone."""
    return build_topic("/users/{}/orders", name)


def login() -> Response:
    """Sign in: a token for the API in the answer, a token for the hub in a cookie."""
    name = request.get_json()["name"]  # a real app asks for a password
    response = jsonify(access_token=create_access_token(identity=name))
    return mercure.set_cookie(
        response, subscribe=[orders_of(name)], additional_claims={"sub": build_topic("/users/{}", name)}
    )


@jwt_required()  # type: ignore[untyped-decorator]
def ship(number: int) -> Response:
    """Change something, and tell the user's open pages."""
    if number <= 0:
        abort(404)
    name = get_jwt_identity()
    update = mercure.publish(orders_of(name), {"order": number, "state": "shipped"}, private=True)
    return jsonify(update=update)
