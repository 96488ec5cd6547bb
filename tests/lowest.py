"""Print constraints for pip: of each dependency the lowest version that setup.cfg allows."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("hub", "encryption", "outbox", "postgresql", "redis", "debug", "telemetry")
"""What applications install; tools of the tests may be newer than their lower bounds."""

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)(?:;.*)?")


def lowest(configuration: ConfigParser) -> Iterator[str]:
    """Constraints such as ``flask==3.0``.

    :param configuration: ``setup.cfg``.
    :raises ValueError: a requirement has no lower bound, or more than that.
    """
    texts = [configuration["options"]["install_requires"]]
    texts += [configuration["options.extras_require"][extra] for extra in EXTRAS]
    for line in filter(None, "\n".join(texts).splitlines()):
        requirement = _REQUIREMENT.fullmatch(line)
        if requirement is None:
            raise ValueError(f"{line!r} in setup.cfg is not a name with one lower bound")
        yield "{}=={}".format(*requirement.groups())


if __name__ == "__main__":
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    sys.stdout.write("".join(f"{line}\n" for line in dict.fromkeys(lowest(setup))))
