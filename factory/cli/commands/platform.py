"""`factory pools|nodes|tenants|keys …`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factory import errors
from factory.cli.output import age, console, emit_json, is_json, show_pairs, show_table, size, stamp, state_text

if TYPE_CHECKING:
    from factory.sdk.client import Client

__all__ = ["keys", "nodes", "pools", "tenants"]

pools = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Pools in slots.")
nodes = typer.Typer(rich_markup_mode=None, invoke_without_command=True, help="Nodes; drain, undrain, fence, remove.")
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
        ("POOL*", "FLAVOR*", "SLOT*", "NODES>", "SLOTS>", "IN USE>", "POLICY", "FOR*"),
        [
            (
                v.name,
                v.flavor,
                _slot(v.slot),
                v.nodes,
                f"{v.slots:g}",
                f"{v.used_slots:g}",
                v.policy,
                v.tenant or "all tenants",
            )
            for v in views
        ],
        empty="no pools: no runner has joined yet",
    )


@pools.command("set")
def set_pool(
    name: str,
    isolation: Annotated[
        str | None, typer.Option(help="shared, or tenant: one tenant's alone. Counts for the whole Ray cluster.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="With --isolation tenant: whose it is.")] = None,
    self_fence_s: Annotated[
        int | None,
        typer.Option(help="Nodes end attempts that were not renewed so long; twice that proves them dead. 0 = off."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="In which order jobs get its slots: fair, fifo, shortest, least-attained-service."),
    ] = None,
) -> None:
    """Set what a pool is for; it goes before what its runner says. Live attempts in the way refuse it."""
    from factory.schemas.pools import POLICIES

    if policy is not None and policy not in POLICIES:
        raise errors.InvalidRequestError(
            f"there is no policy '{policy}'{errors.did_you_mean(policy, POLICIES)}",
            hint=f"policies: {', '.join(POLICIES)}",
        )
    from factory.domain.pools import Isolation

    if isolation is not None and isolation not in set(Isolation):
        raise errors.InvalidRequestError(
            f"there is no isolation '{isolation}'{errors.did_you_mean(isolation, set(Isolation))}",
            hint=f"isolation: {', '.join(Isolation)}",
        )
    view = _client().pools.set(name, isolation=isolation, tenant=tenant, self_fence_s=self_fence_s, policy=policy)
    if is_json():
        emit_json(view)
        return
    whose = f"tenant {view.tenant} alone" if view.tenant else "all tenants"
    fence = "off" if view.self_fence_s is None else f"{view.self_fence_s} s"
    console.print(
        f"pool {view.name} is for {whose}, like every pool of runner {view.runner}; self-fence {fence}; "
        f"policy {view.policy}"
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
        ("NODE*", "POOL", "STATE", "CPU>", "MEMORY>", "LIMITS", "GPU>", "SEEN>"),
        [
            (
                v.id,
                v.pool,
                state_text(v.state.value),
                f"{v.used_cpu:g}/{v.cpu:g}",
                f"{size(v.used_memory)}/{size(v.memory)}",
                v.memory_limits,
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
        why = f" ({view.drain})" if view.drain else ""
        console.print(Text.assemble(view.id, " ", state_text(view.state.value), why))


@nodes.command()
def drain(
    node: str, reason: Annotated[str, typer.Option(help="Why; shown with the node and kept in the audit log.")] = ""
) -> None:
    """Let a node finish what it has and take nothing new; a lost one comes back so."""
    _show_node(_client().nodes.drain(node, reason=reason))


@nodes.command()
def undrain(node: str) -> None:
    """Let a node take work again."""
    _show_node(_client().nodes.undrain(node))


@nodes.command()
def fence(
    node: str, reason: Annotated[str, typer.Option(help="Why you know that nothing runs there any more; audited.")]
) -> None:
    """Declare a lost node dead: its attempts end, its slots are free. If that is wrong, a job may run twice."""
    reply = _client().nodes.fence(node, reason)
    if is_json():
        emit_json(reply)
        return
    moved = ", ".join(reply.jobs) or "none"
    console.print(
        Text.assemble(reply.node.id, " ", state_text(reply.node.state.value), f"; attempts ended of: {moved}")
    )


@nodes.command()
def remove(node: str) -> None:
    """Forget a lost node; refused while attempts on it are not proven dead (see fence)."""
    _client().nodes.remove(node)
    _say({"removed": node}, f"node {node} is removed; if it reports again, it is there again")


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
