"""The runner's door to Ray: connect, keep one agent per node, make and find replica actors.

Everything of ours on Ray is a detached, named, 0-CPU actor of the namespace `factory`: it outlives the runner, and the
next runner finds it by its name.

    agent:<ray node id>              one per node; Ray restarts it by itself, on the same node
    replica:<node id>:<replica id>   one per rank or warm; never restarted
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.errors import ConfigurationError
from factory.runner.agent import AgentView, NodeAgent
from factory.runner.cgroups import open_groups
from factory.runner.keys import wait_for_key
from factory.runner.nodes import NodeOptions, describe_node, node_identity
from factory.runner.processes import NODE_MARKER, REPLICA_MARKER
from factory.runner.ray_process import NAMESPACE, RAY_HOST
from factory.schemas.runner import NodeReport
from factory.worker.folders import NodeFolder
from factory.worker.http import Http
from factory.worker.ray import replica_class

__all__ = ["AgentActor", "AgentHandle", "Cluster", "ReplicaHandle"]

log = logging.getLogger(__name__)

_CONNECT_S = 60.0
_AGENT_START_S = 40.0
_AGENT_END_S = 5.0
_KEY_WAIT_S = 5.0  # the runner has read its file already; on another node it may be on its way
_THREADS = 8  # of an agent: one call waits for news, others kill and notify meanwhile


class AgentActor:
    """The node agent as Ray runs it."""

    def __init__(
        self, options: NodeOptions, url: str, key_file: Path, host: str, ray_node_id: str, release: str
    ) -> None:
        """Ray keeps these arguments where job code can read them: the key's path is among them, never the key."""
        node_dir = Path(options.node_dir)
        node_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        node_id = node_identity(node_dir)
        self._release = release
        folder = NodeFolder(node_dir / node_id)
        folder.create()
        groups = open_groups(node_id, folder, options.memory_limits)
        self._report = describe_node(node_id, options, host=host, ray_node_id=ray_node_id, memory_limits=groups.limits)
        http = Http(url, wait_for_key(key_file, wait_s=_KEY_WAIT_S))
        self._agent = NodeAgent(node_id, folder.root, http, groups)
        self._agent.start()

    def describe(self) -> tuple[NodeReport, str, int]:
        """Return the node, the release of this agent's code, and its pid."""
        return self._report, self._release, os.getpid()

    def observe(self, after: int, wait_s: float) -> AgentView:
        """See `NodeAgent.observe`."""
        return self._agent.observe(after, wait_s)

    def look(self) -> AgentView:
        """See `NodeAgent.look`."""
        return self._agent.look()

    def notify_stop(self, attempt: str, rank: int, reason: str, at: int) -> None:
        """See `NodeAgent.notify_stop`."""
        self._agent.notify_stop(attempt, rank, reason, at)

    def kill(self, replica: str, why: str) -> bool:
        """See `NodeAgent.kill`."""
        return self._agent.kill(replica, why)

    def forbid(self, attempt: str, ranks: list[int]) -> list[int]:
        """See `NodeAgent.forbid`."""
        return self._agent.forbid(attempt, ranks)

    def forget(self, replica: str) -> None:
        """See `NodeAgent.forget`."""
        self._agent.forget(replica)

    def challenge(self) -> float:
        """See `NodeFence.challenge`."""
        return self._agent.fence.challenge()

    def renew(self, asked_at: float) -> None:
        """See `NodeFence.renew`."""
        self._agent.fence.renew(asked_at)

    def end(self) -> None:
        """See `NodeAgent.end`."""
        self._agent.end()


@dataclass(frozen=True, slots=True)
class AgentHandle:
    """A node's agent that has answered."""

    report: NodeReport
    actor: Any  # ray.actor.ActorHandle
    folder: Path  # of the node, on the node
    pid: int

    def call(self, method: str, *args: object, timeout_s: float) -> Any:
        """Call and wait. Raises: RayError: it died, restarts, or did not answer in time."""
        return ray.get(getattr(self.actor, method).remote(*args), timeout=timeout_s)

    def ask(self, method: str, on_answer: Callable[[object], None]) -> None:
        """Call and do not wait; `on_answer` gets what comes back, in a thread of Ray's. No answer: it is not called."""

        def done(future: Any) -> None:
            if future.exception() is None:
                on_answer(future.result())

        with contextlib.suppress(RayError):
            getattr(self.actor, method).remote().future().add_done_callback(done)

    def tell(self, method: str, *args: object) -> None:
        """Call and do not wait: the next look shows what came of it."""
        with contextlib.suppress(RayError):
            getattr(self.actor, method).remote(*args)


@dataclass(frozen=True, slots=True)
class ReplicaHandle:
    """A replica actor; it may not be up yet, and may be gone."""

    id: str
    node: str
    actor: Any

    def watch(self, on_death: Callable[[], None]) -> None:
        """Call `on_death` if the actor cannot be made or dies before it is up."""

        def done(future: Any) -> None:
            if future.exception() is not None:
                on_death()

        self.actor.pid.remote().future().add_done_callback(done)

    def begin(self, order_json: str, on_death: Callable[[], None]) -> None:
        """Hand over the order. The call ends only by the death of the process, which is how every attempt ends."""
        future = self.actor.begin.remote(order_json).future()
        future.add_done_callback(lambda f: (f.exception(), on_death()))

    def kill(self) -> None:
        """Let Ray give the actor up, also one that is not up yet."""
        with contextlib.suppress(Exception):  # it may be gone, and then it is as we want it
            ray.kill(self.actor, no_restart=True)


