"""Examples, which are no packages, as ``flask --app`` finds them."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from tests.examples.browser import ROOT


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
