"""What a hub's answer to a token means, and which line makes it another one."""

from __future__ import annotations

from flask_mercure.configuration.settings import Configuration
from flask_mercure.doctor.finding import Finding, apache, app, hub, nginx, ok, problem, warning
from flask_mercure.doctor.trials import HOLDERS, OTHER, Cause, Claims, Role, Trial, is_made, key_of, signs
from flask_mercure.topics import Protocol
from mercure_hub.protocol.errors import Section


def accepted(role: Role, where: str) -> Finding:
    """The app's token is good."""
    return ok("token", f"the {HOLDERS[role]}'s token is accepted at {where}")


def wrong_audience(role: Role, where: str, read: Configuration, claims: Claims, resource: str) -> Finding:
    """The hub takes itself for something else than the token is for."""
    hint = ""
    if resource.partition("://")[2] == read.public_url.partition("://")[2]:
        hint = ". It sees http where a proxy ends TLS: tell it its public URL"
    return problem(
        "token",
        f"the hub refuses the {HOLDERS[role]}'s token at {where}: it takes itself for {resource}, and the "
        "token is "
        f"for {' and '.join(claims.audience) or 'nobody (no aud)'}{hint}",
        Section.AUDIENCE,
        hub(f"MERCURE_PUBLIC_URL={read.public_url}"),
        app(f'MERCURE_PUBLIC_URL = "{resource}"  # if the hub is right'),
    )


def diagnose(
    role: Role,
    where: str,
    read: Configuration,
    claims: Claims,
    admitted: Trial,
    *,
    speaks_current: bool | None = None,
) -> Finding:
    """Say what differs between app and hub.

    :param role: whose token was refused.
    :param where: it was refused, in words.
    :param read: the app's configuration.
    :param claims: of the token.
    :param admitted: the token that was not refused.
    :param speaks_current: the hub knows the parameters of protocol 1.0; ``None`` if that could not be seen.
    """
    holder, value = HOLDERS[role], admitted.value
    key_name, algorithm_name = f"MERCURE_{holder.upper()}_JWT_KEY", f"MERCURE_{holder.upper()}_JWT_ALG"
    match admitted.cause:
        case Cause.AUDIENCE:
            return wrong_audience(role, where, read, claims, value)
        case Cause.ISSUER | Cause.BOTH:
            what = f"it trusts the issuer {value!r}, and that of the app's tokens is {read.issuer!r}"
            if admitted.cause is Cause.BOTH:
                what += "; the audience differs too (MERCURE_PUBLIC_URL)"
            section = Section.ISSUER
            lines = [
                hub(f"MERCURE_ISSUER={read.issuer}"),
                app(f'MERCURE_ISSUER = "{value}"  # if the hub is right'),
            ]
        case Cause.GENERATION if read.protocol == "1.0" and speaks_current is not False:
            what = (
                "the key is right, for with it a token of protocol 0.x is accepted, which has no issuer. "
                "The hub does "
                f"not trust the issuer of the app's tokens, {read.issuer!r}"
            )
            section = Section.ISSUER
            lines = [hub(f"MERCURE_ISSUER={read.issuer}")]
        case Cause.GENERATION:
            what = f"the app makes tokens of protocol {read.protocol}, and the hub takes {value}"
            section = Section.GENERATION
            lines = [app(f'MERCURE_PROTOCOL = "{value}"'), hub("MERCURE_PROTOCOL=both")]
        case Cause.ROLE:
            what = (
                f"it verifies {holder}s with the app's key of {HOLDERS[OTHER[role]]}s. The two keys are "
                "exchanged, or "
                "the hub has one key for both roles"
            )
            section = Section.SIGNATURE
            lines = [hub(f"{key_name}=<the app's {key_name}, or the public half of it>")]
        case Cause.ALGORITHM:
            what = f"the key is right, the algorithm is {claims.algorithm} in the app and {value} in the hub"
            section = Section.ALGORITHM
            lines = [app(f'{algorithm_name} = "{value}"'), hub(f"{algorithm_name}={claims.algorithm}")]
        case Cause.SPACE:
            what = "the secrets of app and hub differ in white space or a line end at their end"
            section = Section.SIGNATURE
            lines = [
                hub(f"{key_name}=<the secret without the line end>"),
                app('MERCURE_JWT_SECRET = "<the secret without the line end>"'),
            ]
    return problem("token", f"{_refused(role, where)}: {what}", section, *lines)


