"""Environment variables: of the Docker image, of the hub before it was a part of Caddy, of Symfony."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mercure_hub import DOCUMENTATION
from mercure_hub.tools.conversion import values
from mercure_hub.tools.conversion.caddyfile import CaddyfileError, Line, Variable, parse
from mercure_hub.tools.conversion.conversion import Conversion
from mercure_hub.tools.conversion.directives import Directives, transport_url

_SAME = ("publisher_jwt_key", "publisher_jwt_alg", "subscriber_jwt_key", "subscriber_jwt_alg")


def _same(text: str) -> str:
    return text


def _switch(text: str) -> str:
    return "1" if text.lower() in ("1", "true", "t") else "0"


# Names of the hub before Caddy, without MERCURE_: ours, and how the value is read.
_OLD: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "ADDR": ("listen", lambda text: text if not text.startswith(":") else f"127.0.0.1{text}"),
    "ALLOW_ANONYMOUS": ("anonymous", _switch),
    "CERT_FILE": ("tls_cert", _same),
    "KEY_FILE": ("tls_key", _same),
    "CORS_ALLOWED_ORIGINS": ("cors_origins", lambda text: text.replace(",", " ")),
    "PUBLISH_ALLOWED_ORIGINS": ("publish_origins", lambda text: text.replace(",", " ")),
    "SUBSCRIPTIONS": ("subscriptions", _switch),
    "DISPATCH_TIMEOUT": ("dispatch_timeout", values.seconds),
    "HEARTBEAT_INTERVAL": ("heartbeat", values.seconds),
    "WRITE_TIMEOUT": ("write_timeout", values.seconds),
    "JWT_KEY": ("publisher_jwt_key", _same),
    "JWT_ALGORITHM": ("publisher_jwt_alg", _same),
    "PUBLISHER_JWT_KEY": ("publisher_jwt_key", _same),
    "PUBLISHER_JWT_ALGORITHM": ("publisher_jwt_alg", _same),
    "SUBSCRIBER_JWT_KEY": ("subscriber_jwt_key", _same),
    "SUBSCRIBER_JWT_ALGORITHM": ("subscriber_jwt_alg", _same),
}
_NOT_NEEDED = {
    "MERCURE_LICENSE": "not needed: this hub has no license key",
    "COMPRESS": "not needed: the proxy compresses pages, and leaves event streams alone",
    "READ_TIMEOUT": "not needed: the hub has its own limits for slow requests",
    "READ_HEADER_TIMEOUT": "not needed: the hub has its own limits for slow requests",
}
_LEFT = {
    "GLOBAL_OPTIONS": "options of Caddy, which is not a part of this hub; they belong to the proxy in front",
    "CADDY_EXTRA_CONFIG": "configuration of Caddy, which is not a part of this hub",
    "CADDY_SERVER_EXTRA_DIRECTIVES": "directives of Caddy, which is not a part of this hub",
    "EXTRA_DIRECTIVES": "directives of Caddy, which is not a part of this hub",
    "USE_FORWARDED_HEADERS": "write the proxy's address into MERCURE_TRUSTED_PROXIES",
    "DEBUG": "see MERCURE_LOG_LEVEL",
    "DEMO": "mints a token for everything; for development see MERCURE_PLAYGROUND, or flask mercure hub",
    "LOG_FORMAT": "see MERCURE_LOG_FORMAT, which is text or json",
    "METRICS_ENABLED": f"see {DOCUMENTATION}/settings.md for metrics",
    "METRICS_ADDR": f"see {DOCUMENTATION}/settings.md for metrics",
    "ACME_HOSTS": "the proxy in front gets certificates",
    "ACME_CERT_DIR": "the proxy in front gets certificates",
    "ACME_HTTP01_ADDR": "the proxy in front gets certificates",
    "JWT_SECRET": "the application's key: in Flask it is MERCURE_JWT_SECRET, too; give the hub the same as "
    "MERCURE_PUBLISHER_JWT_KEY",
    "URL": "the application's: in Flask it is MERCURE_URL, too",
}


def take(
    conversion: Conversion, variables: Mapping[str, Variable], used: frozenset[str] = frozenset()
) -> None:
    """Go through variables.

    :param used: names that stood in a Caddyfile, and became a part of it.
    """
    for name, variable in variables.items():
        if name in used:
            continue
        try:
            _take(conversion, variables, name, variable)
        except (ValueError, CaddyfileError) as error:
            conversion.left(variable.place, name, str(error))


def _take(conversion: Conversion, variables: Mapping[str, Variable], name: str, variable: Variable) -> None:
    value, place = variable.value, variable.place
    short = name.removeprefix("MERCURE_")
    if not value:
        conversion.note(place, name, "is empty")
    elif name == "SERVER_NAME":
        conversion.addresses.append((value.split()[0].rstrip(","), place, name))
    elif name == "MERCURE_EXTRA_DIRECTIVES":
        lines = [Line(place, text) for text in value.splitlines()]
        Directives(conversion, variables).take(parse(lines))
    elif name in ("MERCURE_TRANSPORT_URL", "TRANSPORT_URL"):
        transport_url(conversion, value, place, name)
    elif name == "MERCURE_TRUSTED_ISSUERS":
        conversion.put("issuer", value, place, name)
    elif name == "MERCURE_PUBLIC_URL":
        conversion.put("public_url", value, place, name)
    elif name.startswith("MERCURE_") and short.lower() in _SAME:
        conversion.put(short.lower(), value, place, name)
    elif short in _OLD:
        ours, read = _OLD[short]
        conversion.put(ours, read(value), place, name)
    elif name in _NOT_NEEDED or short in _NOT_NEEDED:
        conversion.note(place, name, _NOT_NEEDED.get(name) or _NOT_NEEDED[short])
    elif name in _LEFT or (name.startswith("MERCURE_") and short in _LEFT):
        conversion.left(place, name, _LEFT.get(name) or _LEFT[short])
    else:
        conversion.left(place, name, "is no variable that this command knows")
