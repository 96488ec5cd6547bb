"""The debugger over HTTP: its files, and what it tells of tokens and to whom."""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from mercure_hub.config.settings import SettingError
from mercure_hub.protocol.tokens.asymmetric import generate_pair
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

PAGE = f"{HUB_PATH}/debugger/"
TOKEN = f"{PAGE}token"
STRANGE = "quite another secret that is long enough for HMAC-SHA-256"


@pytest.fixture(scope="module")
def debugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub"), debugger=1, cors_origins="https://app.example") as hub:
        yield hub


def files_of(page: str) -> list[str]:
    return re.findall(r'(?:href|src)="([^"#]+)"', page)


class TestPage:
    def test_it_is_off_by_default(self, hub: RunningHub) -> None:
        for path in (PAGE, TOKEN, PAGE[:-1]):
            reply = hub.get(path=path)
            assert reply.status == 404
            assert "MERCURE_DEBUGGER" in reply.json()["detail"]

    def test_it_runs_nothing_but_its_own_files(self, debugged: RunningHub) -> None:
        reply = debugged.get(path=PAGE)
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        foreign = r"<script>|<style>|\son\w+=|style=|javascript:|(href|src)=.(https?:)?//"
        assert not re.search(foreign, reply.text)
        assert "data-token" not in reply.text

    def test_its_files_are_kept_by_content(self, debugged: RunningHub) -> None:
        paths = files_of(debugged.get(path=PAGE).text)
        assert len(paths) == 3
        for path in paths:
            reply = debugged.get(path=path)
            assert reply.status == 200
            assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert reply.headers["x-content-type-options"] == "nosniff"
        (script,) = (path for path in paths if path.endswith(".js"))
        assert debugged.get(path=script).headers["content-type"] == "text/javascript; charset=utf-8"
        imported = re.findall(r'from "\./([a-z]+\.js)"', debugged.get(path=script).text)
        assert len(imported) == 4
        for name in imported:
            assert debugged.get(path=script.replace("debugger.js", name)).status == 200

    @pytest.mark.parametrize(
        "path",
        [
            f"{PAGE}0000000000000000/debugger.js",
            f"{PAGE}index.html",
            f"{PAGE}../pages.py",
            f"{PAGE}%2e%2e/pages.py",
            f"{PAGE}{{version}}/../pages.py",
            f"{PAGE}{{version}}/",
            f"{PAGE}{{version}}/index.html",
            f"{HUB_PATH}/debuggers",
        ],
    )
    def test_nothing_else_is_served(self, path: str, debugged: RunningHub) -> None:
        version = files_of(debugged.get(path=PAGE).text)[0].split("/")[-2]
        assert debugged.get(path=path.replace("{version}", version)).status == 404

    def test_the_debugger_without_the_slash_redirects(self, debugged: RunningHub) -> None:
        reply = debugged.get(path=PAGE[:-1])
        assert (reply.status, reply.headers["location"]) == (308, PAGE)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "QUERY"])
    def test_only_to_be_read(self, method: str, debugged: RunningHub) -> None:
        reply = debugged.request(method, PAGE)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert debugged.request("HEAD", PAGE).status == 200

    @pytest.mark.parametrize("public", ["https://example.com/hub", "https://example.com/hub/"])
    def test_below_the_public_url(self, public: str, folder: Path) -> None:
        with running_hub(folder, debugger=1, public_url=public) as hub:
            for path in ("/hub/debugger/", PAGE):
                page = hub.get(path=path).text
                assert f'data-hub="{public.removeprefix("https://example.com")}"' in page
                assert all(file.startswith("/hub/debugger/") for file in files_of(page))
                assert all(hub.get(path=file).status == 200 for file in files_of(page))
            assert hub.get(path="/hub/debugger").headers["location"] == "/hub/debugger/"

    def test_what_a_host_says_is_escaped(self, debugged: RunningHub) -> None:
        for host in ('a"><script>', "a'b", "<b>"):
            reply = debugged.request("GET", PAGE, {"Host": host})
            assert reply.status == 400
            assert "<script>" not in reply.text

    def test_nobody_publishes_at_the_debugger(self, debugged: RunningHub) -> None:
        assert debugged.publish({"topic": f"{HUB_PATH}/debugger/x", "data": ""}).status == 400


