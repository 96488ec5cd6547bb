"""Metrics in shared memory: of several writers, across the death of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mercure_hub.metrics import tally
from mercure_hub.metrics.catalogue import ANSWERS, CATALOGUE, CONNECTED, DELIVERY, UPDATES, Kind
from mercure_hub.metrics.exposition import Storage, page
from mercure_hub.metrics.tally import Board, ProcessMetrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """What Prometheus's own parser reads."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read(board: Board, storage: Storage = Storage(True, 3, 4096)) -> Samples:  # noqa: B008 - frozen
    return samples(page(board, storage, "1.2.3").decode())


def of(name: str, worker: int = 0, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted({"worker": str(worker), **labels}.items()))


def test_each_worker_has_its_own() -> None:
    board = Board(2)
    for number in range(2):
        board.of(number).add(UPDATES, number + 5)
    found = read(board)
    assert (found[of("mercure_updates_total", 0)], found[of("mercure_updates_total", 1)]) == (5, 6)


def test_the_whole_catalogue_is_on_the_page() -> None:
    found = {name for name, _ in read(Board(1))}
    suffix = {Kind.COUNTER: "_total", Kind.GAUGE: "", Kind.HISTOGRAM: "_bucket"}
    assert {family.name + suffix[family.kind] for family in CATALOGUE} <= found
    assert {"mercure_history_updates", "mercure_history_bytes", "mercure_hub_info"} <= found


def test_what_the_storage_does_not_tell_is_left_out() -> None:
    found = {name: value for (name, _), value in read(Board(1), Storage(False)).items()}
    assert found["mercure_storage_works"] == 0
    assert "mercure_history_updates" not in found


def test_a_histogram_counts_in_buckets() -> None:
    board = Board(1)
    tally = board.of(0)
    tally.observe(DELIVERY, 0.0005)
    tally.observe(DELIVERY, 0.003, 10)
    tally.observe(DELIVERY, 60)
    found = read(board)
    bucket = "mercure_delivery_seconds_bucket"
    assert [found[of(bucket, le=le)] for le in ("0.0005", "0.001", "0.0025", "0.005", "10.0", "+Inf")] == [
        1, 1, 1, 11, 11, 12,
    ]  # fmt: skip
    assert found[of("mercure_delivery_seconds_count")] == 12
    assert abs(found[of("mercure_delivery_seconds_sum")] - 60.0305) < 1e-9


def test_a_value_that_is_not_in_the_table_is_other() -> None:
    board = Board(1)
    board.of(0).add(ANSWERS, 1, "418")
    assert read(board)[of("mercure_http_answers_total", status="other")] == 1


@pytest.mark.minutes
def test_counters_go_on_and_gauges_begin_anew_when_a_worker_is_replaced() -> None:
    board = Board(2)
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            tally = board.of(1)
            tally.add(UPDATES, 3)
            tally.put(CONNECTED, 7, "sse")
            os._exit(0)
        os.waitpid(pid, 0)
    assert read(board)[of("mercure_updates_total", 1)] == 6
    assert read(board)[of("mercure_subscribers_connected", 1, transport="sse")] == 7
    board.of(1)
    assert read(board)[of("mercure_subscribers_connected", 1, transport="sse")] == 0


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tally, "_STATM", tmp_path / "statm")
    monkeypatch.setattr(tally, "_DESCRIPTORS", tmp_path / "fd")
    board = Board(1)
    ProcessMetrics(board.of(0)).write(1.0)
    found = read(board)
    assert found[of("mercure_process_resident_memory_bytes")] > 1 << 20
    assert found[of("mercure_process_open_fds")] >= 3
