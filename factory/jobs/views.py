"""Jobs as the API shows them: domain values to wire models, without IO."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Literal, assert_never

from factory.domain.events import Event, PreemptRequested, Recorded
from factory.domain.ids import JobId
from factory.domain.jobs import (
    AlgorithmEntry,
    Attempt,
    CommandEntry,
    EndReason,
    Entry,
    FunctionEntry,
    IngestEntry,
    Job,
    JobSpec,
    JobState,
    Outcome,
    Placement,
    ServiceEntry,
    Waiting,
)
from factory.domain.tenancy import Scope
from factory.jobs.dry_run import Forecast
from factory.jobs.ports import AttemptProgress
from factory.lifecycle.reasons import fault_of, is_retryable
from factory.scheduling.explaining import Explanation
from factory.scheduling.snapshot import Snapshot
from factory.schemas.jobs import (
    AttemptView,
    EventView,
    ExplanationView,
    JobView,
    OutcomeView,
    PlacementView,
    PlanView,
    ProgressView,
    WaitingView,
)
from factory.schemas.veil import Veil

__all__ = [
    "event_view",
    "explanation_view",
    "job_view",
    "kind_of",
    "plan_view",
    "progress_view",
    "spoken",
    "veil_for",
    "waiting_view",
]

Kind = Literal["function", "command", "algorithm", "service", "ingest"]


def kind_of(entry: Entry) -> Kind:
    """Return what kind of job this is, in one word."""
    match entry:
        case FunctionEntry():
            return "function"
        case CommandEntry():
            return "command"
        case AlgorithmEntry():
            return "algorithm"
        case ServiceEntry():
            return "service"
        case IngestEntry():
            return "ingest"
    assert_never(entry)


def job_view(
    job: Job,
    *,
    waiting: Waiting | None = None,
    progress: AttemptProgress | None = None,
    with_result: bool = False,
    datasets: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
    preemptors: Mapping[JobId, bool] | None = None,
) -> JobView:
    """Return the view of a job.

    Args:
        waiting: why it waits, as explained on demand; None = what its row says.
        with_result: with the returned value, which may be large.
        datasets: versions that it wrote, "footfall@1"; models: versions that it registered.
        preemptors: the jobs that it made room for, and whether the caller may see each; None = say nothing of them.
    """
    outcome = job.outcome
    has_result = outcome is not None and outcome.reason is EndReason.COMPLETED and outcome.result_json is not None
    result = json.loads(outcome.result_json) if with_result and has_result and outcome and outcome.result_json else None
    why = waiting or job.hold
    return JobView(
        id=job.id,
        tenant=job.tenant,
        name=job.spec.name,
        kind=kind_of(job.spec.entry),
        state=job.state,
        queue=job.spec.queue,
        pool=job.attempts[-1].allocation.pool if job.attempts else job.spec.pool,
        priority=job.spec.priority,
        replicas=job.spec.replicas,
        min_replicas=job.spec.min_replicas,
        flavors=job.spec.flavors,
        gpu_models=job.spec.gpu_models,
        topology=job.spec.topology,
        estimate_s=job.spec.estimate_s,
        submitted_at=job.submitted_at,
        submitted_by=job.submitted_by,
        state_since=job.state_since,
        ended_at=job.ended_at,
        waiting=waiting_view(why) if why is not None and not job.is_terminal else None,
        outcome=None if outcome is None else _outcome_view(outcome),
        has_result=has_result,
        result=result,
        retries=job.retries,
        attempts=tuple(_attempt_view(attempt, preemptors) for attempt in job.attempts),
        progress=None if progress is None else progress_view(progress),
        inputs={i.name: f"{i.dataset}@{i.version}" for i in job.spec.inputs},
        datasets=datasets,
        models=models,
        group=None if job.group is None else f"{job.group.kind.value}/{job.group.id}",
        labels=dict(job.spec.labels),
        seq=job.seq,
    )


def waiting_view(waiting: Waiting) -> WaitingView:
    """Return why it waits, with its numbers."""
    return WaitingView(reason=waiting.reason, message=waiting.message, hint=waiting.hint, numbers=dict(waiting.numbers))


def progress_view(progress: AttemptProgress) -> ProgressView:
    """Return the last figures of an attempt."""
    return ProgressView(
        fraction=progress.fraction,
        message=progress.message,
        metrics=json.loads(progress.metrics_json),
        at=progress.at,
    )


def event_view(recorded: Recorded, *, for_platform: bool) -> EventView:
    """Return one event; who preempted it is another tenant's affair and shown to the platform role only (rule 9)."""
    event = recorded.event
    hidden = {"at", "job_id"}
    if isinstance(event, PreemptRequested) and not for_platform:
        hidden.add("by")
    detail = {f.name: _plain(getattr(event, f.name)) for f in fields(event) if f.name not in hidden}
    return EventView(seq=recorded.seq, type=_type_of(event), at=event.at, detail=detail)


