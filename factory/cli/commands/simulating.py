"""`factory simulate`: what if, by replaying a recorded period; and the factory's own rules under faults."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factory import errors
from factory.cli.commands.processes import needs_extra
from factory.cli.commands.queues import parse_quota
from factory.cli.output import console, emit_json, is_json, progress, show_table, span, stamp

if TYPE_CHECKING:
    from factory.simulation.replay import Outcome, Waits, WhatIf

__all__ = ["simulate"]

_AGO = re.compile(r"(\d+)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def simulate(
    since: Annotated[
        str | None,
        typer.Option("--from", help="Beginning of the period to replay: 24h, 7d (ago), 2026-11-23, 2026-11-23T08:00."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Its end; by default now.")] = None,
    add_nodes: Annotated[
        list[str] | None, typer.Option(help="POOL=N: N more nodes like those of the pool. May be repeated.")
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(help="QUEUE/POOL=NOMINAL[+BORROWING][-LENDING], as in `factory queues set`. May be repeated."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="POOL=fair|fifo|shortest|least-attained-service. May be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Without --from: how many seeds.")] = 20,
    events: Annotated[int, typer.Option(help="Without --from: events per seed.")] = 300,
    first: Annotated[int, typer.Option(help="Without --from: the first seed.")] = 0,
) -> None:
    """What if? Replay a period's jobs through the real scheduler, as it is set and with other settings, side by side.

    factory simulate --from 7d --add-nodes h100=4

    factory simulate --from 2026-11-23 --to 2026-11-24 --quota water/h100=12+4 --policy h100=fifo

    It needs a platform key. Jobs hold their slots as long as they really did; what a preempted job did is lost; nodes
    and queues are those of now. Without --from it runs the real control plane against a fake Ray under faults, and
    checks the rules after every commit.
    """
    if since is None:
        if until or add_nodes or quota or policy:
            raise errors.InvalidRequestError("a replay needs the beginning of its period", hint="e.g. --from 24h")
        _faults(seeds, events, first)
        return
    now = time.time_ns() // 1_000_000
    begin, end = parse_instant(since, now), parse_instant(until, now) if until else now
    if begin >= end:
        raise errors.InvalidRequestError(f"the period would end before it begins ({stamp(begin)}, {stamp(end)})")
    _what_if(begin, end, add_nodes or [], quota or [], policy or [])


def _faults(seeds: int, events: int, first: int) -> None:
    with needs_extra("server"):
        from factory.simulation.campaign import SQLITE_EVERY, run_campaign
    with tempfile.TemporaryDirectory() as folder:
        campaign = run_campaign(range(first, first + seeds), events, Path(folder), sqlite_every=SQLITE_EVERY)
    if is_json():
        emit_json({"seeds": seeds, "events": events, "failures": len(campaign.failures), "summary": campaign.summary()})
    else:
        typer.echo(campaign.summary())
    raise typer.Exit(1 if campaign.failures else 0)


def _what_if(begin: int, end: int, add_nodes: list[str], quota: list[str], policy: list[str]) -> None:
    with needs_extra("server"):
        from factory.simulation.recorded import fleet_of, period_of
        from factory.simulation.replay import changed, recorded_waits, replay
    from factory.schemas.pools import POLICIES
    from factory.sdk.client import Client

    what = _settings(add_nodes, quota, policy)
    client = Client()
    fleet = fleet_of(client.history.fleet())
    other = changed(fleet, what, POLICIES)  # a wrong name is said before the long part begins
    with progress("reading the period …"):
        period = period_of(client.history.jobs(begin, end), begin, end)
    if not period.works:
        raise errors.InvalidRequestError(
            f"no job waited or ran between {stamp(begin)} and {stamp(end)}", hint="choose another period"
        )
    with progress(f"replaying {len(period.works)} jobs …"):
        before, after = replay(period, fleet), replay(period, other)
    median, most = recorded_waits(period)
    if is_json():
        emit_json(
            {
                "from": begin,
                "to": end,
                "jobs": len(period.works),
                "changes": [*(f"add-nodes {t}" for t in add_nodes), *(f"quota {t}" for t in quota),
                            *(f"policy {t}" for t in policy)],
                "recorded": {"wait_p50_s": median / 1000, "wait_p99_s": most / 1000},
                "as_set": as_json(before),
                "changed": as_json(after),
            }
        )  # fmt: skip
        return
    console.print(Text(f"{stamp(begin)} to {stamp(end)}, {len(period.works)} jobs", style="bold"))
    for words, given in (("more nodes", add_nodes), ("quota", quota), ("policy", policy)):
        if given:
            console.print(Text(f"changed: {words} {', '.join(given)}"))
    lost = sorted(node.id for node in fleet.nodes if node.state.value == "lost")
    if lost:
        console.print(Text(f"lost now, so they take no part: {', '.join(lost)}", style="yellow"))
    console.print()
    _show(before, after)
    console.print()
    really = f"really they waited {span(median)} (median), {span(most)} (99 of 100), with the settings of then"
    console.print(Text(really, style="dim"))


def _settings(add_nodes: list[str], quota: list[str], policy: list[str]) -> WhatIf:
    from factory.domain.ids import PoolName, QueueName
    from factory.domain.tenancy import Quota
    from factory.simulation.replay import WhatIf

    quotas: list[tuple[QueueName, Quota]] = []
    for text in quota:
        queue, sign, rest = text.partition("/")
        if not sign or not queue:
            raise errors.InvalidRequestError(f"'{text}' is no quota of a queue", hint="write QUEUE/POOL=NOMINAL")
        pool, wanted = parse_quota(rest)
        if wanted is None:
            raise errors.InvalidRequestError(f"'{text}': a replay cannot take a quota away", hint="write a large one")
        amounts = (wanted["nominal"], wanted["borrowing"], wanted["lending"])
        nominal, borrowing, lending = (None if a is None else round(a * 1000) for a in amounts)
        quotas.append((QueueName(queue), Quota(PoolName(pool), nominal or 0, borrowing, lending)))
    return WhatIf(
        add_nodes=tuple((PoolName(pool), _count(count, text)) for text in add_nodes for pool, count in [_pair(text)]),
        quotas=tuple(quotas),
        policies=tuple((PoolName(pool), name) for text in policy for pool, name in [_pair(text)]),
    )


def _pair(text: str) -> tuple[str, str]:
    pool, sign, value = text.partition("=")
    if not sign or not pool or not value:
        raise errors.InvalidRequestError(f"'{text}' is not POOL=…", hint="e.g. h100=4")
    return pool, value


def _count(text: str, whole: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise errors.InvalidRequestError(f"'{whole}' is not POOL=N with N from 1 to 10000")
    return int(text)


def parse_instant(text: str, now: int) -> int:
    """Return ms since the epoch: "24h", "7d" before `now`, or a date or time, local where it names no zone.

    >>> parse_instant("90s", 100_000)
    10000
    """
    if match := _AGO.fullmatch(text.strip()):
        return now - int(match[1]) * _SECONDS[match[2]] * 1000
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError) as exc:
        raise errors.InvalidRequestError(
            f"'{text}' is no time", hint="write 24h or 7d (ago), 2026-11-23 or 2026-11-23T08:00"
        ) from exc


def _show(before: Outcome, after: Outcome) -> None:
    pools = [
        (f"utilisation {name}", *(f"{o.pools[name].utilisation:.1%}" for o in (before, after)))
        for name in sorted(before.pools)
        if before.pools[name].offered or after.pools[name].offered
    ]
    rows: list[tuple[str, ...]] = [
        *pools,
        ("jobs ended in the period", f"{before.ended:,}", f"{after.ended:,}"),
        ("never started", f"{before.never_started:,}", f"{after.never_started:,}"),
        ("preemptions", f"{before.preemptions:,}", f"{after.preemptions:,}"),
        ("makespan", span(before.makespan_ms), span(after.makespan_ms)),
        ("wait, median", span(before.all.p50_ms), span(after.all.p50_ms)),
        ("wait, 99 of 100", span(before.all.p99_ms), span(after.all.p99_ms)),
    ]
    show_table(("", "AS SET>", "CHANGED>"), rows, empty="")
    _show_waits("QUEUE", _by_text(before.queues), _by_text(after.queues))
    _show_waits("TENANT", _by_text(before.tenants), _by_text(after.tenants))


def _by_text(waits: Mapping[Any, Waits]) -> dict[str, Waits]:
    return {str(name): found for name, found in waits.items()}


def _show_waits(title: str, ours: dict[str, Waits], theirs: dict[str, Waits]) -> None:
    console.print()
    show_table(
        (f"{title}*", "JOBS>", "MEDIAN WAIT>", "CHANGED>", "99 OF 100>", "CHANGED>"),
        [
            (
                name,
                f"{waits.jobs:,}",
                span(waits.p50_ms),
                span(theirs[name].p50_ms),
                span(waits.p99_ms),
                span(theirs[name].p99_ms),
            )
            for name, waits in ours.items()
        ],
        empty="",
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as --json prints it: seconds, shares, slot-hours."""
    return {
        "wait_p50_s": outcome.all.p50_ms / 1000,
        "wait_p99_s": outcome.all.p99_ms / 1000,
        "jobs": outcome.all.jobs,
        "ended": outcome.ended,
        "never_started": outcome.never_started,
        "preemptions": outcome.preemptions,
        "makespan_s": outcome.makespan_ms / 1000,
        "utilisation": {name: round(figures.utilisation, 6) for name, figures in outcome.pools.items()},
        "queues": _waits_as_json(outcome.queues),
        "tenants": _waits_as_json(outcome.tenants),
    }


def _waits_as_json(waits: Mapping[Any, Waits]) -> dict[str, Any]:
    return {
        name: {
            "jobs": found.jobs,
            "wait_p50_s": found.p50_ms / 1000,
            "wait_p99_s": found.p99_ms / 1000,
            "never_started": found.never_started,
            "slot_hours": round(found.slot_ms / 3_600_000_000, 3),
        }
        for name, found in waits.items()
    }
