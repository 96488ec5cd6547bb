"""A private nginx in Debian's layout, with the files that ``mercure-hub install`` prints."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mercure_hub.tools.installation.pieces import Layout, render
from tests.deployment.front import Front, free_ports, is_listening, wait_until
from tests.deployment.site import ROOT, application_settings, fill_in, readable_folder
from tests.examples.browser import end

DEBIAN = Path("/etc/nginx")
PROGRAM = Path("/usr/sbin/nginx")


class Nginx(Front):
    """A server of our own."""

    def reload(self) -> None:
        """What ``systemctl reload nginx`` does."""
        assert self.child is not None
        before = self.log().count("start worker process ")
        self.child.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count("start worker process ") > before, "no reload")


@contextmanager
def application_process(shop: Path, port: int, *, uwsgi: bool = False) -> Iterator[None]:
    """Run the application with the command that stands in the shipped file.

    :param shop: folder of ``make_sources``, with the settings.
    :param uwsgi: under uWSGI, with its own protocol, instead of gunicorn.
    """
    address = f"127.0.0.1:{port}"
    programs = Path(sys.executable).parent
    command: list[str | Path] = [
        *(programs / "gunicorn", "--bind", address, "--threads", "4"),
        *("--pythonpath", ROOT, "wsgi:application"),
    ]
    if uwsgi:
        command = [
            *(programs / "uwsgi", "--socket", address, "--module", "wsgi:application"),
            *(
                "--master",
                "--threads",
                "4",
                "--die-on-term",
                "--no-orphans",
                "--need-app",
                "--pythonpath",
                ROOT,
            ),
            *("--virtualenv", sys.prefix, "--pythonpath", shop),
        ]
    log = shop / "application.log"
    with log.open("wb") as output:
        child = subprocess.Popen(command, cwd=shop, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: is_listening(port) or child.poll() is not None, "no application")
        assert child.poll() is None, log.read_text()
        yield
    finally:
        end(child)


@contextmanager
def running_nginx(
    shop: Path,
    hub_port: int,
    path: str = "/.well-known/mercure",
    *,
    uwsgi: bool = False,
    is_tls: bool = False,
) -> Iterator[Nginx]:
    """Run nginx with the site and the hub's fragment, and the application behind it.

    :param shop: folder of ``make_sources``.
    :param hub_port: where the hub listens.
    :param path: of the hub's public URL.
    :param uwsgi: for the application, instead of gunicorn.
    :param is_tls: the hub has the certificate of ``shop``.
    """
    with readable_folder() as folder, ExitStack() as stack:
        http, https, upstream = free_ports(3)
        nginx = Nginx(folder, http, https, path)
        pem = str(shop / "self-signed.pem")
        layout = Layout(
            public_url=nginx.public_url,
            port=hub_port,
            authority=pem if is_tls else "",
            upstream=f"127.0.0.1:{upstream}",
            certificate=pem,
            certificate_key=pem,
        )
        _lay_out(nginx, layout, uwsgi=uwsgi)
        (shop / "settings.py").write_text(application_settings(nginx, shop, hub_port, is_tls=is_tls))
        stack.enter_context(application_process(shop, upstream, uwsgi=uwsgi))
        with (folder / "log" / "output").open("wb") as output:
            nginx.child = child = subprocess.Popen(
                [PROGRAM, "-p", folder, "-c", folder / "nginx.conf", "-g", "daemon off;"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: is_listening(https) or child.poll() is not None, "nginx does not listen")
            assert child.poll() is None, nginx.log("output")
            assert "warn" not in nginx.log("output")
            yield nginx
        finally:
            end(child)


def _lay_out(nginx: Nginx, layout: Layout, *, uwsgi: bool) -> None:
    """Write what stands in /etc/nginx on Debian."""
    folder = nginx.folder
    for name in ("conf.d", "sites-enabled", "log", "temp"):
        (folder / name).mkdir()
    for name in ("mime.types", "uwsgi_params"):
        shutil.copy(DEBIAN / name, folder)
    main = fill_in(
        (DEBIAN / "nginx.conf").read_text(),
        {
            "include /etc/nginx/modules-enabled/*.conf;": "",
            "/run/nginx.pid": f"{folder}/nginx.pid",
            "/var/log/nginx": f"{folder}/log",
            "/etc/nginx/mime.types": f"{folder}/mime.types",
            "/etc/nginx/conf.d": f"{folder}/conf.d",
            "/etc/nginx/sites-enabled": f"{folder}/sites-enabled",
            # What docs/deployment.md says for 1,000 streams.
            "worker_connections 768;": "worker_connections 4096;",
            "worker_processes auto;": "worker_processes auto;\nworker_rlimit_nofile 8192;",
            f"error_log {folder}/log/error.log;": f"error_log {folder}/log/error.log notice;",
        },
    )
    if os.geteuid() != 0:
        main = fill_in(main, {"user www-data;": ""})
    (folder / "nginx.conf").write_text(main)
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "conf.d" / "site.conf").write_text(
        "gzip_types *;\n"  # a site that compresses everything: the hub's streams have to be left alone
        + "".join(f"{name}_temp_path {folder}/temp/{name};\n" for name in temporary)
    )
    # The certificate names no address that nginx would compare with.
    fragment = render("nginx", layout).replace("proxy_ssl_name 127.0.0.1;", "proxy_ssl_name localhost;")
    (folder / "mercure.conf").write_text(fragment)
    site = fill_in(
        render("nginx-site", layout),
        {
            "/etc/nginx/mercure.conf": f"{folder}/mercure.conf",
            "listen 80;": f"listen 127.0.0.1:{nginx.http};",
            "listen 443 ssl;": f"listen 127.0.0.1:{nginx.https} ssl;",
            # The site sends those without TLS to https; here they may come in, for one of the tests.
            "return 301 https://$host$request_uri;": f"include {folder}/mercure.conf;",
            # What many sites have, and what would keep the hub away.
            "    location / {": "    location ~ /\\. {\n        deny all;\n    }\n\n    location / {",
        },
    )
    if uwsgi:
        kept = [line for line in site.splitlines() if f"http://{layout.upstream}" not in line]
        site = fill_in("\n".join(kept), {"# include uwsgi": "include uwsgi", "# uwsgi_pass": "uwsgi_pass"})
    (folder / "sites-enabled" / "site.conf").write_text(site)
