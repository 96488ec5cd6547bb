"""The keys that issuers publish by URL: fetched at the start, before they end, and when one is unknown.

A set is used until it has been replaced. When its URL stops to answer, the keys go on for ``_GRACE``
seconds after they should have been renewed; then nobody vouches for them any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import gevent

from mercure_hub.protocol import jwk_set
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.issuer import Issuer, RemoteKeys
from mercure_hub.protocol.keys import Key
from mercure_hub.server.fetch import Fetched, FetchError

_TICK = 1.0
_EARLY = 0.8  # of its lifetime: when a set is renewed
_GRACE = 86400.0
_FIRST_RETRY, _LAST_RETRY = 10.0, 300.0
_PAUSE = 30.0  # seconds between two fetches that tokens cause: junk must not make us a nuisance
_PATIENCE = 5.0  # seconds that a token waits for a fetch

_log = logging.getLogger("mercure_hub.keys")

Fetch = Callable[[RemoteKeys], Fetched]
Trust = Callable[[Issuer], None]


class KeySource:
    """The JWK set of one issuer.

    :param issuer: with the keys of its own.
    :param remote: where its set is.
    :param fetch: gets it; waits cooperatively.
    :param trust: is given the issuer with all its keys when they have changed.
    :param clock: monotonic time in seconds.
    """

    def __init__(
        self, issuer: Issuer, remote: RemoteKeys, fetch: Fetch, trust: Trust, clock: Callable[[], float]
    ) -> None:
        self._issuer = issuer
        self._remote = remote
        self._fetch = fetch
        self._trust = trust
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._due = self._asked = float("-inf")
        self._ends = float("inf")
        self._failures = 0
        self._fetching: gevent.Greenlet | None = None
        place = urlsplit(remote.url)._replace(query="").geturl()  # a query may hold a password
        self._name = f"the keys of {issuer.identifier!r} at {place}"

    def adopt(self, before: KeySource) -> None:
        """Go on with the keys of a source that this one takes the place of, until they are fetched anew."""
        if before._remote == self._remote and before._keys:
            self._ends = before._ends
            self._set(before._keys)

    def tick(self) -> None:
        """Fetch when it is time to, and give up keys that could not be renewed for too long."""
        now = self._clock()
        if now >= self._ends:
            _log.error(
                "%s could not be renewed for too long: what they sign is refused from now on", self._name
            )
            self._ends = float("inf")
            self._set(())
        if self._fetching is None and now >= self._due:
            self._start()

    def renew(self) -> bool:
        """Fetch for a token whose key is not known, and wait until that has ended; or it is too early.

        :returns: the keys are other ones now.
        """
        before = self._keys
        fetching = self._fetching
        if fetching is None:
            now = self._clock()
            if now - self._asked < _PAUSE:
                return False
            self._asked = now
            fetching = self._start()
        fetching.join(_PATIENCE)
        return self._keys is not before

    def close(self) -> None:
        """End a fetch that is under way, and begin no other."""
        self._asked = self._due = float("inf")
        if self._fetching is not None:
            self._fetching.kill()

    def _start(self) -> gevent.Greenlet:
        self._fetching = gevent.spawn(self._run)
        return self._fetching

    def _run(self) -> None:
        try:
            fetched = self._fetch(self._remote)
            found = jwk_set.parse(fetched.body, self._remote.algorithms, is_public=True)
        except (FetchError, KeyMaterialError) as error:
            self._failed(str(error))
        except Exception:
            _log.exception("fetching keys failed; this is a defect of the hub")
            self._failed("a defect of the hub")
        else:
            self._succeeded(found, fetched.lifetime)
        finally:
            self._fetching = None

    def _succeeded(self, found: jwk_set.KeySet, lifetime: float) -> None:
        now = self._clock()
        self._failures = 0
        self._due = now + lifetime * _EARLY
        self._ends = now + lifetime + _GRACE
        for reason in found.refused:
            _log.warning("%s: %s", self._name, reason)
        if not found.keys:
            _log.error("%s: none of them can be used, so what they sign is refused", self._name)
        if found.keys != self._keys:
            _log.info("%s are new: %d, good for %.0f s", self._name, len(found.keys), lifetime)
            self._set(found.keys)

    def _failed(self, reason: str) -> None:
        delay = min(_FIRST_RETRY * 2.0**self._failures, _LAST_RETRY)
        self._failures = min(self._failures + 1, 10)
        self._due = self._clock() + delay
        what = "the ones from before go on" if self._keys else "what they sign is refused"
        _log.warning("%s cannot be fetched: %s; %s, next attempt in %.0f s", self._name, reason, what, delay)

    def _set(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        self._trust(self._issuer.with_keys(keys))


class KeySources:
    """The JWK sets of all issuers that have one at a URL.

    :param issuers: those that the hub trusts.
    :param fetch: see ``KeySource``.
    :param trust: see there.
    :param clock: see there.
    """

    def __init__(
        self, issuers: Sequence[Issuer], fetch: Fetch, trust: Trust, clock: Callable[[], float]
    ) -> None:
        self._sources = {
            issuer.identifier: KeySource(issuer, issuer.remote, fetch, trust, clock)
            for issuer in issuers
            if issuer.remote is not None
        }
        self._greenlet: gevent.Greenlet | None = None

    def adopt(self, before: KeySources) -> None:
        """Go on with the keys that were fetched before a reload: an issuer may be down at the moment."""
        for identifier, source in self._sources.items():
            if identifier in before._sources:
                source.adopt(before._sources[identifier])

    def start(self) -> None:
        """Begin to fetch, in the background: a hub whose issuers do not answer starts all the same."""
        if self._sources:
            self._greenlet = gevent.spawn(self._run)

    def renew(self, identifier: str) -> bool:
        """Have an issuer's keys fetched, for a token whose key is not known; waits for it.

        :param identifier: of the issuer.
        :returns: it has other keys now.
        """
        source = self._sources.get(identifier)
        return source is not None and source.renew()

    def close(self) -> None:
        """Fetch no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
        for source in self._sources.values():
            source.close()

    def _run(self) -> None:
        while True:
            for source in self._sources.values():
                source.tick()
            gevent.sleep(_TICK)
