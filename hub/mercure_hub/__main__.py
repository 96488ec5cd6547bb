"""``python -m mercure_hub`` is the command ``mercure-hub``."""

import sys

from mercure_hub.cli import main

sys.exit(main())
