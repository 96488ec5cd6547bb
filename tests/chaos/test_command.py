"""How many seeds are run and judged; the runs themselves are played by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from chaos import command
from chaos.invariants import Invariant
from chaos.known import Known
from chaos.plan import Kind

DEFECT = Known("updates are lost", 5, (Kind.RELOAD,), frozenset({Invariant.LOST}))
Make = Callable[[Sequence[str]], int]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Make]:
    """The command, with what each seed breaks, and how often it fails itself."""

    def arrange(broken: dict[int, list[Invariant]], known: tuple[Known, ...] = (), crashed: int = -1) -> Make:
        def run(options: Any, task: Any, without: Sequence[int] = ()) -> tuple[int, str]:
            if task.seed == crashed:
                return 1, "Traceback"
            rules = [one.name for one in broken.get(task.seed, [])]
            folder = tmp_path / "-".join(["seed", str(task.seed), *(f"without{one}" for one in without)])
            folder.mkdir(exist_ok=True)
            (folder / "story.txt").write_text(f"the story of {task.seed}")
            verdict = {
                **dict.fromkeys(command._NUMBERS, 2),
                "rules": rules,
                "summary": ", ".join(rules),
            }
            (folder / "verdict.json").write_text(json.dumps(verdict))
            return (1 if rules else 0), ""

        monkeypatch.setattr(command, "_BUILD", tmp_path)
        monkeypatch.setattr(command, "_in_child", run)
        monkeypatch.setattr(command, "build", lambda _: None)
        monkeypatch.setattr(command, "KNOWN", known)
        monkeypatch.setattr(
            command,
            "tolerated",
            lambda engine: frozenset(rule for one in known if one.engine == engine for rule in one.rules),
        )
        return command.main

    return arrange


def test_seeds_that_break_no_rule_pass(make: Callable[..., Make], capsys: pytest.CaptureFixture[str]) -> None:
    assert make({})(["--seeds", "0-2,7"]) == 0
    printed = capsys.readouterr().out
    assert "4 seeds in" in printed
    assert "8 acknowledged" in printed
    assert "8 lost, 8 doubled, 8 out of order; 0 failed" in printed


def test_a_broken_rule_fails_the_run_and_its_story_is_told(
    make: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make({1: [Invariant.GAP]})(["--seeds", "0-2"]) == 1
    printed = capsys.readouterr().out
    assert "the story of 1" in printed
    assert "seed 1 (GAP)" in printed


def test_a_known_defect_is_expected(make: Callable[..., Make]) -> None:
    main = make({5: [Invariant.LOST], 2: [Invariant.LOST]}, (DEFECT,))
    assert main(["--known", "--seeds", "0-2"]) == 0


def test_a_known_defect_of_one_engine_is_none_of_another(make: Callable[..., Make]) -> None:
    main = make({5: [Invariant.LOST], 2: [Invariant.LOST]}, (DEFECT,))
    assert main(["--known", "--engine", "valkey", "--seeds", "0-1"]) == 0
    assert main(["--known", "--engine", "valkey", "--seeds", "2"]) == 1


def test_a_known_defect_that_does_not_show_fails_the_run(
    make: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make({}, (DEFECT,))(["--known", "--seeds", "0-2"]) == 1
    assert "5 (passes unexpectedly)" in capsys.readouterr().out


def test_a_known_defect_excuses_no_other_rule(make: Callable[..., Make]) -> None:
    assert make({5: [Invariant.LOST, Invariant.LEAK]}, (DEFECT,))(["--known", "--seeds", "0"]) == 1


def test_a_checker_that_fails_is_no_success(
    make: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make({}, crashed=1)(["--seeds", "0-2"]) == 1
    assert "seed 1: the checker failed" in capsys.readouterr().out


def test_a_failure_is_shrunk_to_the_faults_that_it_needs(
    make: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    main = make({1: [Invariant.GAP]})
    assert main(["--seeds", "1", "--shrink", "--kind", "reload", "--kind", "storm"]) == 1
    assert "seed 1: the failure needs no fault at all" in capsys.readouterr().out


def test_a_fault_that_does_not_exist_is_named(
    make: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make({})(["--kind", "earthquake"])
    assert "'earthquake' is no fault; there are kill-hub, " in capsys.readouterr().err


def test_a_fault_of_an_engine_needs_one_that_nodes_share(
    make: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make({})(["--kind", "fail-over"])
    assert "fail-over: needs an engine that nodes share" in capsys.readouterr().err
    assert make({})(["--kind", "fail-over", "--engine", "valkey", "--seeds", "1"]) == 0
