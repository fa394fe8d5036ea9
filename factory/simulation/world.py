"""One simulated factory: control planes, runners, a fake Ray, people, and everything that can go wrong between them.

`World(seed).run(events)` draws one event after the other, then lets the world heal and settle, and asks that everything
has come to an end. Same seed, same history. What is real: `control.tick`, `control.reports`, `control.desired`,
`jobs.service`, `pools.service`, `lifecycle.reconcile`, `scheduling.plan` and the store adapter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol, TypeVar

from factory.algorithms.catalogue import Catalogue
from factory.control.desired import desired_state
from factory.control.loop import ControlLoop, Settings
from factory.control.ports import ControlTx
from factory.control.reports import apply_report
from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName, RunnerId, TenantId
from factory.domain.jobs import Job, JobState, PriorityClass, Waiting
from factory.domain.pools import NodeState
from factory.domain.tenancy import PLATFORM, Principal, Queue, Quota, Role
from factory.domain.time import SECOND, Instant
from factory.errors import ConflictError, FactoryError, UnauthenticatedError
from factory.jobs.service import JobService
from factory.pools.service import PoolService, StaleRunnerError
from factory.scheduling.explaining import explain
from factory.scheduling.feasibility import check_feasible
from factory.scheduling.planning import Admit, Plan, Policy, plan
from factory.scheduling.snapshot import Snapshot
from factory.schemas.attempt import ProgressRequest
from factory.schemas.jobs import CommandSpec, JobSpec, RetrySpec
from factory.schemas.runner import ReportBatch
from factory.simulation.chance import Crash, VirtualClock, VirtualIds, happens
from factory.simulation.checking import Checker, InvariantViolation
from factory.simulation.cluster import Machine, Proc, SimCluster
from factory.simulation.runners import SimRunner
from factory.simulation.stores import CrashPlan, PlaneStore, RealStore
from factory.tenants.ports import TenantTx
from factory.testing.memory import MemoryStore

__all__ = ["World"]

T = TypeVar("T")

_TENANTS = ("mobility", "energy")
_SETTLE_ROUNDS = 120
_SETTLE_STEP = 5 * SECOND
_EXPLAIN_EVERY = 12  # ticks of leaders; then every open job is asked why it is where it is


@dataclass(slots=True)
class _Message:
    """Something under way: a batch of a runner, or an effect of a worker."""

    at: Instant
    batch: ReportBatch | None = None
    effect: AttemptId | None = None


class FleetAdmin(ControlTx, TenantTx, Protocol):
    """What a person with every right may write."""


class _Bundles:
    """Every code bundle is there."""

    def has(self, tenant: TenantId, digests: Iterable[str]) -> frozenset[str]:
        return frozenset(digests)


class _Plane:
    """One control-plane process: its loop and its services, over its own door to the store."""

    def __init__(self, world: World, number: int, life: int) -> None:
        self.number = number
        self.paused_until: Instant = 0
        self.store = PlaneStore(
            world.real, before=lambda epoch: world.before_transaction(self, epoch), after=world.observe
        )
        self.jobs = JobService(
            self.store, ids=world.ids, bundles=_Bundles(), catalogue=Catalogue([]), policy=world.policy
        )
        self.pools = PoolService(self.store)
        self.loop = ControlLoop(
            self.store,
            holder=f"plane-{number}-{life}",
            submitter=self.jobs,
            settings=Settings(policy=world.policy),
            planner=world.plan,
        )


class World:
    """Everything of one seed.

    Args:
        open_real: makes the store adapter from the world's clock.
    """

    def __init__(self, seed: int, open_real: Callable[[VirtualClock], RealStore] | None = None) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.clock = VirtualClock()
        self.ids = VirtualIds()
        self.real: RealStore = MemoryStore(clock=self.clock) if open_real is None else open_real(self.clock)
        self.crash = CrashPlan()
        self.crash.arm(self.real.hooks)
        # most worlds reclaim at once: what runs long enough to be let alone by default is over by then
        self.policy = Policy(
            min_runtime_s=self.rng.choice((0, 0, 0, 5)), max_preemptions=self.rng.choice((None, None, 1))
        )
        self.checker = Checker(self._living, self.policy)
        self.counts: Counter[str] = Counter()
        self._calm = True
        self._nested = False
        self._keys = 0
        self._led = 0
        self._unanswered: list[tuple[str, TenantId, JobSpec]] = []
        self._answered: list[tuple[str, TenantId, JobSpec]] = []
        self._messages: list[_Message] = []
        self.runners = [self._runner(f"runner-{n + 1}") for n in range(self.rng.choice((1, 1, 2)))]
        self._lives = 0
        self.planes = [self._plane(n) for n in range(self.rng.choice((1, 2, 2, 3)))]
        self._queues()

    # -- the world ---------------------------------------------------------------------------------------------------

    def run(self, events: int) -> None:
        """Live through so many events, then settle. Raises: InvariantViolation."""
        self._calm = False
        likelihoods = self._likelihoods()
        happenings, weights = list(likelihoods), list(likelihoods.values())
        for _ in range(events):
            self.clock.advance(self.rng.choice((0, 20, 100, 400, 1500)))
            if happens(self.rng, 8):
                self.clock.advance(self.rng.choice((20, 40, 90)) * SECOND)
            self._guarded(self.rng.choices(happenings, weights)[0])
        self._settle()
        self.real.close()

    def plan(self, snapshot: Snapshot, policy: Policy, now: Instant) -> Plan:
        """The real plan."""
        self.checker.is_disturbed = False
        return plan(snapshot, policy, now)

    def observe(self) -> None:
        """Check after a transaction, whether or not its caller heard of the commit."""
        self.crash.before = self.crash.after = False
        self.real.read(lambda reader: self.checker.observe(reader, self.clock.now()))

    def before_transaction(self, plane: _Plane, epoch: int | None) -> None:
        """Between two transactions of a leader anything may happen, a pause past its lease included."""
        if self._calm or self._nested:
            return
        if happens(self.rng, 12):
            self.crash.before = True
        elif happens(self.rng, 12):
            self.crash.after = True
        if epoch is None or not happens(self.rng, 150):
            return
        self._nested = True
        crash, self.crash.before, self.crash.after = (self.crash.before, self.crash.after), False, False
        try:
            self.rng.choice((self._stall, self._change_quota, self._change_node, self._cancel, self._report_fleet))()
        finally:
            self.checker.is_disturbed = True  # the rows may have moved on from what was planned on
            self.crash.before, self.crash.after = crash
            self._nested = False

    def _guarded(self, happening: Callable[[], None]) -> None:
        self.counts[happening.__name__.lstrip("_")] += 1
        happening()

    def _on_plane(self, plane: _Plane, fn: Callable[[], T]) -> T | None:
        """Run something in a control-plane process; a crash replaces the process. None = no answer came."""
        try:
            return fn()
        except Crash:
            self.counts["crashes"] += 1
            self.planes[plane.number] = self._plane(plane.number)
            return None

    def _awake(self) -> _Plane | None:
        awake = [plane for plane in self.planes if plane.paused_until <= self.clock.now()]
        return self.rng.choice(awake) if awake else None

    def _plane(self, number: int) -> _Plane:
        self._lives += 1
        return _Plane(self, number, self._lives)

    def _runner(self, name: str) -> SimRunner:
        rng = self.rng
        gpus = name == "runner-2"
        pool = "gpu" if gpus else "cpu"
        machines = [
            Machine(NodeId(f"{pool}-{n}"), pool, rng.choice((2000, 4000)), 8 * 2**30, rng.choice((1, 2)) if gpus else 0)
            for n in range(rng.choice((1, 2, 3)))
        ]
        return SimRunner(RunnerId(name), SimCluster(rng, machines), rng, self.checker)

    def _queues(self) -> None:
        """Two departments: each with a quota of its own, or below one roof, lending to each other."""
        roof = QueueName("city") if happens(self.rng, 800) else None

        def work(tx: FleetAdmin) -> None:
            if roof is not None:
                tx.put_queue(Queue(roof, TenantId("platform")))
            for name in _TENANTS:
                tx.put_queue(Queue(QueueName(name), TenantId(name), roof, quotas=(self._quota(roof is not None),)))

        self.real.transact(work)

    def _quota(self, lends: bool) -> Quota:
        rng = self.rng
        nominal = rng.choice((1000, 1000, 2000) if lends else (2000, 4000, 8000))
        return Quota(
            PoolName("cpu"), nominal, rng.choice((1000, 4000, 8000)) if lends else 0, rng.choice((None, None, 1000))
        )

    def _living(self, attempt: AttemptId) -> list[Proc]:
        return [proc for runner in self.runners for proc in runner.cluster.living(attempt)]

    # -- what may happen ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        plane = self._awake()
        if plane is not None:
            self._tick_plane(plane)

    def _tick_plane(self, plane: _Plane) -> None:
        result = self._on_plane(plane, lambda: plane.loop.tick(self.clock.now()))
        if result is not None:
            self.counts["admitted"] += len(result.admitted)
            self.counts["preempted"] += len(result.preempted)
            self.counts["refused"] += len(result.refused)
            self.counts["fenced"] += result.fenced
            if result.leading and not result.fenced and not self._nested:
                self._led += 1
                if self._led % _EXPLAIN_EVERY == 0:
                    self._explain_all(plane.loop.snapshot)

    def _explain_all(self, snapshot: Snapshot | None) -> None:
        """Ask for every open job's reason, as a person would, and compare with what the next plan would do."""
        if snapshot is None:
            return
        now = self.clock.now()
        waiting = [id for id, job in sorted(snapshot.jobs.items()) if not job.is_terminal and job.live_attempt is None]
        reasons = [explain(snapshot, id, now, self.policy) for id in waiting]
        next_plan = plan(snapshot, self.policy, now)
        admitted = {decision.job_id for decision in next_plan.decisions if isinstance(decision, Admit)}
        self.counts["reasons asked for"] += len(reasons)
        # of a lane one is tried in a plan: whoever is in it with one that was refused may be told more than it gets
        lanes = {snapshot.places[id].lane for id, _ in next_plan.waiting}
        alike = {id for id in waiting if (place := snapshot.places.get(id)) is not None and place.lane in lanes}
        self.checker.explained(reasons, admitted, now, alike)

    def _stall(self) -> None:
        """The process is stopped for longer than its lease, in the middle of a tick; another one takes over."""
        self.clock.advance(self.rng.choice((1, 16, 25)) * SECOND)
        for plane in self.planes:
            if plane.paused_until <= self.clock.now() and plane.loop.lease is None:
                self._tick_plane(plane)

    def _pause(self) -> None:
        plane = self.rng.choice(self.planes)
        plane.paused_until = self.clock.now() + self.rng.choice((5, 20, 60)) * SECOND

    def _kill_plane(self) -> None:
        plane = self.rng.choice(self.planes)
        self.planes[plane.number] = self._plane(plane.number)

    def _submit(self) -> None:
        rng = self.rng
        if self._unanswered and happens(rng, 500):
            key, tenant, spec = self._unanswered.pop(rng.randrange(len(self._unanswered)))
        elif self._answered and happens(rng, 60):
            key, tenant, spec = rng.choice(self._answered)
        else:
            self._keys += 1
            key, tenant, spec = f"key-{self._keys}", TenantId(rng.choice(_TENANTS)), self._spec()
        plane = self._awake()
        if plane is None:
            self._unanswered.append((key, tenant, spec))
            return
        who = Principal("key-1", Role.OPERATOR, tenant)
        try:
            answer = self._on_plane(plane, lambda: self._answer(plane, who, key, spec))
        except FactoryError:
            self.counts["submits refused"] += 1
            return
        if answer is None:
            self._unanswered.append((key, tenant, spec))  # it may or may not be there: ask again with the same key
            return
        self.checker.acknowledged(key, answer)
        self._answered.append((key, tenant, spec))

    def _answer(self, plane: _Plane, who: Principal, key: str, spec: JobSpec) -> JobId:
        return plane.jobs.submit(who, spec, idempotency_key=key, now=self.clock.now()).job.id

    def _spec(self) -> JobSpec:
        rng = self.rng
        known = list(self.checker.jobs)
        after = (rng.choice(known),) if known and happens(rng, 100) else ()
        gpu = rng.choice((0.0, 0.0, 0.5, 1.0)) if len(self.runners) > 1 else 0.0
        return JobSpec(
            name="work",
            command=CommandSpec(argv=("true",)),
            cpu=rng.choice((0.5, 1.0, 1.0, 2.0)),
            memory=2**28,
            gpu=gpu,
            replicas=(replicas := rng.choice((1, 1, 1, 2, 3))),
            min_replicas=1 if replicas > 1 and happens(rng, 250) else None,
            priority=rng.choice((PriorityClass.NORMAL, PriorityClass.NORMAL, PriorityClass.HIGH, PriorityClass.LOW)),
            estimate_s=rng.choice((None, None, 5, 30)),
            retry=RetrySpec(max_retries=rng.choice((0, 2, 5))),
            timeout_s=rng.choice((None, None, 20)),
            start_timeout_s=rng.choice((60, 300)),
            grace_s=rng.choice((0, 5)),
            after=after,
            seed=0,
        )

    def _on_some_job(self, act: Callable[[JobService, Principal, JobId], object]) -> JobId | None:
        """A person does something to an open job; returns it if the request was answered and not refused."""
        plane = self._awake()
        open_ids = [id for id, job in self.checker.jobs.items() if not job.is_terminal]
        if plane is None or not open_ids:
            return None
        id = self.rng.choice(open_ids)
        who = Principal("key-1", Role.OPERATOR, self.checker.jobs[id].tenant)
        try:
            done = self._on_plane(plane, lambda: act(plane.jobs, who, id))
        except ConflictError:
            return None
        return None if done is None else id

    def _cancel(self) -> None:
        id = self._on_some_job(lambda jobs, who, id: jobs.cancel(who, id, now=self.clock.now()))
        if id is not None:
            self.checker.cancelled.add(id)

    def _suspend(self) -> None:
        self._on_some_job(lambda jobs, who, id: jobs.suspend(who, id, now=self.clock.now()))

    def _resume(self) -> None:
        self._on_some_job(lambda jobs, who, id: jobs.resume(who, id, now=self.clock.now()))

    def _work(self) -> None:
        for runner in self.runners:
            runner.cluster.pass_time(self.clock.now())

    def _kill_process(self) -> None:
        self.rng.choice(self.runners).cluster.kill_some()

    def _ask(self) -> None:
        """A runner joins, or asks what is desired; the answer may be lost."""
        self._ask_for(self.rng.choice(self.runners))

    def _ask_for(self, runner: SimRunner) -> None:
        plane = self._awake()
        if plane is None:
            return
        if not runner.joined:
            who = Principal(f"key-of-{runner.id}", Role.RUNNER, None)  # each runner has a key of its own
            joined = self._on_plane(plane, lambda: plane.pools.join(who, runner.join_request(), now=self.clock.now()))
            runner.joined = joined is not None
            return
        desired = plane.store.read(lambda reader: desired_state(reader, runner.id, warm_per_node=1))
        if self._calm or not happens(self.rng, 100):
            runner.told(desired)

    def _reconcile(self) -> None:
        self._reconcile_for(self.rng.choice(self.runners))

    def _reconcile_for(self, runner: SimRunner) -> None:
        now = self.clock.now()
        for batch in runner.round(now, calm=self._calm):
            if self._calm:
                self._deliver(_Message(now, batch))
                continue
            fate = self.rng.randrange(100)
            if fate < 10:
                self.counts["reports lost"] += 1
                continue
            late = self.rng.randrange(20 * SECOND) if fate < 35 else 0
            self._messages.append(_Message(now + late, batch))
            if fate >= 85:
                self.counts["reports doubled"] += 1
                self._messages.append(_Message(now + self.rng.randrange(20 * SECOND), batch))

    def _arrive(self) -> None:
        """Some message that is due arrives, in any order."""
        due = [message for message in self._messages if message.at <= self.clock.now()]
        for message in due[:4]:
            self._messages.remove(message)
            self._deliver(message)

    def _deliver(self, message: _Message) -> None:
        plane = self._awake()
        if plane is None:
            return  # nobody answers: lost
        try:
            if message.batch is not None:
                self._on_plane(plane, lambda: self._take_in(plane, message.batch))
            elif message.effect is not None:
                self._on_plane(plane, lambda: self._take_effect(plane, message.effect))
        except StaleRunnerError:
            self.counts["reports of an older process"] += 1
        except UnauthenticatedError:
            self.counts["effects refused"] += 1

    def _take_in(self, plane: _Plane, batch: ReportBatch | None) -> None:
        if batch is not None:
            told = plane.store.transact(lambda tx: apply_report(tx, batch, self.clock.now()))
            self.checker.report_accepted(batch.incarnation, told.runner.incarnation)
            self.counts["reports ignored"] += len(told.ignored)

    def _take_effect(self, plane: _Plane, attempt: AttemptId | None) -> None:
        if attempt is not None:
            plane.jobs.put_progress(attempt, ProgressRequest(fraction=0.5), now=self.clock.now())
            self.checker.effect_accepted(attempt)

    def _effect(self) -> None:
        """A worker writes something with its attempt's token; the call may take long."""
        running = [
            proc.attempt
            for runner in self.runners
            for proc in runner.cluster.procs()
            if proc.lives and proc.began and proc.attempt is not None
        ]
        if running:
            late = self.rng.choice((0, 0, 10, 60)) * SECOND
            self._messages.append(_Message(self.clock.now() + late, effect=self.rng.choice(running)))

    def _restart_runner(self) -> None:
        self.rng.choice(self.runners).restart()

    def _lose_machine(self) -> None:
        """A machine falls silent; what runs on it goes on, or is gone with it."""
        machine = self._machine()
        machine.reachable = False
        if happens(self.rng, 500):
            machine.procs.clear()

    def _find_machine(self) -> None:
        self._machine().reachable = True

    def _machine(self) -> Machine:
        machines = self.rng.choice(self.runners).cluster.machines
        return machines[self.rng.choice(sorted(machines))]

    def _change_quota(self) -> None:
        def work(tx: FleetAdmin) -> None:
            queue = self.rng.choice([queue for queue in tx.queues(PLATFORM) if queue.name in _TENANTS])
            tx.put_queue(replace(queue, quotas=(self._quota(queue.parent is not None),)))

        self.real.transact(work)
        self.observe()

    def _change_node(self) -> None:
        """A node is drained, or found to have less than it had."""

        def work(tx: FleetAdmin) -> None:
            nodes = [n for n in tx.nodes(PLATFORM) if n.state is NodeState.READY]
            if nodes:
                node = self.rng.choice(nodes)
                smaller = replace(node, capacity=replace(node.capacity, cpu_milli=node.capacity.cpu_milli // 2))
                tx.put_node(self.rng.choice((smaller, replace(node, state=NodeState.LOST))))

        self.real.transact(work)
        self.observe()

    def _report_fleet(self) -> None:
        self._arrive()

    def _jump(self) -> None:
        self.clock.advance(self.rng.choice((-40, -5, 40, 3600)) * SECOND)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """The world heals; then everything must come to an end, and nothing may stay behind."""
        self._calm = True
        self.crash.before = self.crash.after = False
        self._messages.clear()  # what was under way is lost
        for plane in self.planes:
            plane.paused_until = 0
        for runner in self.runners:
            for machine in runner.cluster.machines.values():
                machine.reachable = True
        self._raise_quotas()
        for _ in range(_SETTLE_ROUNDS):
            self._heal_once()
            if all(job.is_terminal or self._why_never(job) is not None for job in self.checker.jobs.values()):
                break
        for _ in range(3):
            self._heal_once()
        self.checker.settled(self._why_never)
        for runner in self.runners:
            for proc in runner.cluster.procs():
                if proc.attempt is not None:
                    raise InvariantViolation(8, f"process {proc.id} of {proc.attempt} stays behind: {proc.state.value}")

    def _why_never(self, job: Job) -> Waiting | None:
        snapshot = self.planes[0].loop.snapshot
        return None if snapshot is None else check_feasible(snapshot, job.spec, job.tenant)

    def _raise_quotas(self) -> None:
        def work(tx: FleetAdmin) -> None:
            for queue in tx.queues(PLATFORM):
                if queue.name in _TENANTS:
                    tx.put_queue(replace(queue, quotas=(Quota(PoolName("cpu"), 8000, 0),)))

        self.real.transact(work)

    def _heal_once(self) -> None:
        self.clock.advance(_SETTLE_STEP)
        for key, tenant, spec in tuple(self._unanswered):
            who = Principal("key-1", Role.OPERATOR, tenant)
            try:
                self.checker.acknowledged(key, self._answer(self.planes[0], who, key, spec))
            except FactoryError:
                self.counts["submits refused"] += 1
        self._unanswered.clear()
        for id, job in tuple(self.checker.jobs.items()):
            if job.state is JobState.SUSPENDED:
                self.planes[0].jobs.resume(Principal("key-1", Role.OPERATOR, job.tenant), id, now=self.clock.now())
        for plane in self.planes:
            self._tick_plane(plane)
        for runner in self.runners:
            for _ in range(2):  # joined first if it has to
                self._ask_for(runner)
            self._reconcile_for(runner)
            runner.cluster.pass_time(self.clock.now(), hurry=True)
            self._reconcile_for(runner)

    def _likelihoods(self) -> dict[Callable[[], None], int]:
        return {
            self._tick: 22,
            self._ask: 18,
            self._reconcile: 26,
            self._arrive: 16,
            self._work: 10,
            self._submit: 12,
            self._cancel: 3,
            self._suspend: 1,
            self._resume: 1,
            self._effect: 4,
            self._kill_process: 2,
            self._restart_runner: 2,
            self._lose_machine: 3,
            self._find_machine: 6,
            self._pause: 1,
            self._kill_plane: 1,
            self._change_quota: 1,
            self._jump: 1,
        }
