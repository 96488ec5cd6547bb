"""The page for Prometheus, written by prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mercure_hub.metrics.catalogue import (
    CATALOGUE,
    HISTORY_BYTES,
    HISTORY_UPDATES,
    INFO,
    OF_PROCESSES,
    STORAGE_WORKS,
    Family,
    Kind,
)
from mercure_hub.metrics.tally import Board

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Storage:
    """The state of the history, once for all workers.

    :param works: updates can be stored and read.
    :param updates: number of updates in it; ``None`` if unknown.
    :param size: bytes of the database; ``None`` if unknown.
    """

    works: bool
    updates: int | None = None
    size: int | None = None


def page(board: Board, storage: Storage, version: str) -> bytes:
    """The metrics of all workers.

    :param version: of the hub.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_AllWorkers(board, storage, version))
    return generate_latest(registry)


class _AllWorkers(Collector):
    def __init__(self, board: Board, storage: Storage, version: str) -> None:
        self._board = board
        self._storage = storage
        self._version = version

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in CATALOGUE:
            yield _of_all(family, self._board)
        storage = self._storage
        works = float(storage.works)
        yield GaugeMetricFamily(STORAGE_WORKS, "1 when updates can be stored and read.", works)
        if storage.updates is not None:
            yield GaugeMetricFamily(HISTORY_UPDATES, "Updates in the history.", storage.updates)
        if storage.size is not None:
            yield GaugeMetricFamily(HISTORY_BYTES, "Size of the database.", storage.size)
        name = INFO.removesuffix("_info")
        yield InfoMetricFamily(name, "The hub.", value={"version": self._version})


def _of_all(family: Family, board: Board) -> Metric:
    labels = ["worker", family.label] if family.label else ["worker"]
    metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if family.kind is Kind.HISTOGRAM:
        metric = HistogramMetricFamily(family.name, family.text, labels=labels)
        bounds = [*map(str, family.buckets), "+Inf"]
        for worker, name in _processes(family, board):
            *counts, total = board.numbers(family, worker)
            metric.add_metric([name], list(zip(bounds, accumulate(counts), strict=True)), total)
        return metric
    kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = kind(family.name, family.text, labels=labels)
    for worker, name in _processes(family, board):
        for value, number in zip(family.values, board.numbers(family, worker), strict=True):
            metric.add_metric([name, value][: len(labels)], number)
    return metric


def _processes(family: Family, board: Board) -> list[tuple[int, str]]:
    """Number and name of those that have a metric."""
    processes = list(enumerate(board.names))
    return processes if family in OF_PROCESSES else processes[: board.workers]
