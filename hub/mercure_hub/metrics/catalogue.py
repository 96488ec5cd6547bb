"""What is counted: one table, from which the shared memory and the page for Prometheus are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mercure_hub.protocol.errors import REFUSALS

OTHER = "other"


class Kind(StrEnum):
    """Kinds of metrics in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; each worker has its own numbers.

    :param name: without the ``_total`` of counters.
    :param kind: a gauge starts at 0 with each process, the others continue.
    :param text: help text for Prometheus.
    :param label: name of its label, or empty.
    :param values: of the label: a closed set, so that no client can make it grow.
    :param buckets: upper bounds of a histogram.
    """

    name: str
    kind: Kind
    text: str
    label: str = ""
    values: tuple[str, ...] = ("",)
    buckets: tuple[float, ...] = ()

    @property
    def cells(self) -> int:
        """Number of cells: a histogram has one for each bucket, one for larger values, and the sum."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else len(self.values)


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_STATUSES = (
    *("101", "200", "204", "304", "400", "401", "403", "404", "405", "408", "413", "415", "421", "426"),
    *("429", "431", "500", "503", OTHER),
)

CONNECTED = Family(
    "mercure_subscribers_connected",
    Kind.GAUGE,
    "Subscribers that are connected.",
    "transport",
    ("sse", "websocket"),
)
SUBSCRIBERS = Family(
    "mercure_subscribers",
    Kind.COUNTER,
    "Subscriptions that were accepted.",
    "transport",
    ("sse", "websocket"),
)
ENDED = Family(
    "mercure_subscribers_ended",
    Kind.COUNTER,
    "Subscriptions that ended, by reason: the client left; it was too slow; its time or its token was "
    "over; the hub stopped; another hub took over; an update could not be sent; the key of its token was "
    "taken away; its token was revoked; the client sent what it must not.",
    "reason",
    ("client", "slow", "time", "stop", "handover", "incomplete", "key", "revoked", "violation", OTHER),
)
UPDATES = Family(
    "mercure_updates",
    Kind.COUNTER,
    "Updates that were acknowledged to their publishers here, because they are durable. One that is "
    "published again with once counts again, though it is stored and sent once.",
)
FAILED = Family("mercure_updates_failed", Kind.COUNTER, "Updates that could not be stored.")
DELIVERIES = Family("mercure_deliveries", Kind.COUNTER, "Updates given to a subscriber's connection.")
PUBLISH = Family(
    "mercure_publish_seconds",
    Kind.HISTOGRAM,
    "Time from the request of a publisher to the commit.",
    buckets=_SECONDS,
)
DELIVERY = Family(
    "mercure_delivery_seconds",
    Kind.HISTOGRAM,
    "Time from the commit of an update to the end of its fan-out.",
    buckets=_SECONDS,
)
QUEUE = Family(
    "mercure_queue_updates",
    Kind.GAUGE,
    "Updates that wait to be committed, or to be dispatched.",
    "waiting_for",
    ("commit", "dispatch"),
)
REFUSED = Family(
    "mercure_tokens_refused",
    Kind.COUNTER,
    "Requests refused for their token or the want of one.",
    "cause",
    (*REFUSALS, OTHER),
)
ANSWERS = Family("mercure_http_answers", Kind.COUNTER, "Answers of HTTP.", "status", _STATUSES)
ENGINE_STATE = Family(
    "mercure_storage_state",
    Kind.GAUGE,
    "1 for the state of the engine as the process sees it: it works; updates are late; it is away.",
    "state",
    ("up", "lagging", "away"),
)
BEHIND = Family(
    "mercure_storage_behind_updates",
    Kind.GAUGE,
    "Updates of other processes that were not read yet at the last look.",
)
LOOKED = Family(
    "mercure_storage_behind_seconds",
    Kind.GAUGE,
    "Time since the process last had all updates, beyond the pause between two looks.",
)
APPEND = Family(
    "mercure_storage_append_seconds",
    Kind.HISTOGRAM,
    "Time that the engine took to store a batch of updates.",
    buckets=_SECONDS,
)
BATCH = Family(
    "mercure_storage_batch_updates",
    Kind.HISTOGRAM,
    "Updates in a batch.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
DOUBTS = Family(
    "mercure_storage_doubts",
    Kind.COUNTER,
    "Batches of which the engine did not say at first whether it had stored them.",
)
ABSENCES = Family("mercure_storage_absences", Kind.COUNTER, "Times that the engine could not be reached.")
BREAKS = Family(
    "mercure_storage_breaks",
    Kind.COUNTER,
    "Times that all streams ended, by reason: updates were discarded before they were read; the engine "
    "lost its newest updates; it has another history.",
    "kind",
    ("trimmed", "rewound", "replaced", OTHER),
)
LEASES_LOST = Family(
    "mercure_storage_leases_lost",
    Kind.COUNTER,
    "Times that the process lost its lease, and announced all its subscriptions again.",
)
CPU = Family("mercure_process_cpu_seconds", Kind.COUNTER, "Processor time.")
STARTS = Family("mercure_process_starts", Kind.COUNTER, "Starts of the process.")
MEMORY = Family("mercure_process_resident_memory_bytes", Kind.GAUGE, "Memory that the process has.")
DESCRIPTORS = Family("mercure_process_open_fds", Kind.GAUGE, "Open descriptors.")
MOST_DESCRIPTORS = Family("mercure_process_max_fds", Kind.GAUGE, "Descriptors that the process may have.")
SEEN = Family(
    "mercure_process_seen_timestamp_seconds",
    Kind.GAUGE,
    "When the process wrote its gauges last; it does so each second, unless it hangs.",
)

OF_PROCESSES = (CPU, STARTS, MEMORY, DESCRIPTORS, MOST_DESCRIPTORS, SEEN)
"""The metrics of processes that serve no clients too."""

CATALOGUE: Sequence[Family] = (
    *(CONNECTED, SUBSCRIBERS, ENDED, UPDATES, FAILED, DELIVERIES, PUBLISH, DELIVERY, QUEUE, REFUSED, ANSWERS),
    *(ENGINE_STATE, BEHIND, LOOKED, APPEND, BATCH, DOUBTS, ABSENCES, BREAKS, LEASES_LOST),
    *OF_PROCESSES,
)

STORAGE_WORKS = "mercure_storage_works"
HISTORY_UPDATES = "mercure_history_updates"
HISTORY_BYTES = "mercure_history_bytes"
INFO = "mercure_hub_info"
