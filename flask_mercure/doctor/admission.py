"""Whether a token is admitted, and if it is not, which other one would be."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask_mercure.configuration.settings import Configuration
from flask_mercure.doctor import trials, verdicts
from flask_mercure.doctor.connection import Stream, Unreachable
from flask_mercure.doctor.door import Door
from flask_mercure.doctor.finding import Finding
from flask_mercure.doctor.trials import Cause, Role, Trial
from flask_mercure.topics import Protocol, subscription_url


def bearer(token: str) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token}"}


class Admission:
    """Presents tokens.

    :param read: the app's configuration.
    :param topic: that the tokens name.
    """

    def __init__(self, read: Configuration, topic: str) -> None:
        self._read = read
        self._topic = topic

    def parameters(self, protocol: Protocol) -> str:
        """The query that subscribes to the topic, in a generation of the protocol."""
        return urlsplit(subscription_url("http://hub/", protocol, [self._topic])).query

    def status(self, door: Door, role: Role, token: str, protocol: Protocol | None = None) -> int:
        """The answer to a token. Nothing is published, and no stream stays open.

        :param protocol: whose parameters are used; default: that of the app.
        :raises Unreachable: there is no answer.
        """
        if role == "publish":
            return door.post(bearer(token)).status
        answer = door.subscribe(self.parameters(protocol or self._read.protocol), bearer(token))
        if isinstance(answer, Stream):
            answer.close()
            return 200
        return answer.head.status

    def fits(self, door: Door, token: str) -> bool:
        """Whether the hub at this door takes itself for what the token is for, as far as it says."""
        known, claims = door.profile, trials.claims_of(token)
        return not claims.is_current or known is None or known.resource in claims.audience

    def why(self, door: Door, role: Role, token: str) -> Finding:
        """Find out why a token is refused."""
        read, where = self._read, door.name
        claims, known = trials.claims_of(token), door.profile
        if not self.fits(door, token) and known is not None and known.resource is not None:
            return verdicts.wrong_audience(role, where, read, claims, known.resource)
        admitted = self._admitted_instead(door, role)
        if admitted is None:
            return verdicts.unexplained(role, where, read, claims)
        speaks_current = None
        if admitted.cause is Cause.GENERATION and read.protocol == "1.0":
            speaks_current = self._speaks_current(door)
        return verdicts.diagnose(role, where, read, claims, admitted, speaks_current=speaks_current)

    def _admitted_instead(self, door: Door, role: Role) -> Trial | None:
        for trial in trials.trials(self._read, role, self._topic, door.profile):
            try:
                if self.status(door, role, trial.token, _generation(trial)) in (200, 400):
                    return trial
            except Unreachable:
                break
        return None

    def _speaks_current(self, door: Door) -> bool | None:
        """Whether the hub knows ``match``; asked with a token of 0.x, which it accepts."""
        token = trials.old_token(self._read, "subscribe", self._topic)
        if token is None:
            return None
        try:
            status = self.status(door, "subscribe", token, "1.0")
        except Unreachable:
            return None
        return {200: True, 400: False}.get(status)


def _generation(trial: Trial) -> Protocol | None:
    """A token of the other generation comes with the parameters of that."""
    if trial.cause is not Cause.GENERATION:
        return None
    return "0.x" if trial.value == "0.x" else "1.0"
