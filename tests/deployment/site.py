"""A private Apache in Debian's layout with the files of docs/apache, and a hub as a process."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from pathlib import Path

from mercure_hub.protocol.tokens.asymmetric import generate_pair
from tests.certificates import self_signed
from tests.deployment.front import Front, free_ports, is_listening, wait_until
from tests.examples.browser import end
from tests.hub.running import SECRET, RunningHub

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "docs" / "apache"
PAGE = ROOT / "docs" / "deployment.md"
DEBIAN = Path("/etc/apache2")
SYSTEM_PYTHON = Path("/usr/bin/python3")  # mod_wsgi of Debian is built for it
TOPIC = "https://example.com/orders/42"

# What Debian switches on for a new Apache.
_DEFAULT_MODULES = (
    *("access_compat", "alias", "auth_basic", "authn_core", "authn_file", "authz_core", "authz_host"),
    *("authz_user", "autoindex", "deflate", "dir", "env", "filter", "mime", "mpm_event", "negotiation"),
    *("reqtimeout", "setenvif", "status", "socache_shmcb"),
)

APPLICATION = """
import os

from flask import Flask, make_response, request

from flask_mercure import Mercure

application = Flask(__name__)
application.config.from_pyfile(os.path.join(os.path.dirname(__file__), "settings.py"))
mercure = Mercure(application)


@application.get("/")
def page():
    return mercure.url("https://example.com/orders/42")


@application.get("/login")
def login():
    return mercure.set_cookie(make_response("welcome"), subscribe=["https://example.com/orders/42"])


@application.post("/pay")
def pay():
    return mercure.publish("https://example.com/orders/42", request.form["state"], private=True)
"""


class Apache(Front):
    """A server of our own, in Debian's layout."""

    def reload(self) -> None:
        """What ``systemctl reload apache2`` does, as logrotate has it done each day."""
        assert self.child is not None
        before = self.log().count("resuming normal operations")
        self.child.send_signal(signal.SIGUSR1)
        wait_until(lambda: self.log().count("resuming normal operations") > before, "no reload")


def modules_of_the_page() -> list[str]:
    """What docs/deployment.md tells its reader to enable."""
    found = re.search(r"^ *(?:sudo )?a2enmod (.+)$", PAGE.read_text(), re.MULTILINE)
    assert found
    return found[1].split()