class Cluster:
    """One Ray cluster."""

    def __init__(self, address: str, options: NodeOptions, *, url: str, key_file: Path, release: str) -> None:
        self._address = address
        self._options = options
        self._url = url
        self._key_file = key_file
        self._release = release
        self._agents: dict[str, AgentHandle] = {}  # by Ray's node id
        self._replica_class = replica_class()
        # its stubs know no max_concurrency for classes
        options_of_agents: dict[str, Any] = {"max_restarts": -1, "num_cpus": 0, "max_concurrency": _THREADS}
        self._agent_class: Any = ray.remote(**options_of_agents)(AgentActor)

    def connect(self) -> None:
        """Join the cluster as a driver. RAY_AUTH_MODE and the token's path are in the environment already.

        Raises: ConfigurationError: there is no cluster at the address within a minute, or it refuses the token.
        """
        host, _, port = self._address.rpartition(":")
        deadline = time.monotonic() + _CONNECT_S
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                local: dict[str, Any] = {"_node_ip_address": RAY_HOST} if host in ("127.0.0.1", RAY_HOST) else {}
                ray.init(
                    address=self._address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False, **local
                )
                _silence_reports_of_deaths()
                return
            except Exception as exc:  # Ray raises many kinds while its head comes up
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"no Ray at {self._address}: {type(exc).__name__}: {str(exc)[:200]}",
                        hint="is its head up, and the token file the head's own?",
                    ) from exc
                time.sleep(0.2)

    @staticmethod
    def version() -> str:
        """Return Ray's version."""
        return ray.__version__

    def agents(self) -> tuple[tuple[AgentHandle, ...], tuple[str, ...]]:
        """Make sure that every living node has an agent; return those that answer, and the ids of dead nodes."""
        alive: set[str] = set()
        for node in ray.nodes():
            if node["Alive"]:
                alive.add(node["NodeID"])
                if node["NodeID"] not in self._agents:
                    try:
                        self._agents[node["NodeID"]] = self._agent(node["NodeID"], node["NodeManagerAddress"])
                    except RayError as exc:  # it is tried again at the next look
                        where = node["NodeManagerAddress"]
                        log.warning("no agent on %s yet: %s", where, exc, extra={"event": "agent.not_started"})
        living = {a.report.id for ray_id, a in self._agents.items() if ray_id in alive}
        dead = [a.report.id for ray_id, a in self._agents.items() if ray_id not in alive]
        self._agents = {ray_id: agent for ray_id, agent in self._agents.items() if ray_id in alive}
        return tuple(self._agents.values()), tuple(sorted(set(dead) - living))

    def _agent(self, ray_node_id: str, address: str) -> AgentHandle:
        name = f"agent:{ray_node_id}"
        host = "127.0.0.1" if address.startswith("127.") else address
        strategy = NodeAffinitySchedulingStrategy(ray_node_id, soft=False)
        args = (self._options, self._url, self._key_file, host, ray_node_id, self._release)
        while True:
            actor = self._agent_class.options(
                name=name, lifetime="detached", get_if_exists=True, scheduling_strategy=strategy
            ).remote(*args)
            report, release, pid = ray.get(actor.describe.remote(), timeout=_AGENT_START_S)
            if release == self._release:
                return AgentHandle(report, actor, Path(self._options.node_dir) / report.id, pid)
            log.info("replacing an agent of release %s", release, extra={"event": "agent.replaced"})
            ray.kill(actor, no_restart=True)
            time.sleep(0.2)

    def create_replica(self, agent: AgentHandle) -> ReplicaHandle:
        """Ask Ray for a replica on the agent's node; returns at once."""
        replica = f"r{time.time_ns() // 1_000_000:012x}{secrets.token_hex(3)}"
        actor = self._replica_class.options(
            name=f"replica:{agent.report.id}:{replica}",
            lifetime="detached",
            scheduling_strategy=NodeAffinitySchedulingStrategy(agent.report.ray_node_id, soft=False),
            runtime_env={"env_vars": {REPLICA_MARKER: replica, NODE_MARKER: agent.report.id, "OMP_NUM_THREADS": "1"}},
        ).remote(str(agent.folder), replica)
        return ReplicaHandle(replica, agent.report.id, actor)

    def find_replicas(self) -> tuple[ReplicaHandle, ...]:
        """Return the replicas that Ray knows, also those that are not up yet."""
        found: list[ReplicaHandle] = []
        for name in sorted(list_named_actors()):
            if name.startswith("replica:"):
                _, node, replica = name.split(":", 2)
                with contextlib.suppress(ValueError):  # it went meanwhile
                    found.append(ReplicaHandle(replica, node, ray.get_actor(name, namespace=NAMESPACE)))
        return tuple(found)

    def end_agents(self) -> None:
        """End the agents, and by them what is left of their replicas: the factory ends."""
        for agent in self._agents.values():
            with contextlib.suppress(Exception):
                agent.call("end", timeout_s=_AGENT_END_S)
            with contextlib.suppress(Exception):
                ray.kill(agent.actor, no_restart=True)


def _silence_reports_of_deaths() -> None:
    """Every replica ends by the death of its process; Ray prints a paragraph of advice on each."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):  # there is no public way; without it there is only noise
        worker.print_to_stdstream = lambda *_args, **_kwargs: None
