"""The session of requests in which the extension speaks with a hub."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy

import requests
from requests.adapters import HTTPAdapter

from hub import __version__

USER_AGENT = f"flask-mercure/{__version__}"

_POOL = 64  # connections that are kept when they are idle: the threads of a large WSGI process


def open_session() -> requests.Session:
    """A session to speak with the hub, which keeps the environment out.

    With ``trust_env`` requests would send the token to a proxy of ``HTTP_PROXY`` even for the loopback, and
    replace it by a password of ``.netrc``. The CA file has its own setting, ``MERCURE_VERIFY_TLS``.
    """
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # none is accepted, none is sent
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=_POOL, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
