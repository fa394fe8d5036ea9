"""How long a job will run: as declared, or as jobs like it ran. Unknown is an answer (None), never a guess.

Rules (docs/adr/0013)
    E1  Jobs are alike if tenant, what they run, and size are the same. Of each kind the last 64 that succeeded count.
    E2  Without a declaration the estimate is the third quartile of their run times, from three of them on.
    E3  A declaration is corrected upwards by the third quartile of (run time / declared), from three on: who
        understates to be filled into gaps is filled in as what the jobs really take. It is never corrected downwards.
    E4  An attempt never runs longer than its `timeout_s`: that bounds every estimate, and is the estimate where
        there is no other.
    E5  What a job did before its last checkpoint it need not do again; the rest of a stopped attempt it must.
    E6  What a job has had tells about the rest: of a job without a declaration, as much is expected still as the median
        of those that ran longer than it has (three at least); else, and of one that has outrun its declaration, twice
        the estimate, again and again.

Learned estimates are rounded up to four binary digits, so that they, and all that is ordered by them, move seldom.
Milliseconds; whole numbers only.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

from factory.domain.ids import JobId, TenantId
from factory.domain.jobs import (
    AlgorithmEntry,
    Attempt,
    CommandEntry,
    FunctionEntry,
    IngestEntry,
    Job,
    JobSpec,
    JobState,
    ServiceEntry,
)
from factory.domain.time import SECOND, Instant

__all__ = [
    "KEPT_RUNS",
    "UNKNOWN",
    "Kind",
    "RunTimes",
    "kind_of",
    "learned",
    "progress_ms",
    "remaining_ms",
    "run_of",
    "until",
]

KEPT_RUNS = 64
_ENOUGH = 3


class Kind(NamedTuple):
    """What jobs that run about equally long have in common (rule E1)."""

    tenant: TenantId
    what: str
    replicas: int
    cpu_milli: int
    gpu_milli: int


Run: TypeAlias = tuple[Instant, JobId, int, int]  # ended at, job, ran ms, declared ms (0 = not)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """The last jobs of one kind that succeeded, oldest first, and what they teach."""

    runs: tuple[Run, ...] = ()
    typical_ms: int | None = None  # rule E2
    stretch_milli: int = 1000  # rule E3: what declared run times are multiplied by, in thousandths; >= 1000
    ran_ms: tuple[int, ...] = ()  # how long they ran, shortest first

    def with_run(self, run: Run) -> RunTimes:
        """Return the run times with one more; in whatever order they come, the result is the same."""
        if run in self.runs:
            return self
        runs = list(self.runs)
        insort(runs, run)
        return learned(tuple(runs[-KEPT_RUNS:]))


UNKNOWN = RunTimes()


def learned(runs: tuple[Run, ...]) -> RunTimes:
    """Return what the runs teach."""
    ran = sorted(ms for _, _, ms, _ in runs)
    stretched = sorted(ms * 1000 // declared for _, _, ms, declared in runs if declared)
    return RunTimes(
        runs,
        _rounded(_third_quartile(ran)) if len(ran) >= _ENOUGH else None,
        max(1000, _rounded(_third_quartile(stretched))) if len(stretched) >= _ENOUGH else 1000,
        tuple(ran),
    )


def kind_of(job: Job) -> Kind:
    """Return the kind of a job."""
    asked = job.spec.resources
    return Kind(job.tenant, _what(job.spec), job.spec.replicas, asked.cpu_milli, asked.gpu_milli)


def run_of(job: Job) -> Run | None:
    """Return what an ended job teaches; None if it did not succeed."""
    if job.state is not JobState.SUCCEEDED or job.ended_at is None or not job.attempts:
        return None
    last = job.attempts[-1]
    if last.running_at is None or last.ended_at is None:
        return None
    ran = progress_ms(job) + last.ended_at - last.running_at
    return job.ended_at, job.id, ran, (job.spec.estimate_s or 0) * SECOND


def progress_ms(job: Job) -> int:
    """Return how much of the job's work is done and saved by attempts that have ended (rule E5)."""
    return sum(_saved_ms(attempt) for attempt in job.attempts if attempt.ended_at is not None)


def remaining_ms(job: Job, times: RunTimes, running_ms: int = 0) -> int | None:
    """Return how much longer the job is expected to run; None = unknown.

    Args:
        running_ms: how long its live attempt has run; 0 gives what the whole attempt is expected to take.
    """
    spec, done = job.spec, progress_ms(job) + running_ms
    limit = None if spec.timeout_s is None else max(1, spec.timeout_s * SECOND - running_ms)
    if spec.estimate_s is not None:
        left = _doubled(spec.estimate_s * SECOND * times.stretch_milli // 1000, done) - done
    elif times.typical_ms is not None:
        longer = times.ran_ms[bisect_right(times.ran_ms, done) :] if done else ()
        if len(longer) >= _ENOUGH:
            left = max(1, _rounded(longer[len(longer) // 2]) - done)
        else:
            left = _doubled(times.typical_ms, done) - done
    else:
        return limit
    return left if limit is None else min(left, limit)


def _doubled(expected_ms: int, done_ms: int) -> int:
    """Rule E6: return the estimate, doubled until it is more than what is done."""
    expected_ms = max(1, expected_ms)
    while expected_ms <= done_ms:
        expected_ms *= 2
    return expected_ms


def until(started_at: Instant, expected_ms: int, now: Instant) -> Instant:
    """Return when something that started then is expected to end, which is after `now` (rule E6)."""
    return started_at + _doubled(expected_ms, now - started_at)


def _saved_ms(attempt: Attempt) -> int:
    if attempt.running_at is None or attempt.checkpointed_at is None:
        return 0
    return max(0, attempt.checkpointed_at - attempt.running_at)


def _what(spec: JobSpec) -> str:
    match spec.entry:
        case FunctionEntry(module=module, qualname=qualname):
            return f"function {module}.{qualname}"
        case CommandEntry(argv=argv):
            return f"command {argv[0] if argv else ''} {spec.name}"
        case AlgorithmEntry(algorithm=algorithm, operation=operation):
            return f"algorithm {algorithm} {operation.value}"
        case ServiceEntry(endpoint=endpoint):
            return f"service {endpoint}"
        case IngestEntry():
            return "ingest"
    assert_never(spec.entry)


def _third_quartile(ordered: list[int]) -> int:
    return ordered[len(ordered) * 3 // 4] if ordered else 0


def _rounded(amount: int) -> int:
    """Round up to four binary digits."""
    shift = max(0, amount.bit_length() - 4)
    return -(-amount >> shift) << shift
