"""Proxies that speak HTTP/2 to the hub, with no more in their files than that takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deployment.front import is_listening, wait_until
from tests.deployment.site import readable_folder
from tests.examples.browser import end
from tests.hub.running import HUB_PATH

MODULES = Path("/usr/lib/apache2/modules")


@dataclass(frozen=True)
class Proxy:
    """A kind of proxy.

    :param package: of Debian.
    :param text: of its file, from its port, the hub's and the hub's certificate.
    :param command: that runs it, from its file.
    :param is_tls: it speaks TLS with the hub.
    """

    package: str
    text: Callable[[int, int, str], str]
    command: Callable[[Path], list[str]]
    is_tls: bool = False


def _apache(scheme: str) -> Callable[[int, int, str], str]:
    def text(port: int, hub: int, certificate: str) -> str:
        modules = ["mpm_event", "authz_core", "ssl", "proxy", "proxy_http2"]
        loaded = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in modules)
        trust = f'SSLProxyEngine on\nSSLProxyCACertificateFile "{certificate}"\nSSLProxyCheckPeerName off\n'
        return (
            f"{loaded}ServerName 127.0.0.1\nListen 127.0.0.1:{port}\nErrorLog error.log\nPidFile pid\n"
            f"DefaultRuntimeDir .\nUser www-data\nGroup www-data\n{trust if certificate else ''}"
            f"ProxyPass {HUB_PATH} {scheme}://127.0.0.1:{hub}{HUB_PATH} timeout=3600 flushpackets=on\n"
        )

    return text


def _caddy(port: int, hub: int, _: str) -> str:
    options = "{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}\n"
    return f"{options}http://127.0.0.1:{port} {{\n\treverse_proxy h2c://127.0.0.1:{hub}\n}}\n"


def _haproxy(port: int, hub: int, _: str) -> str:
    return (
        f"defaults\n    mode http\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n"
        "    option http-no-delay\n"
        f"frontend site\n    bind 127.0.0.1:{port}\n    default_backend hub\n"
        f"backend hub\n    server hub 127.0.0.1:{hub} proto h2 ws h1\n"
    )


def _run_apache(file: Path) -> list[str]:
    return ["/usr/sbin/apache2", "-d", str(file.parent), "-f", str(file), "-DFOREGROUND"]


PROXIES = {
    "Apache, h2c": Proxy("apache2", _apache("h2c"), _run_apache),
    "Apache, h2": Proxy("apache2", _apache("h2"), _run_apache, is_tls=True),
    "Caddy, h2c": Proxy(
        "caddy", _caddy, lambda file: ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]
    ),
    "HAProxy": Proxy("haproxy", _haproxy, lambda file: ["/usr/sbin/haproxy", "-db", "-f", str(file)]),
}


@contextmanager
def running_proxy(kind: Proxy, port: int, hub: int, certificate: str) -> Iterator[None]:
    """Run a proxy in front of a hub.

    :param port: where the proxy listens, without TLS.
    :param hub: the port of the hub.
    :param certificate: of the hub, as a file.
    """
    with readable_folder() as folder:
        file = folder / "file"
        file.write_text(kind.text(port, hub, str(shutil.copy(certificate, folder)) if certificate else ""))
        log = folder / "output"
        with log.open("wb") as output:
            child = subprocess.Popen(
                kind.command(file),
                env={"HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: is_listening(port) or child.poll() is not None, "the proxy does not listen")
            assert child.poll() is None, log.read_text()
            yield
        finally:
            end(child)