class TestVerdict:
    def ask(self, hub: RunningHub, token: str | None, query: str = "", **headers: str) -> dict[str, Any]:
        reply = hub.get((), token, TOKEN + query, **headers)
        assert reply.status == 200, reply.text
        assert reply.headers["cache-control"] == "no-store"
        found: dict[str, Any] = reply.json()
        if token is not None:
            assert token not in reply.text
        assert "a secret that is long" not in reply.text
        return found

    def test_the_verdict_on_a_good_token(self, debugged: RunningHub) -> None:
        found = self.ask(debugged, debugged.token(lifetime=100))
        assert found["source"] == "header"
        assert found["hub"] == debugged.url
        for role in ("publish", "subscribe"):
            verdict = found[role]
            assert isinstance(verdict, dict)
            assert verdict["accepted"] is True
            assert verdict["old"] is False
            assert 90 < verdict["expires_at"] - time.time() <= 100
        assert "claims" not in found

    def test_a_token_of_0x_that_never_ends(self, debugged: RunningHub) -> None:
        found = self.ask(debugged, debugged.old_token(publish=["*"]))
        assert found["publish"] == {"accepted": True, "expires_at": None, "old": True}

    def test_the_verdict_without_a_token(self, debugged: RunningHub) -> None:
        found = self.ask(debugged, None)
        assert found["source"] is None
        assert "publish" not in found

    @pytest.mark.parametrize(
        ("claims", "cause"),
        [
            ({"exp": 1}, "the token expired "),
            ({"exp": "soon"}, "exp is 'soon', not a number"),
            ({"nbf": 2e10}, "is not valid before"),
            (
                {"aud": "https://other.example/hub"},
                "aud is 'https://other.example/hub'; this hub is 'http://127",
            ),
            ({"iss": "urn:somebody"}, "iss is 'urn:somebody'; trusted is 'urn:flask-mercure'"),
            ({"authorization_details": [{}, 3]}, "authorization_details[1] is not an object"),
        ],
    )
    def test_the_cause_for_who_has_a_signed_token(
        self, claims: dict[str, Any], cause: str, debugged: RunningHub
    ) -> None:
        token = debugged.token(**claims)
        found = self.ask(debugged, token)
        for role in ("publish", "subscribe"):
            verdict = found[role]
            assert isinstance(verdict, dict)
            assert verdict["accepted"] is False
            assert cause in verdict["cause"]
        reply = debugged.get({"match": "a"}, token)
        assert reply.status == 401
        assert cause not in reply.text

    def test_who_signed_it_himself_learns_nothing_of_the_hub(self, debugged: RunningHub) -> None:
        """Neither whom it trusts nor how its keys are used."""
        good = {"iss": "urn:flask-mercure", "aud": debugged.url, "exp": time.time() + 60}
        cases: list[tuple[dict[str, Any], str, str, dict[str, str]]] = [
            (good, STRANGE, "HS256", {"typ": "at+jwt"}),
            ({**good, "iss": "urn:guessed"}, STRANGE, "HS256", {"typ": "at+jwt"}),
            (good, STRANGE * 2, "HS512", {"typ": "at+jwt", "kid": "k1"}),
            (good, generate_pair("rsa")[0], "RS256", {"typ": "at+jwt"}),
            ({**good, "exp": 1}, STRANGE, "HS256", {"typ": "at+jwt"}),
            ({"mercure": {"publish": ["*"]}}, STRANGE, "HS256", {}),
        ]
        for content, key, algorithm, header in cases:
            found = self.ask(debugged, jwt.encode(content, key, algorithm, headers=header))
            for role in ("publish", "subscribe"):
                verdict = found[role]
                assert isinstance(verdict, dict)
                cause = verdict["cause"]
                assert cause.startswith("no key of this hub has signed the token as one of a ")
                assert f"alg is '{algorithm}'" in cause
                assert "trusted" not in cause
                assert "MERCURE" not in cause
                if algorithm != "HS256":
                    assert "HS256" not in cause
                if content.get("iss") != "urn:flask-mercure":
                    assert "urn:flask-mercure" not in cause

    @pytest.mark.parametrize("token", ["x", "a.b.c", "e30.e30.", f"{'a' * 17000}.b.c", "e30.W10.x"])
    def test_what_is_no_token(self, token: str, debugged: RunningHub) -> None:
        found = self.ask(debugged, token)
        for role in ("publish", "subscribe"):
            verdict = found[role]
            assert isinstance(verdict, dict)
            assert verdict["accepted"] is False

    def test_a_key_for_one_role(self, folder: Path) -> None:
        with running_hub(folder, debugger=1, subscriber_jwt_key=STRANGE) as hub:
            found = self.ask(hub, hub.token())
            assert found["publish"] == {**found["publish"], "accepted": True}
            assert found["subscribe"] == {
                "accepted": False,
                "cause": "the signature does not match the subscriber key",
            }

    def test_the_verdict_on_topics(self, debugged: RunningHub) -> None:
        token = debugged.token(publish=["a"], subscribe=[{"match": "/b/*", "match_type": "urlpattern"}])
        for topic, publish, subscribe in [("a", True, False), ("/b/c", False, True), ("c", False, False)]:
            found = self.ask(debugged, token, f"?topic={topic}")
            assert (found["publish"]["covers"], found["subscribe"]["covers"]) == (publish, subscribe)

    @pytest.mark.parametrize("topic", ["*", f"{HUB_PATH}/subscriptions/x"])
    def test_the_hubs_own_topics(self, topic: str, debugged: RunningHub) -> None:
        found = self.ask(debugged, debugged.token(), f"?topic={topic}")
        assert found["publish"]["covers"] is False
        assert found["publish"]["reserved"] is True

    @pytest.mark.parametrize("topic", ["x" * 2049, "a%0Ab", "a%00"])
    def test_a_topic_that_is_none(self, topic: str, debugged: RunningHub) -> None:
        assert debugged.get(path=f"{TOKEN}?topic={topic}", token=debugged.token()).status == 400

    def test_the_verdict_on_a_cookie_has_its_claims(self, debugged: RunningHub) -> None:
        token = debugged.token(sub="Ada")
        found = self.ask(debugged, None, cookie=f"__Secure-mercure_access_token={token}")
        assert found["source"] == "cookie"
        assert found["claims"]["sub"] == "Ada"
        assert found["header"]["typ"] == "at+jwt"

    @pytest.mark.parametrize("depth", [10, 300, 900, 990, 1500, 3000])
    def test_a_cookie_with_claims_nested_deeply(self, depth: int, debugged: RunningHub) -> None:
        nested = "[" * depth + "]" * depth
        parts = ('{"alg":"HS256"}', f'{{"mercure":{nested}}}')
        token = ".".join(urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts) + ".c2ln"
        found = self.ask(debugged, None, cookie=f"__Secure-mercure_access_token={token}")
        assert found["source"] == "cookie"
        assert found["publish"]["accepted"] is False

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://app.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
    )
    def test_pages_of_others_may_not_ask(self, headers: dict[str, str], debugged: RunningHub) -> None:
        token = debugged.token(sub="Ada")
        cookie = f"__Secure-mercure_access_token={token}"
        reply = debugged.get((), None, TOKEN, cookie=cookie, **headers)
        assert reply.status == 403
        assert "Ada" not in reply.text

    def test_the_verdict_on_several_tokens(self, debugged: RunningHub) -> None:
        assert debugged.get(path=TOKEN, authorization="Bearer a, Bearer b").status == 400

    def test_it_is_no_token_in_the_log(self, debugged: RunningHub, caplog: pytest.LogCaptureFixture) -> None:
        token = debugged.token(exp=1)
        caplog.set_level("DEBUG")
        self.ask(debugged, token)
        assert token not in caplog.text