def unexplained(role: Role, where: str, read: Configuration, claims: Claims) -> Finding:
    """The token was refused, and so was each that was tried in its place.

    :param role: whose token was refused.
    :param where: it was refused, in words.
    :param read: the app's configuration.
    :param claims: of the token.
    """
    name, key = f"MERCURE_{HOLDERS[role].upper()}_JWT_KEY", key_of(read, role)
    if not signs(key):
        is_given = role == "publish" and not is_made(read)
        origin = read.publisher_tokens.origin if is_given else "MERCURE_TOKEN_FACTORY"
        return problem(
            "token",
            f"{_refused(role, where)}. It comes from {origin} (alg {claims.algorithm}, typ "
            f"{claims.type or 'missing'}, iss {claims.issuer!r}, aud "
            f"{', '.join(claims.audience) or 'missing'}), and "
            "without its key nothing else can be tried. The hub's log has the cause",
            Section.TOKEN_REFUSED,
            hub(f"{name}=<the key that verifies such tokens>"),
            hub(f"MERCURE_ISSUER={claims.issuer or read.issuer}"),
        )
    is_secret = key is not None and isinstance(key.material, bytes)
    value = (
        f"<the app's {name} or MERCURE_JWT_SECRET>"
        if is_secret
        else f"@<the public half of the app's {name}>"
    )
    return problem(
        "token",
        f"{_refused(role, where)}, and also with another audience, issuer, algorithm and generation: the "
        "keys differ. "
        f"The app signs with {claims.algorithm}. If the keys are the same, the hub trusts an issuer that "
        "was not "
        "tried; its log has the cause",
        Section.SIGNATURE,
        hub(f"{name}={value}"),
        hub(f"MERCURE_ISSUER={read.issuer}"),
    )


def _refused(role: Role, where: str) -> str:
    return f"the hub refuses the {HOLDERS[role]}'s token at {where}"


def refused_at_the_proxy(where: str, status: int, *, by_cookie: bool) -> Finding:
    """A token that the hub accepts on its own port and not through the proxy."""
    summary = (
        f"the hub accepts the token on its own port, and at {where} the answer is {status}: a proxy does "
        "not pass the Authorization header on, or asks for a password of its own"
    )
    if by_cookie:
        summary += ". In the cookie the token arrives: browsers are admitted, other clients are not"
    return (warning if by_cookie else problem)(
        "token",
        summary,
        Section.HEADER_LOST,
        nginx("proxy_set_header Authorization $http_authorization;"),
        apache("# in the Location of the hub: neither AuthType nor RequestHeader unset Authorization"),
    )


def forbidden(role: Role, where: str, status: int) -> Finding:
    """The token is valid and the hub answers something else than expected."""
    return problem(
        "token",
        f"the hub at {where} answers {status or 'nothing'} to the {HOLDERS[role]}'s token",
        Section.SCOPE if status == 403 else Section.DEFECT,
    )


def other_parameters(where: str, protocol: Protocol) -> Finding:
    """The token is accepted and the parameters of its generation are not."""
    other = "0.x" if protocol == "1.0" else "1.0"
    return problem(
        "token",
        f"the hub at {where} accepts the subscriber's token and answers 400 to the parameters of protocol "
        f"{protocol}",
        Section.GENERATION,
        app(f'MERCURE_PROTOCOL = "{other}"'),
        hub("MERCURE_PROTOCOL=both"),
    )
