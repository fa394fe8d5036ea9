"""Pools, nodes and runners (pools/ports.py).

A tenant sees the shared pools and its own ones, the nodes of the pools it sees, and the runners that have such a pool.
"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, exists, false, or_, select

from factory.control.ports import FeedKind
from factory.domain.ids import NodeId, PoolName, RunnerId
from factory.domain.pools import Isolation, Node, Pool, Runner
from factory.domain.tenancy import Scope
from factory.storage import codec
from factory.storage.session import SqlSession
from factory.storage.sql import insert_new, replace_guarded, scoped
from factory.storage.tables import nodes, pools, runners

__all__ = ["PoolSql"]

_VISIBLE = or_(pools.c.tenant.is_(None), pools.c.tenant == bindparam("tenant"))

_POOLS = scoped(select(pools.c.body).order_by(pools.c.name), _VISIBLE)
_NODES = scoped(
    select(nodes.c.body).order_by(nodes.c.id),
    exists().where(pools.c.name == nodes.c.pool, _VISIBLE).correlate(nodes),
)
_RUNNERS = scoped(
    select(runners.c.body).order_by(runners.c.id),
    exists().where(pools.c.runner == runners.c.id, _VISIBLE).correlate(runners),
)
_INSERT_POOL = insert_new(pools)
_UPDATE_POOL = replace_guarded(pools, "runner", "tenant", "body")
_INSERT_NODE = insert_new(nodes)
_UPDATE_NODE = replace_guarded(nodes, "pool", "runner", "body")
_INSERT_RUNNER = insert_new(runners)
_UPDATE_RUNNER = replace_guarded(runners, "body")

# What is shared belongs to the platform: a tenant sees it and cannot delete it.
_DELETE_POOL = scoped(delete(pools).where(pools.c.name == bindparam("name")), pools.c.tenant)
_DELETE_NODE = scoped(
    delete(nodes).where(nodes.c.id == bindparam("id")),
    exists().where(pools.c.name == nodes.c.pool, pools.c.tenant == bindparam("tenant")).correlate(nodes),
)
_DELETE_RUNNER = scoped(delete(runners).where(runners.c.id == bindparam("id")), false())


class PoolSql(SqlSession):
    """PoolReader and PoolTx."""

    def pools(self, scope: Scope) -> tuple[Pool, ...]:
        return self._list(codec.POOL, _POOLS, scope)

    def nodes(self, scope: Scope) -> tuple[Node, ...]:
        return self._list(codec.NODE, _NODES, scope)

    def runners(self, scope: Scope) -> tuple[Runner, ...]:
        return self._list(codec.RUNNER, _RUNNERS, scope)

    def put_pool(self, pool: Pool) -> Pool:
        owner = pool.tenant if pool.isolation is Isolation.TENANT else None
        columns = {"name": pool.name, "runner": pool.runner, "tenant": owner}
        stored = self._put(codec.POOL, pool, _INSERT_POOL, _UPDATE_POOL, f"pool '{pool.name}'", **columns)
        self._changed(FeedKind.POOL, pool.name)
        return stored

    def put_node(self, node: Node) -> Node:
        columns = {"id": node.id, "pool": node.pool, "runner": node.runner}
        stored = self._put(codec.NODE, node, _INSERT_NODE, _UPDATE_NODE, f"node '{node.id}'", **columns)
        self._changed(FeedKind.NODE, node.id)
        return stored

    def put_runner(self, runner: Runner) -> Runner:
        what = f"runner '{runner.id}'"
        stored = self._put(codec.RUNNER, runner, _INSERT_RUNNER, _UPDATE_RUNNER, what, id=runner.id)
        self._changed(FeedKind.RUNNER, runner.id)
        return stored

    def delete_pool(self, scope: Scope, name: PoolName) -> None:
        if self._write(_DELETE_POOL.of(scope), {"name": name, "tenant": scope.tenant}):
            self._changed(FeedKind.POOL, name)

    def delete_node(self, scope: Scope, node_id: NodeId) -> None:
        if self._write(_DELETE_NODE.of(scope), {"id": node_id, "tenant": scope.tenant}):
            self._changed(FeedKind.NODE, node_id)

    def delete_runner(self, scope: Scope, runner_id: RunnerId) -> None:
        if self._write(_DELETE_RUNNER.of(scope), {"id": runner_id, "tenant": scope.tenant}):
            self._changed(FeedKind.RUNNER, runner_id)
