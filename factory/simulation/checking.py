"""DESIGN §4's rules 2 to 8, checked after every commit against the log, the rows and the fake cluster's truth.

The checker keeps books of its own from the events alone (who holds what, who was cancelled): a fault in `lifecycle`,
`scheduling` or `control` must not hide itself here. Only rule 2 uses `lifecycle.step`, to fold. What is said of
preemption is rule 3's: slots are given once, to whom they were freed for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from factory.control.ports import ControlReader, FeedKind
from factory.domain.events import Admitted, AttemptEnded, CancelRequested, Event, PreemptRequested, Recorded
from factory.domain.ids import AttemptId, JobId, NodeId, PoolName, QueueName
from factory.domain.jobs import TERMINAL_STATES, Allocation, EndReason, Job, JobState, Waiting, WaitReason
from factory.domain.pools import Node, NodeState
from factory.domain.resources import Resources
from factory.domain.tenancy import PLATFORM, Queue
from factory.domain.time import SECOND, Instant
from factory.errors import FactoryError
from factory.lifecycle.reconciling import Action, DesiredAttempt, DesiredState, FoundState, StartReplica
from factory.lifecycle.stepping import step
from factory.scheduling.explaining import Explanation
from factory.scheduling.planning import Policy
from factory.scheduling.policies.fair import Fair
from factory.simulation.cluster import Machine, Proc

__all__ = ["Checker", "InvariantViolation"]

FAIR = Fair()  # the policy of every simulated pool
_ENDS_OF_CANCEL = (JobState.CANCELLING, JobState.CANCELLED)


class InvariantViolation(AssertionError):
    """A rule of DESIGN §4 did not hold."""

    def __init__(self, rule: int, text: str) -> None:
        super().__init__(f"rule {rule}: {text}")
        self.rule = rule


@dataclass(slots=True)
class _Held:
    queue: QueueName
    allocation: Allocation


@dataclass(slots=True)
class Checker:
    """The books."""

    living: Callable[[AttemptId], list[Proc]]  # the truth about an attempt
    policy: Policy = field(default_factory=Policy)  # that the control planes plan with
    is_disturbed: bool = False  # rows changed between a plan and its transaction: it could not know
    stopped: set[AttemptId] = field(default_factory=set[AttemptId])  # preempted
    cursor: int = 0
    jobs: dict[JobId, Job] = field(default_factory=dict[JobId, Job])
    held: dict[AttemptId, _Held] = field(default_factory=dict[AttemptId, _Held])
    ended: set[AttemptId] = field(default_factory=set[AttemptId])
    cancelled: set[JobId] = field(default_factory=set[JobId])
    keys: dict[str, JobId] = field(default_factory=dict[str, JobId])  # idempotency key -> acknowledged job
    kinds: Counter[str] = field(default_factory=Counter[str])  # events by type
    commits: int = 0
    strays: dict[str, int] = field(default_factory=dict[str, int])

    # -- after every commit ------------------------------------------------------------------------------------------

    def observe(self, reader: ControlReader, now: Instant) -> None:
        """Look at what the last commit changed."""
        entries = reader.feed(self.cursor)
        if not entries:
            return
        self.cursor = entries[-1].seq
        self.commits += 1
        for id in sorted({entry.key for entry in entries if entry.kind is FeedKind.JOB}):
            self._observe_job(reader, JobId(id), now)

    def _observe_job(self, reader: ControlReader, id: JobId, now: Instant) -> None:
        before = self.jobs.get(id)
        row = reader.job(PLATFORM, id)
        if row is None:
            raise InvariantViolation(2, f"job {id} is gone")
        log = reader.events(PLATFORM, id, after=0 if before is None else before.seq)
        if before is not None and before.state in TERMINAL_STATES and row != before:
            raise InvariantViolation(6, f"job {id} was {before.state.value} for good and is now {row.state.value}")
        folded = self._fold(before, log, id)
        if folded != row:
            raise InvariantViolation(2, f"the events of job {id} give {folded}, the row is {row}")
        self.jobs[id] = row
        for entry in log:
            self._observe_event(reader, row, entry.event, now)
        if id in self.cancelled and row.state not in _ENDS_OF_CANCEL:
            raise InvariantViolation(6, f"job {id} was cancelled, and is {row.state.value}")
        if len([a for a in row.attempts if a.id in self.held]) > 1:
            raise InvariantViolation(4, f"two attempts of job {id} live")
        for attempt in row.attempts:
            if attempt.ended_at is not None and attempt.id in self.held:
                raise InvariantViolation(4, f"attempt {attempt.id} is ended without proof of death")

    def _fold(self, before: Job | None, log: Iterable[Recorded], id: JobId) -> Job | None:
        job = before
        for entry in log:
            if entry.seq != (0 if job is None else job.seq) + 1 or entry.job_id != id:
                raise InvariantViolation(2, f"event {entry.seq} of job {id} does not follow the one before it")
            try:
                job = step(job, entry.event).job
            except FactoryError as exc:
                raise InvariantViolation(2, f"the table does not allow event {entry.seq} of job {id}: {exc}") from exc
        return job

    def _observe_event(self, reader: ControlReader, job: Job, event: Event, now: Instant) -> None:
        self.kinds[type(event).__name__] += 1
        match event:
            case Admitted():
                self._observe_epoch(reader, event.epoch, now)
                self._observe_admission(reader, job, event)
            case PreemptRequested():
                self._observe_epoch(reader, event.epoch, now)
                self._observe_preemption(reader, job, event)
            case AttemptEnded():
                if event.attempt_id not in self.held:
                    raise InvariantViolation(4, f"attempt {event.attempt_id} ended twice, or never began")
                if living := self.living(event.attempt_id):
                    raise InvariantViolation(
                        4, f"{event.attempt_id} is proven dead by '{event.proof}', but {living[0].id} lives"
                    )
                del self.held[event.attempt_id]
                self.ended.add(event.attempt_id)
            case CancelRequested():
                self.cancelled.add(job.id)
            case _:
                pass

    def _observe_epoch(self, reader: ControlReader, epoch: int, now: Instant) -> None:
        lease = reader.lease()
        if lease is None or lease.epoch != epoch or lease.expires_at <= now:
            raise InvariantViolation(5, f"epoch {epoch} dispatched at {now}, while the lease is {lease}")

    def _observe_admission(self, reader: ControlReader, job: Job, event: Admitted) -> None:
        if job.id in self.cancelled:
            raise InvariantViolation(6, f"job {job.id} was cancelled, and is admitted")
        if any(attempt.id in self.held for attempt in job.attempts):
            raise InvariantViolation(4, f"{event.attempt_id} is admitted while another attempt of it lives")
        allocation = event.allocation
        asked = job.spec
        count = len(allocation.placements)
        least = asked.replicas if asked.min_replicas is None else asked.min_replicas
        if [p.rank for p in allocation.placements] != list(range(count)) or not least <= count <= asked.replicas:
            raise InvariantViolation(3, f"gang {event.attempt_id} is not whole")
        claim = None if self.is_disturbed else self._only_claim(reader, job, event)
        was_room = claim is not None and self._has_room(reader, *claim)
        self.held[event.attempt_id] = _Held(asked.queue, allocation)
        nodes = {node.id: node for node in reader.nodes(PLATFORM)}
        for placement in allocation.placements:
            self._check_node(nodes.get(placement.node), placement.node, event.attempt_id)
        self._check_quota(reader.queues(PLATFORM), asked.queue, allocation.pool)
        if claim is not None and was_room and not self._has_room(reader, *claim):
            raise InvariantViolation(3, f"{event.attempt_id} got what was freed for job {claim[0].id}")

    def _observe_preemption(self, reader: ControlReader, job: Job, event: PreemptRequested) -> None:
        if event.attempt_id in self.stopped:
            raise InvariantViolation(3, f"attempt {event.attempt_id} is preempted twice")
        self.stopped.add(event.attempt_id)
        preemptor = reader.job(PLATFORM, event.by)
        if preemptor is None or preemptor.state is not JobState.QUEUED:
            raise InvariantViolation(3, f"{event.attempt_id} is preempted for {event.by}, which does not wait")
        most = FAIR.max_preemptions if self.policy.max_preemptions is None else self.policy.max_preemptions
        if sum(a.stop is not None and a.stop.reason is EndReason.PREEMPTED for a in job.attempts) > most:
            raise InvariantViolation(3, f"job {job.id} is preempted more often than {most} times")
        (attempt,) = [a for a in job.attempts if a.id == event.attempt_id]
        quiet_s = FAIR.min_runtime_s if self.policy.min_runtime_s is None else self.policy.min_runtime_s
        began = attempt.admitted_at if attempt.running_at is None else attempt.running_at
        if event.at - began < quiet_s * SECOND:
            raise InvariantViolation(3, f"{event.attempt_id} is preempted {event.at - began} ms after it began")

    def _only_claim(self, reader: ControlReader, job: Job, event: Admitted) -> tuple[Job, list[Allocation]] | None:
        """Return the job for which slots of the pool are being freed, if it is the only one, and those slots.

        None also if the admitted job is one for which others were preempted: which of the two goes first is the plan's.
        """
        found: dict[JobId, list[Allocation]] = {}
        for victim in reader.open_jobs(PLATFORM):
            last = victim.attempts[-1] if victim.attempts else None
            if last is None or last.stop is None or last.stop.reason is not EndReason.PREEMPTED:
                continue
            preemptor = reader.job(PLATFORM, JobId(last.stop.by))
            if last.stop.by == job.id:
                return None
            if preemptor is None:
                continue
            held = found.setdefault(preemptor.id, [])
            before = preemptor.attempts[-1].ended_at if preemptor.attempts else None
            is_meant = before is None or last.stop.at >= before
            if is_meant and last.id in self.held and last.allocation.pool == event.allocation.pool:
                held.append(last.allocation)
        if len(found) != 1:
            return None
        ((id, freed),) = found.items()
        waits = reader.job(PLATFORM, id)
        if waits is None or waits.state is not JobState.QUEUED or (waits.not_before or 0) > event.at or not freed:
            return None
        return waits, freed

    def _has_room(self, reader: ControlReader, job: Job, freed: list[Allocation]) -> bool:
        """Return whether the least of the gang fits on ready nodes once `freed` is free; CPU and memory only."""
        asked, count = job.spec.resources, 0
        if asked.gpu_milli:
            return False
        for node in reader.nodes(PLATFORM):
            if node.pool != freed[0].pool or node.state is not NodeState.READY:
                continue
            gone = [p.resources for allocation in freed for p in allocation.placements if p.node == node.id]
            taken = [p.resources for h in self.held.values() for p in h.allocation.placements if p.node == node.id]
            free = node.capacity + sum(gone, start=Resources())
            used = sum(taken, start=Resources())
            while (used := used + asked).fits_in(free):
                count += 1
        return count >= (job.spec.replicas if job.spec.min_replicas is None else job.spec.min_replicas)

    def _check_node(self, node: Node | None, id: NodeId, attempt: AttemptId) -> None:
        if node is None or node.state is not NodeState.READY:
            raise InvariantViolation(3, f"{attempt} is admitted to node {id}, which is not ready")
        used = Resources()
        devices: dict[int, int] = {}
        for held in self.held.values():
            for placement in held.allocation.placements:
                if placement.node == id:
                    used = used + placement.resources
                    for share in placement.devices:
                        devices[share.index] = devices.get(share.index, 0) + share.milli
        if not used.fits_in(node.capacity):
            raise InvariantViolation(3, f"{attempt} is admitted to node {id}, which then gives {used}")
        if any(milli > 1000 or index >= node.devices for index, milli in devices.items()):
            raise InvariantViolation(3, f"{attempt} is admitted to node {id}, whose devices then give {devices}")

    def _check_quota(self, queues: Iterable[Queue], queue: QueueName, pool: PoolName) -> None:
        by_name = {row.name: row for row in queues}
        level = by_name.get(queue)
        while level is not None:
            used = sum(
                held.allocation.slots_milli
                for held in self.held.values()
                if held.allocation.pool == pool and _is_under(by_name, held.queue, level.name)
            )
            for quota in level.quotas:
                limit = None if quota.borrowing_milli is None else quota.nominal_milli + quota.borrowing_milli
                if quota.pool == pool and limit is not None and used > limit:
                    raise InvariantViolation(3, f"queue {level.name} holds {used} of {limit} in pool {pool}")
            level = None if level.parent is None else by_name.get(level.parent)

    # -- on the cluster ----------------------------------------------------------------------------------------------

    def started(self, machine: Machine) -> None:
        """A process was asked for on the machine: what runs there must fit."""
        living = [proc for proc in machine.procs.values() if proc.lives and proc.attempt is not None]
        if len(living) < 2:
            return
        if not sum((proc.resources for proc in living), start=Resources()).fits_in(machine.capacity):
            raise InvariantViolation(3, f"node {machine.id} runs more than it has: {[p.attempt for p in living]}")
        devices: dict[int, int] = {}
        for proc in living:
            for share in proc.devices:
                devices[share.index] = devices.get(share.index, 0) + share.milli
        if any(milli > 1000 for milli in devices.values()):
            raise InvariantViolation(3, f"a device of node {machine.id} is given twice: {devices}")

    def decided(self, actions: Iterable[Action], desired: DesiredState, found: FoundState) -> None:
        """A runner decided: gangs start whole, and nothing starts whose attempt has ended."""
        starting: dict[AttemptId, set[int]] = {}
        for action in actions:
            if isinstance(action, StartReplica):
                starting.setdefault(action.attempt.id, set()).add(action.placement.rank)
        if not starting:
            return
        attempts: dict[AttemptId, DesiredAttempt] = {attempt.id: attempt for attempt in desired.attempts}
        for id, ranks in starting.items():
            there = {replica.rank for replica in found.replicas if replica.attempt == id}
            if there | ranks != {p.rank for p in attempts[id].allocation.placements}:
                raise InvariantViolation(3, f"gang {id} starts only {sorted(there | ranks)}")
            if id in self.ended:
                raise InvariantViolation(4, f"{id} starts after its end")
            if id in found.started and not there:
                raise InvariantViolation(4, f"{id} is started twice by one runner process")

    def reconciled(self, procs: Iterable[Proc], wanted: set[AttemptId]) -> None:
        """A runner has finished a whole round with a fresh wish: what it does not want lives two rounds at most."""
        strays = {proc.id for proc in procs if proc.lives and proc.attempt is not None and proc.attempt not in wanted}
        self.strays = {id: self.strays.get(id, 0) + 1 for id in strays}
        for id, rounds in self.strays.items():
            if rounds > 2:
                raise InvariantViolation(8, f"process {id} has no desired attempt, and lives for {rounds} rounds")

    # -- at the API ----------------------------------------------------------------------------------------------------

    def acknowledged(self, key: str, job: JobId) -> None:
        """A submit was answered."""
        if self.keys.setdefault(key, job) != job:
            raise InvariantViolation(1, f"idempotency key {key} made {self.keys[key]} and {job}")
        if job not in self.jobs:
            raise InvariantViolation(1, f"job {job} was answered and is not there")

    def effect_accepted(self, attempt: AttemptId) -> None:
        """An effect that bears the attempt's token was written."""
        if attempt not in self.held:
            raise InvariantViolation(4, f"an effect of {attempt} was accepted after its end")

    def report_accepted(self, said_by: str, present: str) -> None:
        """A batch of reports of one life of a runner was taken in."""
        if said_by != present:
            raise InvariantViolation(4, f"reports of runner process {said_by} count while {present} is there")

    def explained(
        self,
        reasons: Iterable[Explanation],
        admitted: set[JobId],
        now: Instant,
        alike: AbstractSet[JobId] = frozenset(),
    ) -> None:
        """Every open job without a live attempt was explained, from the snapshot of a leader's whole tick.

        Args:
            admitted: what a plan of the same snapshot gives slots to.
            alike: jobs that the plan did not try, since it had refused one like them.
        """
        startable: list[JobId] = []
        for told in reasons:
            job, why = self.jobs[told.job_id], told.waiting
            if job.state is JobState.PENDING and job.hold is None:
                raise InvariantViolation(7, f"job {job.id} is pending after a whole tick, and no row says why")
            if why is None and told.job_id not in admitted:
                raise InvariantViolation(7, f"job {job.id} waits ({told.state.value}) without a reason")
            if why is not None and told.job_id in admitted and why.reason is not WaitReason.PENDING_EVALUATION:
                raise InvariantViolation(7, f"job {job.id} would be admitted now, and is told '{why.reason.value}'")
            makes_room = why is not None and why.reason is WaitReason.WAITING_FOR_PREEMPTION  # within their grace
            if (
                told.job_id not in alike
                and not makes_room
                and told.expected_start is not None
                and told.expected_start <= now
            ):
                startable.append(told.job_id)
        if startable and not admitted:
            raise InvariantViolation(7, f"{startable} are told that they fit now, and the plan admits nothing")

    def settled(self, why_never: Callable[[Job], Waiting | None]) -> None:
        """Nothing more is wrong with the world, and time has passed: everything has come to an end.

        Args:
            why_never: why the factory could not give the job what it asks for even when idle; None = it could.
        """
        for id, job in sorted(self.jobs.items()):
            if job.is_terminal or why_never(job) is not None:
                continue
            waits_for = [self.jobs[before] for before in job.spec.after if not self.jobs[before].is_terminal]
            if job.state is not JobState.PENDING or not waits_for or job.hold is None:
                raise InvariantViolation(7, f"job {id} makes no progress: {job.state.value}, {job.hold}")


def _is_under(queues: dict[QueueName, Queue], name: QueueName, top: QueueName) -> bool:
    at: QueueName | None = name
    while at is not None and at != top:
        row = queues.get(at)
        at = None if row is None else row.parent
    return at == top
