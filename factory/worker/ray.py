"""The replica actor: the one place in the worker that knows Ray.

One actor per rank, no restarts, 0 CPU for Ray (the ledger counts), its process serves one attempt and ends. A warm
replica is the same actor before its one order: imports done, nothing of any tenant in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import ray

from factory.errors import UnsupportedError
from factory.worker.folders import NodeFolder
from factory.worker.main import be_born, run_order
from factory.worker.orders import ReplicaOrder

__all__ = ["ReplicaActor", "replica_class"]


class ReplicaActor:
    """Lives in a process born with FACTORY_REPLICA and FACTORY_NODE in its environment."""

    def __init__(self, folder: str, replica: str) -> None:
        self._node = NodeFolder(Path(folder))
        self._replica = replica
        be_born(self._node, replica)

    def pid(self) -> int:
        """Answers once the process is up; fails if it died before."""
        return os.getpid()

    def begin(self, order_json: str) -> None:
        """Serve one attempt in this process's main thread. The call never returns: the process ends with the work."""
        order = ReplicaOrder.model_validate_json(order_json)
        _refuse_nested_work()
        run_order(self._node, self._replica, order)


def replica_class() -> Any:
    """Return the actor class as Ray wants it."""
    return ray.remote(max_restarts=0, max_task_retries=0, num_cpus=0)(ReplicaActor)


def _refuse_nested_work() -> None:
    """`ray = none`: what the job would start on Ray would be nobody's: not placed, not counted, not stopped."""

    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise UnsupportedError(
            "this job asked for no Ray inside (ray = none)",
            hint="use processes or threads within its CPUs, or .map() for independent jobs",
        )

    for name in ("init", "remote", "put", "get_actor"):
        setattr(ray, name, refuse)
