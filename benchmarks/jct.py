"""How long do training jobs take on a shared cluster under the factory's scheduler, and under published ones?

Prints one JSON object on its last line: per policy {avg_jct_s, p99_jct_s, makespan_s, preemptions}. `fifo`, `srtf`,
`srsf` and `tiresias` are in `benchmarks.policies.reference`; `ours` (least-attained-service: it knows no run time),
`ours-declared` and `ours-learned` (shortest, with estimates) go through the factory's `plan`, in
`benchmarks.policies.factory`. A job of at most one node's GPUs sits on one node, a larger one takes whole nodes;
preemption keeps the progress. Without a trace: a synthetic one.

    python -m benchmarks.jct --trace CSV [--nodes 8] [--gpus 8] [--restart-cost real|muri] [--policies fifo,ours]

`--restart-cost real` charges a start to whom starts: this is the comparison. `muri` charges as the published simulator
does, and orders Tiresias' queues as it does, and only serves to reproduce its figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks.policies.cluster import Charge, Scheduler, run
from benchmarks.policies.estimates import Blind, Declared
from benchmarks.policies.factory import Factory
from benchmarks.policies.reference import Fifo, PublishedTiresias, Ranked, Tiresias, srsf, srtf
from benchmarks.policies.trace import read_trace, synthetic_trace

_Maker: TypeAlias = Callable[[int, int, Charge], Scheduler]

POLICIES: dict[str, _Maker] = {
    "fifo": lambda nodes, gpus, _charge: Fifo(nodes, gpus),
    "srtf": lambda nodes, gpus, _charge: Ranked(srtf, nodes, gpus),
    "srsf": lambda nodes, gpus, _charge: Ranked(srsf, nodes, gpus),
    "tiresias": lambda nodes, gpus, charge: (PublishedTiresias if charge is Charge.MURI else Tiresias)(nodes, gpus),
    "ours": lambda nodes, gpus, _charge: Factory(nodes, gpus, "least-attained-service", Blind()),
    "ours-declared": lambda nodes, gpus, _charge: Factory(nodes, gpus, "shortest", Declared()),
    "ours-learned": lambda nodes, gpus, _charge: Factory(nodes, gpus, "shortest", Blind()),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Play the trace under each policy and print the figures."""
    arguments = _arguments(argv)
    trace = (
        synthetic_trace(400, arguments.nodes * arguments.gpus, seed=1)
        if arguments.trace is None
        else read_trace(arguments.trace)
    )
    widest = max(job.gpus for job in trace)
    if widest > arguments.nodes * arguments.gpus:
        print(
            f"a job wants {widest} GPUs, there are {arguments.nodes * arguments.gpus}: give more --nodes",
            file=sys.stderr,
        )
        return 2
    figures: dict[str, dict[str, float | int]] = {}
    for name in arguments.policies:
        began = time.perf_counter()
        scheduler = POLICIES[name](arguments.nodes, arguments.gpus, arguments.restart_cost)
        result = run(trace, scheduler, arguments.nodes * arguments.gpus, arguments.restart_cost)
        figures[name] = result.summary()
        print(f"{name}: {result.events} events in {time.perf_counter() - began:.1f} s, {figures[name]}", flush=True)
    print(json.dumps(figures))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trace", type=Path, help="CSV with num_gpu, submit_time, iterations, model_name, iteration_time"
    )
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8, help="of one node")
    parser.add_argument("--restart-cost", type=Charge, choices=list(Charge), default=Charge.REAL)
    parser.add_argument("--policies", type=_names, default=list(POLICIES), help=",".join(POLICIES))
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(POLICIES))
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"no such policy: {', '.join(unknown) or text!r}; known: {', '.join(POLICIES)}"
        )
    return names


if __name__ == "__main__":
    raise SystemExit(main())
