"""The hub that ``flask mercure hub`` starts beside an app: its command line and environment."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import mercure_hub
from flask_mercure.configuration.settings import Configuration
from flask_mercure.errors import ConfigurationError
from mercure_hub.protocol.keys import Key, PrivateKey

_LOCAL_NAMES = ("127.0.0.1", "localhost")


def check_packages() -> None:
    """Tell before a hub is started whether it can be.

    :raises ConfigurationError: the extra ``[hub]`` is not installed.
    """
    missing = [name for name in mercure_hub.PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the hub needs packages that are not installed ({', '.join(missing)}); "
            f"{mercure_hub.INSTALL.format('hub')}"
        )


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of the hub.

    :param arguments: flags of ``mercure-hub``, passed on.
    """
    # -P: an app that has a module of that name in the current directory must not be started instead.
    return [sys.executable, "-P", "-m", "mercure_hub", *arguments]


def environment(configuration: Configuration, inherited: Mapping[str, str]) -> dict[str, str]:
    """The hub's environment, made from the configuration of an app.

    What the app is configured with wins; settings of the hub alone are taken from the inherited environment
    and have defaults here that suit development: active subscriptions, anonymous subscribers and the debugger
    on, pages of ``flask run`` admitted.

    :param configuration: of the app.
    :param inherited: environment of this process.
    :raises ConfigurationError: the app's configuration does not tell what the hub needs.
    """
    made = {
        "MERCURE_ANONYMOUS": "1",
        "MERCURE_SUBSCRIPTIONS": "1",
        "MERCURE_DEBUGGER": "1",
        "MERCURE_CORS_ORIGINS": _page_origins(inherited),
        **inherited,
        "MERCURE_LISTEN": _address(configuration.url, inherited),
        "MERCURE_PUBLIC_URL": configuration.public_url,
        "MERCURE_ISSUER": configuration.issuer,
        "MERCURE_PROTOCOL": configuration.protocol,
        "MERCURE_COOKIE_NAME": configuration.cookie.name,
    }
    for role, key in (
        ("PUBLISHER", configuration.publisher_key),
        ("SUBSCRIBER", configuration.subscriber_key),
    ):
        if key is not None:
            made[f"MERCURE_{role}_JWT_KEY"] = _verifying(key)
            made[f"MERCURE_{role}_JWT_ALG"] = " ".join(key.algorithms)
        elif not inherited.get(f"MERCURE_{role}_JWT_KEY"):
            raise ConfigurationError(
                f"MERCURE_{role}_JWT_KEY is not set: the hub needs the key that verifies the tokens of a "
                f"{role.lower()}; set it, or MERCURE_JWT_SECRET for both roles"
            )
    return made | import_path(inherited)


def import_path(inherited: Mapping[str, str]) -> dict[str, str]:
    """What the hub's environment needs for its interpreter to find the package.

    :param inherited: environment of this process.
    """
    folder = Path(mercure_hub.__file__).parent.parent
    if folder == Path(sysconfig.get_path("purelib")):
        return {}
    # a work tree that is not installed
    return {"PYTHONPATH": ":".join(filter(None, (str(folder), inherited.get("PYTHONPATH"))))}


def _address(url: str, inherited: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    if parts.scheme == "https" and not inherited.get("MERCURE_TLS_CERT"):
        raise ConfigurationError(
            f"MERCURE_URL is {url!r}, on https: give the hub a certificate with MERCURE_TLS_CERT and "
            "MERCURE_TLS_KEY in the environment, or set MERCURE_URL to http for development"
        )
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _page_origins(inherited: Mapping[str, str]) -> str:
    """Where ``flask run`` serves its pages: their scripts open streams of another origin.

    Its port is an argument of that other process, so all of them are admitted.
    """
    names = dict.fromkeys((*_LOCAL_NAMES, inherited.get("FLASK_RUN_HOST", "127.0.0.1")))
    hosts = (f"[{name}]" if ":" in name else name for name in names if name not in ("0.0.0.0", "::"))  # noqa: S104
    return " ".join(f"http://{host}:*" for host in hosts)


def _verifying(key: Key) -> str:
    """The key as the hub wants it: of a pair the public half, so that the private one stays here."""
    if isinstance(key.material, bytes):
        if b"\0" in key.material:  # a JWK may hold any octets
            raise ConfigurationError(
                "MERCURE_JWT_SECRET holds a zero byte, which no environment variable can: start the hub with "
                "a JWK set instead ([[issuer]] in its TOML file)"
            )
        return key.material.decode("utf-8", "surrogateescape")
    public = key.material.public_key() if isinstance(key.material, PrivateKey) else key.material
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
