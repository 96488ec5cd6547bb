"""What a site of a Caddyfile has beside the hub and this hub has settings for: log, certificate, port."""

from __future__ import annotations

from collections.abc import Mapping

from mercure_hub import DOCUMENTATION
from mercure_hub.protocol.identity import WELL_KNOWN
from mercure_hub.tools.conversion import values
from mercure_hub.tools.conversion.caddyfile import Directive
from mercure_hub.tools.conversion.conversion import Conversion

OF_CADDY = "is of Caddy, and belongs to the proxy in front"

_LEVELS: Mapping[str, str] = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}
_FORMATS: Mapping[str, str] = {"json": "json", "console": "text"}
_PORTS: Mapping[str, str] = {"http": "80", "https": "443"}


def take_option(conversion: Conversion, option: Directive) -> None:
    """One of the global options."""
    if option.name == "order" and "mercure" in option.arguments:
        conversion.note(option.place, "order", "not needed without Caddy")
    elif option.name in ("http_port", "https_port") and len(option.arguments) == 1:
        conversion.ports[option.name.removesuffix("_port")] = option.arguments[0]
        conversion.note(option.place, option.name, "counts for the address of the site")
    elif option.name == "debug" and not option.arguments:
        conversion.put("log_level", "debug", option.place, "debug")
    elif option.name == "log":
        _take_log(conversion, option, "log_file")
    else:
        conversion.left(option.place, option.name, OF_CADDY)


def take_beside(conversion: Conversion, directive: Directive) -> None:
    """A directive beside ``mercure``."""
    if directive.name == "log":
        _take_log(conversion, directive, "access_log")
    elif directive.name == "tls" and len(directive.arguments) == 2:
        for name, value in zip(("tls_cert", "tls_key"), directive.arguments, strict=True):
            conversion.put(name, value, directive.place, "tls")
        conversion.note(directive.place, "tls", "leave it out where a proxy in front has the certificate")
    else:
        conversion.left(directive.place, directive.name, OF_CADDY)


def _take_log(conversion: Conversion, directive: Directive, name: str) -> None:
    """:param name: of the setting that is the file."""
    if not directive.block:
        conversion.note(directive.place, "log", "not needed: the hub logs to standard error")
    for one in directive.block:
        try:
            _take_of_log(conversion, one, name)
        except ValueError as error:
            conversion.left(one.place, f"log {one.name}", str(error))


def _take_of_log(conversion: Conversion, one: Directive, name: str) -> None:
    source, place, words = f"log {one.name}", one.place, one.arguments
    if one.name == "output" and words[:1] == ("file",) and len(words) == 2:
        conversion.put(name, words[1], place, source)
        for roll in one.block:
            _take_roll(conversion, roll)
    elif one.name == "output" and words in (("stderr",), ("stdout",)):
        conversion.note(place, source, "not needed: the hub logs to standard error")
    elif one.name == "output" and words == ("discard",):
        conversion.left(place, source, "see MERCURE_LOG_LEVEL, where warning leaves requests out")
    elif one.name == "level" and len(words) == 1 and words[0].lower() in _LEVELS:
        conversion.put("log_level", _LEVELS[words[0].lower()], place, source)
    elif one.name == "format" and words[:1] == ("filter",):
        for inner in one.block:
            if inner.name == "wrap" and inner.arguments[:1] and inner.arguments[0] in _FORMATS:
                conversion.put("log_format", _FORMATS[inner.arguments[0]], inner.place, source)
            else:
                conversion.note(inner.place, source, "not needed: this hub writes no token into its log")
    elif one.name == "format" and words[:1] and words[0] in _FORMATS:
        conversion.put("log_format", _FORMATS[words[0]], place, source)
    else:
        conversion.left(place, source, "has no counterpart; see the settings of the log")


def _take_roll(conversion: Conversion, roll: Directive) -> None:
    value = roll.arguments[0] if len(roll.arguments) == 1 else ""
    if roll.name == "roll_size":
        # Caddy counts in MiB where no unit is given.
        conversion.put(
            "log_rotate", values.octets(f"{value}MiB" if value.isdigit() else value), roll.place, roll.name
        )
    elif roll.name == "roll_keep":
        conversion.put("log_keep", value, roll.place, roll.name)
    else:
        conversion.left(
            roll.place, roll.name, "has no counterpart; see MERCURE_LOG_ROTATE and MERCURE_LOG_KEEP"
        )


def take_address(conversion: Conversion, address: str, place: str, source: str) -> None:
    """The address of a site: the public URL follows from it, unless something says that, and the port.

    The hub takes the port over where it can serve the site by itself: without TLS, or with the certificate of
    the site. Else that is a proxy's.

    :param address: ``example.com``, ``http://example.com:8080`` or ``:80``.
    """
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.partition("/")[0].partition(":")
    http_port, https_port = (conversion.ports.get(name, usual) for name, usual in _PORTS.items())
    is_plain = scheme == "http" or (
        not scheme and (port == http_port or (not host and port not in ("", https_port)))
    )
    scheme = "http" if is_plain else "https"
    port = port or conversion.ports.get(scheme, _PORTS[scheme])
    if "public_url" in conversion.settings:
        pass
    elif not host or "*" in host:
        conversion.left(
            place, source, f"{address!r} names no host; set MERCURE_PUBLIC_URL, or leave it unset"
        )
    else:
        shown = "" if port == _PORTS[scheme] else f":{port}"
        conversion.put("public_url", f"{scheme}://{host}{shown}{WELL_KNOWN}", place, source)
    if is_plain or "tls_cert" in conversion.settings:
        if "listen" not in conversion.settings:
            conversion.put("listen", f":{port}", place, source)
            conversion.note(place, source, "the hub listens there itself; behind a proxy set MERCURE_LISTEN")
    else:
        conversion.note(
            place,
            source,
            f"the port and the certificate are the proxy's in front; see {DOCUMENTATION}/deployment.md",
        )
