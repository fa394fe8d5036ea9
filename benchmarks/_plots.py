"""The figures of docs/scheduling.md: a week under `ours` and `fifo`, side by side. Small PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.fairness import daily
from factory.domain.ids import QueueName
from factory.simulation.city import CityRun
from factory.simulation.workloads import DEPARTMENTS

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = dict(zip(DEPARTMENTS, ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"), strict=True))
TITLES = {"ours": "ours (fair)", "fifo": "first in, first out"}
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def draw(runs: dict[str, CityRun], folder: Path) -> None:
    """Write utilisation, shares, waits and preemptions of the runs as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for name, plot in (
        ("utilisation", _utilisation),
        ("shares", _shares),
        ("waits", _waits),
        ("preemptions", _preemptions),
    ):
        figure = plot(runs)
        figure.savefig(folder / f"week-{name}.png", dpi=90, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)


def _side_by_side(runs: dict[str, CityRun], height: float, rows: int = 1) -> tuple[Any, Any]:
    figure, axes = plt.subplots(rows, len(runs), figsize=(9, height), sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], runs, strict=True):
        axis.set_title(TITLES.get(name, name))
    return figure, axes


def _legend(figure: Any, axes: Any, below: float) -> None:
    """The departments' colours in one line under the figure; `below`: in parts of its height."""
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=6, bbox_to_anchor=(0.5, below))


def _days(run: CityRun) -> int:
    return (run.workload.end - run.workload.begin) // (24 * 3600 * 1000)


def _name_days(axis: Any, run: CityRun) -> None:
    days = _days(run)
    axis.set_xticks([24 * day + 12 for day in range(days)], [DAYS[day % 7] for day in range(days)])
    for day in range(1, days):
        axis.axvline(24 * day, color="0.85", linewidth=0.6, zorder=0)
    axis.set_xlim(0, 24 * days)


def _utilisation(runs: dict[str, CityRun]) -> Any:
    """Who holds each pool, hour by hour."""
    first = next(iter(runs.values()))
    pools = [pool.name for pool in first.workload.pools]
    figure, axes = _side_by_side(runs, 6, len(pools))
    for column, run in enumerate(runs.values()):
        for row, pool in enumerate(pools):
            axis, hours = axes[row][column], range(24 * _days(run))
            stacks = [
                [100 * e.share / 3_600_000 if (e := run.hours.get((QueueName(d), pool, h))) else 0.0 for h in hours]
                for d in DEPARTMENTS
            ]
            axis.stackplot(hours, stacks, colors=[COLOURS[d] for d in DEPARTMENTS], labels=DEPARTMENTS, linewidth=0)
            axis.set_ylim(0, 100)
            _name_days(axis, run)
            if column == 0:
                axis.set_ylabel(pool)
    figure.supylabel("% of the slots that are up, by who holds them", fontsize=9)
    _legend(figure, axes, -0.02)
    return figure


def _shares(runs: dict[str, CityRun]) -> Any:
    """Share ÷ entitlement per department and day."""
    figure, axes = _side_by_side(runs, 3)
    for axis, run in zip(axes[0], runs.values(), strict=True):
        days = _days(run)
        for at, name in enumerate(DEPARTMENTS):
            ratios = [daily(run, QueueName(name), day) for day in range(days)]
            where = [day + (at - 2.5) * 0.13 for day in range(days)]
            heights = [0.0 if ratio is None else min(1.5, ratio) for ratio in ratios]
            axis.bar(where, heights, width=0.12, color=COLOURS[name], label=name)
        axis.axhline(1, color="0.3", linewidth=0.8)
        axis.axhline(0.95, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_xticks(range(days), [DAYS[day % 7] for day in range(days)])
    axes[0][0].set_ylabel("share ÷ entitlement")
    _legend(figure, axes, -0.12)
    return figure


def _waits(runs: dict[str, CityRun]) -> Any:
    """The distribution of waits per department."""
    figure, axes = _side_by_side(runs, 3.2)
    for axis, run in zip(axes[0], runs.values(), strict=True):
        for name in DEPARTMENTS:
            waits = np.sort(np.maximum(run.waits_s[QueueName(name)], 1.0)) / 60
            axis.plot(waits, 100 * np.arange(1, len(waits) + 1) / len(waits), color=COLOURS[name], label=name)
        axis.set_xscale("log")
        axis.set_xticks([1 / 6, 1, 10, 60, 600, 2880], ["10 s", "1 min", "10 min", "1 h", "10 h", "2 d"])
        axis.minorticks_off()
        axis.set_xlabel("wait from submit to first start")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("% of the department's jobs")
    _legend(figure, axes, -0.2)
    return figure


def _preemptions(runs: dict[str, CityRun]) -> Any:
    """Work that preemptions threw away, per day and department that lost it."""
    figure, axes = _side_by_side(runs, 2.6)
    for axis, run in zip(axes[0], runs.values(), strict=True):
        days, floor = _days(run), np.zeros(_days(run))
        for name in DEPARTMENTS:
            lost = np.array([run.preempted.get((QueueName(name), day), 0.0) for day in range(days)])
            axis.bar(range(days), lost, bottom=floor, color=COLOURS[name], label=name, width=0.6)
            floor = floor + lost
        axis.set_xticks(range(days), [DAYS[day % 7] for day in range(days)])
    axes[0][0].set_ylabel("slot-hours thrown away")
    _legend(figure, axes, -0.16)
    return figure
