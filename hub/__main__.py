"""``python -m hub`` is the command ``mercure-hub``."""

import sys

from hub.cli import main

sys.exit(main())
