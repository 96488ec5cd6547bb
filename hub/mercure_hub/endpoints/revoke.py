"""``POST`` on ``/revocations`` below the hub's URL: end access at once (docs/protocol.md, Revocations)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request, form_of
from mercure_hub.protocol.errors import InsufficientScope, NotFound, shown
from mercure_hub.protocol.http import Answer, Pairs
from mercure_hub.protocol.revocation import Revocation, from_form
from mercure_hub.protocol.tokens.claims import REVOCATION_TYPE, REVOKE
from mercure_hub.protocol.tokens.grant import Grant

PATH = "/revocations"
"""Below the hub's URL."""

_SHOWN = 10  # fields in a line of the log

_log = logging.getLogger("mercure_hub.revocation")


def revoke(hub: Hub, request: Request) -> Answer:
    """Refuse tokens that were issued, and end their streams.

    :returns: 204, once it is durable.
    :raises MercureError: see the table of errors.
    """
    if hub.broker.revocations is None:
        raise NotFound("Revocations are off (MERCURE_REVOCATIONS).")
    grant = hub.gatekeeper.publisher(request)
    if not grant.may_revoke:
        raise InsufficientScope(
            f"the token does not allow revoking others: it needs an authorization detail of the type "
            f"{REVOCATION_TYPE!r} with the action {REVOKE!r}, in 0.x mercure.{REVOKE}; the right to publish "
            "on all topics is not enough"
        )
    fields = form_of(request)
    revocations = from_form(fields, grant.issuer, hub.gatekeeper.clock())
    hub.broker.revocations.revoke(revocations)
    _audit(fields, revocations, grant, request)
    return Answer(204, b"", [("Cache-Control", "private, no-store")])  # the token may be in the URL (0.x)


def _audit(fields: Pairs, revocations: Sequence[Revocation], grant: Grant, request: Request) -> None:
    what = ", ".join(f"{name} {shown(value)}" for name, value in fields[:_SHOWN])
    more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
    _log.info(
        "%s asked from %s to revoke tokens of %s: %s%s; kept until %.0f",
        shown(grant.holder or "somebody"),
        request.peer,
        shown(grant.issuer),
        what,
        more,
        max(one.until for one in revocations),
    )
