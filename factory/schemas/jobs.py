"""Jobs on the wire: the one `JobSpec` that SDK, REST and CLI share, and what the factory says about jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from factory.domain.jobs import (
    AttemptState,
    EndReason,
    FaultDomain,
    JobState,
    Operation,
    PriorityClass,
    Purpose,
    RayMode,
    Topology,
    WaitReason,
)
from factory.schemas.common import LONGEST_S, Memory, Name, Number, WireModel

__all__ = [
    "AlgorithmSpec",
    "AttemptView",
    "BatchItem",
    "BatchReply",
    "BatchRequest",
    "CommandSpec",
    "EventView",
    "ExplanationView",
    "FunctionSpec",
    "InputSpec",
    "JobPatch",
    "JobSpec",
    "JobView",
    "OutcomeView",
    "OutputSpec",
    "PlacementView",
    "PlanView",
    "ProgressView",
    "RetrySpec",
    "WaitingView",
]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("no process takes a text with the character NUL: leave it out")
    return text


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("the name of an environment variable is not empty and holds no '='")
    return name


ProcessText = Annotated[str, AfterValidator(_without_nul)]  # an argument or the value of a variable
VariableName = Annotated[ProcessText, AfterValidator(_variable)]


class FunctionSpec(WireModel):
    """A Python function: `module` and `qualname` in a code bundle, or `pickled` (opened only in the worker)."""

    module: str = ""
    qualname: str = ""
    bundle: str | None = None  # "sha256:…" of an uploaded zip
    pickled: str | None = None  # "sha256:…" of uploaded cloudpickle bytes
    args: tuple[Any, ...] = ()  # JSON values
    kwargs: dict[str, Any] = {}


class CommandSpec(WireModel):
    """A program and its arguments, run in the bundle's folder."""

    argv: tuple[ProcessText, ...] = Field(min_length=1)
    bundle: str | None = None


class AlgorithmSpec(WireModel):
    """An algorithm of the catalogue."""

    name: str
    version: str | None = None  # None = the newest
    operation: Operation = Operation.TRAIN
    params: dict[str, Any] = {}
    model: str | None = None  # PREDICT: "footfall-24h@3" or "footfall-24h@champion"
    register_model: Name | None = None  # TRAIN: name to register the result under


class InputSpec(WireModel):
    """A dataset version to read. `version` None = the latest published one, pinned at submit."""

    dataset: Name
    version: Number | None = None
    purpose: Purpose = Purpose.ANALYSE


class OutputSpec(WireModel):
    """A dataset to write a new version of, and the contract it is checked against."""

    dataset: Name
    contract: dict[str, Any] = {}  # short form, see docs/contracts.md


class RetrySpec(WireModel):
    """How often which ends are tried again."""

    max_retries: int = Field(default=3, ge=0, le=100)
    user_errors: bool = False
    backoff_s: int = Field(default=1, ge=0, le=60)