def requirements() -> list[str]:
    """What ``pip install .`` brings along."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["options"]["install_requires"].split()


def fill_in(text: str, replacements: Mapping[str, str]) -> str:
    """Put names, ports and paths into a file as it is shipped; each of them must occur."""
    for old, new in replacements.items():
        assert old in text, f"{old} is not in the shipped file"
        text = text.replace(old, new)
    return text


@contextmanager
def shared_environment(shared: Path) -> Iterator[Path]:
    """The virtual environment with the Python of mod_wsgi: the first worker makes it, the last removes it.

    :param shared: a folder that all workers of the tests have.
    """
    with (shared / "environment.users").open("a") as users, (shared / "environment").open("a+") as file:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        folder = Path(file.read() or tempfile.mkdtemp(prefix="mercure-apache-"))
        if not (folder / "ready").exists():
            file.truncate(0)
            file.write(str(folder))
            file.flush()
            folder.chmod(0o755)
            make_environment(folder)
            (folder / "ready").touch()
        fcntl.flock(file, fcntl.LOCK_UN)
        yield folder / "venv"
        with suppress(BlockingIOError):  # others use it
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            shutil.rmtree(folder)


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A folder that www-data may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="mercure-apache-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def make_environment(folder: Path) -> None:
    """The virtual environment, with the Python that mod_wsgi has."""
    venv = folder / "venv"
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet"),
            *("--disable-pip-version-check", "--no-compile", "--root-user-action=ignore"),
            *requirements(),
        ],
        check=True,
    )
    (site_packages,) = venv.glob("lib/python3*/site-packages")
    for package in (
        ROOT / "flask_mercure",
        ROOT / "hub" / "mercure_hub",
    ):  # a build would leave files in the clone
        shutil.copytree(package, site_packages / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def make_sources(folder: Path) -> None:
    """The application, its key pair, and a certificate."""
    (folder / "wsgi.py").write_text(APPLICATION)
    private, public = generate_pair("rsa")
    (folder / "private.pem").write_text(private)
    (folder / "public.pem").write_text(public)
    self_signed(folder)


@contextmanager
def running_apache(
    shop: Path, hub_port: int, fragment: str = "mercure.conf", path: str = "/.well-known/mercure"
) -> Iterator[Apache]:
    """Run Apache with the shipped site, one of the fragments for the hub and the shipped MPM settings.

    :param shop: folder of ``make_application``.
    :param hub_port: where the hub listens.
    :param fragment: file in docs/apache.
    :param path: of the hub's public URL.
    """
    with readable_folder() as folder:
        http, https = free_ports(2)
        apache = Apache(folder, http, https, path)
        _lay_out(apache, shop, hub_port, fragment)
        (shop / "settings.py").write_text(
            application_settings(apache, shop, hub_port, is_tls="tls" in fragment)
        )
        with (folder / "log" / "output").open("wb") as output:
            apache.child = subprocess.Popen(
                ["/usr/sbin/apache2", "-d", folder, "-f", "apache2.conf", "-DFOREGROUND"],
                env={"PATH": os.environ["PATH"], "LANG": "C", **_environment(folder)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        child = apache.child
        try:
            wait_until(lambda: is_listening(https) or child.poll() is not None, "Apache does not listen")
            assert child.poll() is None, apache.log("output") + apache.log()
            yield apache
        finally:
            end(child)


def _environment(folder: Path) -> dict[str, str]:
    return {
        "APACHE_RUN_USER": "www-data",
        "APACHE_RUN_GROUP": "www-data",
        "APACHE_PID_FILE": str(folder / "run" / "apache2.pid"),
        "APACHE_RUN_DIR": str(folder / "run"),
        "APACHE_LOCK_DIR": str(folder / "run"),
        "APACHE_LOG_DIR": str(folder / "log"),
    }


def _lay_out(apache: Apache, shop: Path, hub_port: int, shipped: str) -> None:
    """Write what stands in /etc/apache2 on Debian."""
    folder = apache.folder
    for name in ("mods-enabled", "conf-enabled", "sites-enabled", "run", "log"):
        (folder / name).mkdir()
    shutil.copy(DEBIAN / "apache2.conf", folder)
    for module in (*_DEFAULT_MODULES, *modules_of_the_page()):
        for file in (DEBIAN / "mods-available").glob(f"{module}.*"):
            (folder / "mods-enabled" / file.name).symlink_to(file)
    (folder / "ports.conf").write_text(
        f"Listen 127.0.0.1:{apache.http}\nListen 127.0.0.1:{apache.https}\nServerName 127.0.0.1\n"
        f"WSGISocketPrefix {folder}/run/wsgi\n"
    )
    shutil.copy(SHIPPED / "mpm.conf", folder / "conf-enabled")
    # A site that compresses everything: the hub's streams have to be left alone.
    (folder / "conf-enabled" / "compress.conf").write_text(
        '<Location "/">\n    SetOutputFilter DEFLATE\n</Location>\n'
    )
    replacements = {"127.0.0.1:3000": f"127.0.0.1:{hub_port}"}
    if "tls" in shipped:
        replacements["/etc/mercure/ca.pem"] = str(shop / "self-signed.pem")
    fragment = folder / shipped
    fragment.write_text(fill_in((SHIPPED / shipped).read_text(), replacements))
    site = fill_in(
        (SHIPPED / "site.conf").read_text(),
        {
            "example.com/fullchain.pem": "fullchain.pem",
            "example.com/privkey.pem": "privkey.pem",
            "/etc/ssl/fullchain.pem": str(shop / "self-signed.pem"),
            "/etc/ssl/privkey.pem": str(shop / "self-signed.pem"),
            "/etc/apache2/mercure/mercure.conf": str(fragment),
            "/srv/shop": str(shop),
            "example.com": "127.0.0.1",
            "*:443": f"*:{apache.https}",
            "*:80": f"*:{apache.http}",
        },
    )
    # The site sends those without TLS to https; here they may come in, for one of the tests.
    site, count = re.subn(r'Redirect permanent .*"', f'Include "{fragment}"', site)
    assert count == 1
    (folder / "sites-enabled" / "site.conf").write_text(site)


def application_settings(front: Front, shop: Path, hub_port: int, *, is_tls: bool) -> str:
    """The application's configuration, as a Python file."""
    scheme = "https" if is_tls else "http"
    lines = {
        "MERCURE_PUBLIC_URL": front.public_url,
        "MERCURE_URL": f"{scheme}://127.0.0.1:{hub_port}/.well-known/mercure",
        "MERCURE_JWT_SECRET": f"@{shop}/private.pem",
    }
    if is_tls:
        lines["MERCURE_VERIFY_TLS"] = str(shop / "self-signed.pem")
    return "".join(f"{name} = {value!r}\n" for name, value in lines.items())


@contextmanager
def hub_process(
    folder: Path, port: int, public_url: str, shop: Path, **variables: str
) -> Iterator[RunningHub]:
    """Run ``mercure-hub`` with the environment of docs/systemd, and the public key of the application.

    :returns: the hub as seen on its own port.
    """
    shipped = fill_in(
        (ROOT / "docs" / "systemd" / "hub.env").read_text(),
        {"https://example.com/.well-known/mercure": public_url, "/etc/mercure": str(shop)},
    )
    environment = {
        "PATH": os.environ["PATH"],
        **dict(line.split("=", 1) for line in shipped.splitlines() if line and line[0] != "#"),
        "MERCURE_LISTEN": f"127.0.0.1:{port}",
        "MERCURE_TRANSPORT_URL": f"sqlite:///{folder}/hub.db",
        **variables,
    }
    log = folder / "hub.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "mercure_hub"], env=environment, stderr=output, cwd=ROOT
        )
    try:
        wait_until(lambda: is_listening(port) or child.poll() is not None, "the hub does not listen")
        assert child.poll() is None, log.read_text()
        yield RunningHub(port, "https" if "MERCURE_TLS_CERT" in variables else "http", SECRET)
    finally:
        end(child)
