"""What the parts of a conformance suite share.

A suite is a class; each public method is one behaviour of the port, named as a sentence, and fails by AssertionError.
It is made anew, with a fresh adapter, for every behaviour.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["behaviours_of", "refused"]


def behaviours_of(suite: type[Any]) -> dict[str, Callable[[Any], None]]:
    """The behaviours of a suite class by name, in the order they are written."""
    return {
        name: member for name, member in vars(suite).items() if inspect.isfunction(member) and not name.startswith("_")
    }


@contextmanager
def refused(error: type[Exception]) -> Iterator[None]:
    """The block must raise `error`."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was expected, nothing was raised")
