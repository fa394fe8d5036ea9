"""What a step asks the shell to do, as values. The row is already right without them: they make it quick, and they are
safe to lose (the loop and the runners are level-triggered) and safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import AttemptId, JobId, RunnerId
from factory.domain.jobs import JobState

__all__ = [
    "AttemptDesired",
    "AttemptReleased",
    "Effect",
    "JobEnded",
    "StopWanted",
    "TokenRevoked",
    "WakeScheduler",
]


@dataclass(frozen=True, slots=True)
class WakeScheduler:
    """Something may be admitted now: a job was queued, slots came free, or a pending job may be judged again."""


@dataclass(frozen=True, slots=True)
class AttemptDesired:
    """The runner shall start the attempt: answer its long poll."""

    attempt_id: AttemptId
    runner: RunnerId


@dataclass(frozen=True, slots=True)
class StopWanted:
    """The runner shall stop the attempt: answer its long poll."""

    attempt_id: AttemptId
    runner: RunnerId


@dataclass(frozen=True, slots=True)
class AttemptReleased:
    """The attempt is proven dead: its slots are free and the runner may forget its evidence."""

    attempt_id: AttemptId
    runner: RunnerId


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    """Calls with the attempt's token answer 401 from now on. Tokens are checked against the row; this drops caches."""

    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job is final: dependants may go on, waiting clients get their answer."""

    job_id: JobId
    state: JobState


Effect: TypeAlias = WakeScheduler | AttemptDesired | StopWanted | AttemptReleased | TokenRevoked | JobEnded
