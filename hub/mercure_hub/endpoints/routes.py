"""From a request to the endpoint that serves it."""

from __future__ import annotations

import logging

from mercure_hub.endpoints.debugger.pages import PATH as DEBUGGER
from mercure_hub.endpoints.debugger.verdict import PATH as VERDICT
from mercure_hub.endpoints.debugger.verdict import verdict
from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.metadata import metadata
from mercure_hub.endpoints.monitoring import HEALTH, LIVE, METRICS, READY, health, live, metrics, ready
from mercure_hub.endpoints.publish import is_batch, publish, publish_batch
from mercure_hub.endpoints.request import Request
from mercure_hub.endpoints.revoke import PATH as REVOCATIONS
from mercure_hub.endpoints.revoke import revoke
from mercure_hub.endpoints.subscribe import Stream, subscribe
from mercure_hub.endpoints.subscriptions import count, subscriptions
from mercure_hub.protocol import origins
from mercure_hub.protocol.errors import MethodNotAllowed, NotFound
from mercure_hub.protocol.http import Answer, Headers
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.protocol.update import ACCEPT_POST, ONCE_HEADER, ONCE_VALUE

_log = logging.getLogger("mercure_hub.server")

_READ = ("GET", "HEAD")
_API = "/subscriptions"
_COUNTS = "/counts/"
_BELOW = (_API, _COUNTS, REVOCATIONS, DEBUGGER)
_METHODS = "GET, HEAD, QUERY, POST, OPTIONS"


def route(hub: Hub, request: Request) -> Answer | Stream:
    """Serve a request.

    Behind a proxy that strips a prefix, requests arrive at the well-known path whatever the public
    URL is; behind one that does not, they arrive at the path of the public URL.

    :raises MercureError: see the table of errors.
    """
    if request.path == WELL_KNOWN:  # most requests
        return _hub(hub, request)
    if request.path in (HEALTH, LIVE, READY) or (request.path == METRICS and hub.metrics):
        if request.path == METRICS and request.came_through_a_proxy:
            raise NotFound("There is nothing here.")  # metrics are not for the public
        return watch(hub, request)
    if request.path == request.identity.metadata_path:
        _allow(request, _READ)
        return metadata(hub, request)
    for base in dict.fromkeys((WELL_KNOWN, request.identity.path)):
        if request.path == base:
            return _hub(hub, request)
        below = request.path.removeprefix(base.rstrip("/"))
        if below != request.path and below.startswith(_BELOW):
            return _below(hub, request, below)
    raise NotFound("There is nothing here.")


def _below(hub: Hub, request: Request, path: str) -> Answer:
    """Serve a request for what is below the hub's URL."""
    if path == REVOCATIONS:
        return _revocations(hub, request)
    if path == DEBUGGER or path.startswith(DEBUGGER + "/"):
        return _debugger(hub, request, path.removeprefix(DEBUGGER))
    if path == _API or path.startswith((_API + "/", _COUNTS)):
        return _presence(hub, request, request.identity.path.rstrip("/") + path)
    raise NotFound("There is nothing here.")


def watch(hub: Hub, request: Request) -> Answer:
    """Serve a request for the health or the metrics of the hub.

    :raises MercureError: see the table of errors.
    """
    _allow(request, _READ)
    if request.path == HEALTH:
        return health(hub)
    if request.path == LIVE:
        return live()
    if request.path == READY:
        return ready(hub)
    if request.path == METRICS:
        return metrics(hub)
    raise NotFound("There is nothing here but /metrics, /healthz, /livez and /readyz.")


def cors(hub: Hub, request: Request) -> Headers:
    """The headers that each answer to a page of another origin needs."""
    allowed = hub.cors_origins
    if request.header("cookie") is not None:  # never * for a request with credentials
        allowed = [one for one in allowed if one != origins.ANY]
    origin = request.header("origin")
    headers = origins.cors_headers(origin, allowed)
    if origin is None:
        return headers
    is_readable = any(name == "Access-Control-Allow-Origin" for name, _ in headers)
    if not is_readable:
        _explain(origin, request)
    return headers


def _explain(origin: str, request: Request) -> None:
    """Log why a page cannot read an answer, unless the page may be of the same origin."""
    own = request.identity.origin
    host = (request.header("host") or "").lower()
    is_known_otherwise = host not in ("", own.partition("://")[2])  # MERCURE_PUBLIC_URL, or a proxy, differs
    if origin == own or (is_known_otherwise and origin.partition("://")[2] == host):
        return
    hub_origin = f"{own} (MERCURE_PUBLIC_URL) or, as Host says, {host[:200]!a}" if is_known_otherwise else own
    _log.info(
        "the browser keeps this answer from a page of %s, since the hub is at %s: name the page's origin in "
        "MERCURE_CORS_ORIGINS if it is one of yours",
        ascii(origin[:200]),
        hub_origin,
    )


def _hub(hub: Hub, request: Request) -> Answer | Stream:
    match request.method:
        case "GET" | "HEAD" | "QUERY":
            return subscribe(hub, request)
        case "POST":
            return publish_batch(hub, request) if is_batch(request) else publish(hub, request)
        case "OPTIONS":
            described = _preflight(hub, request)
            described.headers += [("Accept-Post", ACCEPT_POST), (ONCE_HEADER, ONCE_VALUE)]
            return described
        case _:
            raise MethodNotAllowed("Subscribe with GET or QUERY, publish with POST.", _METHODS)


def _presence(hub: Hub, request: Request, path: str) -> Answer:
    _allow(request, (*_READ, "OPTIONS"))
    if request.method == "OPTIONS":
        return _preflight(hub, request)
    is_count = path.startswith(f"{request.identity.counts_path}/")
    return count(hub, request, path) if is_count else subscriptions(hub, request, path)


def _revocations(hub: Hub, request: Request) -> Answer:
    _allow(request, ("POST", "OPTIONS"))
    return _preflight(hub, request) if request.method == "OPTIONS" else revoke(hub, request)


def _debugger(hub: Hub, request: Request, below: str) -> Answer:
    if hub.debugger is None:
        raise NotFound("The debugger is off (MERCURE_DEBUGGER).")
    _allow(request, _READ)
    return verdict(hub, request) if below == VERDICT else hub.debugger.serve(request, below)


def _preflight(hub: Hub, request: Request) -> Answer:
    wants_private = request.header("access-control-request-private-network") == "true"
    origin = request.header("origin")
    headers = origins.preflight_headers(origin, hub.cors_origins, private_network=wants_private)
    # Each answer gets these; a repeated field fails the CORS check of the Fetch standard.
    added = origins.cors_headers(origin, hub.cors_origins)
    headers = [one for one in headers if one not in added]
    return Answer(204, b"", [("Allow", _METHODS), *headers])


def _allow(request: Request, methods: tuple[str, ...]) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(f"Not {request.method[:20]} here.", ", ".join(methods))
