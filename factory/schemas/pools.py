"""What an admin sets of a pool, on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from factory.domain.pools import Isolation
from factory.schemas.common import Name, WireModel
from factory.schemas.platform import NodeView

__all__ = ["LEAST_FENCE_S", "POLICIES", "Fence", "FenceReply", "PoolSettings"]

LEAST_FENCE_S = 20  # renewals come every 5 to 7 s, and a kill may take 10
POLICIES = ("fair", "fifo", "shortest", "least-attained-service")  # the first is the default
Fence = Annotated[int, Field(ge=LEAST_FENCE_S, le=86_400)]  # self_fence_s


class FenceReply(WireModel):
    """A node was fenced: the jobs whose attempts on it ended by it."""

    node: NodeView
    jobs: tuple[str, ...]


class PoolSettings(WireModel):
    """Change a pool (platform role); what is left out stays. An admin's word goes before the runner's join."""

    isolation: Isolation | None = None  # of the whole Ray cluster: every pool of the same runner gets it
    tenant: Name | None = None  # with isolation "tenant": whose it is
    self_fence_s: Literal[0] | Fence | None = None  # 0 = off
    policy: str | None = Field(
        default=None, max_length=63, description=f"In which order jobs get its slots: {', '.join(POLICIES)}."
    )
