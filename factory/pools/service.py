"""Pools, nodes and runners: what runners report, what people see, drain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from factory.domain.ids import NodeId, PoolName, RunnerId, is_name
from factory.domain.jobs import Job
from factory.domain.pools import Flavor, Node, NodeState, Pool, Runner
from factory.domain.resources import Resources, slots_in
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.domain.time import SECOND, Instant
from factory.errors import ConflictError, InvalidRequestError, NotFoundError, UnsupportedError, did_you_mean
from factory.pools.governing import Governed, as_joined, check_owner, govern, new_pool
from factory.pools.ports import FleetReader, FleetStore, FleetTx, PoolTx
from factory.pools.runners import StaleRunnerError, binding, current_runner
from factory.schemas.common import PROTOCOL
from factory.schemas.platform import NodeView, PoolView
from factory.schemas.pools import POLICIES, PoolSettings
from factory.schemas.runner import JoinRequest, NodeReport

__all__ = ["Joined", "PoolService", "StaleRunnerError", "apply_nodes", "current_runner"]

_SEEN_EVERY_MS = 10 * SECOND  # a node's sign of life is written at most so often: each write is a feed entry


def apply_nodes(tx: PoolTx, runner: Runner, reports: Sequence[NodeReport], now: Instant) -> tuple[Node, ...]:
    """Make pools and nodes what the runner reports: `reports` is the whole list of its nodes.

    A new pool or node is made; a node that is missing or not alive becomes LOST (not removed: its attempts are not
    proven dead); one that was LOST and reports again is READY, or DRAINING if an admin drains it. Returns the nodes
    that changed; the same report again returns none.

    Raises: ConflictError: a pool or node belongs to another runner; InvalidRequestError: a report is impossible.
    """
    pools = {p.name: p for p in tx.pools(PLATFORM)}
    nodes = {n.id: n for n in tx.nodes(PLATFORM)}
    changed: list[Node] = []
    reported: set[NodeId] = set()
    for report in sorted(reports, key=lambda r: r.id):
        reported.add(NodeId(report.id))
        pool = _pool(tx, pools, runner, report)
        before = nodes.get(NodeId(report.id))
        if before is not None and before.runner != runner.id:
            raise ConflictError(
                f"node '{report.id}' belongs to runner '{before.runner}'",
                hint="give each machine's node an id of its own",
            )
        if before is None and not report.is_alive:
            continue
        after = _node(before, pool, runner, report, now)
        if before is None or _differs(before, after):
            changed.append(tx.put_node(after))
        elif report.is_alive and not 0 <= now - before.seen_at < _SEEN_EVERY_MS:
            tx.put_node(after)
    for node in sorted(nodes.values(), key=lambda n: n.id):
        if node.runner == runner.id and node.id not in reported and node.state is not NodeState.LOST:
            changed.append(tx.put_node(replace(node, state=NodeState.LOST)))
    return tuple(changed)


@dataclass(frozen=True, slots=True)
class Joined:
    """The runner, and what of its join did not take effect."""

    runner: Runner
    notes: tuple[str, ...] = ()


class PoolService:
    """What there is to share."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store

    def join(self, principal: Principal, request: JoinRequest, *, now: Instant) -> Joined:
        """A runner process starts (role runner or platform); every older process of it is stale from now on.

        Raises: UnsupportedError: it speaks another protocol; ForbiddenError, ConflictError: see `runners.binding`;
        ConflictError: see `apply_nodes`.
        """
        principal.require(Role.RUNNER, Role.PLATFORM)
        if request.protocol != PROTOCOL:
            raise UnsupportedError(
                f"runner '{request.runner}' speaks protocol {request.protocol}, this control plane {PROTOCOL}",
                hint="run the same release on both sides",
                facts={"protocol": PROTOCOL},
            )
        if not is_name(request.runner) or not request.incarnation:
            raise InvalidRequestError(f"'{request.runner}' is no name for a runner, or its incarnation is empty")

        def work(tx: FleetTx) -> Joined:
            known = {r.id: r for r in tx.runners(PLATFORM)}.get(RunnerId(request.runner))
            key = binding(tx, principal, RunnerId(request.runner), now)
            joined = tx.put_runner(
                Runner(
                    id=RunnerId(request.runner),
                    incarnation=request.incarnation,
                    seen_at=now,
                    ingress_url=request.ingress_url or (known.ingress_url if known is not None else ""),
                    release=request.release,
                    ray_version=request.ray_version,
                    isolation=request.isolation,
                    tenant=check_owner(tx, request.isolation, request.tenant),
                    self_fence_s=request.self_fence_s,
                    key=key,
                    version=known.version if known is not None else 0,
                )
            )
            notes = as_joined(tx, joined, tx.open_jobs(PLATFORM))
            if request.nodes:  # none yet: the first report names them, and what ran before is not lost until then
                apply_nodes(tx, joined, request.nodes, now)
            if known is None or (known.incarnation, known.key) != (request.incarnation, key):
                detail = json.dumps({"runner": request.runner, "incarnation": request.incarnation, "key": key})
                tx.put_audit(now, principal.id, None, "runner.join", detail)
            return Joined(joined, notes)

        return self._store.transact(work)

    def list_pools(self, principal: Principal) -> tuple[PoolView, ...]:
        """Return the pools that the caller may use, in slots; used = held by live attempts of every tenant."""

        def look(reader: FleetReader) -> tuple[PoolView, ...]:
            used = _Use.of(reader.open_jobs(PLATFORM))
            nodes = reader.nodes(principal.scope)
            return tuple(
                _pool_view(pool, [n for n in nodes if n.pool == pool.name], used)
                for pool in sorted(reader.pools(principal.scope), key=lambda p: p.name)
            )

        return self._store.read(look)

    def set_pool(self, principal: Principal, name: PoolName, request: PoolSettings, *, now: Instant) -> PoolView:
        """Set what a pool is for, and the isolation of every pool of its runner (platform role; rule S1 of governing).

        Raises: ForbiddenError; NotFoundError: no such pool or tenant; InvalidRequestError: isolation and tenant do not
        go together, or there is no such policy; ConflictError: live attempts are in the way (rules S3, S4).
        """
        principal.require(Role.PLATFORM)
        if request.policy is not None and request.policy not in POLICIES:
            raise InvalidRequestError(
                f"there is no policy '{request.policy}'{did_you_mean(request.policy, POLICIES)}",
                hint=f"policies: {', '.join(POLICIES)}",
                facts={"field": "policy", "known": list(POLICIES)},
            )

        def work(tx: FleetTx) -> PoolView:
            pools = {p.name: p for p in tx.pools(principal.scope)}
            if name not in pools:
                raise NotFoundError("pool", name, pools, hint="see: factory pools")
            pool = pools[name]
            wanted = _wanted(tx, pool, request)
            jobs = tx.open_jobs(PLATFORM)
            asked = request.model_dump(mode="json", exclude_none=True)
            governs = asked.keys() - {"policy"}  # else what the runner's join says of the pool still counts
            for changed in govern(tx, pool, wanted, principal.id, jobs) if governs else ():
                detail = json.dumps({"pool": changed.name, "asked_for": name, "set": asked})
                tx.put_audit(now, principal.id, changed.tenant, "pool.set", detail)
            after = next(p for p in tx.pools(PLATFORM) if p.name == name)
            if request.policy is not None and after.policy != request.policy:
                after = tx.put_pool(replace(after, policy=request.policy))
                detail = json.dumps({"pool": name, "policy": request.policy})
                tx.put_audit(now, principal.id, after.tenant, "pool.policy", detail)
            return _pool_view(after, [n for n in tx.nodes(PLATFORM) if n.pool == name], _Use.of(jobs))

        return self._store.transact(work)

    def list_nodes(self, principal: Principal) -> tuple[NodeView, ...]:
        """Return the nodes that the caller may use, by pool and id."""

        def look(reader: FleetReader) -> tuple[NodeView, ...]:
            used = _Use.of(reader.open_jobs(PLATFORM))
            nodes = sorted(reader.nodes(principal.scope), key=lambda n: (n.pool, n.id))
            return tuple(_node_view(node, used, principal) for node in nodes)

        return self._store.read(look)

    def drain(self, principal: Principal, node: NodeId, *, reason: str = "", now: Instant) -> NodeView:
        """Let it finish what it has and take nothing new, also when it comes back from being lost (platform role).

        Raises: ForbiddenError, NotFoundError.
        """
        return self._turn(principal, node, reason.strip(), now)

    def undrain(self, principal: Principal, node: NodeId, *, now: Instant) -> NodeView:
        """Let it take work again, a lost one when it is back (platform role). Raises: ForbiddenError, NotFoundError."""
        return self._turn(principal, node, None, now)

    def remove(self, principal: Principal, node_id: NodeId, *, now: Instant) -> None:
        """Forget a node that is lost and holds nothing (platform role). If it reports again, it is there again.

        Raises: ForbiddenError, NotFoundError; ConflictError: it reports, or attempts on it are not proven dead.
        """
        principal.require(Role.PLATFORM)

        def work(tx: FleetTx) -> None:
            node = _found(tx, principal, node_id)
            if node.state is not NodeState.LOST:
                raise ConflictError(
                    f"node '{node_id}' is {node.state.value}: while it reports it would be back at once",
                    hint=f"drain it (factory nodes drain {node_id}), end its agent, and remove it when it is lost",
                )
            held = sorted(attempt for _, attempt in _Use.of(tx.open_jobs(PLATFORM)).attempts.get(node_id, ()))
            if held:
                raise ConflictError(
                    f"node '{node_id}' holds {len(held)} attempt{'' if len(held) == 1 else 's'} not proven dead",
                    hint=f"if it is certain that nothing runs there: factory nodes fence {node_id} --reason …",
                    facts={"node": node_id, "attempts": held},
                )
            tx.delete_node(PLATFORM, node_id)
            tx.put_audit(now, principal.id, None, "node.remove", json.dumps({"node": node_id}))

        self._store.transact(work)

    def node(self, principal: Principal, node: NodeId) -> NodeView:
        """Return one node. Raises: NotFoundError."""

        def look(reader: FleetReader) -> NodeView:
            return _node_view(_found(reader, principal, node), _Use.of(reader.open_jobs(PLATFORM)), principal)

        return self._store.read(look)

    def _turn(self, principal: Principal, node_id: NodeId, drain: str | None, now: Instant) -> NodeView:
        principal.require(Role.PLATFORM)

        def work(tx: FleetTx) -> NodeView:
            node = _found(tx, principal, node_id)
            turned = replace(node, drain=drain)
            turned = replace(turned, state=node.state if node.state is NodeState.LOST else _state_of(turned))
            if turned != node:
                node = tx.put_node(turned)
                action = "node.undrain" if drain is None else "node.drain"
                tx.put_audit(now, principal.id, None, action, json.dumps({"node": node_id, "reason": drain or ""}))
            return _node_view(node, _Use.of(tx.open_jobs(PLATFORM)), principal)

        return self._store.transact(work)


