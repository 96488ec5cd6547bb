"""Why a token is refused, for whoever presents it.

The cause that the log gets may tell of the hub's configuration: whom it trusts, which keys it has, with
which algorithms. Only who has a token that one of the hub's keys signed is told that; of another token
nothing is said but what stands in the token itself, and that no key signed it. That much a refusal with
401 tells as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mercure_hub.protocol.errors import TokenInvalid, shown
from mercure_hub.protocol.issuer import HOLDERS, Role

UNSIGNED = "no key of this hub has signed the token"


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says of itself.

    :param header: of the token.
    :param claims: of the token.
    """

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def public_cause(error: TokenInvalid, role: Role, token: Unverified | None, *, is_signed: bool) -> str:
    """The cause of a refusal in words for the client.

    :param error: what the log gets.
    :param role: what the token was presented for.
    :param token: ``None`` when it cannot be read.
    :param is_signed: one of the hub's keys has signed the token, whatever it is for.
    """
    if token is None or is_signed:
        return error.cause
    alg, kid, iss = token.header.get("alg"), token.header.get("kid"), token.claims.get("iss")
    said = [f"alg is {shown(alg)}"]
    if kid is not None:
        said.append(f"kid is {shown(kid)}")
    if iss is not None:
        said.append(f"iss is {shown(iss)}")
    return f"{UNSIGNED} as one of a {HOLDERS[role]}; its {', its '.join(said)}"
