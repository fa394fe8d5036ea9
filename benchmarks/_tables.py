"""The tables of docs/scheduling.md, from the figures of `benchmarks.fairness`."""

from __future__ import annotations

from typing import Any

__all__ = ["tables"]


def tables(ours: dict[str, Any], fifo: dict[str, Any]) -> str:
    """Return both tables as Markdown: over all, and by department."""
    lines = ["| | fair | fifo |", "|---|---|---|"]
    lines += [
        f"| worst share ÷ entitlement of any department on any day (must 0.95) | **{ours['worst_share']}** "
        f"| {fifo['worst_share']} |",
        f"| Jain's index over the departments | {ours['jain']} | {fifo['jain']} |",
        f"| utilisation (cpu / gpu-small / gpu-big) | {_utilisation(ours)} | {_utilisation(fifo)} |",
        f"| goodput | {100 * ours['goodput']:.2f} % | {100 * fifo['goodput']:.2f} % |",
        f"| preemptions; slot-hours that they threw away | {ours['preemptions']:,}; {ours['preempted_slot_hours']} of "
        f"{ours['held_slot_hours']:,} held | {fifo['preemptions']} |",
        f"| median wait of all jobs | {_wait(ours['wait_p50_s'])} | {_wait(fifo['wait_p50_s'])} |",
        "",
        "| department | worst day, fair | worst day, fifo | wait p50 / p99, fair | wait p50 / p99, fifo |",
        "|---|---|---|---|---|",
    ]
    for name, fair in ours["departments"].items():
        plain = fifo["departments"][name]
        lines.append(f"| {name} | {fair['worst_day']} | {plain['worst_day']} | {_waits(fair)} | {_waits(plain)} |")
    return "\n".join(lines)


def _utilisation(found: dict[str, Any]) -> str:
    pools = " / ".join(f"{100 * share:.1f}" for share in found["utilisation_by_pool"].values())
    return f"{100 * found['utilisation']:.1f} % ({pools})"


def _waits(department: dict[str, Any]) -> str:
    return f"{_wait(department['wait_p50_s'])} / {_wait(department['wait_p99_s'])}"


def _wait(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
