"""The runner process: reads its join file, connects, runs, ends in order.

    factory runner --join-file F

The join file (0600, JSON) names everything; no secret is ever on a command line:

    url             of the control plane
    runner          this runner's name
    key_file        file with a key of role runner, at the same path on every node (it may appear later)
    key             or the key itself; the runner then keeps it as `runner.key` (0600) in node_dir
    ray_address     host:port of the cluster's GCS
    ray_token_path  the cluster's token file
    node_dir        folder of node data, the same path on every node
    pool, cpus, memory_reserve_bytes, ingress_port, ingress_host, stop_grace_s   optional
    isolation, tenant   optional: "shared" (default), or "tenant" and whose the whole cluster is; a later
                    `factory pools set` goes before it
    self_fence_s    optional: nodes end attempts that the control plane has not renewed for so long (default: never)
    memory_limits   optional: "auto" (by cgroup where a node can, else by its agent's watchdog) or "watchdog";
                    not there: the environment's FACTORY_MEMORY_LIMITS

It says that it is at work by the file `runner.ready` beside the join file. SIGTERM ends all attempts as FactoryStopped,
reports that, ends warm replicas, agents and the ingress, and exits 0. Exit code 3: another process is this runner now.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import factory
from factory.domain.pools import Isolation
from factory.errors import ConfigurationError, FactoryError
from factory.runner.keys import keep_key, wait_for_key
from factory.runner.ray_process import ray_client_env
from factory.schemas.pools import LEAST_FENCE_S
from factory.schemas.runner import JoinRequest
from factory.worker.http import Http

__all__ = ["JoinFile", "main", "read_join_file"]

log = logging.getLogger("factory.runner")

EXIT_STALE = 3


@dataclass(frozen=True, slots=True)
class JoinFile:
    """What the runner is told."""

    url: str
    runner: str
    key: str
    ray_address: str
    ray_token_path: Path
    node_dir: Path
    folder: Path  # of the join file: where `runner.ready` goes
    key_file: Path | None = None  # None = the key was given as such
    pool: str = ""
    cpus: int | None = None
    memory_reserve_bytes: int | None = None
    memory_limits: Literal["auto", "watchdog"] = "auto"
    ingress_port: int = 0  # 0 = a free one
    ingress_host: str = "127.0.0.1"
    isolation: Isolation = Isolation.SHARED
    tenant: str | None = None  # with isolation "tenant": whose the cluster is
    self_fence_s: int | None = None
    stop_grace_s: int = 2  # the most that jobs get when the factory is stopped in order; a person waits at Ctrl-C


def read_join_file(
    path: Path, *, ray_address: str | None = None, node_dir: Path | None = None, memory_limits: str | None = None
) -> JoinFile:
    """Read the file; arguments go before what it says, but for `memory_limits`, which is for one that says nothing.

    Raises: ConfigurationError: it is not there, readable by others, or something is missing or unknown.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path} is readable by others", hint=f"chmod 600 {path}")
        given: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the join file {path} cannot be read: {exc}") from exc
    given |= {k: v for k, v in {"ray_address": ray_address, "node_dir": node_dir}.items() if v}
    missing = [k for k in ("url", "runner", "ray_address", "ray_token_path", "node_dir") if not given.get(k)]
    if not given.get("key") and not given.get("key_file"):
        missing.append("key_file")
    if missing:
        raise ConfigurationError(f"the join file {path} does not name {', '.join(missing)}")
    limits = given.get("memory_limits") or memory_limits or "auto"
    if limits not in ("auto", "watchdog"):
        raise ConfigurationError(f"memory_limits is 'auto' or 'watchdog', not {limits!r}", hint=f"see {path}")
    key_file = None if given.get("key") else Path(given["key_file"]).resolve()
    return JoinFile(
        url=str(given["url"]),
        runner=str(given["runner"]),
        key=str(given["key"]) if key_file is None else wait_for_key(key_file),
        ray_address=str(given["ray_address"]),
        ray_token_path=Path(given["ray_token_path"]),
        node_dir=Path(given["node_dir"]).resolve(),
        folder=path.resolve().parent,
        key_file=key_file,
        pool=str(given.get("pool") or ""),
        cpus=given.get("cpus"),
        memory_reserve_bytes=given.get("memory_reserve_bytes"),
        memory_limits=limits,
        ingress_port=int(given.get("ingress_port") or 0),
        ingress_host=str(given.get("ingress_host") or "127.0.0.1"),
        isolation=_isolation(path, given),
        tenant=given.get("tenant"),
        self_fence_s=_self_fence(path, given.get("self_fence_s")),
        stop_grace_s=int(given.get("stop_grace_s", 2)),
    )


