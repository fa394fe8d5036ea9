"""The change feed and the leader lease (control/ports.py).

The feed's numbers grow in commit order. SQLite has one writer, so they do by themselves. On PostgreSQL a transaction
writes its entries last, under an advisory lock that is held until the commit is visible: whoever draws a higher number
commits later. (A counter row would do the same under READ COMMITTED; transactions here are REPEATABLE READ, where two
of them on one row fail instead of waiting.)
"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, func, select

from factory.control.ports import FeedEntry, FeedKind, Lease
from factory.domain.time import Instant
from factory.errors import FeedPrunedError, FencedError
from factory.storage.session import SqlSession
from factory.storage.sql import Sql, compiled, insert_many
from factory.storage.tables import feed, feed_state

__all__ = ["FEED_LOCK", "ControlSql"]

FEED_LOCK = 0x0FAC_FEED  # any number; the advisory locks of one database share one space

_HEAD = compiled(select(func.max(feed.c.seq)))
_FEED = compiled(
    select(feed.c.seq, feed.c.kind, feed.c.key).where(feed.c.seq > bindparam("after")).order_by(feed.c.seq),
    limited=True,
)
_APPEND = insert_many(feed, "kind", "key")
_PRUNED = compiled(select(feed_state.c.pruned))
_PRUNE = compiled(delete(feed).where(feed.c.seq < bindparam("before")))
_SET_PRUNED = Sql(
    "UPDATE feed_state SET pruned = :seq WHERE pruned < :seq",
    "UPDATE feed_state SET pruned = %(seq)s WHERE pruned < %(seq)s",
)
_LOCK_FEED = Sql("", f"SELECT pg_advisory_xact_lock({FEED_LOCK})")

_LEASE = "SELECT holder, epoch, expires_at FROM lease"
# The database's clock decides on PostgreSQL, where leaders on several hosts compete; :now on SQLite.
_READ_LEASE = Sql(_LEASE, _LEASE)
_LOCK_LEASE = Sql(
    "SELECT holder, epoch, expires_at, :now FROM lease",
    "SELECT holder, epoch, expires_at, (extract(epoch from clock_timestamp()) * 1000)::bigint FROM lease FOR UPDATE",
)
_SHARE_LEASE = Sql(
    "SELECT epoch, expires_at, :now FROM lease",
    "SELECT epoch, expires_at, (extract(epoch from clock_timestamp()) * 1000)::bigint FROM lease FOR SHARE",
)
_SET_LEASE = Sql(
    "UPDATE lease SET holder = :holder, epoch = :epoch, expires_at = :expires_at",
    "UPDATE lease SET holder = %(holder)s, epoch = %(epoch)s, expires_at = %(expires_at)s",
)


class ControlSql(SqlSession):
    """The feed and the lease of ControlReader and ControlTx."""

    def feed(self, after: int, limit: int = 10_000) -> tuple[FeedEntry, ...]:
        pruned = self._pruned()
        if after < pruned:
            raise FeedPrunedError(
                f"the change feed begins after {pruned}, the reader stands at {after}",
                hint="read every row and feed_head in one transaction, then go on from there",
                facts={"after": after, "pruned": pruned},
            )
        rows = self._rows(_FEED, {"after": after, "limit": limit})
        return tuple([FeedEntry(seq, FeedKind(kind), key) for seq, kind, key in rows])

    def feed_head(self) -> int:
        row = self._row(_HEAD, {})
        return (row[0] if row else None) or 0

    def lease(self) -> Lease | None:
        row = self._row(_READ_LEASE, {})
        return Lease(*row) if row and row[0] else None

    def acquire_lease(self, holder: str, now: Instant, ttl_ms: int, *, proven_dead: bool = False) -> Lease | None:
        old_holder, epoch, expires_at, now = self._only_row(_LOCK_LEASE, now)
        if old_holder != holder:
            if old_holder and expires_at > now and not proven_dead:
                return None
            epoch += 1
        taken = Lease(holder, epoch, now + ttl_ms)
        self._write(_SET_LEASE, {"holder": holder, "epoch": epoch, "expires_at": taken.expires_at})
        return taken

    def release_lease(self, holder: str) -> None:
        old_holder, epoch, _, _ = self._only_row(_LOCK_LEASE, 0)
        if old_holder == holder:
            self._write(_SET_LEASE, {"holder": "", "epoch": epoch, "expires_at": 0})

    def prune_feed(self, before_seq: int) -> None:
        before = min(before_seq, self.feed_head())
        if before > 0 and self._write(_PRUNE, {"before": before}):
            self._write(_SET_PRUNED, {"seq": before - 1})

    def check_epoch(self, epoch: int, now: Instant | None) -> None:
        """Rule 5. Locks the lease against a take-over until the commit (PostgreSQL; SQLite has one writer anyway).

        Args:
            now: for SQLite; None = only a released lease counts as ended.
        Raises: FencedError: another epoch leads, or the lease has ended.
        """
        current, expires_at, now = self._only_row(_SHARE_LEASE, 0 if now is None else now)
        if current != epoch or expires_at <= now:
            raise FencedError(
                f"epoch {epoch} may not write: "
                + (f"epoch {current} leads" if current != epoch else f"its lease ended at {expires_at}, now is {now}"),
                hint="stop dispatching and compete for the lease again",
                facts={"epoch": epoch, "current": current, "expires_at": expires_at},
            )

    def flush_feed(self) -> None:
        """Carry out what waits, and append what this transaction changed; the last thing before it commits."""
        self._settle()
        if not self._changes:
            return
        if self._is_postgresql:
            self._rows(_LOCK_FEED, {})
        self._write_all(_APPEND, [(kind.value, key) for kind, key in self._changes])
        self._changes.clear()

    def _pruned(self) -> int:
        row = self._row(_PRUNED, {})
        return row[0] if row else 0

    def _only_row(self, statement: Sql, now: Instant) -> tuple:  # pyright: ignore[reportMissingTypeArgument]
        row = self._row(statement, {"now": now})
        if row is None:
            raise RuntimeError("the lease row is missing; it is made by the first migration and never deleted")
        return row
