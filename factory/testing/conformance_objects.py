"""What every object store must do (objects/ports.py): run on files and on the one in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from factory.errors import InvalidRequestError, NotFoundError, PayloadTooLargeError
from factory.objects.ports import ObjectStore
from factory.testing.behaviours import behaviours_of, refused

__all__ = ["ObjectSuite", "object_failures"]

BAD_KEYS = ("", "/etc/passwd", "../up", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b", "a\0b", "a\nb", "x" * 600)


class ObjectSuite:
    """The behaviours of an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def what_was_put_is_read_back(self) -> None:
        self._store.put("a/b", (b"hello ", b"", b"world"))
        assert self._read("a/b") == b"hello world"

    def a_put_tells_key_size_and_sum(self) -> None:
        info = self._store.put("a/b", (b"hello ", b"world"))
        assert (info.key, info.size_bytes, info.sha256) == ("a/b", 11, hashlib.sha256(b"hello world").hexdigest())

    def info_tells_the_same_as_the_put(self) -> None:
        assert self._store.put("a/b", (b"12345",)) == self._store.info("a/b")
        assert self._store.info("a/c") is None
        assert self._store.info("a") is None, "a folder is no object"

    def an_empty_object_is_an_object(self) -> None:
        self._store.put("empty", ())
        assert self._read("empty") == b""
        info = self._store.info("empty")
        assert info is not None
        assert info.size_bytes == 0

    def a_put_replaces_the_whole_object(self) -> None:
        self._store.put("k", (b"a long first body",))
        self._store.put("k", (b"short",))
        assert self._read("k") == b"short"
        info = self._store.info("k")
        assert info is not None
        assert info.sha256 == hashlib.sha256(b"short").hexdigest()

    def the_sum_follows_bytes_of_the_same_size(self) -> None:
        self._store.put("k", (b"aaaa",))
        self._store.put("k", (b"bbbb",))
        info = self._store.info("k")
        assert info is not None
        assert info.sha256 == hashlib.sha256(b"bbbb").hexdigest()

    def a_body_at_the_limit_is_stored(self) -> None:
        self._store.put("k", (b"12", b"34"), limit_bytes=4)
        assert self._read("k") == b"1234"

    def a_body_over_the_limit_leaves_nothing(self) -> None:
        with refused(PayloadTooLargeError):
            self._store.put("k", (b"123", b"45"), limit_bytes=4)
        assert self._store.info("k") is None
        assert self._store.list("") == ()

    def a_body_over_the_limit_leaves_what_was_there(self) -> None:
        self._store.put("k", (b"old",))
        with refused(PayloadTooLargeError):
            self._store.put("k", (b"123", b"45"), limit_bytes=4)
        assert self._read("k") == b"old"

    def a_body_over_the_limit_is_not_read_to_its_end(self) -> None:
        taken: list[int] = []

        def endless() -> Iterator[bytes]:
            for number in range(1_000_000):
                taken.append(number)
                yield b"x" * 10

        with refused(PayloadTooLargeError):
            self._store.put("k", endless(), limit_bytes=100)
        assert len(taken) <= 20

    def a_stream_that_breaks_leaves_nothing(self) -> None:
        with refused(ConnectionError):
            self._store.put("k", _breaks())
        assert self._store.info("k") is None
        assert self._store.list("") == ()

    def a_stream_that_breaks_leaves_what_was_there(self) -> None:
        self._store.put("k", (b"old",))
        with refused(ConnectionError):
            self._store.put("k", _breaks())
        assert self._read("k") == b"old"

    def a_range_is_read(self) -> None:
        self._store.put("k", (b"0123456789",))
        assert b"".join(self._store.get("k", offset=3)) == b"3456789"
        assert b"".join(self._store.get("k", offset=3, length=4)) == b"3456"
        assert b"".join(self._store.get("k", offset=8, length=100)) == b"89"
        assert b"".join(self._store.get("k", offset=3, length=0)) == b""
        assert b"".join(self._store.get("k", offset=100)) == b""

    def a_range_below_zero_is_refused(self) -> None:
        self._store.put("k", (b"0123456789",))
        with refused(InvalidRequestError):
            self._store.get("k", offset=-1)

    def a_big_object_comes_in_pieces(self) -> None:
        piece = bytes(range(256)) * 4096  # 1 MiB
        self._store.put("big", (piece, piece, piece[:-1]))
        assert self._read("big") == piece + piece + piece[:-1]
        assert b"".join(self._store.get("big", offset=1_048_570, length=12)) == piece[-6:] + piece[:6]

    def an_absent_key_is_not_found_at_once(self) -> None:
        with refused(NotFoundError):
            self._store.get("nothing")  # before the first chunk is asked for
        self._store.put("a/b", (b"x",))
        with refused(NotFoundError):
            self._store.get("a")

    def a_list_is_sorted_and_has_the_prefix(self) -> None:
        for key in ("logs/a/10", "logs/a/2", "logs/ab/1", "other/1", "logs/a-b"):
            self._store.put(key, (b"x",))
        assert [i.key for i in self._store.list("logs/a/")] == ["logs/a/10", "logs/a/2"]
        assert [i.key for i in self._store.list("logs/a")] == ["logs/a-b", "logs/a/10", "logs/a/2", "logs/ab/1"]
        assert [i.key for i in self._store.list("")] == sorted(
            ("logs/a/10", "logs/a/2", "logs/ab/1", "other/1", "logs/a-b")
        )
        assert self._store.list("absent/") == ()

    def a_list_tells_sizes(self) -> None:
        self._store.put("a/1", (b"12",))
        self._store.put("a/2", (b"123",))
        assert [i.size_bytes for i in self._store.list("a/")] == [2, 3]

    def a_deleted_key_is_gone(self) -> None:
        self._store.put("a/b", (b"x",))
        self._store.put("a/c", (b"y",))
        self._store.delete("a/b")
        self._store.delete("a/b")  # no error
        self._store.delete("a")  # nor for a folder, which keeps what is in it
        assert self._store.info("a/b") is None
        assert [i.key for i in self._store.list("a/")] == ["a/c"]

    def a_deleted_key_can_be_put_again(self) -> None:
        self._store.put("a/b", (b"x",))
        self._store.delete("a/b")
        self._store.put("a/b", (b"y",))
        assert self._read("a/b") == b"y"

    def bad_keys_are_refused_everywhere(self) -> None:
        for key in BAD_KEYS:
            with refused(InvalidRequestError):
                self._store.put(key, (b"x",))
            with refused(InvalidRequestError):
                self._store.get(key)
            with refused(InvalidRequestError):
                self._store.info(key)
            with refused(InvalidRequestError):
                self._store.delete(key)
            with refused(InvalidRequestError):
                self._store.local_path(key)
        with refused(InvalidRequestError):
            self._store.list("../")
        assert self._store.list("") == ()

    def a_key_is_not_a_folder_of_another(self) -> None:
        self._store.put("a", (b"x",))
        with refused(InvalidRequestError):
            self._store.put("a/b", (b"y",))
        assert [i.key for i in self._store.list("")] == ["a"]

    def a_local_path_holds_the_bytes(self) -> None:
        self._store.put("a/b", (b"hello",))
        path = self._store.local_path("a/b")
        assert path is None or path.read_bytes() == b"hello"

    def reading_goes_on_while_the_object_is_replaced(self) -> None:
        self._store.put("k", (b"a" * 3_000_000,))
        chunks = self._store.get("k")
        first = next(chunks)
        self._store.put("k", (b"b" * 3_000_000,))
        is_old = first + b"".join(chunks) == b"a" * 3_000_000  # compared here: no runner shall show the difference
        assert is_old, "a reader sees one object, never a mixture"

    def _read(self, key: str) -> bytes:
        return b"".join(self._store.get(key))


def object_failures(make: Callable[[], ObjectStore]) -> tuple[str, ...]:
    """Run every behaviour on a store of its own; return those that do not hold."""
    failed: list[str] = []
    for name, behaviour in behaviours_of(ObjectSuite).items():
        try:
            behaviour(ObjectSuite(make()))
        except Exception:  # whatever a broken adapter raises, it has not behaved
            failed.append(name)
    return tuple(failed)


def _breaks() -> Iterator[bytes]:
    yield b"half of it"
    raise ConnectionError("the client went away")
