"""Names inside MLflow are "<tenant>.<name>": added on the way in, taken off on the way out, enforced in filters."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["narrow", "own_only", "prefix", "strip_names", "walk"]

# a comparison of `name` with a quoted value, outside of other quoted values
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_NAME_TEST = re.compile(
    r"(?i)(?P<head>(?<![\w.`\"'])(?:attributes?\.)?[`\"]?name[`\"]?\s*(?:=|!=|\bi?like\b)\s*)(?P<quote>['\"])(?P<value>[^'\"]*)(?P=quote)"
)


def prefix(tenant: str) -> str:
    """Return what names of the tenant begin with. Tenant names hold no dot, so no prefix begins another."""
    return f"{tenant}."


def narrow(tenant: str, asked: str) -> str:
    """Return the search filter that holds for the tenant's names only. MLflow's filters know AND, and no OR.

    >>> narrow("mobility", "name = 'a' AND tags.k = 'v'")
    "name LIKE 'mobility.%' AND name = 'mobility.a' AND tags.k = 'v'"
    """
    own = f"name LIKE '{prefix(tenant)}%'"
    if not asked.strip():
        return own

    def prefixed(match: re.Match[str]) -> str:
        return f"{match['head']}{match['quote']}{prefix(tenant)}{match['value']}{match['quote']}"

    return f"{own} AND {_NAME_TEST.sub(prefixed, asked)}"


def strip_names(tenant: str, answer: Any, places: tuple[str, ...]) -> None:
    """Take the tenant's prefix off the names at `places` of a decoded answer, in place."""
    for place in places:
        *path, last = place.split(".")
        for holder in walk(answer, path):
            value = holder.get(last)
            if isinstance(value, str):
                holder[last] = value.removeprefix(prefix(tenant))


def own_only(tenant: str, answer: dict[str, Any]) -> None:
    """Drop list members whose name is not the tenant's: the second wall behind the narrowed filter."""
    for key in ("experiments", "registered_models", "model_versions"):
        if isinstance(answer.get(key), list):
            answer[key] = [e for e in answer[key] if str(e.get("name", "")).startswith(prefix(tenant))]


def walk(root: Any, path: list[str]) -> list[dict[str, Any]]:
    """Return the objects at a path whose steps are "key" or "key[]" (each member of a list).

    >>> walk({"a": [{"b": 1}, {"b": 2}]}, ["a[]"])
    [{'b': 1}, {'b': 2}]
    """
    found: list[Any] = [root]
    for step in path:
        key = step.removesuffix("[]")
        below = [f[key] for f in found if isinstance(f, dict) and key in f]
        found = [m for b in below if isinstance(b, list) for m in b] if step.endswith("[]") else below
    return [f for f in found if isinstance(f, dict)]
