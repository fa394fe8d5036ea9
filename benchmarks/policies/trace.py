"""Traces of training jobs: Philly-derived CSV files, or a small synthetic one of the same form.

Sources: Muri (SIGCOMM'22), traces and start costs; Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters"
(ATC'19), for the shape of the synthetic one: Poisson arrivals, mostly narrow gangs, run times over four decades.
"""

from __future__ import annotations

import csv
import math
import random
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TraceJob", "read_trace", "start_cost_s", "synthetic_trace"]

# One step of a trace was measured with the job alone and profiling off; the published simulator adds 1.5 %.
_STEP_OVERHEAD = 1.015

_WIDTHS = (1, 2, 4, 8, 16, 32)
_START_COST_S: dict[str, tuple[int, ...]] = {  # at `_WIDTHS` GPUs, as measured for Muri
    "vgg16": (7, 7, 8, 9, 9, 10),
    "vgg19": (7, 7, 8, 9, 10, 10),
    "resnet18": (4, 5, 5, 7, 7, 7),
    "shufflenet_v2_x1_0": (4, 4, 5, 5, 7, 8),
    "bert": (10, 10, 10, 10, 10, 10),
    "gpt2": (10, 10, 10, 10, 10, 10),
    "a2c": (38, 39, 39, 46, 46, 46),
    "dqn": (5, 5, 6, 6, 8, 8),
}
_OTHER_START_COST_S = 10


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One job of a trace; the index is its place in the order of submission."""

    index: int
    submit_s: float
    gpus: int
    model: str  # which kind of job it is
    steps: int  # what its owner would declare
    step_s: float  # what is only known by running it
    start_cost_s: float  # of each start or restart

    @property
    def run_s(self) -> float:
        """Run time when alone, without the start."""
        return self.steps * self.step_s


def start_cost_s(model: str, gpus: int) -> int:
    """Return the seconds that one start of a job of this model takes; a width not measured costs as the next wider."""
    costs = _START_COST_S.get(model)
    if costs is None:
        return _OTHER_START_COST_S
    wider = [cost for width, cost in zip(_WIDTHS, costs, strict=True) if width >= gpus]
    return wider[0] if wider else costs[-1]


def read_trace(path: Path) -> tuple[TraceJob, ...]:
    """Read a trace by its columns' names: num_gpu, submit_time (ms), iterations, model_name, iteration_time (ms)."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: float(row["submit_time"]))  # stable: the file's order among equals
    return tuple(
        _job(
            index,
            submit_s=float(row["submit_time"]) / 1000,
            gpus=int(row["num_gpu"]),
            model=row["model_name"],
            steps=int(row["iterations"]),
            step_ms=float(row["iteration_time"]),
        )
        for index, row in enumerate(rows)
    )


def synthetic_trace(jobs: int, gpus: int, seed: int, load: float = 1.2) -> tuple[TraceJob, ...]:
    """Return a trace that offers `load` times what `gpus` GPUs can do, until the last job comes."""
    rng = random.Random(seed)
    drafts = [
        (
            rng.choices((1, 2, 4, 8, 16), weights=(40, 10, 20, 25, 5))[0],
            rng.choice(sorted(_START_COST_S)),
            math.exp(rng.uniform(math.log(30), math.log(300_000))),
        )
        for _ in range(jobs)
    ]
    drafts = [(min(width, gpus), model, run_s) for width, model, run_s in drafts]
    span_s = sum(width * run_s for width, _, run_s in drafts) / (gpus * load)
    submits = sorted(rng.uniform(0, span_s) for _ in drafts)
    step_ms = 200.0
    return tuple(
        _job(
            index,
            submit_s=submit_s,
            gpus=width,
            model=model,
            steps=max(1, int(run_s * 1000 / step_ms)),
            step_ms=step_ms,
        )
        for index, (submit_s, (width, model, run_s)) in enumerate(zip(submits, drafts, strict=True))
    )


def _job(index: int, *, submit_s: float, gpus: int, model: str, steps: int, step_ms: float) -> TraceJob:
    cost = start_cost_s(model, gpus)
    return TraceJob(index, submit_s, gpus, model, steps, step_ms * _STEP_OVERHEAD / 1000, cost)
