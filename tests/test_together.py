"""The extension and the hub together: what the README promises, without a browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask, make_response
from flask.testing import FlaskClient

from flask_mercure import Grants, HubUnreachable, Mercure, PublishError, URITemplate, URLPattern
from flask_mercure.extension import state_of
from mercure_hub.protocol.tokens.asymmetric import generate_pair
from mercure_hub.protocol.tokens.keys import generate_secret
from tests.certificates import self_signed
from tests.hub.running import SECRET, RunningHub, running_hub
from tests.server.test_upgrade import wait_for_lines
from tests.server.test_workers import ENOUGH, workers

pytestmark = pytest.mark.minutes


def application(hub: RunningHub, **config: Any) -> tuple[Flask, Mercure]:
    """An application with the hub's secret."""
    app = Flask("together")
    app.config.update(MERCURE_URL=hub.url, MERCURE_JWT_SECRET=SECRET, **config)
    mercure = Mercure(app)

    @app.get("/login")
    def login() -> Any:
        response = make_response("hello")
        topics: list[str | URLPattern] = ["users/1", URLPattern("https://example.com/books/:id")]
        return mercure.set_cookie(response, subscribe=topics, payload={"name": "Ada"})

    return app, mercure


def cookie_of(app: Flask, hub: RunningHub) -> str:
    """What a browser would send to the hub after signing in."""
    client = app.test_client()
    assert client.get("/login", base_url=f"{hub.scheme}://127.0.0.1:5000").status_code == 200
    cookie = client.get_cookie(
        "__Secure-mercure_access_token", domain="127.0.0.1", path="/.well-known/mercure"
    )
    assert cookie is not None
    assert cookie.secure
    assert cookie.http_only
    assert cookie.same_site == "Strict"
    return f"{cookie.key}={cookie.value}"


@pytest.mark.parametrize("protocol", ["1.0", "both"])
def test_publish_and_receive_by_cookie(folder: Path, protocol: str) -> None:
    with running_hub(folder, protocol=protocol, subscriptions=1) as hub:
        app, mercure = application(hub)
        query = {"match": "users/1", "match_urlpattern": "https://example.com/books/:id"}
        stream = hub.subscribe(query, Cookie=cookie_of(app, hub))
        with app.app_context():
            id_ = mercure.publish("users/1", {"état": "payé"}, private=True, type="order", retry=900)
            mercure.publish(["users/2", "https://example.com/books/7"], "<b>text</b>", private=True)
            mercure.publish("users/2", "not for this one", private=True)
            mercure.publish("users/1", "public", id="urn:own", private=False)
        events = [stream.next() for _ in range(3)]
        assert (events[0].id, events[0].type) == (id_, "order")
        assert app.json.loads(events[0].data) == {"état": "payé"}
        assert [event.data for event in events[1:]] == ["<b>text</b>", "public"]
        assert events[2].id == "urn:own"


def test_publish_and_receive_in_the_earlier_generation(folder: Path) -> None:
    with running_hub(folder, protocol="0.x") as hub:
        app, mercure = application(hub, MERCURE_PROTOCOL="0.x")
        with app.test_request_context():
            token = mercure.create_token(subscribe=[URITemplate("https://example.com/{id}")])
            stream = hub.subscribe({"topic": "https://example.com/{id}"}, token)
            mercure.publish("https://example.com/1", "x", private=True)
            assert stream.take(1) == ["x"]


def test_publish_to_an_internal_url_and_receive_by_the_public_one(folder: Path) -> None:
    public = "https://example.com/.well-known/mercure"
    with running_hub(folder, public_url=public) as hub:
        app, mercure = application(hub, MERCURE_PUBLIC_URL=public)
        with app.test_request_context(base_url="https://example.com"):
            assert mercure.url(["a b"]) == public + "?match=a%20b" or "a+b" in mercure.url(["a b"])
            stream = hub.subscribe({"match": "a"}, mercure.create_token(subscribe=["a"]))
            mercure.publish("a", "x", private=True)
            assert stream.take(1) == ["x"]


