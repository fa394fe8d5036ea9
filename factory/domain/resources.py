"""Resource vectors and thousandths of a slot.

Placement counts vectors and devices; quota, shares, usage and price count slots (DESIGN §2).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GIB", "MIB", "Resources", "slots_in", "slots_milli"]

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, order=True)
class Resources:
    """A vector of integers: thousandths of a CPU, bytes of memory, thousandths of a GPU."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu_milli: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_milli + other.cpu_milli, self.memory_bytes + other.memory_bytes, self.gpu_milli + other.gpu_milli
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_milli - other.cpu_milli, self.memory_bytes - other.memory_bytes, self.gpu_milli - other.gpu_milli
        )

    def __mul__(self, times: int) -> Resources:
        return Resources(self.cpu_milli * times, self.memory_bytes * times, self.gpu_milli * times)

    def fits_in(self, free: Resources) -> bool:
        """True if every component is at most that of `free`."""
        return (
            self.cpu_milli <= free.cpu_milli
            and self.memory_bytes <= free.memory_bytes
            and self.gpu_milli <= free.gpu_milli
        )

    def is_negative(self) -> bool:
        """True if any component is below zero."""
        return self.cpu_milli < 0 or self.memory_bytes < 0 or self.gpu_milli < 0


def slots_milli(asked: Resources, slot: Resources) -> int:
    """Return the thousandths of a slot that `asked` occupies: the largest share of any resource, rounded up.

    Raises: ValueError: a resource is asked for that the slot does not have at all.

    >>> slots_milli(Resources(cpu_milli=500, memory_bytes=GIB), Resources(cpu_milli=1000, memory_bytes=4 * GIB))
    500
    """
    worst = 0
    for want, have in (
        (asked.cpu_milli, slot.cpu_milli),
        (asked.memory_bytes, slot.memory_bytes),
        (asked.gpu_milli, slot.gpu_milli),
    ):
        if want == 0:
            continue
        if have == 0:
            raise ValueError("asked for a resource that the slot does not have")
        worst = max(worst, -(-want * 1000 // have))
    return worst


def slots_in(capacity: Resources, slot: Resources) -> int:
    """Return how many thousandths of a slot an amount makes: what its scarcest resource allows, never below zero.

    >>> slots_in(Resources(cpu_milli=8000, memory_bytes=16 * GIB), Resources(cpu_milli=1000, memory_bytes=4 * GIB))
    4000
    """
    pairs = (
        (capacity.cpu_milli, slot.cpu_milli),
        (capacity.memory_bytes, slot.memory_bytes),
        (capacity.gpu_milli, slot.gpu_milli),
    )
    return max(0, min((have * 1000 // each for have, each in pairs if each), default=0))
