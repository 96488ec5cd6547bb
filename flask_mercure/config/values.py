"""Readers of configuration values, in the forms in which people write them.

Each function takes a value and raises :class:`ValueError` with the end of a sentence that begins with the
key: ``is 'x'; use …``. Text is accepted where a number or a switch is wanted, since environment variables
hold nothing else.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from flask_mercure.errors import InvalidArgument, TokenError
from flask_mercure.tokens import TokenSource, check_compact, expiry
from flask_mercure.topics import Protocol, Topic, as_list, matchers, typed
from mercure_hub.protocol.topics import forbidden_character

OnFailure = Literal["raise", "log", "background"]
"""What ``publish`` does with an update that cannot be published."""

_POLICIES: tuple[OnFailure, ...] = get_args(OnFailure)
_EXAMPLE = "http://127.0.0.1:3000/.well-known/mercure"
_PORTS = {"http": 80, "https": 443}
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_SAME_SITE = ("Strict", "Lax", "None")
# The number 1.0 is what Config.from_prefixed_env makes of an environment variable.
_PROTOCOLS: Mapping[object, Protocol] = {"1.0": "1.0", "0.x": "0.x", 1.0: "1.0"}


def text(value: object) -> str:
    """Text, without the white space around it."""
    if isinstance(value, str):
        return value.strip()
    raise ValueError(
        f"is a value of type {type(value).__name__}, it must be text (in an environment variable or a file "
        "that is read as JSON, put it in quotes)"
    )


def secret_text(value: object) -> str:
    """A passphrase, unchanged: white space at its ends belongs to it."""
    text(value)
    return str(value)


def key_material(value: object) -> str:
    """A key, unchanged: white space at its ends belongs to a secret. A JWK or a JWK set becomes JSON."""
    if isinstance(value, Mapping):
        try:
            return json.dumps(dict(value))
        except (TypeError, ValueError):
            raise ValueError("is a dict that is not JSON; give a JWK, a JWK set, or text") from None
    return secret_text(value)


def token(value: object) -> str:
    """A finished token."""
    given = text(value)
    try:
        expiry(check_compact(given, "it"))
    except TokenError as error:
        raise ValueError(f"cannot be used: {error}") from None
    return given


def provider(value: object) -> Callable[[], object]:
    """The callable that gives the token to publish with, or its import path."""
    if isinstance(value, str):
        value = import_path(value)
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"is {value!r}; give a callable without arguments that returns a token")  # noqa: TRY004
    try:
        inspect.signature(value).bind()
    except TypeError:
        raise ValueError(f"is {value!r}, which cannot be called without arguments") from None
    except ValueError:  # some callables of C have no signature
        pass
    return value


def url(value: object) -> str:
    """The hub's URL, in the form in which the hub knows itself: host in lower case, no default port."""
    given = text(value)
    where = f"is {_without_credentials(given)!r}; give the hub's URL, such as {_EXAMPLE}"
    if not given.isascii() or not given.isprintable() or set(given) & set(' "<>\\^`{|}'):
        raise ValueError(f"{where}, in ASCII (xn-- for a host name, % escapes in the path)")
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{where} ({error})") from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise ValueError(f"{where}: absolute, with http or https and a host")
    if "@" in parts.netloc:
        raise ValueError(f"{where}, without user name and password: the hub wants a token")
    if parts.query or parts.fragment or given.endswith(("?", "#")):
        raise ValueError(f"{where}, without query and fragment")
    if not parts.path:
        raise ValueError(f"{where}, with its path, usually /.well-known/mercure")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown_port = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown_port}{parts.path}"


def _without_credentials(given: str) -> str:
    return re.sub(r"//[^/]*@", "//…@", given)


def protocol(value: object) -> Protocol:
    """The generation of the protocol."""
    generation = _PROTOCOLS.get(value) if isinstance(value, str | float) else None
    if generation is None:
        hint = " (the hub speaks both, the app mints one kind of token)" if value == "both" else ""
        raise ValueError(f"is {value!r}; use '1.0', or '0.x' for an older hub{hint}")
    return generation


