"""Slow bodies of one tenant leave room for those of others."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread

from factory.api.uploading import Uploads
from factory.domain.ids import TenantId


class Slow:
    """Bodies that do not end before they are told to, and how many are at it."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.end = threading.Event()
        self._changed = threading.Condition()

    def body(self) -> None:
        with self._changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self._changed.notify_all()
        assert self.end.wait(30)
        with self._changed:
            self.now -= 1

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.now >= count, 30)


def test_one_tenants_slow_bodies_leave_room_for_another() -> None:
    slow = Slow()

    async def scene() -> None:
        uploads = Uploads(total=4, per_tenant=2)
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(uploads.run, TenantId("mobility"), slow.body)
            await anyio.to_thread.run_sync(slow.wait_for, 2)
            with anyio.fail_after(30):
                assert await uploads.run(TenantId("parks"), lambda: "taken in") == "taken in"
            slow.end.set()

    anyio.run(scene)
    assert slow.most == 2


def test_all_tenants_together_are_bounded_too() -> None:
    slow = Slow()

    async def scene() -> None:
        uploads = Uploads(total=3, per_tenant=2)
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(uploads.run, TenantId(f"tenant-{number}"), slow.body)
            await anyio.to_thread.run_sync(slow.wait_for, 3)
            with anyio.fail_after(30):
                while uploads._total.statistics().tasks_waiting < 5:
                    await anyio.lowlevel.checkpoint()
            slow.end.set()

    anyio.run(scene)
    assert slow.most == 3


def test_a_tenant_that_sends_nothing_leaves_nothing_behind() -> None:
    async def scene() -> int:
        uploads = Uploads()
        for number in range(5):
            await uploads.run(TenantId(f"tenant-{number}"), lambda: None)
        return len(uploads._tenants)

    assert anyio.run(scene) == 0