@dataclass(frozen=True, slots=True)
class _Use:
    """What live attempts hold."""

    slots: dict[PoolName, int] = field(default_factory=dict)  # thousandths
    resources: dict[NodeId, Resources] = field(default_factory=dict)
    attempts: dict[NodeId, list[tuple[Job, str]]] = field(default_factory=dict)

    @staticmethod
    def of(jobs: Iterable[Job]) -> _Use:
        use = _Use()
        for job in jobs:
            live = job.live_attempt
            if live is None:
                continue
            pool = live.allocation.pool
            use.slots[pool] = use.slots.get(pool, 0) + live.allocation.slots_milli
            for placement in live.allocation.placements:
                held = use.resources.get(placement.node, Resources())
                use.resources[placement.node] = held + placement.resources
                use.attempts.setdefault(placement.node, []).append((job, live.id))
        return use


def _found(reader: FleetReader, principal: Principal, node_id: NodeId) -> Node:
    nodes = {n.id: n for n in reader.nodes(principal.scope)}
    if node_id not in nodes:
        raise NotFoundError("node", node_id, nodes, hint="see: factory nodes")
    return nodes[node_id]


def _pool(tx: PoolTx, pools: dict[PoolName, Pool], runner: Runner, report: NodeReport) -> Pool:
    """Return the pool that a node reports, made or changed to its flavor."""
    name = PoolName(report.pool)
    flavor = Flavor(report.flavor, Resources(report.slot_cpu_milli, report.slot_memory_bytes, report.slot_gpu_milli))
    if not is_name(report.pool) or flavor.slot == Resources() or flavor.slot.is_negative():
        raise InvalidRequestError(f"node '{report.id}' reports an impossible pool '{report.pool}' or an empty slot")
    known = pools.get(name)
    if known is not None and known.runner != runner.id:
        raise ConflictError(
            f"pool '{name}' belongs to runner '{known.runner}'",
            hint="give the pools of each cluster names of their own",
        )
    if known is None or known.flavor != flavor:
        # nodes of one flavor share a slot; the last report decides, so that a changed setting takes effect
        made = new_pool(tx, runner, Pool(name, flavor, runner.id)) if known is None else replace(known, flavor=flavor)
        pools[name] = tx.put_pool(made)
    return pools[name]


