"""Measures the hub beside the floor, as docs/performance.md shows it.

    make bench                    everything, some five minutes
    make bench BENCH=--smoke      one short run of each kind, for correctness only

Each figure is the median of several runs; the floor (`sseload floor`: a C loop of send() with no
protocol) runs before each, so that a busy machine disturbs both. Everything goes over the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import requests

HERE = Path(__file__).parent
SSELOAD = HERE / "sseload"
SECRET = "a secret for benchmarks on the loopback only"
PATH = "/.well-known/mercure"
Result = dict[str, float]


@contextmanager
def hub(**settings: str) -> Iterator[tuple[str, int, str]]:
    """A fresh hub: its address, its process and a token that may publish everything."""
    with tempfile.TemporaryDirectory(prefix="mercure-bench-") as folder:
        address = f"127.0.0.1:{free_port()}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")},
            "MERCURE_LISTEN": address,
            "MERCURE_TRANSPORT_URL": f"sqlite:///{folder}/hub.db",
            "MERCURE_PUBLISHER_JWT_KEY": SECRET,
            "MERCURE_PUBLIC_URL": f"http://127.0.0.1{PATH}",
            "MERCURE_ANONYMOUS": "1",
            "MERCURE_LOG_LEVEL": "warning",  # a hub that is measured writes no line for each request
            **settings,
        }
        with subprocess.Popen([sys.executable, "-m", "hub"], env=environment) as child:
            try:
                wait_for(address, child)
                yield address, child.pid, token()
            finally:
                child.terminate()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(address: str, child: subprocess.Popen[bytes]) -> None:
    """Return when the hub answers."""
    while child.poll() is None:
        try:
            requests.get(f"http://{address}/healthz", timeout=5).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the hub did not start")


def token() -> str:
    """A token that publishes on every topic."""
    detail = {
        "type": "https://mercure.rocks/authorization-detail",
        "actions": ["publish"],
        "topics": [{"match": "*"}],
    }
    claims = {
        "iss": "urn:flask-mercure",
        "aud": f"http://127.0.0.1{PATH}",
        "exp": 4102444800,
        "authorization_details": [detail],
    }
    return jwt.encode(claims, SECRET, "HS256", headers={"typ": "at+jwt"})


def sseload(mode: str, *options: str) -> Result:
    """One run of the load generator.

    :raises SystemExit: an update went missing or came twice.
    """
    done = subprocess.run([str(SSELOAD), mode, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"sseload {mode} {' '.join(options)} found a fault:\n{done.stdout}{done.stderr}")
    result: Result = json.loads(done.stdout)
    return result


def fanout(subscribers: int, updates: int, publishers: int = 1, **settings: str) -> Result:
    """One topic for all."""
    with hub(**settings) as (address, pid, bearer):
        return sseload(
            "fanout",
            *("-a", address, "-pid", str(pid), "-n", str(subscribers), "-m", str(updates), "-s", "200"),
            *("-p", str(publishers), "-path", f"{PATH}?match=t", "-topic", "t"),
            *("-PH", f"Authorization: Bearer {bearer}"),
        )


def floor(subscribers: int, updates: int) -> Result:
    """The same without a hub."""
    return sseload("floor", "-n", str(subscribers), "-m", str(updates), "-s", "200")


def publish(publishers: int, updates: int) -> Result:
    """Durable publishing with nobody there."""
    with hub() as (address, pid, bearer):
        return sseload(
            "publish",
            *("-a", address, "-pid", str(pid), "-m", str(updates), "-p", str(publishers), "-s", "200"),
            *("-topic", "t", "-PH", f"Authorization: Bearer {bearer}"),
        )


def connect(subscribers: int) -> Result:
    """Idle subscribers."""
    with hub() as (address, pid, _):
        return sseload(
            "connect",
            *("-a", address, "-pid", str(pid), "-n", str(subscribers), "-path", f"{PATH}?match=t"),
            *("-settle", "1", "-hold", "3"),
        )


def median(results: list[Result], field: str) -> float:
    """The median of a field."""
    return statistics.median(result[field] for result in results)


def main() -> None:
    """Run and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one short run of each kind")
    parser.add_argument("--runs", type=int, default=5, help="runs of each kind (5)")
    options = parser.parse_args()
    runs = 1 if options.smoke else options.runs
    scale = 10 if options.smoke else 1
    say("| what | floor | hub | ratio |")
    say("|---|---|---|---|")
    for subscribers, updates in ((1000 // scale, 200), (5000 // scale, 50)):
        floors, hubs = [], []
        for _ in range(runs):
            floors.append(floor(subscribers, updates))
            hubs.append(fanout(subscribers, updates))
        low, high = median(floors, "deliveries_per_cpu_s"), median(hubs, "deliveries_per_cpu_s")
        name = f"{subscribers} subscribers x {updates} updates, deliveries per CPU-second"
        say(f"| {name} | {low:,.0f} | {high:,.0f} | {high / low:.2f} |")
    subscribers, updates = 1000 // scale, 2000 // scale
    bursts = [fanout(subscribers, updates, 64) for _ in range(runs)]
    name = f"{subscribers} subscribers, 64 publishers x {updates} updates, deliveries per CPU-second"
    say(f"| {name} | | {median(bursts, 'deliveries_per_cpu_s'):,.0f} | |")
    idle = [connect(5000 // scale) for _ in range(runs)]
    say(f"| memory of an idle subscriber (PSS, octets) | | {median(idle, 'pss_per_conn'):,.0f} | |")
    say(f"| hub CPU for a connect (µs) | | {median(idle, 'hub_cpu_us_per_connect'):,.0f} | |")
    for publishers, updates in ((1, 3000), (16, 15000), (64, 15000)):
        results = [publish(publishers, updates // scale) for _ in range(runs)]
        rate, cpu = median(results, "publishes_per_s"), median(results, "hub_cpu_us_per_publish")
        name = f"durable publishes per second, {publishers} publishers"
        say(f"| {name} | | {rate:,.0f} ({cpu:,.0f} µs CPU each) | |")


def say(line: str) -> None:
    """Print at once, for whoever watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
