"""Jobs and attempts: what was asked for, and each try at it.

A `Job` is an aggregate: the row is what `lifecycle.step` folds from its events (rule 2), attempts included. All values
are frozen; change is a new value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from factory.domain.ids import (
    AttemptId,
    DatasetName,
    Digest,
    EndpointName,
    JobId,
    ModelName,
    NodeId,
    PoolName,
    QueueName,
    RunnerId,
    TenantId,
    VersionId,
)
from factory.domain.resources import Resources
from factory.domain.time import Instant

__all__ = [
    "LIVE_ATTEMPT_STATES",
    "TERMINAL_STATES",
    "AlgorithmEntry",
    "Allocation",
    "Attempt",
    "AttemptState",
    "CommandEntry",
    "DatasetInput",
    "DatasetOutput",
    "DeviceShare",
    "EndReason",
    "Entry",
    "FaultDomain",
    "FunctionEntry",
    "GroupKind",
    "GroupRef",
    "IngestEntry",
    "Job",
    "JobSpec",
    "JobState",
    "ModelRef",
    "Operation",
    "Outcome",
    "Placement",
    "PriorityClass",
    "Purpose",
    "RayMode",
    "RetryPolicy",
    "ServiceEntry",
    "Stop",
    "Topology",
    "WaitReason",
    "Waiting",
]


class JobState(StrEnum):
    """Where a job is (DESIGN §2). The cause is in a reason, never in the state."""

    PENDING = "pending"  # waits for a dependency, a gate or its time; not yet in the queue
    QUEUED = "queued"  # waits for slots
    ADMITTED = "admitted"  # slots held, attempt desired
    STARTING = "starting"  # the runner has begun to start it
    RUNNING = "running"  # user code runs on every replica
    PREEMPTING = "preempting"  # being stopped to give slots back; then queued again
    CANCELLING = "cancelling"  # being stopped for good; the cancel is final
    SUSPENDED = "suspended"  # held by a person
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})


class AttemptState(StrEnum):
    """Where one try is."""

    DESIRED = "desired"  # slots held; the runner shall start it
    STARTING = "starting"  # replicas are being started
    RUNNING = "running"  # every replica runs user code
    STOPPING = "stopping"  # told to stop; slots held until proof of death
    UNKNOWN = "unknown"  # its runner or node is silent; slots quarantined
    ENDED = "ended"  # proof of death is in; slots free, token revoked


LIVE_ATTEMPT_STATES = frozenset(AttemptState) - {AttemptState.ENDED}


class EndReason(StrEnum):
    """Why an attempt or a job ended."""

    COMPLETED = "Completed"
    USER_ERROR = "UserError"  # the user's code raised or exited non-zero
    OUT_OF_MEMORY = "OutOfMemory"  # over its memory limit
    WORKER_LOST = "WorkerLost"  # a replica's process died without an outcome
    NODE_LOST = "NodeLost"  # its node is gone (with proof)
    START_TIMEOUT = "StartTimeout"  # did not begin to run in time
    TIMED_OUT = "TimedOut"  # over the job's own timeout
    PREEMPTED = "Preempted"
    CANCELLED = "Cancelled"
    ENVIRONMENT_FAILED = "EnvironmentFailed"  # code bundle, requirements or inputs could not be set up
    FACTORY_STOPPED = "FactoryStopped"  # the factory was shut down in order; no retry counted


class FaultDomain(StrEnum):
    """Whose fault an end is."""

    NONE = "none"
    USER = "user"
    PLATFORM = "platform"
    INFRASTRUCTURE = "infrastructure"
    POLICY = "policy"


class WaitReason(StrEnum):
    """Why a job waits, in order of precedence: the first that holds is shown."""

    MISCONFIGURED = "Misconfigured"
    NO_MATCHING_FLAVOR = "NoMatchingFlavor"
    SUSPENDED = "Suspended"
    DEPENDENCY_PENDING = "DependencyPending"
    DATASET_GATE_FAILED = "DatasetGateFailed"
    GRANT_MISSING = "GrantMissing"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    RUNNER_UNREACHABLE = "RunnerUnreachable"
    EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"
    BORROWING_LIMIT_REACHED = "BorrowingLimitReached"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    GANG_DOES_NOT_FIT = "GangDoesNotFit"
    HELD_BY_RESERVATION = "HeldByReservation"
    WAITING_FOR_PREEMPTION = "WaitingForPreemption"
    PENDING_EVALUATION = "PendingEvaluation"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job waits, with its numbers as sorted (name, value) pairs."""

    reason: WaitReason
    message: str  # one sentence with the numbers in it
    hint: str = ""
    numbers: tuple[tuple[str, int | str], ...] = ()


