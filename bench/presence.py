"""What thousands cost a hub who come to one topic and leave again: announced as subscriptions, or counted.

python bench/presence.py 5000
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlencode

import jwt

SECRET = "a secret for measurements, of more than 32 bytes"
HUB = "/.well-known/mercure"
ROOM = "rooms/1"
COUNT = f"{HUB}/counts/{quote(ROOM, safe='')}"
PEOPLE = f"{HUB}/subscriptions/exact/{quote(ROOM, safe='')}"
DETAIL = "https://mercure.rocks/authorization-detail"


def token(port: int, *topics: str) -> str:
    """A token that grants exact topics; whose user is the last of them's reader."""
    matchers = [
        {"match": one} if ":" not in one else {"match": one, "match_type": "urlpattern"} for one in topics
    ]
    detail = {"type": DETAIL, "actions": ["subscribe"], "topics": matchers, "payload": {"sub": "somebody"}}
    now = int(time.time())
    claims = {"iss": "urn:flask-mercure", "aud": f"http://127.0.0.1:{port}{HUB}", "sub": "somebody"}
    times = {"client_id": "bench", "iat": now, "exp": now + 3600, "jti": "bench"}
    content = {**claims, **times, "authorization_details": [detail]}
    return jwt.encode(content, SECRET, "HS256", headers={"typ": "at+jwt"})


def subscribe(port: int, credentials: str, *topics: str) -> socket.socket:
    """Send the request of a subscriber; the answer is left unread."""
    query = urlencode([("match_urlpattern" if ":" in one else "match", one) for one in topics])
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = (
        f"GET {HUB}?{query} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {credentials}\r\n\r\n"
    )
    sock.sendall(head.encode())
    return sock


def processor_time(pid: int) -> float:
    """Seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """MiB that a process has in memory."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        * resource.getpagesize()
        / 2**20
    )


def settle(pid: int) -> None:
    """Wait until the hub has nothing to do."""
    before = -1.0
    while (now := processor_time(pid)) - before > 0.2:
        before = now
        time.sleep(2)


def measure(name: str, number: int, folder: Path, granted: tuple[str, ...], watched: str) -> None:
    """Have readers come and leave, while ten of them follow who is there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "MERCURE_LISTEN": f"127.0.0.1:{port}",
        "MERCURE_TRANSPORT_URL": f"sqlite:///{folder}/{name}.db",
        "MERCURE_PUBLISHER_JWT_KEY": SECRET,
        "MERCURE_SUBSCRIPTIONS": "1",
    }
    command = [sys.executable, "-m", "mercure_hub"]
    with subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL) as hub:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        credentials = token(port, ROOM, *granted)
        watchers = [subscribe(port, credentials, ROOM, watched) for _ in range(10)]
        settle(hub.pid)
        start, began, empty = processor_time(hub.pid), time.monotonic(), memory(hub.pid)
        readers = [subscribe(port, credentials, ROOM) for _ in range(number)]
        came = time.monotonic() - began
        settle(hub.pid)
        full, used = memory(hub.pid), processor_time(hub.pid) - start
        for one in readers:
            one.close()
        settle(hub.pid)
        left = processor_time(hub.pid) - start - used
        size = sum(path.stat().st_size for path in folder.glob(f"{name}.db*")) / 2**20
        for one in watchers:
            one.close()
        hub.terminate()
    lines = [
        f"{name}: {number} came in {came:.1f} s",
        f"  processor, to come and to leave: {used:.1f} s, {left:.1f} s",
        f"  memory of each: {(full - empty) * 1024 / number:.1f} KiB",
        f"  history: {size:.1f} MiB",
    ]
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, help="of readers")
    number = parser.parse_args().number
    with tempfile.TemporaryDirectory() as folder:
        measure("events", number, Path(folder), (PEOPLE, f"{PEOPLE}/:subscriber"), f"{PEOPLE}/:subscriber")
        measure("counts", number, Path(folder), (COUNT,), COUNT)


if __name__ == "__main__":
    main()