def _wanted(reader: FleetReader, pool: Pool, request: PoolSettings) -> Governed:
    """Return what the pool shall be; what the request leaves out stays."""
    now = Governed.of(pool)
    if request.isolation is not None:
        now = replace(now, isolation=request.isolation, tenant=check_owner(reader, request.isolation, request.tenant))
    elif request.tenant is not None:
        raise InvalidRequestError("a tenant without isolation says nothing", hint="add isolation=tenant")
    if request.self_fence_s is not None:
        now = replace(now, self_fence_s=request.self_fence_s or None)
    return now


def _node(before: Node | None, pool: Pool, runner: Runner, report: NodeReport, now: Instant) -> Node:
    state = NodeState.READY if before is None else _state_of(before)
    if before is not None and before.state is NodeState.DRAINING:
        state = NodeState.DRAINING  # also by an older release, which kept no reason
    return Node(
        id=NodeId(report.id),
        pool=pool.name,
        runner=runner.id,
        capacity=Resources(report.cpu_milli, report.memory_bytes, 1000 * report.devices),
        devices=report.devices,
        state=state if report.is_alive else NodeState.LOST,
        gpu_model=report.gpu_model,
        zone=report.zone,
        host=report.host,
        ray_node_id=report.ray_node_id,
        seen_at=now if report.is_alive or before is None else before.seen_at,
        drain=None if before is None else before.drain,
        memory_limits=report.memory_limits,
        version=0 if before is None else before.version,
    )


