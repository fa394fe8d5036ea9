"""Every object store does what its port says; broken ones are found; crashes leave files whole."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("factory.testing.conformance_objects")

from factory.errors import InvalidRequestError, PayloadTooLargeError  # noqa: E402
from factory.objects.files import FileObjectStore, StorageFullError  # noqa: E402
from factory.objects.ports import ObjectInfo, ObjectStore  # noqa: E402
from factory.testing.behaviours import behaviours_of  # noqa: E402
from factory.testing.conformance_objects import ObjectSuite, object_failures  # noqa: E402
from factory.testing.objects import MemoryObjectStore  # noqa: E402

BEHAVIOURS = behaviours_of(ObjectSuite)


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return FileObjectStore(tmp_path / "objects") if request.param == "files" else MemoryObjectStore()


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_an_object_store_behaves(store: ObjectStore, name: str) -> None:
    BEHAVIOURS[name](ObjectSuite(store))


class WritesInPlace(FileObjectStore):
    """Writes where readers look, so that a broken stream leaves half an object."""

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
        path = self.local_path(key)
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with path.open("wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if limit_bytes is not None and size > limit_bytes:
                    raise PayloadTooLargeError("too much")
                file.write(chunk)
        return ObjectInfo(key, size, hashlib.sha256(path.read_bytes()).hexdigest())


class KeepsOldSums(FileObjectStore):
    """Takes a sum of the same size for the sum of other bytes."""

    def info(self, key: str) -> ObjectInfo | None:
        path = self.local_path(key)
        assert path is not None
        if not path.is_file():
            return None
        seen = self.__dict__.setdefault("seen", {})
        size = path.stat().st_size
        return ObjectInfo(key, size, seen.setdefault((key, size), hashlib.sha256(path.read_bytes()).hexdigest()))

    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
        stored = super().put(key, chunks, limit_bytes=limit_bytes)
        self.info(key)
        return stored


class ForgetsTheLimit(MemoryObjectStore):
    def put(self, key: str, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> ObjectInfo:
        return super().put(key, (c for _, c in zip(range(1000), chunks, strict=False)))


class ListsInAnyOrder(MemoryObjectStore):
    def list(self, prefix: str) -> tuple[ObjectInfo, ...]:
        return tuple(reversed(super().list(prefix)))


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (WritesInPlace, "a_stream_that_breaks_leaves_nothing"),
        (KeepsOldSums, "the_sum_follows_bytes_of_the_same_size"),
        (ForgetsTheLimit, "a_body_over_the_limit_leaves_nothing"),
        (ListsInAnyOrder, "a_list_is_sorted_and_has_the_prefix"),
    ],
)
def test_a_broken_object_store_is_found(broken: Callable[..., ObjectStore], found: str, tmp_path: Path) -> None:
    count = itertools.count()
    is_files = isinstance(broken, type) and issubclass(broken, FileObjectStore)
    make = (lambda: broken(tmp_path / str(next(count)))) if is_files else broken
    assert found in object_failures(make)


def test_another_store_of_the_folder_sees_what_was_put(tmp_path: Path) -> None:
    stored = FileObjectStore(tmp_path).put("a/b", (b"x",))
    assert FileObjectStore(tmp_path).info("a/b") == stored


def test_a_sum_that_a_crash_left_for_other_bytes_is_not_believed(tmp_path: Path) -> None:
    store = FileObjectStore(tmp_path)
    store.put("k", (b"aaaa",))
    sum_of_old = (tmp_path / "sums" / "k").read_bytes()
    store.put("k", (b"bbbb",))
    (tmp_path / "sums" / "k").write_bytes(sum_of_old)
    info = FileObjectStore(tmp_path).info("k")
    assert info is not None
    assert info.sha256 == hashlib.sha256(b"bbbb").hexdigest()


def test_what_a_dead_process_left_half_written_is_swept(tmp_path: Path) -> None:
    FileObjectStore(tmp_path)
    pid = os.fork()
    if pid == 0:  # the child begins a put and dies in it
        FileObjectStore(tmp_path).put("k", (b"half" if n == 0 else os._exit(0) for n in range(2)))
        os._exit(1)
    os.waitpid(pid, 0)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    store = FileObjectStore(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert store.info("k") is None


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileObjectStore(tmp_path)

    def no_room(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StorageFullError) as caught:
        store.put("k", (b"x",))
    assert caught.value.status == 507
    assert store.info("k") is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_put_in_another_live_store_is_not_swept(tmp_path: Path) -> None:
    store = FileObjectStore(tmp_path)

    def chunks() -> Iterable[bytes]:
        yield b"one "
        FileObjectStore(tmp_path)  # another part of the same process opens the store in the middle
        yield b"two"

    store.put("k", chunks())
    assert b"".join(store.get("k")) == b"one two"


def test_a_key_names_no_file_outside_the_store(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    store = FileObjectStore(tmp_path / "objects")
    with pytest.raises(InvalidRequestError, match="no key"):
        store.get("../../secret")
