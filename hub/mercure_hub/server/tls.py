"""The TLS context of a hub that terminates TLS itself, and its renewal."""

from __future__ import annotations

import logging
import ssl

from mercure_hub.config.settings import SettingError, Settings
from mercure_hub.fanout.kernel_tls import KernelTlsServer, obstacle
from mercure_hub.fanout.tls import TlsServer

_log = logging.getLogger("mercure_hub.server")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context for the configured certificate; ``None`` without one.

    :raises SettingError: the certificate cannot be used.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9113 section 9.2.1
    _load(context, settings)
    return context


def tls_server(settings: Settings) -> TlsServer | None:
    """What begins TLS with the configured certificate; ``None`` without one.

    :raises SettingError: the certificate cannot be used.
    """
    context = tls_context(settings)
    if context is None:
        return None
    reason = obstacle(context)
    if reason:
        _log.info("the hub itself seals TLS, the kernel does not: %s", reason)
        return TlsServer(context)
    _log.info("the kernel seals TLS (kTLS)")
    return KernelTlsServer(context)


def renew(server: TlsServer, settings: Settings) -> None:
    """Use the certificate that the files contain now, for new connections.

    :raises SettingError: it cannot be used; the previous one stays.
    """
    tls_context(settings)  # first into an unused context: certificate and key must change together
    _load(server.context, settings)


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    files = " and ".join(repr(path) for path in (settings.tls_cert, settings.tls_key) if path)
    try:
        # With an empty passphrase OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password="")
    except ssl.SSLError:
        raise SettingError(
            f"MERCURE_TLS_CERT: {files} cannot be used: something in it is not PEM, certificate and key do "
            "not belong together, or the key has a passphrase"
        ) from None
    except OSError as error:
        raise SettingError(f"MERCURE_TLS_CERT: {files} cannot be read: {error.strerror}") from None