def _state_of(node: Node) -> NodeState:
    """Return what a node is that reports."""
    return NodeState.READY if node.drain is None else NodeState.DRAINING


def _differs(before: Node, after: Node) -> bool:
    return replace(before, seen_at=0) != replace(after, seen_at=0)


def _pool_view(pool: Pool, nodes: Sequence[Node], used: _Use) -> PoolView:
    slot = pool.flavor.slot
    ready = [n for n in nodes if n.state is NodeState.READY]
    return PoolView(
        name=pool.name,
        flavor=pool.flavor.name,
        slot={"cpu": slot.cpu_milli / 1000, "memory": float(slot.memory_bytes), "gpu": slot.gpu_milli / 1000},
        runner=pool.runner,
        isolation=pool.isolation.value,
        tenant=pool.tenant,
        policy=pool.policy,
        self_fence_s=pool.self_fence_s,
        nodes=len(nodes),
        slots=sum(slots_in(n.capacity, slot) for n in ready) / 1000,
        used_slots=used.slots.get(pool.name, 0) / 1000,
    )


def _node_view(node: Node, used: _Use, principal: Principal) -> NodeView:
    held = used.resources.get(node.id, Resources())
    return NodeView(
        id=node.id,
        pool=node.pool,
        state=node.state,
        cpu=node.capacity.cpu_milli / 1000,
        memory=node.capacity.memory_bytes,
        gpus=node.devices,
        used_cpu=held.cpu_milli / 1000,
        used_memory=held.memory_bytes,
        used_gpu=held.gpu_milli / 1000,
        gpu_model=node.gpu_model,
        host=node.host,
        memory_limits=node.memory_limits,
        drain=node.drain,
        seen_at=node.seen_at,
        attempts=tuple(
            attempt
            for job, attempt in sorted(used.attempts.get(node.id, ()), key=lambda pair: pair[1])
            if principal.scope.covers(job.tenant)
        ),
    )
