"""Renewals from the control plane to the nodes, and the agent's half of the self-fence (worker/fencing.py).

A renewal must never seem younger than the control plane's answer that it stands for. So the agent dates it:

1. the runner asks each agent for a challenge: the node's clock now;
2. the challenges at hand go with the next report that says of their nodes that they live;
3. when the control plane has taken that report, each agent gets its own challenge back: from that moment of its own
   clock it counts anew.

The report matters, not any call: the same transaction that answers it writes that the node lives, and what the control
plane counts from is the last such word. A node that the report calls dead is not renewed, whatever it answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from factory.worker.fencing import boot_clock, fenced_message, renewed_at, write_renewal
from factory.worker.folders import NodeFolder, RankFolder
from factory.worker.orders import ReplicaOrder

__all__ = ["Challenged", "NodeFence", "Renewals"]

log = logging.getLogger(__name__)

_ASK_EVERY_S = 1.5  # the younger the challenge that goes with a report, the longer the renewal counts


class Challenged(Protocol):
    """An agent, as renewals need it (`runner.cluster.AgentHandle`)."""

    def ask(self, method: str, on_answer: Callable[[object], None]) -> None: ...

    def tell(self, method: str, *args: object) -> None: ...


class NodeFence:
    """The agent's watch: which ranks on this node have outlived their renewals."""

    def __init__(self, node: NodeFolder, clock: Callable[[], float] = boot_clock) -> None:
        self._node = node
        self._clock = clock
        # in memory, so that no job moves it; the file is for replicas, and for the agent that follows
        self._renewed_at = renewed_at(node)
        self._fences: dict[str, int] = {}  # rank folder -> self_fence_s, 0 = none; read before it could be changed

    def challenge(self) -> float:
        """Return the node's clock, for the next renewal."""
        return self._clock()

    def renew(self, asked_at: float) -> None:
        """Take a renewal; a late one, asked for before the last, changes nothing."""
        if self._renewed_at is None or asked_at > self._renewed_at:
            self._renewed_at = min(asked_at, self._clock())
            write_renewal(self._node, self._renewed_at)

    def overdue(self, folder: RankFolder) -> str | None:
        """Return why the rank must end now; None if it may go on."""
        fence_s = self._fence(folder)
        if not fence_s or (self._renewed_at is not None and self._clock() - self._renewed_at <= fence_s):
            return None
        return fenced_message(fence_s)

    def forget(self, folder: RankFolder) -> None:
        """Drop what is known of a rank."""
        self._fences.pop(str(folder.path), None)

    def _fence(self, folder: RankFolder) -> int:
        key = str(folder.path)
        if key not in self._fences:
            try:
                order = ReplicaOrder.model_validate_json(folder.order.read_bytes())
            except (OSError, ValueError):
                return 0  # not written yet: the replica looks for itself before it writes it
            self._fences[key] = order.self_fence_s or 0
        return self._fences[key]


class Renewals:
    """The runner's part: challenges in, renewals out. Off until `is_on`: most pools have no fence."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # answers come in threads of Ray's, reports in the link's
        self._agents: Mapping[str, Challenged] = {}
        self._asked: dict[str, float] = {}
        self._answers: dict[str, float] = {}  # node -> its newest challenge
        self._given: dict[str, float] = {}  # node -> when it was renewed last, by this process's clock
        self.is_on = False

    def ask(self, agents: Mapping[str, Challenged]) -> None:
        """Ask the agents that can be reached for a challenge each, without waiting."""
        with self._lock:
            self._agents = dict(agents)
            if not self.is_on:
                return
            now = self._clock()
            due = [n for n in sorted(agents) if now - self._asked.get(n, -1e9) >= _ASK_EVERY_S]
            self._asked |= dict.fromkeys(due, now)
        for node in due:
            agents[node].ask("challenge", lambda answer, node=node: self._answered(node, answer))

    def take(self, alive: Iterable[str]) -> dict[str, float]:
        """Return the challenges that a report which is about to be sent stands for: those of nodes it calls alive."""
        with self._lock:
            return {node: self._answers.pop(node) for node in sorted(alive) if node in self._answers}

    def give(self, taken: Mapping[str, float]) -> None:
        """The control plane took that report: renew."""
        with self._lock:
            agents = [(node, self._agents[node], at) for node, at in taken.items() if node in self._agents]
            now = self._clock()
            self._given |= {node: now for node, _, _ in agents}
        for _, agent, at in agents:
            agent.tell("renew", at)

    def is_fresh(self, node: str, fence_s: int) -> bool:
        """True if the node was renewed so lately that an attempt may begin there."""
        with self._lock:
            return self._clock() - self._given.get(node, -1e9) < fence_s / 2

    def _answered(self, node: str, answer: object) -> None:
        if isinstance(answer, float):
            with self._lock:
                self._answers[node] = max(answer, self._answers.get(node, answer))
