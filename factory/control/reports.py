"""What a runner says, made rows: idempotent, in one transaction, and late or doubled facts change nothing.

Times in a report are the runner's and are not used: two hosts' clocks are never compared, so an event bears the time
at which the control plane heard of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from factory.control.ports import ControlTx
from factory.domain.events import AttemptEnded, AttemptFound, AttemptRunning, AttemptStarting, Event
from factory.domain.ids import AttemptId, RunnerId
from factory.domain.jobs import AttemptState, Job
from factory.domain.pools import Node, Runner
from factory.domain.tenancy import PLATFORM
from factory.domain.time import SECOND, Instant
from factory.jobs.applying import apply_event
from factory.jobs.ports import EndedHook
from factory.lifecycle.liveness import job_of
from factory.lifecycle.stepping import Stale, why_stale
from factory.pools.service import apply_nodes, current_runner
from factory.schemas.runner import AttemptReport, ReportBatch

__all__ = ["PROOFS", "Applied", "Unusable", "apply_report"]

PROOFS = frozenset({"report", "agent", "runner"})  # those that a runner of today can have; "fenced" is an admin's
_HEARD_EVERY_MS = 2 * SECOND  # a sign of life is written at most so often: each write is a commit and a feed entry


class Unusable(StrEnum):
    """Why a report that is not late is no fact either."""

    NO_SUCH_ATTEMPT = "no_such_attempt"
    OTHER_RUNNER = "other_runner"  # the attempt is not this runner's
    NO_PROOF = "no_proof"  # an end without an outcome, or without one of `PROOFS`


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did."""

    runner: Runner
    nodes: tuple[Node, ...] = ()  # those that changed
    ignored: tuple[tuple[AttemptId, Stale | Unusable], ...] = ()


def apply_report(tx: ControlTx, batch: ReportBatch, now: Instant, on_ended: EndedHook | None = None) -> Applied:
    """Take in a batch; the same batch again changes nothing.

    Raises:
        StaleRunnerError: a newer process of this runner has joined; nothing was written.
        StaleWriteError: a row changed under the transaction; try again.
    """
    runner = current_runner(tx, RunnerId(batch.runner), batch.incarnation)
    runner = _heard(tx, runner, batch.ingress_url, now)
    nodes = () if batch.nodes is None else apply_nodes(tx, runner, batch.nodes, now)
    ignored: list[tuple[AttemptId, Stale | Unusable]] = []
    tx.jobs_of(PLATFORM, {job_of(AttemptId(report.attempt)) for report in batch.attempts})  # one look, not one for each
    for report in batch.attempts:
        why = _apply_attempt(tx, runner, report, now, on_ended)
        if why is not None:
            ignored.append((AttemptId(report.attempt), why))
    return Applied(runner, nodes, tuple(ignored))


def _heard(tx: ControlTx, runner: Runner, ingress_url: str | None, now: Instant) -> Runner:
    url = runner.ingress_url if ingress_url is None else ingress_url
    # a clock that jumped back must not silence a runner for as long as it jumped
    if url == runner.ingress_url and 0 <= now - runner.seen_at < _HEARD_EVERY_MS:
        return runner
    return tx.put_runner(replace(runner, seen_at=now, ingress_url=url))


def _apply_attempt(
    tx: ControlTx, runner: Runner, report: AttemptReport, now: Instant, on_ended: EndedHook | None
) -> Stale | Unusable | None:
    """Return why the report changed nothing, None if it did."""
    job = tx.job_of_attempt(PLATFORM, AttemptId(report.attempt))
    if job is None:
        return Unusable.NO_SUCH_ATTEMPT
    if not any(attempt.id == report.attempt and attempt.runner == runner.id for attempt in job.attempts):
        return Unusable.OTHER_RUNNER
    if report.kind == "ended" and (report.outcome is None or report.proof not in PROOFS):
        return Unusable.NO_PROOF
    stale: Stale | None = None
    changed = False
    for event in _events(job, report, now):
        stale = why_stale(job, event)
        if stale is None:
            job = apply_event(tx, job, event, now, on_ended)
            changed = True
    return None if changed else stale


def _events(job: Job, report: AttemptReport, now: Instant) -> Iterator[Event]:
    attempt = AttemptId(report.attempt)
    live = job.live_attempt
    if report.kind in ("starting", "running") and live is not None and live.state is AttemptState.UNKNOWN:
        yield AttemptFound(now, attempt)  # whoever starts or runs is found
    match report.kind:
        case "starting":
            yield AttemptStarting(now, attempt)
        case "running":
            yield AttemptRunning(now, attempt, report.code_digest)
        case "found":
            yield AttemptFound(now, attempt)
        case "ended":
            if report.outcome is not None:
                yield AttemptEnded(now, attempt, report.outcome, report.proof)
