"""How many descriptors a hub asks for, and what the system gives."""

from __future__ import annotations

import resource

import pytest

from mercure_hub.server.assembly import _raise_descriptor_limit


@pytest.mark.parametrize(
    ("soft", "hard", "given", "becomes"),
    [
        (1024, 4096, 1 << 30, 4096),
        (1024, 1 << 19, 1 << 30, 1 << 19),
        (1024, resource.RLIM_INFINITY, 1 << 30, 1 << 20),
        (256, resource.RLIM_INFINITY, 10_240, 10_240),
        (256, resource.RLIM_INFINITY, 256, 256),
        (16_384, resource.RLIM_INFINITY, 16_384, 16_384),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 0, 1 << 20),
    ],
    ids=["hard", "as systemd", "unlimited", "macOS", "nothing more", "more than the least", "no limit"],
)
def test_the_limit_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, given: int, becomes: int
) -> None:
    limits = [soft, hard]

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > given:
            raise ValueError("current limit exceeds maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert _raise_descriptor_limit() == becomes
    assert limits == [becomes if soft != resource.RLIM_INFINITY else soft, hard]
