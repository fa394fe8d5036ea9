"""The runner's loop: look, decide (`lifecycle.reconcile`), do. All of its own judgement is in how, none in what.

It turns when something happened: a new wish, a new look of an agent, a death that Ray tells of; and at least once a
second, for deadlines. Every step may fail or be cut off: the next turn finds what is left to do.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import assert_never

from ray.exceptions import RayError

from factory.domain.ids import AttemptId, JobId, RunnerId, TenantId
from factory.domain.jobs import Allocation, AttemptState
from factory.lifecycle.reconciling import (
    Action,
    DesiredAttempt,
    DesiredState,
    FoundState,
    KillReplica,
    NotifyStop,
    Process,
    ReportEnded,
    ReportFound,
    ReportRunning,
    ReportStarting,
    StartReplica,
    StartWarm,
    StopWarm,
    SweepOrphan,
    reconcile,
    stop_everything,
)
from factory.runner.agent import AgentView
from factory.runner.cluster import AgentHandle, Cluster, ReplicaHandle
from factory.runner.fencing import Renewals
from factory.runner.link import Link
from factory.runner.memory import Memory
from factory.schemas.attempt import WorkOrder
from factory.schemas.runner import AttemptReport, DesiredReply, NodeReport
from factory.schemas.runner import DesiredAttempt as DesiredWire
from factory.worker.orders import ReplicaOrder
from factory.worker.progress import now_ms

__all__ = ["RunnerLoop"]

log = logging.getLogger(__name__)

_TURN_S = 1.0  # a turn at least so often
_NODES_S = 2.0  # between two looks at Ray's list of nodes
_OBSERVE_S = 10.0  # how long a call to an agent waits for news
_SILENT_S = 8.0  # an agent that has not answered for so long is not reachable
_CALL_S = 3.0
_AGAIN_S = 1.0  # an order to kill, forget or start is not repeated sooner
_QUIET_S = 0.4  # a new warm replica waits until the start that used the last one is through
_STOP_S = 20.0  # after so long an orderly stop gives up; what is left is the next runner's to find
_LOGS_S = 10.0  # an end is reported when its logs are stored, or this long after


class RunnerLoop:
    """Makes one Ray cluster match the desired state."""

    def __init__(
        self,
        cluster: Cluster,
        runner: str,
        url: str,
        *,
        ingress_secret: str,
        stop_grace_s: int,
        renewals: Renewals | None = None,
    ) -> None:
        """Args:
        ingress_secret: what the ingress says to services.
        stop_grace_s: the most that a job gets to end when the factory is stopped in order.
        renewals: the same as the link's.
        """
        self._cluster = cluster
        self._runner = RunnerId(runner)
        self._url = url
        self._ingress_secret = ingress_secret
        self._stop_grace_s = stop_grace_s
        self._renewals = renewals or Renewals()
        self._memory = Memory()
        self._news = threading.Event()
        self._lock = threading.Lock()  # of what the observing threads write
        self._views: dict[str, AgentView] = {}
        self._answered: dict[str, float] = {}
        self._agents: dict[str, AgentHandle] = {}  # by node
        self._dead_nodes: dict[str, NodeReport] = {}
        self._handles: dict[str, ReplicaHandle] = {}
        self._ordered: dict[tuple[str, str], float] = {}  # (what, replica) -> when
        self._last_start = 0.0
        self._stopping_at: int | None = None
        self._frozen: frozenset[str] = frozenset()
        self._is_over = threading.Event()
        self.ingress_url = ""

    # --- around the loop --------------------------------------------------------------------------------------------

    def open(self) -> tuple[NodeReport, ...]:
        """Find nodes and what lives on them; return the nodes."""
        self._refresh_nodes()
        for handle in self._cluster.find_replicas():
            self._adopt(handle)
        return self.nodes()

    def wake(self) -> None:
        """Something happened."""
        self._news.set()

    def stop(self) -> None:
        """End every attempt in order (FactoryStopped), report that, and return from `run`."""
        if self._stopping_at is None:
            self._stopping_at = now_ms()
        self.wake()

    def nodes(self) -> tuple[NodeReport, ...]:
        """Return the nodes as they are now."""
        alive = [
            agent.report.model_copy(update={"is_alive": self._is_reachable(node)})
            for node, agent in sorted(self._agents.items())
        ]
        return (*alive, *(self._dead_nodes[node] for node in sorted(self._dead_nodes)))

    def run(self, link: Link) -> None:
        """Turn until stopped, or until the line says that another process is the runner now."""
        last_nodes = 0.0
        while link.fatal is None:
            self._news.wait(self._pause())
            self._news.clear()
            if time.monotonic() - last_nodes > _NODES_S:
                last_nodes = time.monotonic()
                self._refresh_nodes()
                link.offer_nodes(self.nodes(), self.ingress_url)
                self._renewals.ask({n: a for n, a in self._agents.items() if self._is_reachable(n)})
            desired = link.desired
            if desired is None:
                if self._stopping_at is not None:
                    return
                continue
            if self._turn(link, desired):
                return

    def _pause(self) -> float:
        """Return how long nothing has to be done if nothing happens."""
        quiet = self._last_start + _QUIET_S + 0.01 - time.monotonic()
        return quiet if 0 < quiet < _TURN_S else _TURN_S

    def end(self) -> None:
        """Leave nothing of ours on Ray: warm replicas and agents. After `run`, when the factory ends."""
        self._is_over.set()
        for handle in self._cluster.find_replicas():
            handle.kill()
        self._cluster.end_agents()

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _turn(self, link: Link, reply: DesiredReply) -> bool:
        """Look, decide, do; True if stopping and every attempt's end has been said."""
        now = now_ms()
        wires = {wire.attempt: wire for wire in reply.attempts}
        desired = _desired(self._runner, reply)
        found = self._look(now)
        desired = replace(
            desired, attempts=tuple(a for a in desired.attempts if self._may_begin(a, wires[a.id], found))
        )
        if self._stopping_at is not None:
            desired = self._stopped(desired, found)
        reports: list[AttemptReport] = []
        for action in reconcile(desired, found, now):
            try:
                report = self._perform(action, wires, found, now)
            except RayError as exc:
                log.warning("%s failed: %s", type(action).__name__, type(exc).__name__, extra={"event": "act.failed"})
                continue
            if report is not None:
                reports.append(report)
        link.offer(reports)
        self._memory.keep_only(wires)
        if self._stopping_at is None:
            return False
        if now - self._stopping_at > _STOP_S * 1000:
            return True
        told = {report.attempt for report in reports if report.kind == "ended"}
        return all(attempt.id in told for attempt in desired.attempts) and link.flush(5.0)

    def _may_begin(self, attempt: DesiredAttempt, wire: DesiredWire, found: FoundState) -> bool:
        """False while an attempt of a fenced pool waits for the first renewal of its nodes; a later turn starts it."""
        if wire.self_fence_s is None or attempt.state is not AttemptState.DESIRED or attempt.id in found.started:
            return True
        if any(replica.attempt == attempt.id for replica in found.replicas):
            return True
        fence_s = wire.self_fence_s
        return all(self._renewals.is_fresh(p.node, fence_s) for p in attempt.allocation.placements)

    def _look(self, now: int) -> FoundState:
        with self._lock:
            views = dict(self._views)
        return self._memory.look(views, {node for node in views if self._is_reachable(node)}, now)

    def _stopped(self, desired: DesiredState, found: FoundState) -> DesiredState:
        """Stop what runs here; what was not started yet is left to the next runner."""
        if not self._frozen:
            self._frozen = frozenset({str(r.attempt) for r in found.replicas if r.attempt is not None} | {""})
        mine = tuple(
            replace(a, spec=replace(a.spec, grace_s=min(a.spec.grace_s, self._stop_grace_s)))
            for a in desired.attempts
            if a.id in self._frozen
        )
        return stop_everything(replace(desired, attempts=mine), self._stopping_at or 0)

    def _perform(
        self, action: Action, wires: dict[str, DesiredWire], found: FoundState, now: int
    ) -> AttemptReport | None:
        match action:
            case StartReplica():
                self._start(action, wires[action.attempt.id])
            case NotifyStop():
                rank = next(r.rank for r in found.replicas if r.id == action.replica)
                self._agent(action.node).call(
                    "notify_stop", action.attempt, rank, action.reason.value, now, timeout_s=_CALL_S
                )
                self._memory.notified(action.attempt, rank, now)
            case KillReplica():
                self._kill(action.replica, action.node, found, action.why)
            case StopWarm():
                self._kill(action.replica, action.node, found, "one warm replica too many")
            case SweepOrphan():
                if action.process is not Process.GONE:
                    self._kill(action.replica, action.node, found, "nobody desires it")
                elif self._is_due("forget", action.replica):
                    self._agent(action.node).call("forget", action.replica, timeout_s=_CALL_S)
                    self._memory.forget(action.replica)
                    self._handles.pop(action.replica, None)
            case StartWarm():
                if time.monotonic() - self._last_start > _QUIET_S:
                    handle = self._create(self._agent(action.node))
                    self._memory.ask(handle.id, handle.node)
            case ReportStarting():
                return AttemptReport(attempt=action.attempt, kind="starting", at=now)
            case ReportRunning():
                return AttemptReport(attempt=action.attempt, kind="running", at=now, code_digest=action.code_digest)
            case ReportFound():
                return AttemptReport(attempt=action.attempt, kind="found", at=now)
            case ReportEnded():
                if self._may_end(wires[action.attempt], found, now):
                    return AttemptReport(
                        attempt=action.attempt, kind="ended", at=now, outcome=action.outcome, proof=action.proof
                    )
            case _:
                assert_never(action)
        return None

    # --- doing ------------------------------------------------------------------------------------------------------

    def _start(self, action: StartReplica, wire: DesiredWire) -> None:
        agent = self._agent(action.placement.node)
        order = ReplicaOrder(
            work=WorkOrder(
                attempt=wire.attempt,
                job=wire.job,
                tenant=wire.tenant,
                ordinal=wire.ordinal,
                rank=action.placement.rank,
                spec=wire.spec,
                api_url=self._url,
            ),
            placement=action.placement,
            token=wire.token,
            host=agent.report.host,
            gang=tuple(self._host(p.node) for p in wire.placements),
            self_fence_s=wire.self_fence_s,
            ingress_secret=self._ingress_secret,
        )
        handle = self._handles.get(action.warm) if action.warm is not None else None
        if handle is None:
            handle = self._create(agent)
        self._last_start = time.monotonic()
        self._memory.ask(handle.id, handle.node, wire.attempt, action.placement.rank)
        handle.begin(order.model_dump_json(), lambda: self._died(handle))
        log.info(
            "attempt started",
            extra={
                "event": "attempt.started",
                "attempt": wire.attempt,
                "rank": action.placement.rank,
                "replica": handle.id,
                "warm": action.warm is not None,
            },
        )

    def _create(self, agent: AgentHandle) -> ReplicaHandle:
        handle = self._cluster.create_replica(agent)
        self._handles[handle.id] = handle
        handle.watch(lambda: self._died(handle))
        return handle

    def _adopt(self, handle: ReplicaHandle) -> None:
        self._handles[handle.id] = handle
        self._memory.ask(handle.id, handle.node)
        with self._lock:
            is_up = handle.node in self._views and any(v.id == handle.id for v in self._views[handle.node].replicas)
        if not is_up:  # one that serves an attempt would not answer
            handle.watch(lambda: self._died(handle))

    def _died(self, handle: ReplicaHandle) -> None:
        """Ray says that a replica is dead; called in a thread of Ray's."""
        with self._lock:
            view = self._views.get(handle.node)
        self._memory.failed(handle.id, -1 if view is None else view.look)
        agent = self._agents.get(handle.node)
        if agent is not None and not self._is_over.is_set():
            agent.tell("look")
        self.wake()

    def _kill(self, replica: str, node: str, found: FoundState, why: str) -> None:
        if not self._is_due("kill", replica):
            return
        seen = next((r for r in found.replicas if r.id == replica), None)
        if seen is not None and seen.process in (Process.STARTING, Process.ALIVE):
            self._memory.killed(replica)
        log.info("replica killed: %s", why, extra={"event": "replica.killed", "replica": replica})
        self._agent(node).tell("kill", replica, why)
        if seen is not None and seen.process is Process.STARTING and replica in self._handles:
            self._handles[replica].kill()
            self._memory.failed(replica, self._views[node].look if node in self._views else -1)
            self._agent(node).tell("look")

    def _may_end(self, wire: DesiredWire, found: FoundState, now: int) -> bool:
        """Before an end is reported: no late order may begin it again, and its logs are stored."""
        for node in sorted({p.node for p in wire.placements}):
            ranks = [p.rank for p in wire.placements if p.node == node]
            taken = self._agent(node).call("forbid", wire.attempt, ranks, timeout_s=_CALL_S)
            known = {r.rank for r in found.replicas if r.attempt == wire.attempt}
            if set(taken) - known:
                return False  # one has begun since the look
        with self._lock:
            views = [v for view in self._views.values() for v in view.replicas if v.attempt == wire.attempt]
        gone_at = [r.gone_at for r in found.replicas if r.attempt == wire.attempt and r.gone_at is not None]
        waits_for_logs = any(not view.logs_whole for view in views)
        return not waits_for_logs or now - max(gone_at, default=0) > _LOGS_S * 1000

    def _is_due(self, what: str, replica: str) -> bool:
        now = time.monotonic()
        if now - self._ordered.get((what, replica), -1e9) < _AGAIN_S:
            return False
        self._ordered = {key: at for key, at in self._ordered.items() if now - at < _AGAIN_S}
        self._ordered[what, replica] = now
        return True

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _refresh_nodes(self) -> None:
        agents, dead = self._cluster.agents()
        for agent in agents:
            node = agent.report.id
            self._dead_nodes.pop(node, None)
            if self._agents.get(node) != agent:
                self._agents[node] = agent
                with self._lock:
                    self._views[node] = agent.call("look", timeout_s=30)
                    self._answered[node] = time.monotonic()
                threading.Thread(target=self._observe, args=(agent,), name=f"observe-{node}", daemon=True).start()
        for node in dead:
            gone = self._agents.pop(node, None)
            if gone is not None:
                self._dead_nodes[node] = gone.report.model_copy(update={"is_alive": False})
                with self._lock:
                    self._answered.pop(node, None)

    def _observe(self, agent: AgentHandle) -> None:
        """Keep the newest look of one agent; over its restarts, until its node is gone."""
        node, version = agent.report.id, -1
        while self._agents.get(node) == agent and not self._is_over.is_set():
            try:
                view: AgentView = agent.call("observe", version, _OBSERVE_S / 2, timeout_s=_OBSERVE_S)
            except RayError:
                version = -1  # a new agent counts from 0 again
                time.sleep(0.1)
                self.wake()
                continue
            version = view.version
            with self._lock:
                self._views[node] = view
                self._answered[node] = time.monotonic()
            self.wake()

    def _is_reachable(self, node: str) -> bool:
        with self._lock:
            return time.monotonic() - self._answered.get(node, -1e9) < _SILENT_S

    def _agent(self, node: str) -> AgentHandle:
        if node not in self._agents:
            raise RayError(f"node {node} is not there")
        return self._agents[node]

    def _host(self, node: str) -> str:
        return self._agents[node].report.host if node in self._agents else ""


def _desired(runner: RunnerId, reply: DesiredReply) -> DesiredState:
    attempts = tuple(
        DesiredAttempt(
            id=AttemptId(wire.attempt),
            job=JobId(wire.job),
            tenant=TenantId(wire.tenant),
            ordinal=wire.ordinal,
            state=AttemptState(wire.state),
            spec=wire.spec,
            allocation=Allocation(wire.spec.pool or "", 0, wire.placements),  # pyright: ignore[reportArgumentType]
            stop=wire.stop,
            queued_at=wire.queued_at,
        )
        for wire in sorted(reply.attempts, key=lambda a: a.attempt)
    )
    return DesiredState(runner, attempts, reply.warm_per_node)
