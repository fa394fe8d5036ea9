"""The control loop: one `tick(now)` leads (or finds that it does not), lets time act, plans, and applies what holds.

Synchronous, without threads and without a clock. Everything a tick decides is decided again by the next one from the
rows, so it may be cut off anywhere: a crash between two commits loses nothing, and two loops at once are kept apart by
the epoch that every writing transaction checks (rule 5). The order inside a tick:

1. lease: renew, take over, or follow (then only the view is kept up);
2. view: caught up from the change feed;
3. time: silent runners, overdue attempts; pending jobs whose hold may have changed;
4. plan, and the guarded apply in groups;
5. endpoints: their replica jobs.

Followers keep their view too, so that `explain` answers everywhere and a take-over starts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from factory.control.agenda import Agenda
from factory.control.deadlines import is_forgettable, overdue, silent_from, unknown
from factory.control.dispatching import Dispatched, dispatch
from factory.control.endpoints import keep_endpoints
from factory.control.fencing import FenceWatch, dead_by_fence
from factory.control.gates import Doomed, Open, judge, pool_key
from factory.control.ledger import Refusal
from factory.control.ports import ControlStore, ControlTx, Lease, ReplicaSubmitter
from factory.control.view import Changed, View, build, catch_up, since_at
from factory.domain.events import CancelRequested, Event, Held, Queued
from factory.domain.ids import JobId, NodeId, RunnerId
from factory.domain.jobs import AttemptState, Job, JobState
from factory.domain.pools import NodeState
from factory.domain.tenancy import PLATFORM
from factory.domain.time import SECOND, Instant
from factory.errors import FeedPrunedError, FencedError, StaleWriteError
from factory.jobs.applying import apply_event
from factory.jobs.ports import EndedHook
from factory.scheduling.planning import Plan, Policy, plan
from factory.scheduling.snapshot import Snapshot

__all__ = ["ControlLoop", "Planner", "Settings", "TickResult"]

T = TypeVar("T")

_SWEEP_EVERY_MS = 60 * SECOND  # between two looks for lost nodes to remove
# While jobs wait, plan so often although nothing changed: expected ends have passed, shares have decayed. Prime to the
# 64 seconds over which the scheduler spreads its looks for victims, so that every job has its turn in one of them.
_PLAN_EVERY_MS = 7 * SECOND


class Planner(Protocol):
    """`scheduling.plan`, or a process of its own that runs it."""

    def __call__(self, snapshot: Snapshot, policy: Policy, now: Instant) -> Plan: ...


class Follow(Protocol):
    """`serving.service.follow_aliases`: new revisions for endpoints whose alias has moved."""

    def __call__(self, tx: ControlTx, now: Instant) -> Sequence[object]: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How the loop behaves."""

    lease_s: int = 15
    renew_s: int = 3  # the lease is renewed when it is older than this
    runner_silence_s: int = 30  # a runner not heard for so long: its attempts are unknown, its nodes lost
    lost_node_keep_s: int = 3600  # a lost node that holds nothing is removed so long after its last report
    group: int = 250  # decisions, or jobs looked at, per transaction
    keep_feed: int = 100_000  # entries kept for readers that are behind
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class TickResult:
    """What a tick did, and when the next one is due if nothing wakes it before."""

    leading: bool
    epoch: int | None = None
    admitted: tuple[JobId, ...] = ()
    preempted: tuple[JobId, ...] = ()
    refused: tuple[tuple[JobId, Refusal], ...] = ()
    moved: int = 0  # jobs that time or a gate moved
    fenced: bool = False  # it found in a transaction that it leads no longer
    stale: int = 0  # transactions given up because a row changed under them
    wake_at: Instant = 0  # call tick then at the latest; `now` = at once, there is more to do


@dataclass(slots=True)
class _Tally:
    """What this tick has done so far."""

    admitted: list[JobId] = field(default_factory=list[JobId])
    preempted: list[JobId] = field(default_factory=list[JobId])
    refused: list[tuple[JobId, Refusal]] = field(default_factory=list[tuple[JobId, Refusal]])
    moved: int = 0
    stale: int = 0
    more: bool = False


