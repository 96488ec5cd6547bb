"""What a client has to know to get a token."""

from __future__ import annotations

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request
from mercure_hub.endpoints.revoke import PATH as REVOCATIONS
from mercure_hub.protocol.count import COUNTS_METADATA
from mercure_hub.protocol.http import Answer, json_answer
from mercure_hub.protocol.revocation import LIFETIME, REVOCATION_METADATA
from mercure_hub.protocol.subscription import LAST_VALUE_METADATA, WITH_KNOWN, WITH_METADATA
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE
from mercure_hub.protocol.topics import SUPPORTED
from mercure_hub.protocol.update import BATCH_METADATA, ONCE_METADATA


def metadata(hub: Hub, request: Request) -> Answer:
    """The metadata of the hub as a protected resource (RFC 9728; spec, Protected Resource Metadata)."""
    document: dict[str, object] = {
        "resource": request.identity.url,
        "authorization_details_types_supported": [DETAIL_TYPE],
        "bearer_methods_supported": ["header"],
        "mercure_cookie": hub.gatekeeper.cookie_name,
        "mercure_matcher_types_supported": [matcher_type.value for matcher_type in SUPPORTED],
    }
    document[BATCH_METADATA] = {"updates": hub.limits.updates, "topics": hub.limits.batch_topics}
    document[WITH_METADATA] = list(WITH_KNOWN)
    document[LAST_VALUE_METADATA] = True
    document[ONCE_METADATA] = True
    if hub.gatekeeper.authorization_servers:
        document["authorization_servers"] = list(hub.gatekeeper.authorization_servers)
    if hub.subscriptions:
        document["mercure_subscriptions"] = True
        document[COUNTS_METADATA] = True
    if hub.broker.revocations is not None:
        document[REVOCATION_METADATA] = {
            "endpoint": request.identity.url.rstrip("/") + REVOCATIONS,
            "lifetime": int(LIFETIME),
        }
    return json_answer(document)
