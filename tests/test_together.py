"""The extension and the hub together: what the README promises, without a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, make_response

from flask_mercure import HubUnreachable, Mercure, PublishError, URITemplate, URLPattern
from hub.protocol.keys import generate_pair
from tests.hub.running import SECRET, RunningHub, running_hub
from tests.hub.test_streams import self_signed

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
            mercure.publish("users/1", "public", id="urn:own")
        events = [stream.next() for _ in range(3)]
        assert (events[0].id, events[0].type) == (id_, "order")
        assert app.json.loads(events[0].data) == {"état": "payé"}
        assert [event.data for event in events[1:]] == ["<b>text</b>", "public"]
        assert events[2].id == "urn:own"


def test_the_earlier_generation(folder: Path) -> None:
    with running_hub(folder, protocol="0.x") as hub:
        app, mercure = application(hub, MERCURE_PROTOCOL="0.x")
        with app.test_request_context():
            token = mercure.create_token(subscribe=[URITemplate("https://example.com/{id}")])
            stream = hub.subscribe({"topic": "https://example.com/{id}"}, token)
            mercure.publish("https://example.com/1", "x", private=True)
            assert stream.take(1) == ["x"]


def test_an_internal_and_a_public_url(folder: Path) -> None:
    public = "https://example.com/.well-known/mercure"
    with running_hub(folder, public_url=public) as hub:
        app, mercure = application(hub, MERCURE_PUBLIC_URL=public)
        with app.test_request_context(base_url="https://example.com"):
            assert mercure.url(["a b"]) == public + "?match=a%20b" or "a+b" in mercure.url(["a b"])
            stream = hub.subscribe({"match": "a"}, mercure.create_token(subscribe=["a"]))
            mercure.publish("a", "x", private=True)
            assert stream.take(1) == ["x"]


def test_a_key_pair(folder: Path) -> None:
    private, public = generate_pair("rsa")
    with running_hub(folder, publisher_jwt_key=public) as hub:
        app, mercure = application(hub)
        app.extensions.clear()
        app.config["MERCURE_JWT_SECRET"] = private
        mercure.init_app(app)
        with app.app_context():
            assert mercure.publish("a", "x")


def test_https_with_its_own_certificate(folder: Path) -> None:
    certificate = self_signed(folder)
    with running_hub(folder, tls_cert=certificate) as hub:
        app, mercure = application(hub, MERCURE_VERIFY_TLS=str(certificate))
        stream = hub.subscribe({"match": "users/1"}, Cookie=cookie_of(app, hub))
        with app.app_context():
            mercure.publish("users/1", "x", private=True)
        assert stream.take(1) == ["x"]
        distrustful, mercure = application(hub)
        with distrustful.app_context(), pytest.raises(HubUnreachable, match="MERCURE_VERIFY_TLS"):
            mercure.publish("users/1", "x")


def test_what_refuses_says_what_to_compare(hub: RunningHub) -> None:
    app, mercure = application(hub, MERCURE_ISSUER="urn:another")
    with app.app_context(), pytest.raises(PublishError, match="MERCURE_ISSUER='urn:another'") as caught:
        mercure.publish("a", "x")
    assert caught.value.status == 401
    with app.app_context(), pytest.raises(PublishError) as caught:
        mercure.publish("mercure", "x")
    assert caught.value.status == 401 or "namespace" in str(caught.value)


def test_the_tutorial(folder: Path) -> None:
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
            env={"PATH": os.environ["PATH"], "MERCURE_JWT_SECRET": SECRET},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        stream = hub.subscribe(
            {"match": "orders/42", "last_event_id": "earliest"}, Cookie=done.stdout.strip()
        )
        assert stream.take(1) == ['{"state": "paid"}']


def test_the_commands(folder: Path) -> None:
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

        with flask("publish", "a/b", "--data", "first", "--private") as publishing:
            id_ = publishing.communicate()[0].strip()
            assert id_.startswith("urn:uuid:")
        with flask("token", "--subscribe", "a/b") as minting:
            token = minting.communicate()[0].strip()
        assert hub.subscribe({"match": "a/b", "last_event_id": "earliest"}, token).take(1) == ["first"]