class PriorityClass(StrEnum):
    """Order inside a queue; `rank` for comparison, higher first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """2, 1 or 0; higher goes first."""
        return {"high": 2, "normal": 1, "low": 0}[self.value]


class Topology(StrEnum):
    """How the replicas of a gang must lie to each other."""

    ANY = "any"
    ONE_NODE = "one-node"  # all on one node
    SAME_ZONE = "same-zone"  # all in one zone; nodes without a zone count as one
    SPREAD = "spread"  # each on a node of its own


class RayMode(StrEnum):
    """How Ray is used inside the job (DESIGN §1)."""

    NONE = "none"
    TASKS = "tasks"
    LIBRARY = "library"


class Purpose(StrEnum):
    """What an input is read for; the gate depends on it."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    INFER = "infer"
    ANALYSE = "analyse"
    REPAIR = "repair"  # the only purpose that reads a quarantined version; such a job writes datasets, never models


class Operation(StrEnum):
    """Which of an algorithm's functions a job runs."""

    TRAIN = "train"
    PREDICT = "predict"


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A dataset version that the job reads, pinned at submit."""

    name: str  # the job's own name for it: "history"
    dataset: DatasetName
    version: int
    version_id: VersionId
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class DatasetOutput:
    """A dataset that the job writes a new version of."""

    name: str  # the job's own name for it
    dataset: DatasetName
    contract_yaml: str = ""  # the contract its versions are checked against, canonical YAML; "" = rows and types only


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model version, pinned."""

    model: ModelName
    version: int


@dataclass(frozen=True, slots=True)
class FunctionEntry:
    """A Python function: by reference into a code bundle, or pickled (opened only in the worker)."""

    module: str  # "prepare"; "" if pickled
    qualname: str  # "prepare"
    bundle: Digest | None  # zip of the code, in the object store
    pickled: Digest | None = None  # cloudpickle bytes of a notebook function, in the object store
    arguments_json: str = '{"args":[],"kwargs":{}}'


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A program with arguments, run in the bundle's folder."""

    argv: tuple[str, ...]
    bundle: Digest | None = None


@dataclass(frozen=True, slots=True)
class AlgorithmEntry:
    """A catalogue algorithm's train or predict."""

    algorithm: str  # "series-forecast"
    version: str  # semver of the manifest
    operation: Operation
    params_json: str  # canonical JSON, validated against the manifest at submit
    code_digest: Digest  # of the algorithm's source, from the manifest
    model: ModelRef | None = None  # PREDICT: which model
    register_model: ModelName | None = None  # TRAIN: register the result under this name


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One replica of an endpoint."""

    endpoint: EndpointName
    revision: int
    model: ModelRef
    algorithm: str
    algorithm_version: str


@dataclass(frozen=True, slots=True)
class IngestEntry:
    """A platform job: read a staged upload, write files, measure, publish."""

    version_id: VersionId


Entry: TypeAlias = FunctionEntry | CommandEntry | AlgorithmEntry | ServiceEntry | IngestEntry


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often which ends are tried again. Preemptions and orderly stops are never counted."""

    max_retries: int = 3  # infrastructure ends
    user_errors: bool = False  # also retry UserError
    backoff_s: int = 1  # doubled per counted retry, capped at 60 s


