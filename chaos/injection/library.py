"""Builds the library with the C compiler of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from chaos.injection.layout import header

_SOURCE = Path(__file__).with_name("faulty.c")
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE", "-shared", "-fPIC")
_NAME = "faulty.so"


class BuildError(Exception):
    """The library cannot be built; the message says what to do."""


def build(folder: Path, compiler: str = "cc") -> Path:
    """Build the library.

    :param folder: for the result; several may build there at once.
    :param compiler: its name or path.
    :returns: path of the library.
    :raises BuildError: there is no compiler, or it fails.
    """
    program = shutil.which(compiler)
    if program is None:
        raise BuildError(f"there is no C compiler {compiler!r}; on Debian: apt install gcc libc6-dev")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        (Path(work) / "layout.h").write_text(header(), encoding="ascii")
        made = Path(work) / _NAME
        run = subprocess.run(  # noqa: S603 - our own source
            [program, *_FLAGS, f"-I{work}", "-o", str(made), str(_SOURCE), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        if run.returncode:
            remedy = "; on Debian: apt install libc6-dev" if "No such file or directory" in run.stderr else ""
            raise BuildError(f"{compiler} cannot build {_SOURCE.name}{remedy}\n{run.stderr.strip()}")
        return made.replace(folder.absolute() / _NAME)
