"""Which subscriber to look at when: heartbeats and ends of connections, without a timer for each."""

from __future__ import annotations

from collections.abc import Iterator

from mercure_hub.fanout.subscriber import Subscriber


class Timetable:
    """Subscribers by the second at which they are due.

    :param now: monotonic time in seconds.
    """

    def __init__(self, now: float) -> None:
        self._second = int(now)
        self._due: dict[int, list[Subscriber]] = {}

    def put(self, subscriber: Subscriber, at: float) -> None:
        """Have a subscriber returned by the first ``take`` from the whole second at or before ``at``.

        :param at: monotonic time; one in the past means the next second.
        """
        second = max(int(at), self._second + 1)
        due = self._due.get(second)
        if due is None:
            self._due[second] = [subscriber]
        else:
            due.append(subscriber)

    def take(self, now: float) -> Iterator[Subscriber]:
        """The subscribers that are due, each once; those that are gone are left out."""
        current = int(now)
        if current - self._second > len(self._due):  # after a pause: visit what is there
            seconds = sorted(second for second in self._due if second <= current)
        else:
            seconds = list(range(self._second + 1, current + 1))
        self._second = max(self._second, current)
        for second in seconds:
            for subscriber in self._due.pop(second, ()):
                if subscriber.is_open:
                    yield subscriber
