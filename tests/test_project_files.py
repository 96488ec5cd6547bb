"""Files that a code host reads: they name commands and versions that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.lowest import lowest

ROOT = Path(__file__).parents[1]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def setup_cfg() -> ConfigParser:
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg", encoding="utf-8")
    return configuration


def test_lower_bounds_become_constraints() -> None:
    constraints = list(lowest(setup_cfg()))
    assert "flask==3.0" in constraints
    assert any(one.startswith("gevent==") for one in constraints)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", one) for one in constraints)


@pytest.mark.parametrize("line", ["flask", "flask>=3,<4", "flask==3.0", "flask~=3.0"])
def test_a_requirement_without_one_lower_bound_is_an_error(line: str) -> None:
    configuration = setup_cfg()
    configuration["options"]["install_requires"] = f"\n{line}"
    with pytest.raises(ValueError, match=re.escape(repr(line))):
        list(lowest(configuration))


def test_setup_cfg_lists_each_package_of_the_tree() -> None:
    listed = setup_cfg()["options"]["packages"].split()
    tree = [
        ".".join(path.parent.relative_to(root).parts)
        for root, package in ((ROOT, "flask_mercure"), (ROOT / "hub", "mercure_hub"))
        for path in (root / package).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(tree)


def test_actions_are_pinned_to_commits() -> None:
    used = re.findall(r"uses: (\S+)", WORKFLOW)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one) for one in used)


def test_the_workflow_runs_the_script_of_the_repository() -> None:
    assert "run: .ci/run" in WORKFLOW
    versions = [int(one) for one in re.findall(r'python: "3\.(\d+)"', WORKFLOW)]
    classifiers = re.findall(r"Python :: 3\.(\d+)", setup_cfg()["metadata"]["classifiers"])
    assert {str(one) for one in versions} <= set(classifiers)
    assert str(min(versions)) == min(classifiers)


@pytest.mark.minutes
def test_make_refuses_dependencies_that_it_does_not_know() -> None:
    done = subprocess.run(
        ["make", "test", "DEPENDENCIES=oldest", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert 'DEPENDENCIES is "oldest"; it can be lowest or newest' in done.stderr