@pytest.mark.parametrize("configured", [True, False])
def test_only_the_apps_own_tokens_name_the_internal_url(folder: Path, configured: bool) -> None:
    """A hub that has its public URL from its settings, and one that has it from the request's Host."""
    public = "http://hub.example/.well-known/mercure"
    settings: dict[str, Any] = {"public_url": public} if configured else {}
    with running_hub(folder, subscriptions=1, **settings) as hub:
        app, mercure = application(hub, MERCURE_PUBLIC_URL=public)
        with app.app_context():
            token = mercure.create_token(subscribe=["a"])
            aud = jwt.decode(token, options={"verify_signature": False})["aud"]
            assert (public in aud, [one for one in aud if str(hub.port) in one]) == (True, [])
            browser = hub.subscribe({"match": "a"}, token, Host="hub.example")
            with mercure.subscribe("a", timeout=10) as events:
                id_ = mercure.publish("a", "x", private=True)
                assert next(events).id == browser.next().id == id_
                assert {one.topic for one in mercure.subscriptions()} == {"a"}


def test_publish_and_receive_with_a_key_pair(folder: Path) -> None:
    private, public = generate_pair("rsa")
    with running_hub(folder, publisher_jwt_key=public) as hub:
        app, mercure = application(hub)
        app.extensions.clear()
        app.config["MERCURE_JWT_SECRET"] = private
        mercure.init_app(app)
        with app.app_context():
            assert mercure.publish("a", "x", private=False)


def test_publish_over_https_with_its_own_certificate(folder: Path) -> None:
    certificate = self_signed(folder)
    with running_hub(folder, tls_cert=certificate) as hub:
        app, mercure = application(hub, MERCURE_VERIFY_TLS=str(certificate))
        stream = hub.subscribe({"match": "users/1"}, Cookie=cookie_of(app, hub))
        with app.app_context():
            mercure.publish("users/1", "x", private=True)
        assert stream.take(1) == ["x"]
        distrustful, mercure = application(hub)
        with distrustful.app_context(), pytest.raises(HubUnreachable, match="MERCURE_VERIFY_TLS"):
            mercure.publish("users/1", "x", private=False)


def test_what_refuses_says_what_to_compare(hub: RunningHub) -> None:
    app, mercure = application(hub, MERCURE_ISSUER="urn:another")
    with app.app_context(), pytest.raises(PublishError, match="MERCURE_ISSUER='urn:another'") as caught:
        mercure.publish("a", "x", private=False)
    assert caught.value.status == 401
    with app.app_context(), pytest.raises(PublishError) as caught:
        mercure.publish("mercure", "x", private=False)
    assert caught.value.status == 401 or "namespace" in str(caught.value)


def test_the_tutorial_works(folder: Path) -> None:
    """Its application is started as it stands, and behaves as the page says."""
    page = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text()
    source = page.split("```python\n")[1].split("```")[0]
    (folder / "app.py").write_text(source)
    with running_hub(folder) as hub:
        check = (
            "from app import app\n"
            f"app.extensions.clear(); app.config['MERCURE_URL'] = {hub.url!r}\n"
            "import app as module\n"
            "module.mercure.init_app(app)\n"
            "client = app.test_client()\n"
            "page = client.get('/', base_url='http://127.0.0.1:5000')\n"
            "assert 'match=orders%2F42' in page.text, page.text\n"
            "print(page.headers['Set-Cookie'].split(';')[0])\n"
            "assert client.post('/pay', base_url='http://127.0.0.1:5000').status_code == 204\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", check],
            env={"PATH": os.environ["PATH"], "FLASK_MERCURE_JWT_SECRET": SECRET},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        stream = hub.subscribe(
            {"match": "orders/42", "last_event_id": "earliest"}, Cookie=done.stdout.strip()
        )
        assert stream.take(1) == ['{"state": "paid"}']


def test_the_commands_of_flask_mercure_work(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        (folder / "app.py").write_text(
            "from flask import Flask\nfrom flask_mercure import Mercure\napp = Flask(__name__)\n"
            f"app.config.update(MERCURE_URL={hub.url!r}, MERCURE_JWT_SECRET={SECRET!r})\nMercure(app)\n"
        )

        def flask(*arguments: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "app", "mercure", *arguments],
                cwd=folder,
                env={"PATH": os.environ["PATH"]},
                stdout=subprocess.PIPE,
                text=True,
            )

        with flask("publish", "a/b", "--data", "first") as publishing:
            id_ = publishing.communicate()[0].strip()
            assert id_.startswith("urn:uuid:")
        with flask("token", "--subscribe", "a/b") as minting:
            token = minting.communicate()[0].strip()
        assert hub.subscribe({"match": "a/b", "last_event_id": "earliest"}, token).take(1) == ["first"]


