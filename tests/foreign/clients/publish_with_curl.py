"""``curl -d``."""

from __future__ import annotations

import os
import subprocess

from tests.foreign.clients.given import ARGUMENTS, HEADERS, HUB, LIMIT, tell

data, *topics = ARGUMENTS
fields = [*(f"topic={topic}" for topic in topics), f"data={data}"]
fields += ["private=on"] if os.environ.get("PRIVATE") else []
command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", str(LIMIT)]
command += ["-H", f"Authorization: {HEADERS['Authorization']}"]
command += [word for field in fields for word in ("--data-urlencode", field)]
done = subprocess.run([*command, HUB], capture_output=True, text=True, check=False)
if done.returncode:
    raise SystemExit(done.stderr + done.stdout)
tell(id=done.stdout)
