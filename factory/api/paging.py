"""Pages of short lists: keyset cursors over a name or id, opaque to clients."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

from fastapi import Query

from factory.errors import InvalidRequestError
from factory.schemas.common import Page

__all__ = ["Cursor", "Limit", "page_of"]

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]


def page_of(items: Iterable[T], key: Callable[[T], str], *, cursor: str | None, limit: int) -> Page[T]:
    """Return the page of `items`, sorted by `key`, that begins after `cursor`.

    Raises: InvalidRequestError: not a cursor of ours.
    """
    after = _decode(cursor) if cursor else ""
    rest = sorted((i for i in items if key(i) > after), key=key)
    shown = tuple(rest[:limit])
    more = len(rest) > limit
    return Page(items=shown, next_cursor=_encode(key(shown[-1])) if more else None)


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> str:
    try:
        padded = (cursor + "=" * (-len(cursor) % 4)).encode()
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequestError(
            "this is not a cursor of this list", hint="take `next_cursor` of the last page, or begin without one"
        ) from exc
