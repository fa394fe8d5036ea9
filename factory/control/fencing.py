"""How long lost nodes have been lost without a renewal, as one leader saw it: the proof "self-fence" (DESIGN §2).

Time alone is never proof. This is: in a pool with `self_fence_s`, nodes end each attempt that was not renewed so long
by their own clocks, a node is renewed only by a report that says that it lives, and such a report makes a lost node
ready again. So a node that stayed lost for twice `self_fence_s` runs no attempt of that pool any more.

- P1 Counted from when this leader first saw the node lost; any sign of life of it in between begins the count anew.
- P2 The count never runs faster than time does: the wall clock may jump, so that between two looks at most `STEP_MS`
  are counted. A new leader begins anew. Both only make the proof later.
- P3 An attempt is dead when each of its nodes is. Another of its ranks on a living node keeps it unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from factory.domain.events import AttemptEnded
from factory.domain.ids import NodeId, PoolName
from factory.domain.jobs import AttemptState, EndReason, Job, Outcome
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.time import SECOND, Instant

__all__ = ["PROOF", "STEP_MS", "FenceWatch", "dead_by_fence"]

PROOF = "self-fence"
STEP_MS = 5 * SECOND  # the loop looks more often; a longer gap was a stall or a jump of the clock


@dataclass(frozen=True, slots=True)
class _Loss:
    """A node that is lost, since when it has not given a sign of life, and how much time was counted since."""

    seen_at: Instant
    counted_ms: int


class FenceWatch:
    """Kept by a leader's loop; lost with it."""

    def __init__(self) -> None:
        self._losses: dict[NodeId, _Loss] = {}
        self._looked_at: Instant | None = None

    def look(self, nodes: Iterable[Node], now: Instant) -> None:
        """Count on. `nodes`: all that are in pools with a fence."""
        step = 0 if self._looked_at is None else min(max(now - self._looked_at, 0), STEP_MS)
        self._looked_at = now
        before, self._losses = self._losses, {}
        for node in nodes:
            if node.state is not NodeState.LOST:
                continue
            known = before.get(node.id)
            counted = known.counted_ms + step if known is not None and known.seen_at == node.seen_at else 0
            self._losses[node.id] = _Loss(node.seen_at, counted)

    def is_dead(self, node: Node, fence_s: int) -> bool:
        """True if nothing of a pool with that fence lives on the node (rules P1, P2)."""
        loss = self._losses.get(node.id)
        if loss is None or node.state is not NodeState.LOST or node.seen_at != loss.seen_at:
            return False
        return loss.counted_ms >= 2 * fence_s * SECOND


def dead_by_fence(
    job: Job, pools: dict[PoolName, Pool], nodes: dict[NodeId, Node], watch: FenceWatch, now: Instant
) -> AttemptEnded | None:
    """Return the end of the job's unknown attempt if its nodes' fences prove it (rule P3)."""
    live = job.live_attempt
    if live is None or live.state is not AttemptState.UNKNOWN:
        return None
    pool = pools.get(live.allocation.pool)
    if pool is None or pool.self_fence_s is None:
        return None
    where = [nodes.get(placement.node) for placement in live.allocation.placements]
    if not all(node is not None and watch.is_dead(node, pool.self_fence_s) for node in where):
        return None
    names = ", ".join(sorted({placement.node for placement in live.allocation.placements}))
    why = f"{names} was lost for twice the {pool.self_fence_s} s after which it ends attempts by itself (self-fence)"
    return AttemptEnded(now, live.id, Outcome(EndReason.NODE_LOST, why), PROOF)
