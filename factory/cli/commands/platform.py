"""`factory pools|nodes|queues|tenants|keys …`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factory import errors
from factory.cli.output import age, console, emit_json, is_json, show_pairs, show_table, size, stamp, state_text

if TYPE_CHECKING:
    from factory.sdk.client import Client

__all__ = ["keys", "nodes", "pools", "queues", "tenants"]

pools = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Pools in slots.")
nodes = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Nodes; drain, undrain, fence.")
queues = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Queues and their quotas.")
tenants = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Tenants.")
keys = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="API keys.")


def _client() -> Client:
    from factory.sdk.client import Client

    return Client()


@pools.callback()
def pools_default(ctx: typer.Context) -> None:
    """List pools when no command is given."""
    if ctx.invoked_subcommand is None:
        list_pools()


@pools.command("list")
def list_pools() -> None:
    """List pools: slots, and how many are in use."""
    views = _client().pools.list()
    if is_json():
        emit_json(views)
        return
    show_table(
        ("POOL", "FLAVOR", "SLOT*", "NODES>", "SLOTS>", "IN USE>"),
        [(v.name, v.flavor, _slot(v.slot), v.nodes, f"{v.slots:g}", f"{v.used_slots:g}") for v in views],
        empty="no pools: no runner has joined yet",
    )


def _slot(slot: dict[str, float]) -> str:
    parts = [f"{slot['gpu']:g} gpu"] if slot.get("gpu") else []
    parts += [f"{slot.get('cpu', 0):g} cpu", size(slot.get("memory", 0))]
    return ", ".join(parts)


@nodes.callback()
def nodes_default(ctx: typer.Context) -> None:
    """List nodes when no command is given."""
    if ctx.invoked_subcommand is None:
        list_nodes()


@nodes.command("list")
def list_nodes() -> None:
    """List nodes and what is in use on them."""
    views = _client().nodes.list()
    if is_json():
        emit_json(views)
        return
    now = int(time.time() * 1000)
    show_table(
        ("NODE", "POOL", "STATE", "CPU>", "MEMORY>", "GPU>", "SEEN>"),
        [
            (
                v.id,
                v.pool,
                state_text(v.state.value),
                f"{v.used_cpu:g}/{v.cpu:g}",
                f"{size(v.used_memory)}/{size(v.memory)}",
                f"{v.used_gpu:g}/{v.gpus}",
                age(v.seen_at, now),
            )
            for v in views
        ],
        empty="no nodes: no runner has joined yet",
    )


def _say(fact: dict[str, str], text: str) -> None:
    if is_json():
        emit_json(fact)
    else:
        console.print(text)


def _show_node(view: Any) -> None:
    if is_json():
        emit_json(view)
    else:
        console.print(Text.assemble(view.id, " ", state_text(view.state.value)))


@nodes.command()
def drain(node: str) -> None:
    """Let a node finish what it has and take nothing new."""
    _show_node(_client().nodes.drain(node))


@nodes.command()
def undrain(node: str) -> None:
    """Let a node take work again."""
    _show_node(_client().nodes.undrain(node))


@nodes.command()
def fence(
    node: str, reason: Annotated[str, typer.Option(help="Why you know that nothing runs there any more; audited.")]
) -> None:
    """Declare a lost node dead: its attempts end, its slots are free. If that is wrong, a job may run twice."""
    _show_node(_client().nodes.fence(node, reason))


@queues.callback()
def queues_default(ctx: typer.Context) -> None:
    """List queues when no command is given."""
    if ctx.invoked_subcommand is None:
        list_queues()


@queues.command("list")
def list_queues() -> None:
    """List queues: what they may hold, what they hold, what waits."""
    views = _client().queues.list()
    if is_json():
        emit_json(views)
        return
    show_table(
        ("QUEUE", "TENANT", "WEIGHT>", "QUOTA*", "IN USE*", "WAIT>", "RUN>"),
        [
            (
                v.name,
                v.tenant,
                v.weight,
                ", ".join(f"{q.pool} {q.nominal:g}{_borrowing(q.borrowing)}" for q in v.quotas) or "no limit",
                ", ".join(f"{pool} {used:g}" for pool, used in sorted(v.used.items()) if used) or "-",
                v.queued,
                v.running,
            )
            for v in views
        ],
        empty="no queues",
    )


@queues.command("set")
def set_queue(
    name: str,
    tenant: Annotated[str, typer.Option(help="Whose jobs wait here.")],
    parent: Annotated[str | None, typer.Option(help="Queue above it.")] = None,
    weight: Annotated[int, typer.Option(help="Its share above quota.")] = 1,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            help="POOL=NOMINAL in slots and no more; POOL=NOMINAL+N: may borrow N; POOL=NOMINAL+: borrows without "
            "limit. May be repeated."
        ),
    ] = None,
) -> None:
    """Create or change a queue."""
    view = _client().queues.set(
        name, tenant=tenant, parent=parent, weight=weight, quotas=[_quota(text) for text in quota or []]
    )
    if is_json():
        emit_json(view)
    else:
        console.print(f"queue {view.name} of {view.tenant} is set")


def _borrowing(slots: float | None) -> str:
    """Return what follows the nominal number: nothing, "+2", or "+∞" without limit."""
    if slots is None:
        return "+∞"
    return f"+{slots:g}" if slots else ""


def _quota(text: str) -> dict[str, Any]:
    pool, sign, amount = text.partition("=")
    nominal, plus, borrowing = amount.partition("+")
    try:
        if not sign:
            raise ValueError
        without_limit = bool(plus) and borrowing in ("", "inf", "∞")
        borrowed = None if without_limit else float(borrowing or 0)
        return {"pool": pool, "nominal": float(nominal), "borrowing": borrowed}
    except ValueError:
        raise errors.InvalidRequestError(
            f"'{text}' is no quota", hint="write POOL=NOMINAL, POOL=NOMINAL+N, or POOL=NOMINAL+ to borrow without limit"
        ) from None


@queues.command("delete")
def delete_queue(name: str) -> None:
    """Remove an empty queue."""
    _client().queues.delete(name)
    _say({"deleted": name}, f"queue {name} is gone")


@tenants.callback()
def tenants_default(ctx: typer.Context) -> None:
    """List tenants when no command is given."""
    if ctx.invoked_subcommand is None:
        list_tenants()


@tenants.command("list")
def list_tenants() -> None:
    """List tenants."""
    views = _client().tenants.list()
    if is_json():
        emit_json(views)
        return
    show_table(
        ("TENANT", "TITLE*", "CREATED"), [(v.id, v.title, stamp(v.created_at)) for v in views], empty="no tenants"
    )


@tenants.command("create")
def create_tenant(
    name: str, title: Annotated[str, typer.Option(help="The department's name for people.")] = ""
) -> None:
    """Create a tenant and its queue."""
    view = _client().tenants.create(name, title=title)
    if is_json():
        emit_json(view)
    else:
        console.print(f"tenant {view.id} is there; make a key: factory keys create --role operator --tenant {view.id}")


@keys.callback()
def keys_default(ctx: typer.Context) -> None:
    """List keys when no command is given."""
    if ctx.invoked_subcommand is None:
        list_keys()


@keys.command("list")
def list_keys() -> None:
    """List keys without their secrets."""
    views = _client().keys.list()
    if is_json():
        emit_json(views)
        return
    show_table(
        ("KEY", "ROLE", "TENANT", "TITLE*", "CREATED", "STATE"),
        [
            (v.id, v.role.value, v.tenant or "-", v.title, stamp(v.created_at), "revoked" if v.revoked_at else "valid")
            for v in views
        ],
        empty="no keys",
    )


@keys.command("create")
def create_key(
    role: Annotated[str, typer.Option(help="viewer, operator, admin; platform, runner, metrics.")] = "operator",
    tenant: Annotated[str | None, typer.Option(help="The tenant it belongs to.")] = None,
    title: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a key and print its secret, once."""
    from factory.domain.tenancy import Role

    if role not in set(Role):
        raise errors.InvalidRequestError(
            f"there is no role '{role}'{errors.did_you_mean(role, set(Role))}", hint=f"roles: {', '.join(Role)}"
        )
    view = _client().keys.create(role, tenant=tenant, title=title)
    if is_json():
        emit_json(view)
        return
    show_pairs([("key", view.id), ("role", view.role.value), ("tenant", view.tenant or "-"), ("secret", view.secret)])
    console.print("the secret is not shown again", style="yellow")


@keys.command("revoke")
def revoke_key(key: str) -> None:
    """End a key, effective within 5 s."""
    _client().keys.revoke(key)
    _say({"revoked": key}, f"key {key} is revoked")
