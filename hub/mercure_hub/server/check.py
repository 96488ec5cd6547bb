"""``mercure-hub check``: reads what a start would read, opens nothing for writing, tells what it found."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sqlalchemy.engine import make_url

from mercure_hub.config.loading import Effective, load_effective
from mercure_hub.config.settings import SettingError, Settings
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.server.tls import tls_context
from mercure_hub.storage.sqlite.files import is_writable

_SQLITE = b"SQLite format 3\0"  # how a database begins (https://sqlite.org/fileformat.html)


def check(environment: Mapping[str, str], flags: Mapping[str, str]) -> list[str]:
    """Read the settings, the files that they name, and the keys and certificates in these.

    A port is not bound: a running hub may have it. A JWK set is not fetched: a hub starts without.

    :param environment: environment variables.
    :param flags: values of flags by the setting's name.
    :returns: a line for each setting, with its value and where that comes from; no secret is in it.
    :raises SettingError: a hub would not start, or not reload, with these settings.
    """
    settings, found = load_effective(environment, flags)
    tls_context(settings)
    for one in found:
        if one.setting.name in ("log_file", "access_log") and one.text:
            _check_log(one.setting.variable, one.text)
    _check_database(settings)
    return [*_lines(found), *_issuers(settings.issuers)]


def _lines(found: Iterable[Effective]) -> Iterator[str]:
    for one in found:
        yield f"{one.setting.variable}={one.text}  # {one.source}"


def _issuers(trusted: Iterable[Issuer]) -> Iterator[str]:
    for issuer in trusted:
        keys = [f"{len(issuer.publish)} of publishers", f"{len(issuer.subscribe)} of subscribers"]
        if issuer.remote is not None:
            keys.append("more at a URL")
        yield f"# issuer {issuer.identifier!r}: keys: {', '.join(keys)}"


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


def _check_database(settings: Settings) -> None:
    url = make_url(settings.transport_url)
    path = Path(url.database or "")
    place = f"MERCURE_TRANSPORT_URL: the database {url.render_as_string()}"
    if not path.parent.is_dir():
        raise SettingError(f"{place} cannot be opened: there is no folder {str(path.parent)!r}; make it")
    if path.is_dir():
        raise SettingError(f"{place} is a folder; give the path of a file")
    if not is_writable(url):
        raise SettingError(
            f"{place} cannot be written by this user; check who may write to the file and its folder"
        )
    if path.exists():
        try:
            with path.open("rb") as file:
                begins = file.read(len(_SQLITE))
        except OSError as error:
            raise SettingError(f"{place} cannot be read: {error.strerror}") from None
        if begins not in (b"", _SQLITE):
            raise SettingError(f"{place} is no database of SQLite; choose another path")
