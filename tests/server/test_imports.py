"""What a hub imports: each package costs memory in each process, whether it is used or not."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chosen_engine import IS_SQLITE
from tests.hub.running import RunningHub, process_environment

pytestmark = pytest.mark.minutes

NOT_NEEDED = {
    *("asyncio", "cryptography", "difflib", "jwt", "prometheus_client", "requests", "sqlalchemy", "urllib3"),
    *("http.server", "gevent.pywsgi", "hpack", "psycopg", "redis", "multiprocessing", "unittest"),
    *("mercure_hub.tools", "mercure_hub.metrics.exposition", "mercure_hub.protocol.tokens.asymmetric"),
}


@pytest.mark.skipif(not IS_SQLITE, reason="the drivers of other engines need more")
def test_a_hub_whose_keys_are_secrets_imports_no_more_than_it_needs(folder: Path) -> None:
    environment = process_environment(folder, MERCURE_ANONYMOUS="1")
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "mercure_hub"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stderr is not None
            lines = [""]
            while not (found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", lines[-1])):
                lines.append(child.stderr.readline())
                assert lines[-1], lines
            hub = RunningHub(int(found[1]))
            stream = hub.subscribe({"match": "t"})
            hub.send("t", "x")
            assert stream.take(1) == ["x"]
            hub.close()
            child.send_signal(signal.SIGTERM)
            lines += child.stderr.read().splitlines()
        finally:
            child.kill()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "mercure_hub.server.lifecycle" in imported
    assert imported & NOT_NEEDED == set()


def test_what_reads_fetched_keys_is_imported_before_the_workers_are_forked() -> None:
    script = """
import sys
from mercure_hub.config.loading import load_settings
settings = {"MERCURE_JWKS_URI": "https://login.example.com/keys", "MERCURE_PUBLIC_URL": "https://example.com/hub"}
load_settings(settings, {})
print("mercure_hub.protocol.tokens.asymmetric" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