def spoken(state: JobState) -> str:
    """Return a final state as it follows "has".

    >>> spoken(JobState.CANCELLED), spoken(JobState.FAILED)
    ('been cancelled', 'failed')
    """
    return _SPOKEN.get(state.value, state.value)


def veil_for(snapshot: Snapshot, scope: Scope) -> Veil:
    """Return what hides other tenants' queues and jobs in a reason (rule 9)."""

    def hides(id: str) -> bool:
        job = snapshot.jobs.get(JobId(id))
        return job is not None and not scope.covers(job.tenant)

    return Veil({name for name, queue in snapshot.queues.items() if not scope.covers(queue.tenant)}, hides)


def explanation_view(job: Job, explanation: Explanation | None) -> ExplanationView:
    """Return why the job is where it is; `explanation` None: it has ended."""
    if explanation is None:
        return ExplanationView(job_id=job.id, state=job.state, waiting=None, message=_ended(job), queue=job.spec.queue)
    waiting = explanation.waiting
    return ExplanationView(
        job_id=job.id,
        state=job.state,
        waiting=None if waiting is None else waiting_view(waiting),
        message=_paragraph(job, explanation),
        queue=explanation.queue,
        position=explanation.position,
        queue_length=explanation.queue_length,
        used_slots=explanation.share_milli / 1000,
        nominal_slots=None if explanation.nominal_milli is None else explanation.nominal_milli / 1000,
        expected_start=explanation.expected_start,
        helps=explanation.helps,
        fair_share=min(float(explanation.fair_share), _LAST),
    )


def plan_view(
    spec: JobSpec,
    forecast: Forecast,
    *,
    hold: Waiting | None,
    flavor: str | None,
    own: Collection[JobId],
) -> PlanView:
    """Return what would come of a job.

    Args:
        hold: what it would wait for before it waits for slots; that goes first.
        own: of the jobs that it would stop, those that the caller may see; the others are counted (rule 9).
    """
    starts = forecast.allocation if hold is None else None
    waiting = (forecast.waiting if not forecast.feasible else None) or hold or forecast.waiting
    slot_hours = None
    if spec.estimate_s is not None:
        slot_hours = round(forecast.slots_milli * spec.estimate_s / 3_600_000, 3)
    return PlanView(
        feasible=forecast.feasible,
        message=_prospect(spec, forecast, waiting),
        waiting=None if waiting is None else waiting_view(waiting),
        pool=None if starts is None else starts.pool,
        flavor=None if starts is None else flavor,
        replicas=0 if starts is None else len(starts.placements),
        placements=() if starts is None else tuple(_placement_view(p) for p in starts.placements),
        preempts=tuple(id for id in forecast.preempts if id in own),
        preempts_others=sum(1 for id in forecast.preempts if id not in own),
        expected_start=None if hold is not None else forecast.expected_start,
        slots=forecast.slots_milli / 1000,
        estimate_s=spec.estimate_s,
        slot_hours=slot_hours,
        helps=() if hold is not None else forecast.helps,
    )


