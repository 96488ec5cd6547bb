"""Values as the Go hub writes them: durations, sizes, URLs of its database."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_OCTETS = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "ki": 2**10, "kib": 2**10, "mi": 2**20, "mib": 2**20, "gi": 2**30, "gib": 2**30,
}  # fmt: skip


def seconds(text: str) -> str:
    """``1m30s`` as ``90``.

    :raises ValueError: it is no duration.
    """
    if text == "0":
        return "0"
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 40s or 10m")
    return f"{sum(float(number) * _SECONDS[unit] for number, unit in parts):.9g}"


def octets(text: str) -> str:
    """``1MiB`` as ``1048576``.

    :raises ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _OCTETS:
        raise ValueError(f"{text!r} is not a size such as 512KB or 1MiB")
    return str(int(float(match[1]) * _OCTETS[match[2].lower()]))


def bolt_path(url: str) -> str:
    """The path in ``bolt:///data/mercure.db`` or ``bolt://mercure.db``."""
    parts = urlsplit(url)
    return unquote(parts.netloc + parts.path)


def database_beside(path: str) -> str:
    """The URL of a new database in the same folder as one of another format.

    :raises ValueError: the path cannot stand in a URL.
    """
    if re.search(r"[?#%\s]", path) or not path:
        raise ValueError(f"{path!r} cannot stand in a URL; choose a path for MERCURE_TRANSPORT_URL")
    folder, slash, _ = path.rpartition("/")
    return f"sqlite:///{folder}{slash}mercure-hub.db"
