"""The TLS context of a hub that ends TLS itself, and its renewal."""

from __future__ import annotations

import ssl

from mercure_hub.config.settings import SettingError, Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context for the certificate of the settings; ``None`` without one.

    :raises SettingError: the certificate cannot be used.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings)
    return context


def renew(context: ssl.SSLContext, settings: Settings) -> None:
    """Use the certificate that the files hold now, for the connections to come.

    :raises SettingError: it cannot be used; the one from before goes on.
    """
    tls_context(settings)  # first into one that nobody uses: half of a pair must not stay
    _load(context, settings)


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    files = " and ".join(repr(path) for path in (settings.tls_cert, settings.tls_key) if path)
    try:
        # An empty passphrase: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password="")
    except ssl.SSLError:
        raise SettingError(
            f"MERCURE_TLS_CERT: {files} cannot be used: something in it is not PEM, certificate and key do "
            "not belong together, or the key has a passphrase"
        ) from None
    except OSError as error:
        raise SettingError(f"MERCURE_TLS_CERT: {files} cannot be read: {error.strerror}") from None