class JobSpec(WireModel):
    """What to run, with what, where. Exactly one of `function`, `command`, `algorithm`."""

    name: Name
    function: FunctionSpec | None = None
    command: CommandSpec | None = None
    algorithm: AlgorithmSpec | None = None
    cpu: float = Field(1.0, ge=0, le=100_000)  # per replica
    memory: Memory = 1 << 30
    gpu: float = Field(0.0, ge=0, le=10_000)  # a fraction below 1 is a share of one device
    replicas: int = Field(1, ge=1, le=10_000, description="Size of the gang: all or nothing, but see min_replicas.")
    min_replicas: int | None = Field(
        default=None, ge=1, le=10_000, description="It may start with so few of its replicas; null = all or nothing."
    )
    queue: Name | None = None  # None = the tenant's own queue
    pool: str | None = None
    flavors: tuple[str, ...] = Field(
        default=(), max_length=20, description="Kinds of node that it may use, best first; empty = any (GET /pools)."
    )
    gpu_models: tuple[str, ...] = Field(
        default=(), max_length=20, description="Of which its GPUs must be; empty = any (GET /nodes)."
    )
    topology: Topology = Field(
        default=Topology.ANY,
        description="How its replicas lie: any, one-node, same-zone, or spread (each on its own node).",
    )
    estimate_s: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST_S,
        description="Seconds that it is expected to run in all. It plans with it and never ends the job: that is "
        "timeout_s. Without one the factory learns from jobs like it.",
    )
    priority: PriorityClass = PriorityClass.NORMAL
    inputs: dict[str, InputSpec] = {}
    outputs: dict[str, OutputSpec] = {}
    ray: RayMode = RayMode.NONE
    retry: RetrySpec = RetrySpec()
    timeout_s: int | None = Field(None, ge=1, le=LONGEST_S)
    start_timeout_s: int = Field(300, ge=1, le=LONGEST_S)
    grace_s: int = Field(10, ge=0, le=3600)
    env: dict[VariableName, ProcessText] = {}
    seed: int = Field(0, ge=0, lt=2**63)
    after: tuple[str, ...] = ()
    labels: dict[str, str] = {}

    @field_validator("min_replicas")
    @classmethod
    def _no_more_than_all(cls, value: int | None, info: ValidationInfo) -> int | None:
        replicas = info.data.get("replicas")
        if value is not None and replicas is not None and value > replicas:
            raise ValueError(f"{value} is more than replicas, which is {replicas}")
        return value

    @model_validator(mode="after")
    def _one_entry(self) -> JobSpec:
        given = [k for k in ("function", "command", "algorithm") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of function, command, algorithm; given: {', '.join(given) or 'none'}")
        return self


class JobPatch(WireModel):
    """What may be changed of a job that waits."""

    priority: PriorityClass


class OutcomeView(WireModel):
    """How it ended."""

    reason: EndReason
    fault_domain: FaultDomain
    retryable: bool
    message: str = ""
    hint: str = ""
    exit_code: int | None = None
    signal: int | None = None
    rank: int | None = None
    tail: str = ""


class WaitingView(WireModel):
    """Why it waits, with its numbers."""

    reason: WaitReason
    message: str
    hint: str = ""
    numbers: dict[str, int | str] = {}


class PlacementView(WireModel):
    """Where one replica runs."""

    rank: int
    node: str
    cpu: float
    memory: int
    gpu: float
    devices: tuple[int, ...] = ()


class AttemptView(WireModel):
    """One try."""

    id: str
    ordinal: int
    state: AttemptState
    pool: str
    slots: float
    placements: tuple[PlacementView, ...]
    admitted_at: int
    starting_at: int | None = None
    running_at: int | None = None
    ended_at: int | None = None
    stopping: EndReason | None = None
    preempted_for: str = Field(
        "", description="Job that it made room for; 'another department' for a foreign one. Not told in lists."
    )
    outcome: OutcomeView | None = None
    proof: str = ""
    code_digest: str = ""


class ProgressView(WireModel):
    """Last figures of the running attempt."""

    fraction: float
    message: str
    metrics: dict[str, dict[str, float]]  # name -> {"step": …, "value": …}
    at: int


class JobView(WireModel):
    """A job as the API shows it. Times are milliseconds since the epoch, UTC."""

    id: str
    tenant: str
    name: str
    kind: Literal["function", "command", "algorithm", "service", "ingest"]
    state: JobState
    queue: str
    pool: str | None
    priority: PriorityClass
    replicas: int
    min_replicas: int | None = None
    flavors: tuple[str, ...] = ()
    gpu_models: tuple[str, ...] = ()
    topology: Topology = Topology.ANY
    estimate_s: int | None = None
    submitted_at: int
    submitted_by: str
    state_since: int
    ended_at: int | None = None
    waiting: WaitingView | None = None
    outcome: OutcomeView | None = None
    has_result: bool = False
    result: Any = None  # functions: the returned JSON value; only in GET /jobs/{id}
    retries: int = 0
    attempts: tuple[AttemptView, ...] = ()
    progress: ProgressView | None = None
    inputs: dict[str, str] = {}  # name -> "footfall@1"
    datasets: tuple[str, ...] = ()  # dataset versions it wrote: "footfall@1"; only in GET /jobs/{id}
    models: tuple[str, ...] = ()  # model versions it registered: "footfall-24h@1"; only in GET /jobs/{id}
    group: str | None = None
    labels: dict[str, str] = {}
    seq: int = 0  # number of its last event: what GET /jobs/{id}/wait?after= compares


class ExplanationView(WireModel):
    """Why the job is where it is."""

    job_id: str
    state: JobState
    waiting: WaitingView | None
    message: str = Field(description="One paragraph for a person.")
    queue: str
    position: int | None = Field(default=None, description="1 = next.")
    queue_length: int = 0
    used_slots: float = Field(default=0, description="By its queue, now.")
    nominal_slots: float | None = Field(default=None, description="Its quota; None = not limited by one of its own.")
    expected_start: int | None = Field(default=None, description="When it is expected to start; null: not known.")
    helps: tuple[str, ...] = Field(default=(), description="What would let it start sooner, each a sentence.")
    fair_share: float = Field(
        default=0,
        description="What its queue uses above quota, as a part of a pool per weight; the least goes first.",
    )


class PlanView(WireModel):
    """What would come of a job if it were submitted now. Nothing is stored, and nothing is promised."""

    feasible: bool = Field(description="It could run, at the latest when the factory is idle.")
    message: str = Field(description="One paragraph for a person.")
    waiting: WaitingView | None = Field(
        default=None, description="Why it would wait, or could never run; None: it would start now."
    )
    pool: str | None = Field(
        default=None, description="Where it would start now, with `flavor`, `replicas` and `placements`."
    )
    flavor: str | None = None
    replicas: int = 0
    placements: tuple[PlacementView, ...] = ()
    helps: tuple[str, ...] = Field(default=(), description="What would let it start sooner, each a sentence.")
    preempts: tuple[str, ...] = Field(default=(), description="Jobs of the caller's tenant that it would stop.")
    preempts_others: int = Field(default=0, description="How many of other tenants.")
    expected_start: int | None = Field(default=None, description="When it is expected to start; null: not known.")
    slots: float = Field(default=0, description="What it would hold.")
    estimate_s: int | None = Field(default=None, description="As declared.")
    slot_hours: float | None = Field(default=None, description="Slots × estimate; None: it declares none.")


class EventView(WireModel):
    """One event of a job."""

    seq: int
    type: str
    at: int
    detail: dict[str, Any]


class BatchItem(WireModel):
    """One spec of a batch with its own idempotency key."""

    key: str = Field(min_length=1, max_length=200)
    spec: JobSpec


class BatchRequest(WireModel):
    """Up to 1,000 jobs, accepted in one transaction: all or none."""

    items: tuple[BatchItem, ...] = Field(min_length=1, max_length=1000)


class BatchReply(WireModel):
    """The jobs in the order of the items; `replayed` = keys that had been used before."""

    jobs: tuple[JobView, ...]
    replayed: tuple[str, ...] = ()