def _prospect(spec: JobSpec, forecast: Forecast, waiting: Waiting | None) -> str:
    if waiting is None and forecast.allocation is not None:
        given, asked = len(forecast.allocation.placements), spec.replicas
        some = f" with {given} of {asked} replicas" if given < asked else ""
        return f"{spec.name} would start now in pool '{forecast.allocation.pool}'{some}."
    would = f"{spec.name} would wait" if forecast.feasible else f"{spec.name} could never run here"
    return would + (f": {waiting.message}." if waiting is not None else ".")


def preemptors_of(job: Job) -> frozenset[JobId]:
    """Return the jobs that attempts of this one were stopped for; a suspended one was stopped for a person."""
    stops = [attempt.stop for attempt in job.attempts]
    return frozenset(JobId(stop.by) for stop in stops if stop is not None and stop.reason is EndReason.PREEMPTED)


def _attempt_view(attempt: Attempt, preemptors: Mapping[JobId, bool] | None) -> AttemptView:
    stop = attempt.stop
    made_room = ""
    if stop is not None and preemptors is not None and (is_own := preemptors.get(JobId(stop.by))) is not None:
        made_room = stop.by if is_own else "another department"
    return AttemptView(
        id=attempt.id,
        ordinal=attempt.ordinal,
        state=attempt.state,
        pool=attempt.allocation.pool,
        slots=attempt.allocation.slots_milli / 1000,
        placements=tuple(_placement_view(p) for p in attempt.allocation.placements),
        admitted_at=attempt.admitted_at,
        starting_at=attempt.starting_at,
        running_at=attempt.running_at,
        ended_at=attempt.ended_at,
        stopping=None if stop is None else stop.reason,
        preempted_for=made_room,
        outcome=None if attempt.outcome is None else _outcome_view(attempt.outcome),
        proof=attempt.proof,
        code_digest=attempt.code_digest,
    )


def _placement_view(placement: Placement) -> PlacementView:
    return PlacementView(
        rank=placement.rank,
        node=placement.node,
        cpu=placement.resources.cpu_milli / 1000,
        memory=placement.resources.memory_bytes,
        gpu=placement.resources.gpu_milli / 1000,
        devices=tuple(d.index for d in placement.devices),
    )


def _outcome_view(outcome: Outcome) -> OutcomeView:
    return OutcomeView(
        reason=outcome.reason,
        fault_domain=fault_of(outcome),
        retryable=is_retryable(outcome.reason),
        message=outcome.message,
        hint=outcome.hint,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        rank=outcome.rank,
        tail=outcome.tail,
    )


def _ended(job: Job) -> str:
    why = "" if job.outcome is None else f": {job.outcome.reason.value}"
    message = f" ({job.outcome.message})" if job.outcome is not None and job.outcome.message else ""
    return f"{job.spec.name} has {spoken(job.state)}{why}{message}."


_LAST = 1e9  # the share of a queue of weight 0 above its quota: after all others
_SPOKEN = {"cancelled": "been cancelled", "timed_out": "timed out"}


def _paragraph(job: Job, explanation: Explanation) -> str:
    sentences = [f"{job.spec.name} is {job.state.value}."]
    if explanation.waiting is not None:
        sentences.append(f"{explanation.waiting.reason.value}: {explanation.waiting.message}.")
    if explanation.position is not None:
        sentences.append(
            f"It is number {explanation.position} of {explanation.queue_length} in queue {job.spec.queue}."
        )
    if explanation.waiting is not None and explanation.waiting.hint:
        sentences.append(f"{explanation.waiting.hint[0].upper()}{explanation.waiting.hint[1:]}.")
    live = job.live_attempt
    if live is not None:
        nodes = ", ".join(sorted({p.node for p in live.allocation.placements}))
        sentences.append(f"Attempt {live.ordinal} is {live.state.value} on {nodes}.")
    return " ".join(sentences)


def _type_of(event: Event) -> str:
    return type(event).__name__


def _plain(value: object) -> object:
    """Return the value as JSON has it: enums by value, dataclasses as objects with their type where it tells."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        body = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **body} if isinstance(value, _UNION) else body
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


_UNION = (FunctionEntry, CommandEntry, AlgorithmEntry, ServiceEntry, IngestEntry)
