"""Which servers of Redis and Valkey can be trusted, and where they are."""

from __future__ import annotations

import pytest

from mercure_hub.storage.redis.connection import host_and_port, obstacle, packed

GOOD = {"redis_version": "7.0.0", "maxmemory_policy": "noeviction", "aof_enabled": "1"}
ALWAYS = {"appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


class TestObstacles:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({}, None),
            ({"redis_version": "6.2.14"}, "it is Redis 6.2.14; the hub needs Redis 7 or newer"),
            ({"redis_version": "10.1"}, None),
            ({"redis_version": ""}, "needs Redis 7"),
            ({"redis_version": "7.2.4", "valkey_version": "7.2.8"}, "the hub needs Valkey 8 or newer"),
            ({"redis_version": "7.2.4", "valkey_version": "8.1.1"}, None),
            ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
            ({"maxmemory_policy": "volatile-lru"}, None),
            ({"aof_enabled": "0"}, "appendonly no"),
        ],
    )
    def test_a_server_that_loses_updates_is_refused(self, changes: dict[str, str], said: str | None) -> None:
        found = obstacle(GOOD | changes, ALWAYS, is_relaxed=False)
        assert found is None if said is None else said in (found or "")

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (ALWAYS | {"appendfsync": "everysec"}, "it has appendfsync everysec; set it to always"),
            (
                ALWAYS | {"no-appendfsync-on-rewrite": "yes"},
                "it has no-appendfsync-on-rewrite yes; set it to no",
            ),
            ({}, "it does not say whether it has appendfsync always"),
        ],
    )
    def test_settings_that_lose_updates_are_named(self, settings: dict[str, str], said: str) -> None:
        assert said in (obstacle(GOOD, settings, is_relaxed=False) or "")

    @pytest.mark.parametrize(
        ("changes", "is_refused"),
        [
            ({}, False),
            ({"aof_enabled": "0"}, False),
            ({"redis_version": "6.2.14"}, True),
            ({"maxmemory_policy": "allkeys-lru"}, True),
        ],
    )
    def test_only_durability_can_be_relaxed(self, changes: dict[str, str], is_refused: bool) -> None:
        assert (obstacle(GOOD | changes, {}, is_relaxed=True) is not None) is is_refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:1", ("a", 1)),
        ("10.0.0.4", ("10.0.0.4", 26379)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 26379)),
    ],
)
def test_sentinels_have_a_port_of_their_own(text: str, expected: tuple[str, int]) -> None:
    assert host_and_port(text) == expected


def test_commands_are_packed_as_the_protocol_wants_them() -> None:
    assert packed([("SET", b"\xff", 12), ("GET", "\N{SNOWMAN}")]) == (
        b"*3\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$2\r\n12\r\n*2\r\n$3\r\nGET\r\n$3\r\n\xe2\x98\x83\r\n"
    )
