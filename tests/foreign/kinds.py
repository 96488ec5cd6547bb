"""The clients, and why one cannot be tried on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(__file__).resolve().parent / "clients"
MODULES = ROOT / "build" / "foreign" / "node_modules"
PHP_PACKAGES = "php-cli php-symfony-mercure php-lcobucci-jwt"
_PHP = Path("/usr/share/php")


class Resumes(Enum):
    """Who sends the id of the last update after the stream broke."""

    ITSELF = "by itself"
    TOLD = "told the last id"


@dataclass(frozen=True)
class Kind:
    """A client.

    :param name: as its registry has it, and the way it is used in when there are several.
    :param script: in ``clients``.
    :param module: what has to be installed: a package of npm, a module of Python, a program.
    :param variables: for the script.
    :param drops_indentation: it takes all spaces off the beginning of a line, not the one after the colon.
    """

    name: str
    script: str
    module: str
    resumes: Resumes = Resumes.ITSELF
    variables: tuple[tuple[str, str], ...] = ()
    drops_indentation: bool = False

    @property
    def command(self) -> list[str]:
        """What runs the script in the folder of ``scripts``."""
        if self.script.endswith(".py"):
            return [sys.executable, "-m", f"tests.foreign.clients.{self.script.removesuffix('.py')}"]
        return ["php" if self.script.endswith(".php") else "node", self.script]

    @property
    def missing(self) -> str:
        """What has to be installed; empty: nothing."""
        if self.script.endswith(".mjs"):
            return missing_program("node", "nodejs npm") or missing_from_npm(self.module)
        if self.script.endswith(".php"):
            return self._missing_for_php()
        if self.module == "curl":
            return missing_program("curl")
        return "" if importlib.util.find_spec(self.module) else f"{self.name} is not installed: make foreign"

    def _missing_for_php(self) -> str:
        checkout = dict(self.variables).get("SYMFONY_MERCURE")
        needed = [_PHP / "Lcobucci/JWT", _PHP / "Symfony/Component/HttpClient"]
        if checkout is None:
            needed.append(_PHP / "Symfony/Component/Mercure")
        elif not checkout:
            return "no checkout is given: make foreign SYMFONY_MERCURE=/path/to/symfony/mercure"
        elif not (Path(checkout) / "src" / "Hub.php").is_file():
            return f"SYMFONY_MERCURE={checkout} is no checkout of symfony/mercure"
        if shutil.which("php") is None or not all(folder.is_dir() for folder in needed):
            return f"PHP or its libraries are not installed: apt-get install {PHP_PACKAGES}"
        return ""


def missing_program(name: str, package: str = "") -> str:
    return "" if shutil.which(name) else f"{name} is not installed: apt-get install {package or name}"


def missing_from_npm(package: str) -> str:
    if (MODULES / package / "package.json").is_file():
        return ""
    return missing_program("npm") or f"npm has not installed {package}: make foreign"


_POLYFILL = ("event_source_polyfill.mjs", "event-source-polyfill")

SUBSCRIBERS = (
    Kind("eventsource", "eventsource.mjs", "eventsource"),
    Kind("eventsource-client", "eventsource_client.mjs", "eventsource-client"),
    Kind("extended-eventsource", "extended_eventsource.mjs", "extended-eventsource"),
    Kind("@microsoft/fetch-event-source", "fetch_event_source.mjs", "@microsoft/fetch-event-source"),
    Kind("launchdarkly-eventsource", "launchdarkly_eventsource.mjs", "launchdarkly-eventsource"),
    Kind("event-source-polyfill", *_POLYFILL),
    Kind(
        "event-source-polyfill with lastEventIdQueryParameterName",
        *_POLYFILL,
        variables=(("CURSOR_PARAMETER", "last_event_id"),),
    ),
    Kind("requests-sse", "with_requests_sse.py", "requests_sse", drops_indentation=True),
    Kind("sseclient-py", "with_sseclient.py", "sseclient", Resumes.TOLD),
    Kind("httpx-sse", "with_httpx_sse.py", "httpx_sse", Resumes.TOLD),
    Kind(
        "aiohttp-sse-client",
        "with_aiohttp_sse_client.py",
        "aiohttp_sse_client",
        Resumes.TOLD,
        drops_indentation=True,
    ),
    Kind("curl -N", "with_curl.py", "curl", Resumes.TOLD),
)

CURL = Kind("curl -d", "publish_with_curl.py", "curl")
MERCURE_PUBLISHER = Kind("mercure-publisher", "publish_with_mercure_publisher.py", "mercure_publisher")
SYMFONY = (
    Kind("symfony/mercure from Debian", "symfony.php", "php"),
    Kind(
        "symfony/mercure from a checkout",
        "symfony.php",
        "php",
        variables=(("SYMFONY_MERCURE", os.environ.get("SYMFONY_MERCURE", "")),),
    ),
)
