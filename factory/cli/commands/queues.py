"""`factory queues …`: what each may hold, what it holds, who waits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factory import errors
from factory.cli.output import console, emit_json, is_json, show_folded, show_pairs, show_table, tenths, until

if TYPE_CHECKING:
    from factory.schemas.platform import QueueDetail, QueuedJobView, QueuePoolView, QueueView, QuotaModel
    from factory.sdk.client import Client

__all__ = ["app", "parse_quota"]

app = typer.Typer(
    rich_markup_mode=None, invoke_without_command=True, help="Queues: quotas, what is lent and borrowed, who waits."
)
_QUOTA = re.compile(r"(?P<pool>[^=]+)=(?P<nominal>[\d.]+)(?P<plus>\+(?P<borrow>[\d.]+|inf|∞)?)?(?:-(?P<lend>[\d.]+))?")


def _client() -> Client:
    from factory.sdk.client import Client

    return Client()


@app.callback()
def queues_default(ctx: typer.Context) -> None:
    """List queues when no command is given."""
    if ctx.invoked_subcommand is None:
        list_queues()


@app.command("list")
def list_queues() -> None:
    """List queues as a tree. A quota 4+2-1 means: 4 slots, may borrow 2, lends at most 1."""
    views = _client().queues.list()
    if is_json():
        emit_json(views)
        return
    show_table(
        ("QUEUE", "TENANT*", "WEIGHT>", "QUOTA*", "IN USE*", "WAIT>", "RUN>"),
        [
            (
                f"{branch}{view.name}",
                view.tenant,
                view.weight,
                ", ".join(f"{q.pool} {_amounts(q)}" for q in view.quotas) or "no limit",
                ", ".join(f"{pool} {used:g}" for pool, used in sorted(view.used.items()) if used) or "-",
                view.queued,
                view.running,
            )
            for branch, view in _tree(views)
        ],
        empty="no queues",
    )


def _tree(views: Iterable[QueueView]) -> list[tuple[str, QueueView]]:
    """Return the queues depth first by name, each with the branch that is drawn before it."""
    by_name = {view.name: view for view in views}
    below: dict[str | None, list[str]] = {}
    for name in sorted(by_name):
        parent = by_name[name].parent
        below.setdefault(parent if parent in by_name else None, []).append(name)
    lines: list[tuple[str, QueueView]] = []

    def draw(names: list[str], indent: str, *, root: bool) -> None:
        for name in names:
            last = name == names[-1]
            lines.append(("" if root else f"{indent}{'└' if last else '├'} ", by_name[name]))
            draw(below.get(name, []), "" if root else f"{indent}{' ' if last else '│'} ", root=False)

    draw(below.get(None, []), "", root=True)
    return lines


@app.command("show")
def show_queue(name: str) -> None:
    """Show how a queue stands in each pool, and who waits first and why."""
    view = _client().queues.show(name)
    if is_json():
        emit_json(view)
        return
    show_pairs(
        [
            ("queue", view.name),
            ("tenant", view.tenant),
            ("below", view.parent),
            ("weight", f"{view.weight}"),
            ("jobs", f"{view.queued} wait, {view.running} run"),
        ]
    )
    console.print()
    _show_pools(view)
    _show_waiting(view)


def _show_pools(view: QueueDetail) -> None:
    show_table(
        ("POOL*", "QUOTA", "USED>", "BORROWED>", "LENT>", "TO*", "FAIR SHARE>"),
        [
            (
                pool.pool,
                "no limit" if pool.nominal is None else _amounts(pool),
                f"{pool.used:g}",
                f"{pool.borrowed:g}" if pool.nominal is not None else "-",
                f"{pool.lent:g}" if pool.nominal is not None else "-",
                ", ".join(f"{name} {slots:g}" for name, slots in sorted(pool.lent_to.items())) or "-",
                tenths(pool.fair_share),
            )
            for pool in view.pools
        ],
        empty="no pools: no runner has joined yet",
    )
    for pool in view.pools:
        if pool.nominal is None:
            console.print(Text(f"{pool.pool}: no quota of its own, so it is unlimited by itself", style="dim"))


def _show_waiting(view: QueueDetail) -> None:
    if not view.waiting:
        return
    console.print()
    console.print(Text("WAITING", style="bold"))
    for job in view.waiting:
        _show_job(job)
    if (more := view.queued - len(view.waiting)) > 0:
        console.print(Text(f"and {more} more (factory jobs list --queue {view.name})", style="dim"))


def _show_job(job: QueuedJobView) -> None:
    now = int(time.time() * 1000)
    starts = f", expected {until(job.expected_start, now)}" if job.expected_start else ""
    console.print(Text(f"{job.position or '-':>3}  {job.id}  {job.name}", overflow="ellipsis", no_wrap=True))
    reason = job.reason.value if job.reason is not None else ""
    for text, style in ((f"{reason}, priority {job.priority.value}{starts}", "yellow"), (job.message, "default")):
        if text:
            show_folded(Text(text, style=style), Text("     "))


@app.command("set")
def set_queue(
    name: str,
    tenant: Annotated[str | None, typer.Option(help="Whose jobs wait here; a new queue needs one.")] = None,
    parent: Annotated[str | None, typer.Option(help="Queue above it, whose quota it shares; '' for none.")] = None,
    weight: Annotated[int | None, typer.Option(help="Its share above quota, against its siblings.")] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            help="POOL=NOMINAL in slots and no more; POOL=NOMINAL+N: may borrow N; POOL=NOMINAL+: borrows without "
            "limit; …-N: lends at most N of nominal (else all). POOL=none: no quota. May be repeated."
        ),
    ] = None,
) -> None:
    """Create or change a queue. What is not named stays as it is."""
    client = _client()
    known = next((v for v in client.queues.list() if v.name == name), None)
    if known is None and tenant is None:
        raise errors.InvalidRequestError(f"queue '{name}' is new: whose is it?", hint="name its tenant: --tenant NAME")
    quotas: dict[str, Any] = {q.pool: q for q in known.quotas} if known is not None else {}
    for text in quota or []:
        pool, wanted = parse_quota(text)
        quotas.pop(pool, None)
        if wanted is not None:
            quotas[pool] = wanted
    view = client.queues.set(
        name,
        tenant=tenant or (known.tenant if known is not None else ""),
        parent=(known.parent if known is not None else None) if parent is None else parent or None,
        weight=(known.weight if known is not None else 1) if weight is None else weight,
        quotas=[quotas[pool] for pool in sorted(quotas)],
    )
    if is_json():
        emit_json(view)
        return
    limits = ", ".join(f"{q.pool} {_amounts(q)}" for q in view.quotas) or "no limit"
    console.print(Text(f"queue {view.name} of {view.tenant}: weight {view.weight}, {limits}"))


def _amounts(quota: QuotaModel | QueuePoolView) -> str:
    """Return a quota as it is written: nominal, "+2" or "+∞" that it may borrow, "-1" if it lends no more than that."""
    borrowing = "+∞" if quota.borrowing is None else f"+{quota.borrowing:g}" if quota.borrowing else ""
    lending = "" if quota.lending is None else f"-{quota.lending:g}"
    return f"{quota.nominal or 0:g}{borrowing}{lending}"


def parse_quota(text: str) -> tuple[str, dict[str, Any] | None]:
    """Return the pool, and its quota; None = it shall have none."""
    pool, _, amount = text.partition("=")
    if pool and amount == "none":
        return pool, None
    match = _QUOTA.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        without_limit = bool(match["plus"]) and match["borrow"] in (None, "inf", "∞")
        return match["pool"], {
            "pool": match["pool"],
            "nominal": float(match["nominal"]),
            "borrowing": None if without_limit else float(match["borrow"] or 0),
            "lending": None if match["lend"] is None else float(match["lend"]),
        }
    except ValueError:
        raise errors.InvalidRequestError(
            f"'{text}' is no quota",
            hint="write POOL=NOMINAL, POOL=NOMINAL+N, or POOL=NOMINAL+ to borrow without limit; …-N lends at most N",
        ) from None


@app.command("delete")
def delete_queue(name: str) -> None:
    """Remove an empty queue."""
    _client().queues.delete(name)
    if is_json():
        emit_json({"deleted": name})
    else:
        console.print(f"queue {name} is gone")
