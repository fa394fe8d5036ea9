"""What a node is: an id that outlives Ray, its capacity after the reserve, its GPUs, its flavor."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import psutil

from factory.domain.resources import GIB, MIB
from factory.schemas.runner import NodeReport
from factory.worker.folders import read_json, write_durably

__all__ = ["NodeOptions", "describe_node", "node_identity"]

_SLOT_STEP = 256 * MIB  # a slot's memory is a multiple of this: 5.25 GiB says more than 5,651,234,816 bytes
_RESERVE_SHARE = 8  # an eighth of the memory, at most 2 GiB, is for the system, Ray and warm replicas


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How the nodes of one runner are offered."""

    node_dir: str  # folder of all node data; the same path on every node
    pool: str = ""  # "" = the flavor's name
    cpus: int | None = None  # offer so many; None = all
    memory_reserve_bytes: int | None = None  # None = an eighth, at most 2 GiB
    memory_limits: Literal["auto", "watchdog"] = "auto"  # auto: by cgroup where the agent can make groups


def node_identity(node_dir: Path) -> str:
    """Return this machine's node id, made once per folder and machine: a new Ray does not change it.

    A folder that several machines share holds a file for each.
    """
    machine = _machine_id()
    path = node_dir / f"node-{sha256(machine.encode()).hexdigest()[:12]}.json"
    stored = read_json(path)
    if stored is not None and isinstance(stored.get("id"), str):
        return stored["id"]
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:40] or "node"
    digest = sha256(f"{node_dir.resolve()}\0{machine}".encode()).hexdigest()[:8]
    node_id = f"{host}-{digest}"
    write_durably(path, {"id": node_id})
    return node_id


def describe_node(
    node_id: str,
    options: NodeOptions,
    *,
    host: str,
    ray_node_id: str,
    memory_limits: Literal["cgroup", "watchdog"] = "watchdog",
) -> NodeReport:
    """Return the node as it is offered: capacity = reported − reserve."""
    cpus = options.cpus or len(os.sched_getaffinity(0))
    total = psutil.virtual_memory().total
    reserve = options.memory_reserve_bytes
    if reserve is None:
        reserve = min(2 * GIB, total // _RESERVE_SHARE)
    memory = max(total - reserve, _SLOT_STEP) // MIB * MIB
    models = _gpu_models()
    parts = len(models) or cpus  # a slot is one GPU with its share of the rest, or one CPU
    flavor = f"gpu-{_slug(models[0])}" if models else "cpu"
    share = memory // parts
    return NodeReport(
        id=node_id,
        pool=options.pool or flavor,
        flavor=flavor,
        slot_cpu_milli=max(1, cpus * 1000 // parts),
        slot_memory_bytes=share // _SLOT_STEP * _SLOT_STEP or share,
        slot_gpu_milli=1000 if models else 0,
        cpu_milli=cpus * 1000,
        memory_bytes=memory,
        devices=len(models),
        gpu_model=models[0] if models else "",
        host=host,
        ray_node_id=ray_node_id,
        memory_limits=memory_limits,
    )


def _gpu_models() -> list[str]:
    """Return the models of this machine's NVIDIA GPUs by index; none if there is no driver."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _slug(model: str) -> str:
    words = re.findall(r"[a-z0-9]+", model.lower())
    kept = [w for w in words if w not in {"nvidia", "geforce", "tesla", "quadro", "gpu"}]
    return "-".join(kept or words)[:50].strip("-") or "nvidia"


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text:
            return text
    return socket.gethostname()
