"""One private Ray head as a process: how to start it, and how to leave nothing of it behind.

`ray_head_command` is pure: the supervisor (CLI) or a test starts what it returns and restarts it when it exits. Every
process of that instance inherits `FACTORY_RAY=<instance>`, so that `reap` finds all of them by a mark that cannot be
changed from inside, and never touches another Ray (`ray stop` would).

Source: notes/ray.md (measured): the GCS client gives up after `gcs_rpc_server_reconnect_timeout_s` and takes its
process along; health checks at these periods notice a frozen node in 9 s; token auth starts only if a token is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import psutil

__all__ = [
    "NAMESPACE",
    "RAY_HOST",
    "RAY_MARKER",
    "ensure_ray_token",
    "free_port",
    "ray_client_env",
    "ray_head_command",
    "ray_instance",
    "ray_temp_dir",
    "reap",
]

# all of 127/8 is loopback on Linux; Ray takes "127.0.0.1" for "find my outward address", which may change or be none
RAY_HOST = "127.0.0.2"
NAMESPACE = "factory"  # Ray namespace of every actor of ours
RAY_MARKER = "FACTORY_RAY"  # environment variable that every process of one Ray instance carries
_SOCKET_PATH_LIMIT = 107  # bytes of an AF_UNIX path; Ray needs about 62 of them below its temporary folder
_OBJECT_STORE_BYTES = 200 << 20  # job data does not travel through Ray's object store


def ray_instance(data_dir: Path) -> str:
    """Return the name of the Ray instance that belongs to a data folder: stable, short, different per folder."""
    return sha256(str(Path(data_dir).resolve()).encode()).hexdigest()[:12]


def ray_temp_dir(data_dir: Path) -> Path:
    """Return a folder for Ray's session files whose path is short enough for its sockets."""
    folder = Path(tempfile.gettempdir()) / f"fray-{ray_instance(data_dir)}"
    if len(str(folder)) > _SOCKET_PATH_LIMIT - 62:
        folder = Path("/tmp") / folder.name  # noqa: S108 - mode 0700 and the name of this data folder
    return folder


def ensure_ray_token(path: Path) -> Path:
    """Make the cluster's token file (0600) if it is not there; return its path."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
    return path


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def ray_client_env(token_path: Path) -> dict[str, str]:
    """Environment of every process that talks to the cluster; set it before `import ray`."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
    }


def ray_head_command(
    *,
    instance: str,
    port: int,
    client_port: int,
    temp_dir: Path,
    token_path: Path,
    num_cpus: int,
    object_store_bytes: int = _OBJECT_STORE_BYTES,
    host: str = RAY_HOST,
    env: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return argv and the whole environment of a Ray head that stays in the foreground.

    Args:
        instance: mark of all its processes, from `ray_instance`.
        port: of the GCS; its address is `host:port`.
        client_port: of Ray Client, which nobody uses and `ray start` cannot leave out (0 is refused).
        temp_dir: from `ray_temp_dir`; made 0700 by the caller or by Ray.
        token_path: from `ensure_ray_token`. The token itself is on no command line and in no environment.
        num_cpus: what Ray believes to have; our actors take 0 of it, the ledger decides.
        env: the environment to build on; None = this process's.
    """
    base = {k: v for k, v in (os.environ if env is None else env).items() if not k.startswith("RAY_")}
    settings = {
        **ray_client_env(token_path),
        RAY_MARKER: instance,
        "PYTHONUNBUFFERED": "1",
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # the plan names the devices
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_enable_worker_prestart": "0",  # our replicas have an environment each: prestarted workers serve nobody
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_niceness": "0",  # agents must get their turn on a busy node; replicas are nice once they serve
        "RAY_memory_monitor_refresh_ms": "0",  # the node agent holds the limits, per attempt
        "RAY_enable_metrics_collection": "0",
        "RAY_task_events_report_interval_ms": "0",  # no dashboard reads them
    }
    argv = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={temp_dir}",
        f"--num-cpus={num_cpus}", "--num-gpus=0", f"--object-store-memory={object_store_bytes}",
        "--include-dashboard=false", "--include-log-monitor=false", "--no-monitor", "--disable-usage-stats",
        f"--ray-client-server-port={client_port}", "--dashboard-agent-listen-port=0",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    return argv, base | settings


def reap(instance: str, *, timeout_s: float = 10) -> int:
    """Kill every process that carries the instance's mark, and what they had started; return how many there were.

    Ends when none is left. Raises: TimeoutError: some process does not die (in an uninterruptible call).
    """
    killed: set[tuple[int, float]] = set()
    deadline = time.monotonic() + timeout_s
    while found := _marked(instance):
        for process in found:
            with contextlib.suppress(psutil.Error):
                # SIGSTOP first: a supervisor inside (raylet, ray start) must not start replacements meanwhile
                process.send_signal(signal.SIGSTOP)
        for process in found:
            with contextlib.suppress(psutil.Error):
                killed.add((process.pid, process.create_time()))
                process.kill()
        time.sleep(0.02)  # never `wait`: one of them may be the caller's own child, whose end is the caller's to take
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(found)} processes of Ray instance {instance} do not die")
    return len(killed)


def _marked(instance: str) -> list[psutil.Process]:
    mark = f"{RAY_MARKER}={instance}".encode()
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in found or process.pid == os.getpid():
            continue
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
            family = [process, *process.children(recursive=True)]
        except (OSError, psutil.Error):
            continue
        for member in family:
            with contextlib.suppress(psutil.Error):
                if member.status() != psutil.STATUS_ZOMBIE and member.pid != os.getpid():
                    found[member.pid] = member
    return list(found.values())