class GroupKind(StrEnum):
    """What a group of jobs is."""

    ENDPOINT = "endpoint"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class GroupRef:
    """Which group a job belongs to."""

    kind: GroupKind
    id: str  # endpoint name, or the map's id
    index: int = 0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What was asked for, normalised: names resolved, versions pinned, units integer."""

    name: str
    entry: Entry
    queue: QueueName
    resources: Resources  # per replica
    replicas: int = 1  # gang size
    min_replicas: int | None = None  # it may start with so few; None = all or nothing
    pool: PoolName | None = None  # None = any pool that fits
    flavors: tuple[str, ...] = ()  # kinds of node it may use, best first; empty = any
    gpu_models: tuple[str, ...] = ()  # of which its GPUs must be; empty = any
    topology: Topology = Topology.ANY
    estimate_s: int | None = None  # how long it is expected to run in all, as declared
    priority: PriorityClass = PriorityClass.NORMAL
    inputs: tuple[DatasetInput, ...] = ()
    outputs: tuple[DatasetOutput, ...] = ()
    ray: RayMode = RayMode.NONE
    retry: RetryPolicy = RetryPolicy()
    timeout_s: int | None = None  # running time of one attempt
    start_timeout_s: int = 300
    grace_s: int = 10  # between the notice to stop and the kill
    env: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    after: tuple[JobId, ...] = ()  # jobs that must have succeeded before
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """Part or all of one GPU of a node."""

    index: int
    milli: int  # 1..1000


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one replica runs."""

    rank: int  # 0..replicas-1
    node: NodeId
    resources: Resources
    devices: tuple[DeviceShare, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an attempt holds: one placement per rank, in rank order."""

    pool: PoolName
    slots_milli: int  # of the whole gang; what quota and usage count
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt, or the job, ended."""

    reason: EndReason
    message: str = ""
    hint: str = ""
    exit_code: int | None = None
    signal: int | None = None
    rank: int | None = None  # which replica decided it
    tail: str = ""  # last lines of the traceback or of stderr
    result_json: str | None = None  # COMPLETED functions: the value, <= 1 MiB of JSON
    fault: FaultDomain | None = None  # set where the reason alone does not tell: ENVIRONMENT_FAILED by a broken bundle


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to stop a live attempt. It is a wish until proof of death."""

    reason: EndReason  # CANCELLED, PREEMPTED, TIMED_OUT, START_TIMEOUT, FACTORY_STOPPED
    at: Instant
    by: str = ""  # who asked: key id, job id of the preemptor, "control"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a job."""

    id: AttemptId
    ordinal: int  # 1, 2, …
    state: AttemptState
    runner: RunnerId
    allocation: Allocation
    admitted_at: Instant
    starting_at: Instant | None = None
    running_at: Instant | None = None
    ended_at: Instant | None = None
    stop: Stop | None = None
    outcome: Outcome | None = None
    proof: str = ""  # which proof of death ended it: "report", "agent", "runner", "pod-deleted", "self-fence", "fenced"
    code_digest: str = ""  # digest of the code that ran, as the worker computed it
    checkpointed_at: Instant | None = None  # of its last checkpoint: what came before is not lost by a preemption


@dataclass(frozen=True, slots=True)
class Job:
    """A job as folded from its events; `seq` is the last event's number and the optimistic guard."""

    id: JobId
    tenant: TenantId
    spec: JobSpec
    state: JobState
    submitted_at: Instant
    submitted_by: str
    seq: int
    state_since: Instant
    group: GroupRef | None = None
    attempts: tuple[Attempt, ...] = ()
    retries: int = 0  # counted ones
    not_before: Instant | None = None  # back-off: not queued before
    hold: Waiting | None = None  # why it is PENDING or SUSPENDED
    outcome: Outcome | None = None  # set in terminal states
    ended_at: Instant | None = None

    @property
    def is_terminal(self) -> bool:
        """True in a final state (rule 6)."""
        return self.state in TERMINAL_STATES

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that is not proven dead, if there is one (rule 4: at most one)."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.state is not AttemptState.ENDED else None
