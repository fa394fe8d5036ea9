"""What runs inside a replica's process: claim the rank, set the process up, run the entry, leave word, exit.

One process serves one attempt. The order of its steps is what the rest of the factory relies on:

1. claim.json, synced, made by at most one process: from here on this process is the attempt's rank, whoever asks. Its
   memory group, which it entered when it was born, gets the attempt's limit.
2. stdout and stderr become the attempt's files; environment, working folder, the pipe for the notice to stop.
3. Code is fetched and unpacked. Trouble here is `EnvironmentFailed`.
4. began.json; user code runs.
5. outcome.json, synced; the process ends at once, so that nothing of this attempt can run after its word.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from factory.domain.jobs import EndReason, Outcome
from factory.worker.attempt import AttemptApi
from factory.worker.cgroups import enter_group, hold_to
from factory.worker.context import JobServices
from factory.worker.entries import run_entry
from factory.worker.fencing import EXIT_FENCED, SelfFence
from factory.worker.folders import NodeFolder, RankFolder, proportional_bytes, start_ticks, write_durably, write_once
from factory.worker.http import Http
from factory.worker.orders import OutcomeFile, ReplicaOrder, gang_port, threads_of
from factory.worker.outcomes import outcome_of
from factory.worker.progress import now_ms
from factory.worker.stopping import StopSignal

__all__ = ["be_born", "run_order"]

_PR_SET_CHILD_SUBREAPER = 36
_NICENESS = 5


def be_born(node: NodeFolder, replica: str) -> None:
    """Say that this process is the replica, before it serves anything; adopt orphans of its children."""
    # a child's child that outlives its parent comes to us and stays in our family tree, where the agent finds it
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    enter_group(node, replica)
    pid = os.getpid()
    write_durably(node.birth(replica), {"replica": replica, "pid": pid, "start_ticks": start_ticks(pid)})
    node.nudge()


def run_order(node: NodeFolder, replica: str, order: ReplicaOrder) -> None:
    """Serve one attempt's rank; never returns: the process ends with it."""
    folder = node.rank(order.work.attempt, order.work.rank)
    fence = SelfFence(node, order.self_fence_s)
    if fence.is_over():
        os._exit(EXIT_FENCED)  # the order was under way too long: it may be somebody else's by now (rule 4)
    pid = os.getpid()
    # what it holds by now is the worker's own: a watchdog counts from here
    own = {"own_bytes": proportional_bytes(pid), "at": now_ms()}
    if not write_once(folder.claim, {"replica": replica, "pid": pid, "start_ticks": start_ticks(pid), **own}):
        os._exit(3)  # somebody serves it, or the agent has declared it dead: never twice (rule 4)
    hold_to(node, replica, order.placement.resources.memory_bytes)
    fence.watch(folder)
    code = 1
    try:
        outcome = _serve(node, folder, order)
        write_durably(folder.outcome, OutcomeFile(outcome=outcome).model_dump(mode="json"))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        node.nudge()
        os._exit(code)


def _serve(node: NodeFolder, folder: RankFolder, order: ReplicaOrder) -> Outcome:
    folder.order.write_text(order.without_secrets().model_dump_json())
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)  # agent and control plane on this machine go first
    _take_over_streams(folder)
    _set_environment(folder, order)
    stop = StopSignal(folder)
    stop.listen()
    node.nudge()
    http = Http(order.work.api_url, order.token)
    services = JobServices(order, AttemptApi(http), folder, stop)

    def begin(code_digest: str) -> None:
        folder.began.write_text(f'{{"at": {now_ms()}, "code_digest": "{code_digest}"}}')
        node.nudge()

    try:
        outcome = run_entry(services, node, begin)
    except BaseException as exc:
        outcome = outcome_of(exc, began=folder.began.exists())
        if outcome.reason in (EndReason.USER_ERROR, EndReason.ENVIRONMENT_FAILED) and outcome.tail:
            print(outcome.tail, file=sys.stderr, flush=True)
    if stop.is_set and outcome.reason is not EndReason.COMPLETED and stop.reason is not None:
        # told to stop, it stopped: how it did is no error of its code
        outcome = replace(outcome, reason=stop.reason, message=outcome.message or "stopped as asked")
    services.progress.close()
    status = {EndReason.COMPLETED: "FINISHED"}.get(outcome.reason, "KILLED" if stop.is_set else "FAILED")
    services.tracker.finish(status)
    return outcome


# --- the process itself ---------------------------------------------------------------------------------------------


def _take_over_streams(folder: RankFolder) -> None:
    """Descriptors 1 and 2 become the attempt's files: also what C code and children write is in them."""
    _flush()
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(folder.stream(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _set_environment(folder: RankFolder, order: ReplicaOrder) -> None:
    work = order.work
    threads = str(threads_of(order.placement.resources.cpu_milli))
    # children are no part of the Ray cluster (ray = none): they get neither its address nor its token
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_ADDRESS", "RAY_AUTH"))}
    environ |= dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS"),
        threads,
    )
    environ |= {
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "MLFLOW_TRACKING_URI": work.mlflow_uri or f"{work.api_url}/mlflow",
        "MLFLOW_TRACKING_TOKEN": order.token,
    }
    size = len(order.gang)  # fewer than asked for, if the job said how few it can run with
    if size > 1:
        environ |= {
            "RANK": str(work.rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": order.gang[0],
            "MASTER_PORT": str(gang_port(work.attempt)),
        }
    environ |= dict(work.spec.env)
    environ |= {  # after the user's: the ledger decides these
        "FACTORY_ATTEMPT": work.attempt,
        "FACTORY_JOB": work.job,
        "FACTORY_TENANT": work.tenant,
        "FACTORY_RANK": str(work.rank),
        "FACTORY_REPLICAS": str(size),
        "FACTORY_SEED": str(work.spec.seed),
        "FACTORY_REPLICA": os.environ.get("FACTORY_REPLICA", ""),
        "FACTORY_NODE": os.environ.get("FACTORY_NODE", ""),
        "CUDA_VISIBLE_DEVICES": ",".join(str(share.index) for share in order.placement.devices),
    }
    os.environ.clear()
    os.environ.update(environ)
    folder.work.mkdir(parents=True, exist_ok=True)
    os.chdir(folder.work)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
