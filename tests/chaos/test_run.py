"""A whole run, of this hub and of one that is broken."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from chaos.injection.library import build
from chaos.invariants import Invariant, violations
from chaos.node import ROOT, Unit
from chaos.plan import POSTGRESQL, VALKEY, Kind, Manner, Plan, draw
from chaos.record import End, Outcome, Record
from chaos.run import Place, run
from chaos.topics import ALL
from tests.needs import need

pytestmark = pytest.mark.minutes


def played(plan: Plan, root: Path, folder: Path) -> Record:
    """The record of a run."""
    need("gcc", "libc6-dev")
    return asyncio.run(run(plan, Place(root, folder / "run", build(folder))))


def test_a_sound_hub_breaks_no_rule_and_all_took_part(tmp_path: Path) -> None:
    seen = played(draw(6, kinds=[Kind.RELOAD, Kind.STORM], least=8.0), ROOT, tmp_path)
    assert violations(seen) == []
    assert {one.outcome for one in seen.publications} >= {Outcome.STORED}
    assert {one.end for one in seen.sessions} >= {End.OPEN, End.CLIENT, End.NETWORK}
    assert {one.is_websocket for one in seen.sessions if one.received} == {True, False}
    assert any(private.private for one in seen.publications for private in one.updates)
    assert all(deed.happened for deed in seen.deeds)
    assert seen.trials
    assert {look.path for look in seen.looks} == {"/healthz", "/readyz", "/metrics"}


@pytest.mark.parametrize(("engine", "server"), [(POSTGRESQL, "postgresql"), (VALKEY, "valkey-server")])
def test_nodes_on_one_engine_break_no_rule_and_all_took_part(
    engine: str, server: str, tmp_path: Path
) -> None:
    need(server)
    plan = draw(4, engine=engine, nodes=2, kinds=[Kind.WIRE_RESET, Kind.DISCONNECT], least=8.0)
    seen = played(plan, ROOT, tmp_path)
    assert violations(seen) == []
    assert {one.node for one in seen.publications if one.outcome is Outcome.STORED} >= {0, 1}
    assert {one.node for one in seen.sessions if one.received} >= {0, 1}
    assert {look.node for look in seen.looks} == {0, 1}
    assert len(seen.log) > 20
    assert [list(one or ()) for one in seen.elsewhere] == [list(seen.replayed or ())]


def test_a_hub_that_shows_private_updates_to_all_is_caught(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "hub", tmp_path / "broken" / "hub", ignore=shutil.ignore_patterns("__pycache__"))
    broker = tmp_path / "broken" / "hub" / "mercure_hub" / "broker" / "replay.py"
    sound = broker.read_text()
    broken = sound.replace("if update.private and not", "if False and not")
    assert broken != sound
    broker.write_text(broken)
    plans = (draw(seed, kinds=[Kind.RELOAD], least=15.0) for seed in range(100))
    plan = next(
        plan
        for plan in plans
        if any(
            one.manner is Manner.RETURNS and ALL in one.matchers and not one.grants
            for one in plan.subscribers
        )
        and max(one.private for one in plan.publishers[1:]) > 0.5
    )
    seen = played(plan, tmp_path / "broken", tmp_path)
    assert {violation.invariant for violation in violations(seen)} == {Invariant.LEAK}


def test_the_supervisor_follows_the_shipped_unit() -> None:
    unit = Unit.shipped(ROOT)
    assert unit.pause == 1.0
    assert unit.final == {2}


@pytest.mark.parametrize("kind", [Kind.REMOVE_DATABASE])
def test_a_damaged_store_is_noticed_and_the_operator_helps(kind: Kind, tmp_path: Path) -> None:
    seen = played(draw(2, kinds=[kind], workers=1, least=6.0), ROOT, tmp_path)
    assert seen.damaged > 0
    assert seen.recovered < float("inf")
    assert Invariant.LOST not in {violation.invariant for violation in violations(seen)}