def issuer(value: object) -> str:
    """The ``iss`` of tokens."""
    given = text(value)
    if forbidden_character(given):
        raise ValueError(f"is {given!r}, which has a control or format character; give a URL or a urn:")
    return given


def seconds(value: object) -> float:
    """A duration above zero, in seconds."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and number > 0:
            return number
    raise ValueError(f"is {value!r}; give a number of seconds above 0, or a timedelta")


def topics(value: object, protocol: Protocol) -> list[Topic]:
    """Topics: a list, or text with white space between them; the operator's, so ``*`` means all."""
    given = value.split() if type(value) is str else value
    try:
        listed = as_list(given, "it") or []
        marked = [typed(one, protocol) if type(one) is str else one for one in listed]
        checked: list[Topic] = [*matchers(marked, protocol, "it")]
    except (TypeError, InvalidArgument) as error:
        raise ValueError(f"cannot be used: {error}") from None
    if not checked:
        raise ValueError("is empty; give topics, or '*' for all")
    return checked


def boolean(value: object) -> bool:
    """A switch; the text "false", from an environment variable, is false."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"is {value!r}; use True or False")


def verify(value: object) -> bool | str:
    """The ``verify`` argument of requests."""
    try:
        return boolean(value)
    except ValueError:
        pass
    if isinstance(value, str | Path):
        if Path(value).exists():
            return str(value)
        raise ValueError(
            f"is {str(value)!r}, and there is no such file; give True, False or the path of a CA file"
        )
    raise ValueError(f"is {value!r}; give True, False or the path of a CA file")


def same_site(value: object) -> str:
    """The ``SameSite`` attribute of a cookie."""
    for name in _SAME_SITE:
        if isinstance(value, str) and value.lower() == name.lower():
            return name
    raise ValueError(f"is {value!r}; use 'Strict', 'Lax' or 'None', or None to leave the attribute out")


def domain(value: object) -> str:
    """A domain name, without the leading dot of former times."""
    return text(value).lower().removeprefix(".")


def factory(value: object) -> TokenSource:
    """The token factory, or its import path."""
    if isinstance(value, str):
        value = import_path(value)
    try:
        return TokenSource(value)
    except TypeError as error:
        raise ValueError(
            f"cannot be used: {error}; it must be callable as create(subscribe=..., publish=..., "
            "additional_claims=...)"
        ) from None


def import_path(path: str) -> object:
    """Import the object that a path ``package.module:name`` names."""
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"is {path!r}; an import path has the form 'package.module:name'")
    try:
        imported: object = import_module(module_name)
        for part in name.split("."):
            imported = getattr(imported, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"is {path!r} and cannot be imported: {error}") from error
    return imported


def check_policy(value: object) -> OnFailure:
    """A failure policy, as an argument of ``publish``.

    :raises ValueError: there is no such policy.
    """
    for policy in _POLICIES:
        if value == policy:
            return policy
    raise ValueError(f"on_failure is {value!r}; use 'raise', 'log' or 'background'")


def on_failure(value: object) -> OnFailure:
    """A failure policy."""
    try:
        return check_policy(value)
    except ValueError:
        raise ValueError(f"is {value!r}; use 'raise', 'log' or 'background'") from None


def count(value: object) -> int:
    """A number of updates, 1 or more."""
    try:
        number = int(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"is {value!r}; give a whole number of updates, 1 or more")
    return number


def outbox(value: object) -> object:
    """The database of the outbox, or the object that an import path names; ``None`` for False."""
    if isinstance(value, str) and ":" not in value:
        value = boolean(value)
    if value is False:
        return None
    return import_path(value) if isinstance(value, str) else value


def path(value: object) -> str:
    """A path of the app's own site."""
    if not isinstance(value, str) or not value.startswith("/") or set(value) & set("<>?#"):
        raise ValueError(f"is {value!r}; give a path of this app such as /_mercure")
    return value
