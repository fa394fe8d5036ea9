"""Sentences that say with numbers why a job waits (DESIGN §2). They name nothing of another tenant (rule 9)."""

from __future__ import annotations

from collections.abc import Sequence

from factory.domain.jobs import Waiting, WaitReason
from factory.domain.resources import GIB, MIB, Resources

__all__ = ["counted", "described", "kinds", "listed", "number", "precedence", "slots", "vector", "waiting"]

_PRECEDENCE = {reason: place for place, reason in enumerate(WaitReason)}


def precedence(reason: WaitReason) -> int:
    """Return the rank of a reason; of several that hold, the one with the least is shown."""
    return _PRECEDENCE[reason]


def waiting(reason: WaitReason, message: str, hint: str = "", **numbers: int | str) -> Waiting:
    """Make a `Waiting` with its numbers sorted by name."""
    return Waiting(reason, message, hint, tuple(sorted(numbers.items())))


def number(milli: int) -> str:
    """Write thousandths as a decimal number.

    >>> number(3000), number(1250), number(-500)
    ('3', '1.25', '-0.5')
    """
    whole, rest = divmod(abs(milli), 1000)
    text = f"{whole}.{rest:03d}".rstrip("0").rstrip(".")
    return f"-{text}" if milli < 0 else text


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Write a count with its noun; `nouns` is a plural that is not regular.

    >>> counted(1, "node"), counted(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def slots(milli: int) -> str:
    """Write a number of slots."""
    return f"{number(milli)} slot" if milli == 1000 else f"{number(milli)} slots"


def vector(asked: Resources) -> str:
    """Write a resource vector.

    >>> vector(Resources(cpu_milli=1500, memory_bytes=2 * GIB))
    '1.5 cpu + 2 GiB'
    """
    parts: list[str] = []
    if asked.gpu_milli:
        parts.append(f"{number(asked.gpu_milli)} gpu")
    if asked.cpu_milli:
        parts.append(f"{number(asked.cpu_milli)} cpu")
    if asked.memory_bytes:
        gib = asked.memory_bytes % GIB == 0
        parts.append(f"{asked.memory_bytes // GIB} GiB" if gib else f"{-(-asked.memory_bytes // MIB)} MiB")
    return " + ".join(parts) or "nothing"


def described(asked: Resources, replicas: int, slots_milli: int) -> str:
    """Write what a gang needs: "3 slots (3 x 1 cpu)"."""
    return f"{slots(slots_milli)} ({replicas} x {vector(asked)})"


def kinds(resources: Resources) -> tuple[str, ...]:
    """Name the resources that are not zero."""
    named = (("gpu", resources.gpu_milli), ("cpu", resources.cpu_milli), ("memory", resources.memory_bytes))
    return tuple(name for name, amount in named if amount)


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
