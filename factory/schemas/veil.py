"""What of a reason a caller may read (rule 9): the kernel sees every tenant, and whoever asks sees its own.

Queues and jobs of other tenants lose their names in sentences and numbers; what they hold together may be told, since
a pool shows it anyway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from factory.domain.jobs import Waiting

__all__ = ["OTHERS", "Veil"]

OTHERS = "other departments"
_QUEUE = re.compile(r"\bqueue ['`](?P<name>[a-z0-9-]+)['`]")
_NAME = re.compile(r"(?P<before>\b\w+ )?['`](?P<name>[a-z0-9-]+)['`]")
_SAME = re.compile(rf"{OTHERS}(?:(?:, | and ){OTHERS})+")  # of several one is enough
_JOB = re.compile(r"\bjob-[0-9a-z~-]*[0-9a-z~]")
_NO_QUEUE = ("pool ", "flavor ", "node ", "zone ", "model ", "dataset ", "tenant ")  # names of other kinds, as they are


@dataclass(frozen=True, slots=True)
class Veil:
    """Hides what is not the caller's.

    Args:
        queues: names of the queues that the caller may not see.
        hides_job: True for ids of jobs that the caller may not see.
    """

    queues: Collection[str]
    hides_job: Callable[[str], bool]

    def over(self, text: str) -> str:
        """Return the sentence as the caller may read it."""
        text = _QUEUE.sub(lambda m: f"a queue of {OTHERS}" if m["name"] in self.queues else m[0], text)
        text = _SAME.sub(OTHERS, _NAME.sub(self._named, text))
        return _JOB.sub(lambda m: f"a job of {OTHERS}" if self.hides_job(m[0]) else m[0], text)

    def waiting(self, waiting: Waiting) -> Waiting:
        """Return the reason as the caller may read it."""
        numbers = tuple((name, self._number(name, value)) for name, value in waiting.numbers)
        return replace(waiting, message=self.over(waiting.message), hint=self.over(waiting.hint), numbers=numbers)

    def _named(self, match: re.Match[str]) -> str:
        before = match["before"] or ""
        if before in _NO_QUEUE or match["name"] not in self.queues:
            return match[0]
        return f"{before}{OTHERS}"

    def _number(self, name: str, value: int | str) -> int | str:
        if not isinstance(value, str) or f"{name} " in _NO_QUEUE:
            return value
        return OTHERS if value in self.queues or self.hides_job(value) else value