class Rotation:
    """An application and a hub of two processes, with the files of their keys.

    :param kind: of the keys: secrets, or pairs of which the hub has the public halves.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._keys = [
            generate_pair("ed25519") if kind == "pair" else (generate_secret(),) * 2 for _ in range(2)
        ]
        self.put(own=0, hub=0, fallback=0)

    def path(self, name: str) -> str:
        return f"@{self._folder / name}"

    def put(self, **numbers: int) -> None:
        """Write a key, the old one (0) or the new one, to the file of the app (own) or of the hub."""
        for name, number in numbers.items():
            (self._folder / name).write_text(self._keys[number][name != "own"], encoding="utf-8")

    def application(self, hub: RunningHub) -> tuple[Flask, Mercure]:
        """The application as it starts now."""
        app = Flask("rotating", root_path=str(self._folder))
        app.secret_key = "of the session"
        app.config.update(MERCURE_URL=hub.url, MERCURE_JWT_SECRET=self.path("own"))
        mercure = Mercure(app)
        mercure.subscribe_grants(lambda: Grants(["users/1"], user=1))
        app.add_url_rule("/", "page", lambda: "page")
        return app, mercure


@pytest.mark.parametrize("kind", ["secret", "pair"])
def test_keys_change_and_nobody_is_refused(folder: Path, kind: str) -> None:
    """The recipe of docs/deployment.md."""
    rotation = Rotation(folder, kind)
    with workers(
        folder,
        MERCURE_ANONYMOUS="0",
        MERCURE_PUBLISHER_JWT_KEY=rotation.path("hub"),
        MERCURE_PUBLISHER_JWT_KEY_FALLBACK=rotation.path("fallback"),
    ) as hub:

        def reload(times: int) -> None:
            hub.child.send_signal(signal.SIGHUP)
            wait_for_lines(hub, "were reloaded", 2 * times)

        def publish(app: Flask, mercure: Mercure, data: str) -> None:
            with app.app_context():
                for _ in range(ENOUGH):  # with each of the processes
                    mercure.publish("users/1", data, private=True)
                state_of(app).publisher.close()

        def page(browser: FlaskClient) -> str:
            """The cookie that the browser has for the hub after it has loaded a page."""
            assert browser.get("/", base_url="https://127.0.0.1:5000").status_code == 200
            cookie = browser.get_cookie(
                "__Secure-mercure_access_token", domain="127.0.0.1", path="/.well-known/mercure"
            )
            assert cookie is not None
            return f"{cookie.key}={cookie.value}"

        app, mercure = rotation.application(hub)
        browser = app.test_client()
        old_cookie = page(browser)
        streams = [hub.subscribe({"match": "users/1"}, Cookie=old_cookie) for _ in range(4)]
        publish(app, mercure, "one")

        rotation.put(hub=1, fallback=0)
        reload(1)
        publish(app, mercure, "two")
        assert page(browser) == old_cookie
        streams += [hub.subscribe({"match": "users/1"}, Cookie=old_cookie) for _ in range(ENOUGH)]

        rotation.put(own=1)
        app, mercure = rotation.application(hub)
        publish(app, mercure, "three")
        later = app.test_client()
        mark = browser.get_cookie("mercure_grants_default", domain="127.0.0.1")
        assert mark is not None
        later.set_cookie(mark.key, mark.value, domain="127.0.0.1", secure=True)
        new_cookie = page(later)
        assert new_cookie != old_cookie
        newer = [
            hub.subscribe({"match": "users/1"}, Cookie=one)
            for one in (old_cookie, new_cookie)
            for _ in range(ENOUGH)
        ]
        for stream in streams:
            data = ""
            while data != "three":
                (data,) = stream.take(1)

        rotation.put(fallback=1)
        reload(2)
        publish(app, mercure, "four")
        assert all(stream.ended() for stream in (*streams, *newer[:ENOUGH]))
        for stream in newer[ENOUGH:]:  # its worker may not have read "three" when it began
            received = stream.take(1)
            assert (stream.take(1) if received == ["three"] else received) == ["four"]
        hub.subscribe({"match": "users/1"}, Cookie=new_cookie)
        assert hub.get({"match": "users/1"}, Cookie=old_cookie).status == 401
        hub.wait_for_log("refused with 401")
        log = hub.log.read_text(encoding="utf-8")
        assert log.count("refused with 401") == 1
