"""A private Caddy with the file that ``mercure-hub install`` prints."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mercure_hub.tools.installation.pieces import Layout, render
from tests.deployment.front import Front, free_ports, is_listening, wait_until
from tests.deployment.nginx import application_process
from tests.deployment.site import application_settings, fill_in, readable_folder
from tests.examples.browser import end


@dataclass
class Caddy(Front):
    """A server of our own.

    :param admin: port that takes commands.
    """

    admin: int = 0

    def reload(self) -> None:
        """What ``systemctl reload caddy`` does."""
        done = subprocess.run(
            [
                *("caddy", "reload", "--force", "--adapter", "caddyfile"),
                *("--config", self.folder / "Caddyfile", "--address", f"127.0.0.1:{self.admin}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running_caddy(
    shop: Path, hub_port: int, path: str = "/.well-known/mercure", *, is_tls: bool = False
) -> Iterator[Caddy]:
    """Run Caddy with the site and the hub, and the application under gunicorn.

    :param shop: folder of ``make_sources``.
    :param hub_port: where the hub listens.
    :param path: of the hub's public URL.
    :param is_tls: the hub has the certificate of ``shop``.
    """
    with readable_folder() as folder, ExitStack() as stack:
        http, https, upstream, admin = free_ports(4)
        caddy = Caddy(folder, http, https, path, admin)
        pem = str(shop / "self-signed.pem")
        layout = Layout(
            public_url=caddy.public_url,
            port=hub_port,
            authority=pem if is_tls else "",
            upstream=f"127.0.0.1:{upstream}",
            certificate=pem,
            certificate_key=pem,
        )
        _lay_out(caddy, layout)
        (shop / "settings.py").write_text(application_settings(caddy, shop, hub_port, is_tls=is_tls))
        stack.enter_context(application_process(shop, upstream))
        with (folder / "log" / "error.log").open("wb") as output:
            caddy.child = child = subprocess.Popen(
                ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"],
                env={"HOME": str(folder), "PATH": str(Path(shutil.which("caddy") or "").parent)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: is_listening(https) or child.poll() is not None, "Caddy does not listen")
            assert child.poll() is None, caddy.log()
            yield caddy
        finally:
            end(child)


def _lay_out(caddy: Caddy, layout: Layout) -> None:
    (caddy.folder / "log").mkdir()
    text = render("caddy", layout)
    options = (
        f"{{\n\tadmin 127.0.0.1:{caddy.admin}\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n}}\n"
    )
    site = f"127.0.0.1:{caddy.https} {{"
    # A site without TLS, for one of the tests; Caddy would send people to https.
    plain = fill_in(text, {site: f"http://127.0.0.1:{caddy.http} {{"})
    secure = fill_in(text, {"# tls /": "tls /"})
    (caddy.folder / "Caddyfile").write_text(options + secure + plain)
