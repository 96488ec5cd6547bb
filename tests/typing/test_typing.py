"""The types that users get: sample.py passes, and each line of mistakes.py.txt is refused as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.minutes

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent


def test_mypy_accepts_the_sample_and_refuses_each_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("mypy.api", reason="the extra 'check' is not installed")
    mistakes = tmp_path / "mistakes.py"
    text = (FOLDER / "mistakes.py.txt").read_text(encoding="utf-8")
    mistakes.write_text(text, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    said, errors, _ = api.run(
        [
            *("--strict", "--no-error-summary", "--hide-error-context", "--no-pretty", "--show-error-codes"),
            # a cache of its own: the options differ from those of a run over the tree
            *("--cache-dir", str(ROOT / ".mypy_cache" / "typing"), "--config-file", str(ROOT / "setup.cfg")),
            *("--follow-imports", "silent"),
            *(str(FOLDER / "sample.py"), str(mistakes)),
        ]
    )
    assert errors == ""
    found = re.findall(r"^(.*?):(\d+): error: .*\[([\w-]+)\]$", said, re.MULTILINE)
    expected = [
        (str(number), mark[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (mark := re.search(r"# E: ([\w-]+)$", line))
    ]
    assert len(expected) > 10
    assert [(line, code) for path, line, code in found if path.endswith("mistakes.py")] == expected, said
    assert [one for one in found if not one[0].endswith("mistakes.py")] == [], said
