"""The JavaScript that changes over from one source of events to another, run by Node.js."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.node import run_node

pytestmark = pytest.mark.minutes

_CATCH_UP = """
import { Handover } from "./feed.js";

const [most, newest] = JSON.parse(process.argv[2]);
const delivered = [];
let isOver = false;
const handover = new Handover(({ id }) => delivered.push(id), () => (isOver = true), most);
for (let id = 1; id <= newest; id++) handover.fromNew({ id: `${id}` });
let id = 0;
while (id < newest && !isOver) handover.fromOld({ id: `${++id}` });
handover.cancel();
console.log(JSON.stringify({ met: id, delivered: [...new Set(delivered)] }));
"""


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_source_that_catches_up_late_loses_nothing(tmp_path: Path, most: int) -> None:
    """It meets the other one at the first event that is kept of that, however few those are."""
    found = run_node(tmp_path, _CATCH_UP, [most, 10])
    assert found == {"met": max(1, 11 - most), "delivered": [str(one) for one in range(1, 11)]}
