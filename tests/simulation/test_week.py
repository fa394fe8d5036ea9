"""One day of the city's week comes out as it did: a golden summary, so that no change of the scheduler goes unseen.

The day is deterministic. If a change of the kernel or of the workload moves the figures on purpose, look at what moved
(`git diff tests/simulation/golden`), renew the file, and say why in the commit:

    python -m benchmarks.fairness --days 1 --golden tests/simulation/golden/day.json
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks.fairness import MUST, POLICIES, summary
from factory.simulation.city import run_city
from factory.simulation.workloads import city_week

GOLDEN = json.loads((Path(__file__).parent / "golden" / "day.json").read_text())


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_monday_comes_out_as_it_did(name: str) -> None:
    run = run_city(city_week(Random(GOLDEN["seed"]), days=1), POLICIES[name])
    found = json.loads(json.dumps(summary(run)))  # tuples become lists, as in the file
    moved = {key: (GOLDEN[name][key], found[key]) for key in found if found[key] != GOLDEN[name][key]}
    assert not moved, "the day came out otherwise (before, now); see the docstring of this file for how to renew it"


def test_the_golden_day_is_fair() -> None:
    assert GOLDEN["ours"]["worst_share"] >= MUST
    assert GOLDEN["ours"]["utilisation"] >= GOLDEN["fifo"]["utilisation"]