def _isolation(path: Path, given: Mapping[str, Any]) -> Isolation:
    """Return what the join file says. Raises: ConfigurationError: no such isolation, or tenant and it do not agree."""
    asked = given.get("isolation") or ("shared" if given.get("tenant") is None else "tenant")
    if asked not in set(Isolation):
        raise ConfigurationError(f"isolation is one of {', '.join(Isolation)}, not {asked!r}", hint=f"see {path}")
    if (asked == Isolation.TENANT) != (given.get("tenant") is not None):
        raise ConfigurationError(f"isolation '{asked}' and tenant {given.get('tenant')!r} do not agree in {path}")
    return Isolation(asked)


def _self_fence(path: Path, given: object) -> int | None:
    """Return what the join file says; 0 = off. Raises: ConfigurationError: no number of seconds that can be kept."""
    if given is None or given == 0:
        return None
    if not isinstance(given, int) or given < LEAST_FENCE_S:
        raise ConfigurationError(
            f"self_fence_s is at least {LEAST_FENCE_S}, or 0 = off, not {given!r}", hint=f"see {path}"
        )
    return given


def main(argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run until told to stop; ends the process itself once it was connected, else returns the exit code.

    Args:
        argv: --join-file F [--ray-address A] [--node-dir D]; None = this process's.
        env: `FACTORY_LOG_LEVEL` and `FACTORY_MEMORY_LIMITS` are read; None = this process's.
    """
    parser = argparse.ArgumentParser(prog="factory runner", description="Join one Ray cluster to the factory.")
    parser.add_argument("--join-file", type=Path, required=True)
    parser.add_argument("--ray-address", default=None)
    parser.add_argument("--node-dir", type=Path, default=None)
    options = parser.parse_args(argv)
    environ = os.environ if env is None else env
    level = environ.get("FACTORY_LOG_LEVEL", "INFO")
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        join = read_join_file(
            options.join_file,
            ray_address=options.ray_address,
            node_dir=options.node_dir,
            memory_limits=environ.get("FACTORY_MEMORY_LIMITS"),
        )
        _run(join)
    except FactoryError as exc:
        log.error("failed: %s", exc, extra={"event": "runner.failed", "code": exc.code})
        return 1


def _run(join: JoinFile) -> NoReturn:
    os.environ.update(ray_client_env(join.ray_token_path))
    # Ray reads its environment when it is imported
    from factory.runner.cluster import Cluster
    from factory.runner.fencing import Renewals
    from factory.runner.ingress.choice import choose_ingress, ensure_ingress_secret
    from factory.runner.keeping import IngressKeeper, ingress_port
    from factory.runner.link import Link
    from factory.runner.loop import RunnerLoop
    from factory.runner.nodes import NodeOptions

    ready = join.folder / "runner.ready"
    ready.unlink(missing_ok=True)
    join.node_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = NodeOptions(str(join.node_dir), join.pool, join.cpus, join.memory_reserve_bytes, join.memory_limits)
    ingress_dir = join.node_dir / "ingress"
    secret = ensure_ingress_secret(ingress_dir / "secret")
    key_file = join.key_file or keep_key(join.node_dir / "runner.key", join.key)
    cluster = Cluster(join.ray_address, options, url=join.url, key_file=key_file, release=factory.__version__)
    renewals = Renewals()
    loop = RunnerLoop(
        cluster, join.runner, join.url, ingress_secret=secret, stop_grace_s=join.stop_grace_s, renewals=renewals
    )
    port = ingress_port(ingress_dir, join.ingress_port)
    ingress = IngressKeeper(choose_ingress(ingress_dir, port, join.ingress_host, secret=secret))
    loop.ingress_url = ingress.start()
    cluster.connect()
    for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which sets handlers of its own
        signal.signal(number, lambda *_: loop.stop())
    nodes = loop.open()
    http = Http(join.url, join.key)

    def on_news() -> None:
        ingress.wish(link.desired)
        loop.wake()

    link = Link(http, join.runner, uuid.uuid4().hex, on_news, renewals)
    joined = link.join(
        JoinRequest(
            runner=join.runner,
            incarnation=link.incarnation,
            release=factory.__version__,
            ray_version=cluster.version(),
            ingress_url=loop.ingress_url,
            isolation=join.isolation,
            tenant=join.tenant,
            self_fence_s=join.self_fence_s,
            nodes=nodes,
        )
    )
    for note in joined.notes:
        log.warning("%s", note, extra={"event": "runner.not_as_asked"})
    log.info("joined", extra={"event": "runner.joined", "runner": join.runner, "nodes": len(nodes)})
    link.start()
    ready.write_text(str(os.getpid()))
    try:
        loop.run(link)
    finally:
        with contextlib.suppress(OSError):
            if ready.read_text() == str(os.getpid()):  # a newer process's word stays
                ready.unlink()
    if link.fatal is not None:
        log.error("%s", link.fatal, extra={"event": "runner.stale"})
        ingress.leave()
        _exit(EXIT_STALE)  # what lives here is the newer process's business
    loop.end()
    ingress.stop()
    link.close()
    log.info("ended", extra={"event": "runner.ended"})
    _exit(0)


def _exit(code: int) -> NoReturn:
    """End now. Ray's own way out, with calls still waiting in threads, ends now and then with a code of its own (1)."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
