"""``mercure-hub check``: reads everything that a start would read, and opens nothing for writing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mercure_hub import DOCUMENTATION
from mercure_hub.config.loading import Effective, load_effective
from mercure_hub.config.retention import described
from mercure_hub.config.settings import SettingError
from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.server.tls import tls_context
from mercure_hub.storage.address import EngineKind, address_of
from mercure_hub.storage.engines import load_driver
from mercure_hub.storage.sqlite.database import path_of
from mercure_hub.storage.sqlite.files import obstacle


def check(environment: Mapping[str, str], flags: Mapping[str, str]) -> list[str]:
    """Read the settings, the files that they name, and the keys and certificates in them.

    No port is bound, because a running hub may use it. No JWK set is fetched, because a hub starts without.

    :param environment: environment variables.
    :param flags: values of flags by setting name.
    :returns: a line for each setting, with its value and its source, without secrets.
    :raises SettingError: a hub could not start, or not reload, with these settings.
    """
    settings, effective = load_effective(environment, flags)
    tls_context(settings)
    for one in effective:
        if one.setting.name in ("log_file", "access_log") and one.text:
            _check_log(one.setting.variable, one.text)
    return [
        *_lines(effective),
        _engine(settings.transport_url),
        *(f"# retention: {described(rule)}" for rule in settings.retention),
        *_issuers(settings.issuers),
        *_system(sys.platform),
    ]


def _engine(url: str) -> str:
    """Where updates would be stored. It does not connect, because the engine may be away for a moment."""
    address = address_of(url)
    if address.kind is EngineKind.SQLITE:
        in_the_way = obstacle(path_of(address.url), f"the {address.shown}")
        if in_the_way is not None:
            raise SettingError(f"MERCURE_TRANSPORT_URL: {in_the_way}")
        return f"# storage: the {address.shown}"
    try:
        load_driver(address)
    except StorageUnusable as error:
        raise SettingError(f"MERCURE_TRANSPORT_URL: {error}") from None
    relaxed = ", which may lose what it has acknowledged" if address.is_relaxed else ""
    return f"# storage: {address.shown}{relaxed}; history stats tries the connection"


def _lines(effective: Iterable[Effective]) -> Iterator[str]:
    for one in effective:
        yield f"{one.setting.variable}={one.text}  # {one.source}"


def _issuers(trusted: Iterable[Issuer]) -> Iterator[str]:
    for issuer in trusted:
        keys = [f"{len(issuer.publish)} of publishers", f"{len(issuer.subscribe)} of subscribers"]
        if issuer.remote is not None:
            keys.append("more at a URL")
        yield f"# issuer {issuer.identifier!r}: keys: {', '.join(keys)}"


def _system(platform: str) -> list[str]:
    if platform == "linux":
        return []
    return [f"# system: {platform}, where some things differ from Linux: {DOCUMENTATION}/platforms.md"]


def _check_log(variable: str, text: str) -> None:
    path = Path(text).absolute()
    code = 0
    if path.is_dir():
        code = errno.EISDIR
    elif not path.parent.is_dir():
        code = errno.ENOENT
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        code = errno.EACCES
    if code:
        raise SettingError(f"{variable}: {text!r} cannot be opened: {os.strerror(code)}")
