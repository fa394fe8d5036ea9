"""What the runner remembers beside what agents show: what it asked Ray for and has not seen yet.

`Memory.look` joins both into the `FoundState` that `lifecycle.reconcile` decides on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from factory.domain.ids import AttemptId, NodeId
from factory.lifecycle.reconciling import FoundNode, FoundReplica, FoundState, Process, ReplicaId
from factory.runner.agent import AgentView, ReplicaView

__all__ = ["Asked", "Memory"]


@dataclass(slots=True)
class Asked:
    """A replica that this runner asked Ray for, found on Ray, or gave an order to."""

    id: str
    node: str
    attempt: str | None = None
    rank: int = 0
    was_seen: bool = False  # an agent has shown it
    failed_look: int | None = None  # Ray says it is dead: number of the node's look at that time


class Memory:
    """One thread at a time."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._gone_at: dict[str, int] = {}
        self._notified_at: dict[tuple[str, int], int] = {}
        self._killed: set[str] = set()
        self._started: set[AttemptId] = set()

    def ask(self, replica: str, node: str, attempt: str | None = None, rank: int = 0) -> None:
        """Note that a replica was asked for, or that a warm one got an order."""
        known = self._asked.setdefault(replica, Asked(replica, node))
        if attempt is not None:
            known.attempt, known.rank = attempt, rank
            self._started.add(AttemptId(attempt))

    def failed(self, replica: str, look: int) -> None:
        """Note that Ray says a replica is dead; only a later look of its node proves it."""
        if replica in self._asked and self._asked[replica].failed_look is None:
            self._asked[replica].failed_look = look

    def notified(self, attempt: str, rank: int, at: int) -> None:
        """Note that the notice to stop went out."""
        self._notified_at.setdefault((attempt, rank), at)

    def killed(self, replica: str) -> None:
        """Note that its kill was ordered."""
        self._killed.add(replica)

    def forget(self, replica: str) -> None:
        """Drop a replica whose evidence is dropped."""
        self._asked.pop(replica, None)
        self._gone_at.pop(replica, None)
        self._killed.discard(replica)

    def keep_only(self, attempts: Iterable[str]) -> None:
        """Drop what is remembered of attempts that are neither desired nor there any more."""
        wanted = set(attempts) | {a.attempt for a in self._asked.values() if a.attempt is not None}
        self._notified_at = {key: at for key, at in self._notified_at.items() if key[0] in wanted}
        self._started = {attempt for attempt in self._started if attempt in wanted}

    def look(self, views: Mapping[str, AgentView], reachable: set[str], now: int) -> FoundState:
        """Return what there is. `views`: the newest of each node, also of those that do not answer now."""
        shown = {view.id: (node, view) for node, whole in views.items() for view in whole.replicas}
        claimed: dict[tuple[str | None, int], str] = {
            (view.attempt, view.rank): view.id for _, view in shown.values() if view.attempt is not None
        }
        found = [self._found(node, view, claimed, now) for node, view in shown.values()]
        for asked in list(self._asked.values()):
            if asked.id in shown:
                asked.was_seen = True
                continue
            if claimed.get((asked.attempt, asked.rank), asked.id) != asked.id:
                continue  # another process serves its rank
            look = views[asked.node].look if asked.node in views else -1
            is_gone = asked.was_seen or (asked.failed_look is not None and look > asked.failed_look)
            found.append(
                FoundReplica(
                    id=ReplicaId(asked.id),
                    node=NodeId(asked.node),
                    process=Process.GONE if is_gone else Process.STARTING,
                    attempt=None if asked.attempt is None else AttemptId(asked.attempt),
                    rank=asked.rank,
                    killed=asked.id in self._killed,
                    gone_at=self._gone_at.setdefault(asked.id, now) if is_gone else None,
                )
            )
        nodes = tuple(FoundNode(NodeId(node), reachable=node in reachable) for node in sorted(views))
        return FoundState(nodes, tuple(sorted(found, key=lambda r: r.id)), frozenset(self._started))

    def _found(
        self, node: str, view: ReplicaView, claimed: Mapping[tuple[str | None, int], str], now: int
    ) -> FoundReplica:
        attempt, rank = view.attempt, view.rank
        asked = self._asked.get(view.id)
        if attempt is None and asked is not None and (asked.attempt, asked.rank) not in claimed:
            attempt, rank = asked.attempt, asked.rank  # its order is under way
        is_dead = view.process in (Process.LEFTOVER, Process.GONE)
        return FoundReplica(
            id=ReplicaId(view.id),
            node=NodeId(node),
            process=view.process,
            attempt=None if attempt is None else AttemptId(attempt),
            rank=rank,
            began=view.began,
            notified_at=view.notified_at or self._notified_at.get((attempt or "", rank)),
            killed=view.killed or (view.id in self._killed and view.outcome is None),
            gone_at=self._gone_at.setdefault(view.id, now) if is_dead else None,
            outcome=view.outcome if is_dead else None,
            code_digest=view.code_digest,
        )