class TestPlayground:
    def test_its_token_allows_everything(self, folder: Path) -> None:
        with running_hub(folder, playground=1, publisher_jwt_key="") as hub:
            page = hub.get(path=PAGE).text
            (token,) = re.findall(r'data-token="([^"]+)"', page)
            assert hub.publish({"topic": "a", "data": "1", "private": "on"}, token).status == 200
            assert hub.get(path=f"{HUB_PATH}/subscriptions", token=token).status == 200
            stream = hub.subscribe({"match": "*", "last_event_id": "earliest"}, token)
            assert stream.next().data == "1"
            assert hub.subscribe({"match": "*"}).reply.status == 200  # anonymous

    @pytest.mark.parametrize("protocol", ["1.0", "0.x", "both"])
    def test_beside_the_applications_key(self, protocol: str, folder: Path) -> None:
        with running_hub(folder, playground=1, protocol=protocol) as hub:
            (token,) = re.findall(r'data-token="([^"]+)"', hub.get(path=PAGE).text)
            assert hub.publish({"topic": "a"}, token).status == 200
            own = hub.old_token(publish=["*"]) if protocol == "0.x" else hub.token()
            assert hub.publish({"topic": "a"}, own).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "rebound.example"},
            {"Host": "localhost.rebound.example:3000"},
            {"X-Forwarded-For": "203.0.113.7"},
            {"X-Forwarded-Host": "example.com"},
            {"X-Forwarded-Port": "443"},
            {"X-Real-IP": "203.0.113.7"},
            {"Forwarded": "for=203.0.113.7"},
            {"Via": "1.1 proxy"},
        ],
    )
    def test_no_token_for_others(self, headers: dict[str, str], folder: Path) -> None:
        with running_hub(folder, playground=1) as hub:
            assert "data-token" not in hub.request("GET", PAGE, headers).text
            for host in ("localhost:3000", "127.0.0.2", "[::1]:3000"):
                assert "data-token" in hub.request("GET", PAGE, {"Host": host}).text

    def test_pages_of_this_machine_are_admitted(self, folder: Path) -> None:
        with running_hub(folder, playground=1) as hub:
            for origin, admitted in [
                ("http://localhost:5173", True),
                ("http://127.0.0.1:5000", True),
                ("http://[::1]:8000", True),
                ("http://localhost", True),
                ("https://localhost:1", False),
                ("http://localhost.example:80", False),
                ("http://evil.example:5000", False),
                ("http://localhost:5000@evil.example", False),
            ]:
                reply = hub.get({"match": "*"}, path="/healthz", origin=origin)
                assert (reply.headers.get("access-control-allow-origin") == origin) is admitted, origin

    @pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0"])
    def test_not_on_a_public_address(self, address: str, folder: Path) -> None:
        with (
            pytest.raises(SettingError, match="MERCURE_PLAYGROUND: is for this machine only"),
            running_hub(folder, playground=1, listen=address),
        ):
            pass

    @pytest.mark.parametrize(
        ("name", "value"),
        [("public_url", "https://example.com/hub"), ("trusted_proxies", "127.0.0.1")],
    )
    def test_not_behind_a_proxy(self, name: str, value: str, folder: Path) -> None:
        with (
            pytest.raises(SettingError, match=f"and MERCURE_{name.upper()} is for more"),
            running_hub(folder, port=0, limits=None, **{"playground": 1, name: value}),
        ):
            pass

    def test_what_somebody_set_stays(self, folder: Path) -> None:
        with running_hub(folder, playground=1, anonymous=0, debugger=0) as hub:
            assert hub.get({"match": "*"}).status == 401
            assert hub.get(path=PAGE).status == 404


