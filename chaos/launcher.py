"""Starts a hub whose engine keeps updates for fewer seconds than people can wait for in a run.

``python launcher.py SECONDS``, with the hub on the path. A successor is started with the same words.
"""

import sys

from mercure_hub.storage import interface

interface.SHARED_GRACE = float(sys.argv.pop(1))  # before any link is imported, which takes its value

from mercure_hub.cli import main  # noqa: E402

sys.exit(main())
