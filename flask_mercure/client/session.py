"""The pooled connections to a hub, with requests, and one request on them."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - a fork during its import by the first connection would block the child
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from flask_mercure.config.settings import Configuration
from mercure_hub import __version__

USER_AGENT = f"flask-mercure/{__version__}"

_log = logging.getLogger("flask_mercure")

_POOL = 64  # idle connections that are kept: as many as the threads of a large WSGI process


def open_session() -> requests.Session:
    """A session for requests to a hub, which ignores the environment.

    With ``trust_env`` requests would send the token to the proxy of ``HTTP_PROXY`` even for the loopback, and
    replace it by a password of ``.netrc``. The CA file has its own setting, ``MERCURE_VERIFY_TLS``.
    """
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # accepts and sends none
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=_POOL, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer without its request: a response of requests holds both, and so the token.

    :param status_code: status code.
    :param headers: their names are case-insensitive.
    :param body: the content, or the beginning of it.
    """

    status_code: int
    headers: CaseInsensitiveDict[str]
    body: bytes


def ask(
    session: requests.Session,
    method: str,
    url: str,
    configuration: Configuration,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    most: int,
    timeout: float | tuple[float, float] | None = None,
) -> Reply | Exception:
    """Send a request to a hub and read the answer.

    Errors are returned, not raised: error trackers send the variables of each function that an exception
    passes, and here these include the token.

    :param session: from :func:`open_session`.
    :param method: of the request.
    :param url: of the hub or of one of its resources.
    :param configuration: of the hub.
    :param headers: besides those of the session.
    :param content: of the request.
    :param most: bytes of the answer's content that are read.
    :param timeout: seconds for the connection, and for each wait for the answer, if they differ as two
        numbers; default: as configured.
    :returns: the answer, or the error of the connection.
    """
    try:
        with session.request(
            method,
            url,
            data=content,
            headers=headers,
            # A redirect is an error: it would drop the token, or take it to another host.
            allow_redirects=False,
            stream=True,
            timeout=timeout or (configuration.connect_timeout, configuration.read_timeout),
            verify=configuration.verify_tls,
        ) as response:
            body: bytes = response.raw.read(most, decode_content=True)
            return Reply(response.status_code, response.headers, body)
    except (requests.RequestException, HTTPError, OSError) as error:
        return error


def warn_of_unverified_tls(configuration: Configuration) -> None:
    """Warn once that a hub's certificate is not verified; urllib3 would warn at each request."""
    parts = urlsplit(configuration.url)
    if configuration.verify_tls is not False or parts.scheme != "https":
        return
    text = f"Unverified HTTPS request is being made to host '{parts.hostname}'"
    warnings.filterwarnings("ignore", re.escape(text), InsecureRequestWarning)
    _log.warning(
        "%s is False: whoever can answer in place of %s gets the app's tokens. For a certificate of your own "
        "set it to the path of its CA file",
        configuration.setting("VERIFY_TLS"),
        parts.hostname,
    )
