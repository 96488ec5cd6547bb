"""Runs the JavaScript module, or parts of it, without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.examples.browser import ROOT
from tests.needs import need


def run_node(folder: Path, script: str, argument: object) -> Any:
    """Run a script by Node.js.

    :param folder: an empty one.
    :param script: of a module; imports those of the page as ``./feed.js``, and prints JSON.
    :param argument: JSON in its ``process.argv[2]``.
    :returns: what it has printed.
    """
    need("nodejs")
    for path in (ROOT / "flask_mercure" / "static").glob("*.js"):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(script)
    run = subprocess.run(
        ["node", "run.js", json.dumps(argument)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
