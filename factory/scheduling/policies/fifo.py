"""`fifo`: first come, first served, across all queues of the pool.

Rules (docs/adr/0010)
    O1  The key is the time of submission less six hours for each priority class, as `fair` (rule F1), but it decides
        between queues, too: there are no turns.
    O2  Nobody is preempted. Quotas hold as everywhere.
"""

from __future__ import annotations

from factory.scheduling.policies.fair import Fair
from factory.scheduling.policies.order import Key

__all__ = ["Fifo"]


class Fifo(Fair):
    """See the module."""

    name = "fifo"
    shares = False
    reclaims = False

    def yields(self, waiting: Key, running: Key) -> bool:
        """Rule O2."""
        return False
