"""Timers of the module in Node.js, where a clock is set back or a length from elsewhere is out of bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.node import run_node

pytestmark = pytest.mark.minutes

# A hub whose streams say one comment and nothing more, and timers that record their lengths.
_BEGIN = """
import { Feed } from "./feed.js";
import { Credentials, Stream } from "./stream.js";

const given = JSON.parse(process.argv[2]);
const delays = [];
let requests = 0;
const later = globalThis.setTimeout;
const identity = { note() {}, isForeign: false };
const settings = {
  isForeign: () => false,
  url: new URL("https://hub.example/.well-known/mercure"),
  protocol: "1.0",
  fallback: { name: "fetch", opened() {}, missed() {}, heldBack: () => false },
  credentials: "include",
  access: new Credentials(null, 0, null, identity),
  lastValue: false,
  heartbeat: 0,
  types: () => [],
};
const topics = new Map([["a", { type: "exact", value: "a" }]]);
const sink = { event() {}, state() {}, gap() {}, problem() {}, named() {}, covered() {} };
const body = (text) => new ReadableStream({ start: (it) => it.enqueue(new TextEncoder().encode(text)) });
const stream = (text) => new Response(body(text), { headers: { "Content-Type": "text/event-stream" } });
const done = (found) => {
  console.log(JSON.stringify(found));
  process.exit();
};
"""

_CLOCK = """
globalThis.fetch = async () => {
  if (++requests === 2) done(requests);
  return stream(":\\n\\n");
};
new Stream({ ...settings, heartbeat: 50 }, topics, null, { ...sink, state: (state) => {
  if (state === "open") Date.now = () => 0;
} }).start();
later(() => done(requests), 10_000);
"""

_LIFETIME = """
globalThis.fetch = async () => stream(":\\n\\n");
const access = new Credentials(async () => (requests++, {}), given * 1000, null, identity);
new Feed({ ...settings, access }, topics, null, sink).start();
later(() => done(requests), 300);
"""

_RENEWAL = """
const access = new Credentials(async () => ({}), 1000, null, identity);
const steady = performance.now();
const wall = Date.now();
Date.now = () => wall + given[0];
performance.now = () => steady + given[1];
done(access.isDue());
"""

_RETRY_AFTER = """
globalThis.fetch = async () => new Response("", { status: 503, headers: { "Retry-After": given } });
new Stream(settings, topics, null, { ...sink, state: (state, { until }) => {
  if (state === "offline") done((until - Date.now()) / 1000);
} }).start();
"""

_HEARTBEAT = """
globalThis.fetch = async () => stream(":\\n\\n");
globalThis.setTimeout = (call, delay) => (delays.push(delay), later(call, delay));
new Stream({ ...settings, heartbeat: given * 1000 }, topics, null, sink).start();
later(() => done(delays.length), 300);
"""

# Each stream names a time, and ends.
_RETRY = """
globalThis.fetch = async () => {
  requests++;
  return new Response("retry: 0\\n\\n", { headers: { "Content-Type": "text/event-stream" } });
};
new Stream(settings, topics, null, sink).start();
later(() => done(requests), 300);
"""


def test_clock_set_back_silence(tmp_path: Path) -> None:
    assert run_node(tmp_path, _BEGIN + _CLOCK, None) == 2


@pytest.mark.parametrize("days", [30, -1])
def test_long_lifetime(tmp_path: Path, days: int) -> None:
    assert run_node(tmp_path, _BEGIN + _LIFETIME, days * 86_400) == 0


@pytest.mark.parametrize(
    ("passed", "is_due"),
    [([-5000, 2000], True), ([2000, 0], True), ([-5000, 500], False), ([500, 500], False)],
)
def test_renewal_by_either_clock(tmp_path: Path, passed: list[int], is_due: bool) -> None:
    assert run_node(tmp_path, _BEGIN + _RENEWAL, passed) is is_due


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("9999999999", 3590, 3600), ("Infinity", 3590, 3600), ("-5", 0.4, 1), ("NaN", 0.4, 1), ("soon", 0.4, 1)],
)
def test_retry_after(tmp_path: Path, value: str, least: float, most: float) -> None:
    assert least <= run_node(tmp_path, _BEGIN + _RETRY_AFTER, value) <= most


def test_negative_heartbeat(tmp_path: Path) -> None:
    assert run_node(tmp_path, _BEGIN + _HEARTBEAT, -1) <= 2


def test_retry_of_zero(tmp_path: Path) -> None:
    assert 2 <= run_node(tmp_path, _BEGIN + _RETRY, None) <= 7
