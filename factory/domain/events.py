"""Events of a job: append-only, numbered 1..n per job, folded by `lifecycle.step` (rule 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import AttemptId, JobId, RunnerId, TenantId
from factory.domain.jobs import Allocation, GroupRef, JobSpec, Outcome, PriorityClass, Waiting
from factory.domain.time import Instant

__all__ = [
    "Admitted",
    "AttemptEnded",
    "AttemptFound",
    "AttemptRunning",
    "AttemptStarting",
    "AttemptUnknown",
    "CancelRequested",
    "Checkpointed",
    "Event",
    "Held",
    "PreemptRequested",
    "PriorityChanged",
    "Queued",
    "Recorded",
    "ResumeRequested",
    "StopRequested",
    "Submitted",
    "SuspendRequested",
]


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job was accepted; `hold` says why it is pending, None queues it at once."""

    at: Instant
    job_id: JobId
    tenant: TenantId
    by: str
    spec: JobSpec
    group: GroupRef | None = None
    hold: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """It has to wait for something that is not a slot (again): gate, dependency, back-off."""

    at: Instant
    hold: Waiting


@dataclass(frozen=True, slots=True)
class Queued:
    """Whatever held it is over."""

    at: Instant


@dataclass(frozen=True, slots=True)
class Admitted:
    """The plan gave it slots; a new attempt is desired."""

    at: Instant
    attempt_id: AttemptId
    runner: RunnerId
    allocation: Allocation
    epoch: int  # of the leader that decided


@dataclass(frozen=True, slots=True)
class AttemptStarting:
    """The runner began to start the replicas."""

    at: Instant
    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class AttemptRunning:
    """User code runs on every replica."""

    at: Instant
    attempt_id: AttemptId
    code_digest: str = ""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The attempt has saved its state: what it did before is not lost if it is preempted."""

    at: Instant
    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class AttemptUnknown:
    """Its runner or node fell silent; it may be alive or dead."""

    at: Instant
    attempt_id: AttemptId
    why: str = ""


@dataclass(frozen=True, slots=True)
class AttemptFound:
    """An unknown attempt was seen alive again."""

    at: Instant
    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """Proof of death, with how it ended. Only this frees slots."""

    at: Instant
    attempt_id: AttemptId
    outcome: Outcome
    proof: str  # see Attempt.proof


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A person cancelled the job; final once acknowledged."""

    at: Instant
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PreemptRequested:
    """The plan takes the slots back for another job."""

    at: Instant
    attempt_id: AttemptId
    by: JobId  # the preemptor
    epoch: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The control loop stops an attempt: over its timeout, or not started in time."""

    at: Instant
    attempt_id: AttemptId
    outcome: Outcome  # reason TIMED_OUT or START_TIMEOUT


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    """A person moved a job that waits to another priority class."""

    at: Instant
    by: str
    priority: PriorityClass


@dataclass(frozen=True, slots=True)
class SuspendRequested:
    """A person holds the job."""

    at: Instant
    by: str


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """A person lets it go on."""

    at: Instant
    by: str


Event: TypeAlias = (
    Submitted
    | Held
    | Queued
    | Admitted
    | AttemptStarting
    | AttemptRunning
    | Checkpointed
    | AttemptUnknown
    | AttemptFound
    | AttemptEnded
    | CancelRequested
    | PreemptRequested
    | StopRequested
    | PriorityChanged
    | SuspendRequested
    | ResumeRequested
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as stored."""

    job_id: JobId
    seq: int  # 1..n, gap-free per job
    event: Event
