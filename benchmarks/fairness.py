"""A week of a city under our fair scheduler and under first-in-first-out: who got what they were entitled to?

Prints one JSON object on its last line, keyed by policy (`ours`, `fifo`): per department `share` (share ÷ entitlement
per day), `worst_day`, two stricter figures per day (`within`: nothing above the entitlement of the moment makes up for
another; `in_parts`: as if jobs could be cut), `wait_p50_s`, `wait_p99_s`; and over all `worst_share`, `jain`,
`utilisation`, `goodput`, `preemptions`, `preempted_slot_hours`, … How each is measured stands in
`factory.simulation.city`, what a department is entitled to in `.entitlement`, what happens in `.workloads`.

- `jain`: Jain's index (Jain, Chiu & Hawe 1984) over the departments' share ÷ entitlement of the whole period, what is
  above 1 counted as 1: 1 = all alike.
- `utilisation`: slot-hours held ÷ slot-hours up, each pool weighted alike; `goodput`: the same without what preemptions
  and lost nodes threw away.
- `preempted_slot_hours`: work since the last checkpoint that preemptions threw away.
- Waits are from submit to the first start; a job that still waits at the end counts with its wait so far.

Both run through the real `plan`, every plan is checked, time is virtual, and the same seed gives the same figures.
It also prints the tables of docs/scheduling.md, and with `--plots FOLDER` draws its figures (needs matplotlib).

    python -m benchmarks.fairness [--days 7] [--seed 1] [--plots docs/images]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks._tables import tables
from factory.domain.ids import QueueName
from factory.simulation.city import CityRun, run_city
from factory.simulation.workloads import DEPARTMENTS, city_week

POLICIES = {"ours": "fair", "fifo": "fifo"}  # name in the figures -> Pool.policy
MUST = 0.95  # no department's share ÷ entitlement under this on any day


def main(arguments: list[str] | None = None) -> int:
    """Run both and print; exit 1 if a must is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description="a week of a city")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default=",".join(POLICIES), help="some of: " + ", ".join(POLICIES))
    parser.add_argument(
        "--golden", type=Path, help="write the figures here, as tests/simulation/test_week.py reads them"
    )
    parser.add_argument("--plots", type=Path, help="draw the figures into this folder")
    given = parser.parse_args(arguments)
    runs: dict[str, CityRun] = {}
    found: dict[str, Any] = {"days": given.days, "seed": given.seed}
    took: dict[str, float] = {}
    for name in given.policies.split(","):
        began = time.perf_counter()
        runs[name] = run_city(city_week(Random(given.seed), given.days), POLICIES[name])
        found[name] = summary(runs[name])
        took[name] = round(time.perf_counter() - began, 1)
        print(f"{name}: {json.dumps(found[name])}")
    if given.golden is not None:
        given.golden.parent.mkdir(parents=True, exist_ok=True)
        given.golden.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    found["wall_s"] = took
    if given.plots is not None:
        from benchmarks._plots import draw  # matplotlib is not needed without

        draw(runs, given.plots)
    if "ours" in found and "fifo" in found:
        print(tables(found["ours"], found["fifo"]))
        found["met"] = (
            found["ours"]["worst_share"] >= MUST and found["ours"]["utilisation"] >= found["fifo"]["utilisation"]
        )
    print(json.dumps(found))
    return 0 if found.get("met", True) else 1


def summary(run: CityRun) -> dict[str, Any]:
    """Return the figures of one run."""
    days = (run.workload.end - run.workload.begin) // (24 * 3600 * 1000)
    pools = [pool.name for pool in run.workload.pools]
    departments: dict[str, Any] = {}
    whole: list[float] = []
    for name in DEPARTMENTS:
        queue = QueueName(name)
        share = [daily(run, queue, day) for day in range(days)]
        worst_pools = [
            (ratio, str(pool), day)
            for pool in pools
            for day in range(days)
            if (ratio := daily(run, queue, day, only=pool)) is not None
        ]
        waits = sorted(run.waits_s[queue])
        departments[name] = {
            "share": _rounded(share),
            "worst_day": round(min((ratio for ratio in share if ratio is not None), default=1.0), 3),
            "worst_pool_day": min(((round(r, 3), p, d) for r, p, d in worst_pools), default=None),
            "within": _rounded(daily(run, queue, day, of="within") for day in range(days)),
            "in_parts": _rounded(daily(run, queue, day, per="in_parts") for day in range(days)),
            "wait_p50_s": _quantile(waits, 500),
            "wait_p99_s": _quantile(waits, 990),
            "jobs_started": len(waits),
            "preempted_slot_hours": round(sum(h for (q, _), h in run.preempted.items() if q == queue), 1),
        }
        whole.append(min(1.0, _ratio(run, queue, range(days))))
    used = {str(pool): _over(run, pool) for pool in pools}
    utilisation = sum(used.values()) / len(used)
    held = sum(run.held.values())
    return {
        "departments": departments,
        "worst_share": min(each["worst_day"] for each in departments.values()),
        "jain": round(sum(whole) ** 2 / (len(whole) * sum(ratio**2 for ratio in whole)), 4),
        "utilisation": round(utilisation, 4),
        "utilisation_by_pool": {pool: round(share, 4) for pool, share in used.items()},
        "goodput": round(utilisation * (1 - (run.lost_slot_hours + run.failed_slot_hours) / held), 4) if held else 0.0,
        "wait_p50_s": _quantile(sorted(wait for waits in run.waits_s.values() for wait in waits), 500),
        "wait_p99_s": _quantile(sorted(wait for waits in run.waits_s.values() for wait in waits), 990),
        "preemptions": run.preemptions,
        "preempted_slot_hours": round(run.lost_slot_hours, 1),
        "held_slot_hours": round(held),
        "failed_slot_hours": round(run.failed_slot_hours, 1),
        "jobs": len(run.workload.arrivals),
        "jobs_ended": run.ended,
        "jobs_waiting_at_end": run.waiting_at_end,
        "plans": run.plans,
    }


def daily(
    run: CityRun, queue: QueueName, day: int, *, only: str | None = None, of: str = "share", per: str = "entitled"
) -> float | None:
    """Return share ÷ entitlement of a day, of one pool or all; None if the department wanted nothing."""
    hours = [
        entry
        for (name, pool, hour), entry in run.hours.items()
        if name == queue and hour // 24 == day and (only is None or pool == only)
    ]
    entitled = sum(getattr(entry, per) for entry in hours)
    return sum(getattr(entry, of) for entry in hours) / entitled if entitled else None


def _rounded(ratios: Iterable[float | None]) -> list[float | None]:
    return [None if ratio is None else round(ratio, 3) for ratio in ratios]


def _ratio(run: CityRun, queue: QueueName, days: range) -> float:
    hours = [entry for (name, _, hour), entry in run.hours.items() if name == queue and hour // 24 in days]
    entitled = sum(entry.entitled for entry in hours)
    return sum(entry.share for entry in hours) / entitled if entitled else 1.0


def _over(run: CityRun, pool: str) -> float:
    held = sum(amount for (name, _), amount in run.held.items() if name == pool)
    return held / sum(amount for (name, _), amount in run.capacity.items() if name == pool)


def _quantile(values: list[float], per_mille: int) -> float:
    """Nearest rank."""
    return round(values[max(0, -(-per_mille * len(values) // 1000) - 1)], 1) if values else 0.0


if __name__ == "__main__":
    sys.exit(main())
