"""Pools, nodes and runners: what runners report, what people see, drain."""

from __future__ import annotations

from collections.abc import Sequence

from factory.domain.ids import NodeId, RunnerId
from factory.domain.pools import Node, Runner
from factory.domain.tenancy import Principal
from factory.domain.time import Instant
from factory.errors import ConflictError
from factory.pools.ports import FleetStore, PoolReader, PoolTx
from factory.schemas.platform import NodeView, PoolView
from factory.schemas.runner import JoinRequest, NodeReport

__all__ = ["PoolService", "StaleRunnerError", "apply_nodes", "current_runner"]


class StaleRunnerError(ConflictError):
    """A newer process of this runner has joined: this one must stop."""

    code = "stale_runner"


def current_runner(reader: PoolReader, runner: RunnerId, incarnation: str) -> Runner:
    """Return the runner if `incarnation` is the present one. Raises: StaleRunnerError."""
    ...


def apply_nodes(tx: PoolTx, runner: Runner, reports: Sequence[NodeReport], now: Instant) -> tuple[Node, ...]:
    """Make pools and nodes what the runner reports: `reports` is the whole list of its nodes.

    A new pool or node is made; a node that is missing or not alive becomes LOST (never removed: its attempts are not
    proven dead); one that was LOST and reports again is READY; DRAINING stays. Returns the nodes that changed.
    """
    ...


class PoolService:
    """What there is to share."""

    def __init__(self, store: FleetStore) -> None: ...

    def join(self, principal: Principal, request: JoinRequest, *, now: Instant) -> Runner:
        """A runner process starts (role runner or platform). Raises: InvalidRequestError: it speaks another protocol."""
        ...

    def heard(self, tx: PoolTx, runner: RunnerId, incarnation: str, now: Instant, *, ingress_url: str | None) -> Runner:
        """Note a sign of life. Raises: StaleRunnerError."""
        ...

    def list_pools(self, principal: Principal) -> tuple[PoolView, ...]: ...

    def list_nodes(self, principal: Principal) -> tuple[NodeView, ...]: ...

    def drain(self, principal: Principal, node: NodeId, *, now: Instant) -> NodeView:
        """Let it finish what it has and take nothing new (platform role). Raises: NotFoundError, ConflictError: lost."""
        ...

    def undrain(self, principal: Principal, node: NodeId, *, now: Instant) -> NodeView:
        """Let it take work again (platform role)."""
        ...
