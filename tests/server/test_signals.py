"""Signals that are blocked except while somebody waits for them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from mercure_hub.server.signals import Signals

USED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


@pytest.fixture
def signals() -> Iterator[Signals]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, USED)
    before = [signal.getsignal(number) for number in USED]
    signals = Signals(USED)
    yield signals
    while any(signals.wait(0, (number,)) for number in USED):
        pass
    signals.close()
    assert [signal.getsignal(number) for number in USED] == before
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def send(number: int) -> None:
    """To the main thread: another one that does not block it would take it otherwise."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, number)


@pytest.mark.parametrize("number", USED)
def test_a_signal_that_came_before_is_received_once(signals: Signals, number: signal.Signals) -> None:
    """SIGCHLD too, which has no effect by default."""
    send(number)
    send(number)
    assert signals.have_come((number,))
    assert signals.wait(10, USED) == number
    assert signals.wait(0, USED) is None
    assert not signals.have_come(USED)


def test_a_signal_ends_the_wait(signals: Signals) -> None:
    timer = threading.Timer(0.02, send, (signal.SIGUSR1,))
    timer.start()
    assert signals.wait(10, USED) == signal.SIGUSR1
    timer.join()


def test_other_signals_stay_blocked(signals: Signals) -> None:
    send(signal.SIGUSR2)
    assert signals.wait(0.01, (signal.SIGUSR1,)) is None
    assert signal.SIGUSR2 in signal.sigpending()
    assert signals.wait(10, (signal.SIGUSR2,)) == signal.SIGUSR2


def test_several_are_received_one_after_the_other(signals: Signals) -> None:
    for number in USED:
        send(number)
    received = [signals.wait(10, USED) for _ in USED]
    assert sorted(map(int, filter(None, received))) == sorted(USED)
    assert signals.wait(0, USED) is None


def test_a_descriptor_ends_the_wait(signals: Signals) -> None:
    listens, tells = os.pipe()
    os.write(tells, b"ready")
    assert signals.wait(10, USED, (listens,)) is None
    assert os.read(listens, 5) == b"ready"
    os.close(listens)
    os.close(tells)
