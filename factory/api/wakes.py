"""Wakes: from commits in any thread to waiting coroutines, without polling.

A commit rings the bell; the feed follower reads what changed and publishes topics; long polls wait on theirs. Losing a
wake costs only time: every wait has an end, after which the state is read again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType

from factory.control.ports import ControlStore, FeedEntry, FeedKind
from factory.errors import FactoryError

__all__ = ["Bell", "FeedFollower", "Hub", "Subscription", "job_topic", "logs_topic"]

_log = logging.getLogger(__name__)
FLEET = "fleet"  # anything that may change what a runner shall do
_FALLBACK_S = 1.0  # commits of other processes (PostgreSQL) ring no bell here


def job_topic(job: str) -> str:
    """Topic of one job's row and progress."""
    return f"job:{job}"


def logs_topic(attempt: str) -> str:
    """Topic of one attempt's log."""
    return f"logs:{attempt}"


class Bell:
    """A thread waits, others ring. Rings between two waits are one."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._rung.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a ring; True if there was one."""
        rung = self._rung.wait(timeout_s)
        self._rung.clear()
        return rung


class Hub:
    """Topics and who waits on them. Subscribe inside the event loop, publish anywhere."""

    def __init__(self, nap_s: float = 25.0) -> None:
        self.nap_s = nap_s  # the longest wait of a waiter before it looks again by itself
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._closed = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver in this loop from now on."""
        self._loop = loop

    def close(self) -> None:
        """Wake everybody, now and from now on: the server drains."""
        self._closed = True
        self.publish(list(self._waiting))

    @property
    def is_closed(self) -> bool:
        """True once the server drains: answer long polls with what there is."""
        return self._closed

    def publish(self, topics: Iterable[str]) -> None:
        """Wake all who wait on one of the topics. From any thread."""
        with self._lock:
            first = not self._pending
            self._pending.update(topics)
            if not first or not self._pending or self._loop is None:
                return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop has ended: nobody waits any more
            _log.debug("wake after the end", extra={"event": "hub.late"})

    def _deliver(self) -> None:
        with self._lock:
            topics, self._pending = self._pending, set()
        for topic in topics:
            for subscription in self._waiting.get(topic, ()):
                subscription.event.set()

    def subscribe(self, *topics: str) -> Subscription:
        """Return a context manager; subscribe before reading the state, so that no change falls between."""
        return Subscription(self, topics)

    def add(self, subscription: Subscription) -> None:
        for topic in subscription.topics:
            self._waiting[topic].add(subscription)

    def remove(self, subscription: Subscription) -> None:
        for topic in subscription.topics:
            self._waiting[topic].discard(subscription)
            if not self._waiting[topic]:
                del self._waiting[topic]


class Subscription:
    """One waiter's topics; topics may be added while it waits for none."""

    def __init__(self, hub: Hub, topics: tuple[str, ...]) -> None:
        self._hub = hub
        self.topics = topics
        self.event = asyncio.Event()

    def __enter__(self) -> Subscription:
        self._hub.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hub.remove(self)

    def watch(self, topic: str) -> None:
        """Wait on one more topic."""
        if topic not in self.topics:
            self._hub.remove(self)
            self.topics = (*self.topics, topic)
            self._hub.add(self)

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake since the last wait; False: the time is over, or the server drains."""
        if self._hub.is_closed or timeout_s <= 0:
            return False
        try:
            await asyncio.wait_for(self.event.wait(), timeout_s)
        except TimeoutError:
            return False
        self.event.clear()
        return not self._hub.is_closed


class FeedFollower:
    """A thread's body: follows the change feed and tells the hub, and `on_change`, what changed."""

    def __init__(self, store: ControlStore, hub: Hub, *, on_change: Callable[[], None], bell: Bell) -> None:
        self._store = store
        self._hub = hub
        self._on_change = on_change
        self.bell = bell
        self._stop = False

    def stop(self) -> None:
        """End `run` soon. From any thread."""
        self._stop = True
        self.bell.ring()

    def run(self) -> None:
        """Follow until stopped; a database that is away is tried again."""
        head: int | None = None
        while not self._stop:
            try:
                if head is None:
                    head = self._store.read(lambda r: r.feed_head())
                    entries: tuple[FeedEntry, ...] = ()
                else:
                    entries = self._store.read(lambda r, after=head: r.feed(after))
            except FactoryError:  # pruned below us, or the database is away: begin again at the head
                head = None
                self._hub.publish([FLEET])
                self._on_change()
                self.bell.wait(_FALLBACK_S)
                continue
            if entries:
                head = entries[-1].seq
                self._hub.publish({t for e in entries for t in _topics(e)})
                self._on_change()
                continue
            self.bell.wait(_FALLBACK_S)


def _topics(entry: FeedEntry) -> tuple[str, ...]:
    if entry.kind is FeedKind.JOB:
        return (job_topic(entry.key), FLEET)
    return (FLEET,)