class TestPrivateUpdatesThatNobodyMayRead:
    WORDS = "nobody got the private update"

    def told(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if self.WORDS in record.getMessage()]

    def test_the_log_says_it_once_for_a_topic(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        with running_hub(folder, debugger=1, anonymous=1) as hub:
            hub.subscribe({"match": "secret"})
            hub.subscribe({"match": "*"}, hub.token(subscribe=["other"]))
            for _ in range(3):
                assert hub.publish({"topic": "secret", "private": "on"}).status == 200
            batch = json.dumps([{"topic": "batched", "private": True}]).encode()
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {hub.token()}"}
            assert hub.request("POST", HUB_PATH, headers, batch).status == 200
        first, second = self.told(caplog)
        assert "'secret': 2 streams listen" in first
        assert "'batched': 1 stream listens" in second

    def test_it_says_nothing_where_somebody_may_or_nobody_listens(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running_hub(folder, debugger=1, anonymous=1) as hub:
            hub.publish({"topic": "nobody", "private": "on"})
            hub.subscribe({"match": "t"})
            hub.subscribe({"match": "t"}, hub.token())
            hub.publish({"topic": "t", "private": "on"})
            hub.send("t", "public")
        assert self.told(caplog) == []

    def test_without_the_debugger_it_says_nothing(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running_hub(folder, anonymous=1) as hub:
            hub.subscribe({"match": "t"})
            hub.publish({"topic": "t", "private": "on"})
        assert self.told(caplog) == []
