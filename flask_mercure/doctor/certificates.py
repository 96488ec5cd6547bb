"""What a certificate says, and what that means for the app and for browsers."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from flask_mercure.doctor.connection import Endpoint, Unreachable
from flask_mercure.doctor.findings import Finding, Symptom, app, hub, ok, problem, warning

_SOON = timedelta(days=14)
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_WRONG_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a server.

    :param names: the DNS names and addresses that it names.
    :param not_before: when it becomes valid.
    :param not_after: when it expires.
    :param is_self_signed: its own key has signed it.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_self_signed: bool

    def is_for(self, host: str) -> bool:
        """Whether a host is among the names (RFC 6125 section 6.4)."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            parent = host.lower().partition(".")[2]
            return any(
                name.lower() == host.lower() or (parent and name.lower() == f"*.{parent}")
                for name in self.names
            )
        return str(address) in self.names


def parse(der: bytes) -> Certificate | None:
    """Read a certificate; ``None`` for one that cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names: list[str] = []
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names += extension.get_values_for_type(x509.DNSName)
            names += map(str, extension.get_values_for_type(x509.IPAddress))
        except x509.ExtensionNotFound:
            pass
        return Certificate(
            tuple(names),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            certificate.issuer == certificate.subject,
        )
    except ValueError:
        return None


def accepted(endpoint: Endpoint, served: Certificate | None, now: float) -> Finding:
    """A certificate that was verified."""
    if served is None:
        return ok("tls", f"the certificate of {endpoint.host} is trusted")
    left = served.not_after - datetime.fromtimestamp(now, UTC)
    until = f"{served.not_after:%Y-%m-%d}"
    if left < _SOON:
        return warning(
            "tls",
            f"the certificate of {endpoint.host} expires in {left.days} days, on {until}: renew it, and "
            "restart the server that uses it",
            Symptom.CERTIFICATE_EXPIRED,
        )
    return ok("tls", f"the certificate of {endpoint.host} is trusted, until {until}")


def refused(
    endpoint: Endpoint,
    error: Unreachable,
    served: Certificate | None,
    now: float,
    *,
    verify: bool | str,
    by_browsers: bool,
) -> Finding:
    """A certificate that was not accepted.

    :param error: of the handshake.
    :param served: the certificate, as far as it is known.
    :param now: seconds since the epoch.
    :param verify: ``MERCURE_VERIFY_TLS``.
    :param by_browsers: it is the public one, with which the app has nothing to do.
    """
    what = f"{'browsers refuse' if by_browsers else 'the app refuses'} the certificate of {endpoint.named}"
    if served is not None and (error.code == _EXPIRED or served.not_after.timestamp() < now):
        return problem(
            "tls",
            f"{what}: it ended on {served.not_after:%Y-%m-%d}. Renew it, and restart the server that uses it",
            Symptom.CERTIFICATE_EXPIRED,
            hub("MERCURE_TLS_CERT=<the new certificate with its chain>, if the hub itself ends TLS"),
        )
    if error.code == _NOT_YET:
        return problem(
            "tls", f"{what}: it is not valid yet. Is the clock of this machine right?", Symptom.CLOCK
        )
    if served is not None and (error.code in _WRONG_HOST or not served.is_for(endpoint.host)):
        return problem(
            "tls",
            f"{what}: it is for {', '.join(served.names[:5]) or 'no host'}, not for {endpoint.host}",
            Symptom.CERTIFICATE,
            app(f'{endpoint.setting} = "<the URL with a host that the certificate names>"'),
        )
    if error.code == 0:
        return problem(
            "tls",
            f"no TLS with {endpoint.named}: {error.reason}",
            Symptom.CERTIFICATE,
            app(f'{endpoint.setting} = "{endpoint.url.replace("https:", "http:", 1)}"'),
            hub("MERCURE_TLS_CERT=… and MERCURE_TLS_KEY=…, if it should speak TLS"),
        )
    signed = "it is self-signed" if served is not None and served.is_self_signed else error.reason
    if by_browsers:
        return problem(
            "tls",
            f"{what}: {signed}. Use one of a public authority; in development, one of an authority that "
            "browsers and this machine trust (mkcert)",
            Symptom.CERTIFICATE,
            app('MERCURE_VERIFY_TLS = "/path/of/that/ca.pem"'),
        )
    line = 'MERCURE_VERIFY_TLS = "/path/of/its/ca.pem"  # of a self-signed one, the certificate itself'
    if verify is not True:
        line = f"MERCURE_VERIFY_TLS = {verify!r}  # is not the file that signed this certificate"
    return problem("tls", f"{what}: {signed}", Symptom.CERTIFICATE, app(line))


def unreadable(verify: bool | str, error: OSError) -> Finding:
    """``MERCURE_VERIFY_TLS`` names something that is not a file of certificates."""
    return problem(
        "tls",
        f"MERCURE_VERIFY_TLS is {verify!r}, which cannot be read as certificates: {error.strerror or error}",
        Symptom.CERTIFICATE,
        app('MERCURE_VERIFY_TLS = "/path/of/the/ca.pem"'),
    )


def only_for_the_app(endpoint: Endpoint, verify: bool | str) -> Finding:
    """The public certificate is accepted with the app's own rules only."""
    how = "is not verified (MERCURE_VERIFY_TLS is False)" if verify is False else f"is trusted by {verify}"
    return warning(
        "tls",
        f"the certificate of {endpoint.named} {how}, and by nobody else: a browser refuses it unless the "
        "authority is imported there, and an EventSource shows no page to click through",
        Symptom.CERTIFICATE,
    )


def unverified(endpoint: Endpoint) -> Finding:
    """The app does not verify the certificate."""
    return warning(
        "tls",
        f"the app does not verify the certificate of {endpoint.named}: any server that answers there gets "
        "the app's tokens",
        Symptom.CERTIFICATE,
        app('MERCURE_VERIFY_TLS = "/path/of/its/ca.pem"'),
    )