class ControlLoop:
    """One per control-plane process.

    Args:
        holder: names this process in the lease; fresh per process start.
        submitter: makes replica jobs of endpoints.
        follow: gives endpoints that follow an alias their new revision; None = nothing follows.
        on_ended: see `jobs.ports.EndedHook`.
        proven_dead: answers whether an earlier leader is proven dead (SQLite: this process holds the folder's lock),
            so that its lease is taken over at once.
    """

    def __init__(
        self,
        store: ControlStore,
        *,
        holder: str,
        submitter: ReplicaSubmitter,
        settings: Settings | None = None,
        planner: Planner = plan,
        follow: Follow | None = None,
        on_ended: EndedHook | None = None,
        proven_dead: bool = False,
    ) -> None:
        self._store = store
        self._holder = holder
        self._submitter = submitter
        self._settings = settings or Settings()
        self._plan = planner
        self._follow = follow
        self._on_ended = on_ended
        self._proven_dead = proven_dead
        self._lease: Lease | None = None
        self._renewed_at: Instant = 0
        self._view: View | None = None
        self._agenda = Agenda()
        self._planned: Snapshot | None = None  # what the last plan saw; until `_plan_at` it gives the same plan
        self._plan_at: Instant | None = None  # plan again then, whether or not something changed
        self._endpoints_dirty = True
        self._endpoints_at: Instant | None = None
        self._swept_at: Instant = 0
        self._fences = FenceWatch()
        self._fences_at: Instant = 0
        self._aliases_dirty = True

    @property
    def snapshot(self) -> Snapshot | None:
        """The state as of the last tick, for `explain`; None before the first one."""
        return None if self._view is None else self._view.snapshot

    @property
    def lease(self) -> Lease | None:
        """The lease that this loop believes to hold; only a transaction can tell whether it still does."""
        return self._lease

    def tick(self, now: Instant) -> TickResult:
        """Do all that is due at `now`. Raises what the store raises when it is down; call again later."""
        try:
            return self._tick(now)
        except BaseException:
            self._view = None  # cut off anywhere: what was noted to look at may be lost, so look at all of it
            raise

    def _tick(self, now: Instant) -> TickResult:
        self._lead(now)
        self._refresh(now)
        lease = self._lease
        if lease is None:
            return TickResult(leading=False, wake_at=now + self._settings.lease_s * SECOND // 3)
        tally = _Tally()
        try:
            self._let_time_act(tally, lease.epoch, now)
            self._prove_by_fence(tally, lease.epoch, now)
            self._forget_lost(tally, lease.epoch, now)
            self._judge_pending(tally, lease.epoch, now)
            self._dispatch(tally, lease.epoch, now)
            self._keep_endpoints(tally, lease.epoch, now)
            self._prune(lease.epoch)
        except FencedError:
            result = self._result(tally, None, now, fenced=True)
            self._lease = self._view = None
            return result
        return self._result(tally, lease.epoch, now)

    def release(self) -> None:
        """Give the lease up in order (SIGTERM): the next leader need not wait for it to end."""
        if self._lease is not None:
            self._store.transact(lambda tx: tx.release_lease(self._holder))
            self._lease = None

    # -- 1. lease ------------------------------------------------------------------------------------------------

    def _lead(self, now: Instant) -> None:
        settings = self._settings
        age = now - self._renewed_at
        if self._lease is not None and 0 <= age < settings.renew_s * SECOND:
            return
        proven = self._proven_dead and self._lease is None
        lease = self._store.transact(
            lambda tx: tx.acquire_lease(self._holder, now, settings.lease_s * SECOND, proven_dead=proven)
        )
        self._renewed_at = now
        if lease is not None and (self._lease is None or lease.epoch != self._lease.epoch):
            self._fences = FenceWatch()  # others led meanwhile: what they saw of nodes is not known here
            self._endpoints_dirty = self._aliases_dirty = True
            self._planned = None
        self._lease = lease

    # -- 2. view -------------------------------------------------------------------------------------------------

    def _refresh(self, now: Instant) -> None:
        if self._view is not None and since_at(now) <= self._view.snapshot.since:
            old = self._view
            try:
                self._view, changed = self._store.read(lambda reader: catch_up(reader, old))
            except FeedPrunedError:
                self._view = None
            else:
                if not changed.is_empty:
                    self._note(old.snapshot, self._view.snapshot, changed)
                return
        self._view = self._store.read(lambda reader: build(reader, now))
        self._agenda = Agenda.of(self._view.snapshot)
        self._planned = None
        self._endpoints_dirty = self._aliases_dirty = True

    def _note(self, old: Snapshot, new: Snapshot, changed: Changed) -> None:
        for id in sorted(changed.jobs):
            before, after = old.jobs.get(id), new.jobs.get(id)
            self._agenda.put(id, before, after)
            self._endpoints_dirty |= any(job is not None and job.group is not None for job in (before, after))
        for id in changed.versions:
            self._agenda.stir(id)
        for name in changed.pools:
            self._agenda.stir(pool_key(name))
        self._agenda.fleet_changed |= changed.fleet
        self._endpoints_dirty |= changed.endpoints or changed.models
        self._aliases_dirty |= changed.endpoints or changed.models

    # -- 3. time and holds -----------------------------------------------------------------------------------------

    def _let_time_act(self, tally: _Tally, epoch: int, now: Instant) -> None:
        snapshot, written = self._seen().snapshot, (tally.moved, tally.stale)
        silent = [
            id
            for id, runner in sorted(snapshot.runners.items())
            if now >= silent_from(runner, self._settings.runner_silence_s)
        ]
        if self._agenda.fleet_changed or silent != self._agenda.silent:
            suspects = self._suspects(snapshot, silent)
            if suspects.is_empty or self._in_tx(lambda tx: self._lose(tx, suspects, now), tally, epoch) is not None:
                self._agenda.silent = silent
                self._agenda.fleet_changed = False
        overdue_ids = self._agenda.pop_due(snapshot, now)
        for ids in _groups(overdue_ids, self._settings.group):
            if self._in_tx(lambda tx, ids=ids: self._stop_overdue(tx, ids, now), tally, epoch) is None:
                self._agenda.push_due(snapshot, ids)
        if (tally.moved, tally.stale) != written:
            self._refresh(now)

    def _prove_by_fence(self, tally: _Tally, epoch: int, now: Instant) -> None:
        """End unknown attempts that their nodes have ended by themselves; only pools with `self_fence_s` have that."""
        snapshot = self._seen().snapshot
        pools = {name: pool for name, pool in snapshot.pools.items() if pool.self_fence_s is not None}
        if not pools or 0 <= now - self._fences_at < SECOND:
            return
        self._fences_at = now
        nodes = {id: node for id, node in snapshot.nodes.items() if node.pool in pools}
        self._fences.look(nodes.values(), now)
        found = [snapshot.jobs[id] for id in sorted(self._agenda.live)]
        dead = [job.id for job in found if dead_by_fence(job, pools, nodes, self._fences, now) is not None]
        for ids in _groups(dead, self._settings.group):
            self._in_tx(lambda tx, ids=ids: self._end_fenced(tx, ids, now), tally, epoch)
        if dead:
            self._refresh(now)

    def _end_fenced(self, tx: ControlTx, ids: Sequence[JobId], now: Instant) -> _Moved:
        moved = _Moved()
        pools = {pool.name: pool for pool in tx.pools(PLATFORM)}
        nodes = {node.id: node for node in tx.nodes(PLATFORM)}
        for id in ids:
            job = tx.job(PLATFORM, id)
            if job is not None and (event := dead_by_fence(job, pools, nodes, self._fences, now)) is not None:
                self._write(tx, job, event, now, moved)
        return moved

    def _forget_lost(self, tally: _Tally, epoch: int, now: Instant) -> None:
        """Remove nodes that were lost long ago and hold nothing: a plan gives a lost node nothing new to hold."""
        if 0 <= now - self._swept_at < _SWEEP_EVERY_MS:
            return
        snapshot = self._seen().snapshot
        old = {
            id: node.version
            for id, node in snapshot.nodes.items()
            if is_forgettable(
                node, holds=snapshot.holdings.get(id) is not None, keep_s=self._settings.lost_node_keep_s, now=now
            )
        }

        def forget(tx: ControlTx) -> _Moved:
            gone = [node.id for node in tx.nodes(PLATFORM) if old.get(node.id) == node.version]
            for id in gone:
                tx.delete_node(PLATFORM, id)
            return _Moved(len(gone))

        if not old or self._in_tx(forget, tally, epoch) is not None:
            self._swept_at = now
        if old:
            self._refresh(now)

    def _suspects(self, snapshot: Snapshot, silent: Sequence[RunnerId]) -> _Suspects:
        """Whom to look at in the rows: nodes of silent runners, attempts of those and on lost nodes."""
        nodes = {
            id for id, node in snapshot.nodes.items() if node.runner in silent and node.state is not NodeState.LOST
        }
        gone = nodes | {id for id, node in snapshot.nodes.items() if node.state is NodeState.LOST}
        jobs: set[JobId] = set()
        for id in self._agenda.live:
            live = snapshot.jobs[id].live_attempt
            if live is None or live.state is AttemptState.UNKNOWN:
                continue
            if live.runner in silent or any(p.node in gone for p in live.allocation.placements):
                jobs.add(id)
        return _Suspects(frozenset(silent), frozenset(nodes), frozenset(jobs))

    def _lose(self, tx: ControlTx, suspects: _Suspects, now: Instant) -> _Moved:
        """Nodes of silent runners are lost; attempts of silent runners and on lost nodes are unknown."""
        moved = _Moved()
        silent = {
            runner.id
            for runner in tx.runners(PLATFORM)
            if runner.id in suspects.runners and now >= silent_from(runner, self._settings.runner_silence_s)
        }
        lost: set[NodeId] = set()
        for node in tx.nodes(PLATFORM):
            if node.runner in silent and node.id in suspects.nodes and node.state is not NodeState.LOST:
                tx.put_node(replace(node, state=NodeState.LOST))
                moved.count += 1
            if node.state is NodeState.LOST or node.runner in silent:
                lost.add(node.id)
        tx.jobs_of(PLATFORM, suspects.jobs)
        for id in sorted(suspects.jobs):
            job = tx.job(PLATFORM, id)
            live = None if job is None else job.live_attempt
            if job is None or live is None:
                continue
            why = "its runner is silent" if live.runner in silent else "its node is lost"
            is_lost = live.runner in silent or any(p.node in lost for p in live.allocation.placements)
            if is_lost and (event := unknown(job, why, now)) is not None:
                self._write(tx, job, event, now, moved)
        return moved

    def _stop_overdue(self, tx: ControlTx, ids: Sequence[JobId], now: Instant) -> _Moved:
        moved = _Moved()
        tx.jobs_of(PLATFORM, ids)  # one look instead of one for each
        for id in ids:
            job = tx.job(PLATFORM, id)
            if job is not None and (event := overdue(job, now)) is not None:
                self._write(tx, job, event, now, moved)
        return moved

    def _judge_pending(self, tally: _Tally, epoch: int, now: Instant) -> None:
        stirred = sorted(self._agenda.stirred)
        for ids in _groups(stirred, self._settings.group):
            if self._in_tx(lambda tx, ids=ids: self._judge(tx, ids, now), tally, epoch) is not None:
                self._agenda.stirred.difference_update(ids)
        if stirred:
            self._refresh(now)

    def _judge(self, tx: ControlTx, ids: Sequence[JobId], now: Instant) -> _Moved:
        moved = _Moved()
        tx.jobs_of(PLATFORM, ids)  # one look instead of one for each
        for id in ids:
            job = tx.job(PLATFORM, id)
            if job is None or job.state is not JobState.PENDING:
                continue
            verdict = judge(tx, job)
            if isinstance(verdict, Open):
                self._write(tx, job, Queued(now), now, moved)
            elif isinstance(verdict, Doomed):
                self._write(tx, job, CancelRequested(now, "control", verdict.why), now, moved)
            elif verdict != job.hold:
                self._write(tx, job, Held(now, verdict), now, moved)
        return moved

    # -- 4. plan and apply -----------------------------------------------------------------------------------------

    def _dispatch(self, tally: _Tally, epoch: int, now: Instant) -> None:
        view = self._seen()
        is_due = self._plan_at is not None and now >= self._plan_at
        if view.snapshot is self._planned and not self._agenda.backed_off and not is_due:
            return
        self._agenda.backed_off = False
        found = self._plan(view.snapshot, self._settings.policy, now)
        self._planned = view.snapshot
        self._plan_at = found.wake_at
        if found.waiting and (found.wake_at is None or found.wake_at > now + _PLAN_EVERY_MS):
            self._plan_at = now + _PLAN_EVERY_MS
        latest = view
        for decisions in _groups(found.decisions, self._settings.group):
            done = self._in_tx(
                lambda tx, decisions=decisions, since=latest: dispatch(
                    tx, view, decisions, epoch=epoch, now=now, on_ended=self._on_ended, since=since
                ),
                tally,
                epoch,
            )
            if done is None:
                self._planned = None
                break
            self._count(tally, done)
            if done.view is not None:
                self._note(latest.snapshot, done.view.snapshot, done.changed)
                self._view = latest = done.view
        tally.more |= len(found.decisions) >= self._settings.policy.max_decisions or self._planned is None

    def _count(self, tally: _Tally, done: Dispatched) -> None:
        tally.admitted.extend(done.admitted)
        tally.preempted.extend(done.preempted)
        tally.refused.extend(done.refused)
        if any(refusal is not Refusal.STALE for _, refusal in done.refused):
            self._planned = None  # the plan and the rows differ: look again, whether or not the feed says so

    # -- 5. endpoints ----------------------------------------------------------------------------------------------

    def _keep_endpoints(self, tally: _Tally, epoch: int, now: Instant) -> None:
        if self._aliases_dirty and self._follow is not None:
            follow = self._follow
            if self._in_tx(lambda tx: _Moved(len(follow(tx, now))), tally, epoch) is not None:
                self._aliases_dirty = False
                self._endpoints_dirty = True
        due = self._endpoints_at is not None and now >= self._endpoints_at
        if not (self._endpoints_dirty or due):
            return
        kept = self._in_tx(lambda tx: keep_endpoints(tx, self._submitter, now, self._on_ended), tally, epoch)
        if kept is None:
            return
        self._endpoints_dirty = False
        self._endpoints_at = kept.look_again_at
        tally.more |= kept.changed

    # -- all -------------------------------------------------------------------------------------------------------

    def _prune(self, epoch: int) -> None:
        cursor = self._seen().cursor
        keep = self._settings.keep_feed
        if cursor > 2 * keep and cursor - self._agenda.pruned_at > keep:
            self._store.transact(lambda tx: tx.prune_feed(cursor - keep), epoch=epoch)
            self._agenda.pruned_at = cursor

    def _in_tx(self, fn: Callable[[ControlTx], T], tally: _Tally, epoch: int) -> T | None:
        """Run one dispatching transaction; None if a row changed under it (the next tick decides again)."""
        try:
            done = self._store.transact(fn, epoch=epoch)
        except StaleWriteError:
            tally.stale += 1
            tally.more = True
            return None
        if isinstance(done, _Moved):
            tally.moved += done.count
        return done

    def _write(self, tx: ControlTx, job: Job, event: Event, now: Instant, moved: _Moved) -> None:
        apply_event(tx, job, event, now, self._on_ended)
        moved.count += 1

    def _seen(self) -> View:
        if self._view is None:
            raise RuntimeError("tick refreshes the view first")
        return self._view

    def _result(self, tally: _Tally, epoch: int | None, now: Instant, *, fenced: bool = False) -> TickResult:
        return TickResult(
            leading=epoch is not None,
            epoch=epoch,
            admitted=tuple(tally.admitted),
            preempted=tuple(tally.preempted),
            refused=tuple(tally.refused),
            moved=tally.moved,
            fenced=fenced,
            stale=tally.stale,
            wake_at=now if tally.more else min(self._wakes(now)),
        )

    def _wakes(self, now: Instant) -> Iterator[Instant]:
        settings = self._settings
        yield now + (settings.renew_s if self._lease is not None else settings.lease_s // 3) * SECOND
        if (due := self._agenda.next_due()) is not None:
            yield max(due, now)
        if self._lease is not None and self._plan_at is not None:
            yield max(self._plan_at, now)
        if self._endpoints_at is not None:
            yield max(self._endpoints_at, now)
        for _, runner in self._seen().snapshot.runners.items():
            if (silent := silent_from(runner, settings.runner_silence_s)) > now:
                yield silent


@dataclass(frozen=True, slots=True)
class _Suspects:
    """Of what the snapshot says that it is silent or lost."""

    runners: frozenset[RunnerId]
    nodes: frozenset[NodeId]
    jobs: frozenset[JobId]

    @property
    def is_empty(self) -> bool:
        return not (self.nodes or self.jobs)


@dataclass(slots=True)
class _Moved:
    """What a transaction of step 3 wrote."""

    count: int = 0


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
