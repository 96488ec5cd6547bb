"""Examples, which are no packages, as ``flask --app`` finds them; and packages of npm for their pages."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from tests.examples.browser import ROOT
from tests.needs import need


def load_example(name: str) -> ModuleType:
    """The module ``app`` of an example, made anew."""
    spec = spec_from_file_location(f"{name}_example", ROOT / "examples" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Flask looks there for the templates' place, SQLAlchemy for annotations.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NPM_FLAGS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")


def install_packages(folder: Path) -> Path:
    """Install what the ``package.json`` of a folder names.

    :returns: the folder of the packages.
    """
    need("npm")
    run = subprocess.run(
        ["npm", "install", *NPM_FLAGS], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "node_modules"
