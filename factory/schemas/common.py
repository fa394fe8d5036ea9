"""What every wire model shares: strictness, problems, pages, units.

Wire models refuse unknown fields and are built on first use, so that importing them costs little.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from factory.domain.ids import NAME_PATTERN

__all__ = [
    "API",
    "LONGEST_S",
    "PROTOCOL",
    "Memory",
    "Name",
    "Number",
    "Page",
    "Problem",
    "WireModel",
    "parse_memory",
]

API = "/api/v1"
PROTOCOL = 1  # of the runner and worker protocol; a runner names the one it speaks when it joins

LONGEST_S = 10 * 366 * 24 * 3600  # of any time that is asked for, s

T = TypeVar("T")
_UNITS = {"": 1, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MOST_BYTES = 1 << 60


def parse_memory(value: object) -> int:
    """Return bytes for an integer or for text such as "512MiB", "4Gi", "1.5 GB".

    Raises: ValueError: not a size.

    >>> parse_memory("1.5GiB")
    1610612736
    """
    # bounded: what comes after adds, stores and prints it, and some of that has an end (float, SQL, str of an int)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_BYTES:
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,19}(?:\.\d{1,19})?)\s*([kmgt]?i?)b?\s*", value.lower())
        if match and match[2] in _UNITS and (size := int(float(match[1]) * _UNITS[match[2]])) <= _MOST_BYTES:
            return size
    raise ValueError(f"'{str(value)[:40]}' is not a memory size; write bytes or text such as '512MiB' or '4GiB'")


Memory = Annotated[int, BeforeValidator(parse_memory)]  # bytes
Number = Annotated[int, Field(ge=0, lt=2**31)]  # of a version; what a database column holds
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class WireModel(BaseModel):
    """Base of all: frozen, no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, protected_namespaces=())


class Problem(WireModel):
    """RFC 9457 problem: `code` is stable, `hint` says what to do next."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    request_id: str = ""
    facts: dict[str, Any] = {}


class Page(WireModel, Generic[T]):
    """One page of a list; ask again with `cursor=next_cursor` while it is not None."""

    items: tuple[T, ...]
    next_cursor: str | None = None
