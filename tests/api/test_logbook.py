"""Stored logs: appended once, whole after a restart, and shared by several control planes."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.api.logbook import LogBook
from factory.objects.files import FileObjectStore

OUT = (0, "stdout")


@pytest.fixture
def objects(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path)


def test_a_new_process_goes_on_where_the_old_one_stopped(objects: FileObjectStore) -> None:
    old = LogBook(objects, quota_bytes=1000)
    assert old.append("job-a.1", OUT, 0, b"abc") == 3
    new = LogBook(objects, quota_bytes=1000)
    assert new.next_offset("job-a.1", OUT) == 3
    assert new.append("job-a.1", OUT, 0, b"abc") == 3
    assert new.append("job-a.1", OUT, 3, b"def") == 6
    assert b"".join(new.read("job-a.1", OUT)) == b"abcdef"
    assert b"".join(new.read("job-a.1", OUT, 2)) == b"cdef"


def test_what_another_control_plane_stored_is_seen(objects: FileObjectStore) -> None:
    one, two = (LogBook(objects, quota_bytes=1000, is_only_writer=False) for _ in range(2))
    one.append("job-a.1", OUT, 0, b"abc")
    assert two.next_offset("job-a.1", OUT) == 3
    two.append("job-a.1", OUT, 3, b"def")
    assert b"".join(one.read("job-a.1", OUT)) == b"abcdef"


def test_streams_are_in_order_of_ranks_with_stdout_first(objects: FileObjectStore) -> None:
    book = LogBook(objects, quota_bytes=1000)
    for stream in ((1, "stderr"), (0, "stderr"), (10, "stdout"), (1, "stdout")):
        book.append("job-a.1", stream, 0, b"x")
    assert list(book.streams("job-a.1")) == [(0, "stderr"), (1, "stdout"), (1, "stderr"), (10, "stdout")]


def test_a_quota_counts_all_streams_of_an_attempt_and_only_those(objects: FileObjectStore) -> None:
    book = LogBook(objects, quota_bytes=10)
    book.append("job-a.1", OUT, 0, b"x" * 8)
    assert book.append("job-a.1", (0, "stderr"), 0, b"y" * 8) == 8
    assert b"".join(book.read("job-a.1", (0, "stderr"))).startswith(b"yy\n[factory]")
    assert book.append("job-b.1", OUT, 0, b"z" * 8) == 8
    assert b"".join(book.read("job-b.1", OUT)) == b"z" * 8
    again = LogBook(objects, quota_bytes=10)
    assert again.append("job-a.1", OUT, 8, b"x") == 9
    assert b"".join(again.read("job-a.1", OUT)) == b"x" * 8
