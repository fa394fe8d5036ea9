"""The policies by name."""

from __future__ import annotations

from collections.abc import Mapping

from factory.scheduling.policies.fair import Fair
from factory.scheduling.policies.fifo import Fifo
from factory.scheduling.policies.least_attained_service import LeastAttainedService
from factory.scheduling.policies.order import Order
from factory.scheduling.policies.shortest import Shortest

__all__ = ["DEFAULT", "POLICIES", "policy_named"]

DEFAULT = Fair()
POLICIES: Mapping[str, Order] = {order.name: order for order in (DEFAULT, Fifo(), Shortest(), LeastAttainedService())}


def policy_named(name: str) -> Order:
    """Return the policy; a name that this release does not know counts as the default."""
    return POLICIES.get(name, DEFAULT)
