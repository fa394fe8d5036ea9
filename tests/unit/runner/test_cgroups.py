"""Memory groups on a folder that behaves as the kernel's: both versions' layouts, rules and refusals."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from factory.domain.resources import MIB
from factory.errors import UnsupportedError
from factory.runner.cgroups import Kernel, clear, find_place, oom_message, open_groups, prove
from factory.worker import cgroups
from factory.worker.cgroups import OWN_MEMORY_BYTES, MemoryGroup, Place, enter_group, hold_to
from factory.worker.folders import NodeFolder, read_json, start_ticks, write_durably

FILES = {
    1: {
        "cgroup.procs": "",
        "memory.limit_in_bytes": str((1 << 63) - 4096),
        "memory.memsw.limit_in_bytes": str((1 << 63) - 4096),
        "memory.usage_in_bytes": "0",
        "memory.max_usage_in_bytes": "0",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    },
    2: {
        "cgroup.procs": "",
        "cgroup.controllers": "cpu memory",
        "cgroup.subtree_control": "",
        "cgroup.kill": "",
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.current": "0",
        "memory.peak": "0",
        "memory.oom.group": "0",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    },
}


class FakeKernel:
    """What the kernel does with a tree of groups: files that come with a folder, processes that are in one group."""

    def __init__(self, root: Path, version: int) -> None:
        self.root, self.version = root, version
        self.killed: list[Path] = []
        self.refuses: set[str] = set()  # names of files that may not be written
        self.make(root)

    def make(self, path: Path) -> None:
        path.mkdir()
        divided = path == self.root or "memory" in self.read(path.parent, "cgroup.subtree_control")
        for name, text in FILES[self.version].items():
            if self.version == 1 or divided or name.startswith("cgroup"):
                (path / name).write_text(text)
        if self.version == 2 and not divided:
            (path / "cgroup.controllers").write_text("cpu")

    def remove(self, path: Path) -> None:
        living = any(start_ticks(int(pid)) is not None for pid in self.read(path, "cgroup.procs").split())
        if living or any(entry.is_dir() for entry in path.iterdir()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        for file in path.iterdir():
            file.unlink()
        path.rmdir()

    def write(self, path: Path, text: str) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if path.name in self.refuses:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        match path.name:
            case "cgroup.procs":
                for procs in self.root.rglob("cgroup.procs"):
                    procs.write_text("".join(f"{pid}\n" for pid in procs.read_text().split() if pid != text))
                path.write_text(path.read_text() + text + "\n")
            case "cgroup.subtree_control":
                if self.read(path.parent, "cgroup.procs").split():
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
                path.write_text(text.removeprefix("+"))
            case "cgroup.kill":
                self.killed.append(path.parent)
                (path.parent / "cgroup.procs").write_text("")
            case _:
                path.write_text(text)

    def read(self, path: Path, name: str) -> str:
        file = path / name
        return file.read_text() if file.exists() else ""

    def told(self, own: str) -> Kernel:
        """What a process in the group `own` reads about itself."""
        if self.version == 1:
            mount = f"30 23 0:5 / {self.root} rw,relatime - cgroup cgroup rw,memory\n"
            return Kernel(f"9:name=systemd:/\n4:memory:{own}\n0::/\n", mount)
        return Kernel(f"0::{own}\n", f"30 23 0:5 / {self.root} rw,relatime shared:4 - cgroup2 cgroup2 rw\n")


def kernel_of(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel(tmp_path / "cgroup", version)
    monkeypatch.setattr(cgroups, "make_folder", fake.make)
    monkeypatch.setattr(cgroups, "remove_folder", fake.remove)
    monkeypatch.setattr(cgroups, "write", fake.write)
    return fake


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return kernel_of(request.param, tmp_path, monkeypatch)


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return kernel_of(1, tmp_path, monkeypatch)


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return kernel_of(2, tmp_path, monkeypatch)


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    folder = NodeFolder(tmp_path / "node")
    folder.create()
    return folder


def offer(node: NodeFolder, place: Place) -> None:
    """Tell replicas where groups are made, as the agent does."""
    write_durably(node.cgroup, {"base": str(place.base), "version": place.version, "prefix": place.prefix})


def read(group: MemoryGroup, name: str) -> str:
    return (group.path / name).read_text().strip()


def test_a_proof_does_it_all_and_leaves_nothing_behind(kernel: FakeKernel) -> None:
    place = find_place("n1", kernel.told("/"))
    before = {path.name for path in kernel.root.iterdir()}

    prove(place)

    assert {path.name for path in kernel.root.iterdir()} == before


@pytest.mark.parametrize("refused", ["limit", "cgroup.procs"])
def test_permissions_that_look_right_are_no_proof(kernel: FakeKernel, refused: str) -> None:
    place = find_place("n1", kernel.told("/"))
    limit = {1: "memory.limit_in_bytes", 2: "memory.max"}[kernel.version]
    kernel.refuses.add(limit if refused == "limit" else refused)

    with pytest.raises(UnsupportedError, match="no memory group can be used"):
        prove(place)

    assert place.replicas() == []


def test_a_replica_is_in_its_group_at_birth_and_gets_its_limit_with_the_order(
    kernel: FakeKernel, node: NodeFolder
) -> None:
    place = find_place("n1", kernel.told("/"))
    offer(node, place)
    group = place.group("r1")

    enter_group(node, "r1")
    at_birth = (group.pids(), group.limit_bytes())
    hold_to(node, "r1", 256 * MIB)

    assert at_birth == ({os.getpid()}, None)
    assert group.limit_bytes() == 256 * MIB + OWN_MEMORY_BYTES


def test_swap_is_in_the_limit_where_the_kernel_counts_it(kernel: FakeKernel) -> None:
    place = find_place("n1", kernel.told("/"))
    group = place.group("r1")
    group.create()

    group.set_limit(64 * MIB)

    if kernel.version == 1:
        assert read(group, "memory.memsw.limit_in_bytes") == str(64 * MIB)
        (group.path / "memory.memsw.limit_in_bytes").unlink()  # a kernel booted without swap accounting
    else:
        assert read(group, "memory.swap.max") == "0"
        (group.path / "memory.swap.max").unlink()
    group.set_limit(65 * MIB)
    assert group.limit_bytes() == 65 * MIB


def test_a_job_that_asked_for_no_memory_is_not_limited(kernel: FakeKernel, node: NodeFolder) -> None:
    place = find_place("n1", kernel.told("/"))
    offer(node, place)
    enter_group(node, "r1")

    hold_to(node, "r1", 0)

    assert place.group("r1").limit_bytes() is None


def test_a_replica_that_cannot_enter_its_group_goes_on_without_a_limit(kernel: FakeKernel, node: NodeFolder) -> None:
    place = find_place("n1", kernel.told("/"))
    offer(node, place)
    kernel.refuses.add("cgroup.procs")

    enter_group(node, "r1")
    hold_to(node, "r1", 256 * MIB)

    assert place.group("r1").limit_bytes() is None


def test_the_evidence_says_what_the_kernel_did_and_the_peak(kernel: FakeKernel) -> None:
    group = find_place("n1", kernel.told("/")).group("r1")
    group.create()
    group.set_limit(192 * MIB)
    assert oom_message(group, 64 * MIB) is None

    if kernel.version == 1:
        (group.path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        (group.path / "memory.max_usage_in_bytes").write_text(str(192 * MIB))
    else:
        (group.path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
        (group.path / "memory.peak").write_text(str(192 * MIB))

    assert oom_message(group, 64 * MIB) == (
        "out of memory: its memory group was full; it used 192 MiB at its peak; its limit is 64 MiB "
        "(and 128 MiB for the worker's own code)"
    )


def test_a_kill_far_below_the_limit_is_laid_to_the_machine(kernel: FakeKernel) -> None:
    group = find_place("n1", kernel.told("/")).group("r1")
    group.create()
    group.set_limit(1024 * MIB)
    if kernel.version == 1:
        (group.path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        (group.path / "memory.max_usage_in_bytes").write_text(str(100 * MIB))
    else:
        (group.path / "memory.events").write_text("oom 0\noom_kill 1\n")
        (group.path / "memory.peak").unlink()  # Linux before 5.19

    message = oom_message(group, 896 * MIB)

    assert message is not None
    assert "the machine had no memory left" in message
    assert ("100 MiB at its peak" in message) == (kernel.version == 1)


def test_a_kernel_that_does_not_count_kills_is_not_used(first: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {**FILES[1], "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}  # Linux before 4.13
    monkeypatch.setitem(FILES, 1, old)

    with pytest.raises(UnsupportedError, match="does not count OOM kills"):
        prove(find_place("n1", first.told("/")))


def test_groups_of_the_first_version_are_made_in_ones_own(first: FakeKernel) -> None:
    first.make(first.root / "unit")

    assert find_place("n1", first.told("/unit")).base == first.root / "unit"


def test_a_group_that_is_not_mounted_here_is_no_place(first: FakeKernel) -> None:
    told = first.told("/elsewhere")
    told = Kernel(told.own, told.mounts.replace(" / ", " /docker/abc ", 1))

    with pytest.raises(UnsupportedError, match="not mounted here"):
        find_place("n1", told)


def test_a_container_sees_its_own_group_as_the_mounts_root(first: FakeKernel) -> None:
    told = first.told("/docker/abc")
    told = Kernel(told.own, told.mounts.replace(" / ", " /docker/abc ", 1))

    assert find_place("n1", told).base == first.root


def test_a_machine_without_memory_groups_is_told_so() -> None:
    with pytest.raises(UnsupportedError, match="no memory cgroup is mounted"):
        find_place("n1", Kernel("0::/\n", "25 1 0:2 / / rw - ext4 /dev/root rw\n"))


def test_the_root_of_a_containers_tree_is_divided_and_its_processes_move_aside(second: FakeKernel) -> None:
    second.write(second.root / "cgroup.procs", "11")
    second.write(second.root / "cgroup.procs", "12")

    place = find_place("n1", second.told("/"))

    assert place.base == second.root
    assert MemoryGroup(second.root / "factory-rest", 2).pids() == {11, 12}
    assert read(MemoryGroup(second.root, 2), "cgroup.subtree_control") == "memory"


def test_the_next_agent_finds_the_group_divided(second: FakeKernel) -> None:
    second.write(second.root / "cgroup.procs", "11")
    first_time = find_place("n1", second.told("/"))

    assert find_place("n1", second.told("/factory-rest")) == first_time


def test_a_group_that_somebody_else_manages_is_not_divided(second: FakeKernel) -> None:
    second.write(second.root / "cgroup.subtree_control", "+memory")
    second.make(second.root / "session.scope")
    second.write(second.root / "session.scope" / "cgroup.procs", "11")

    with pytest.raises(UnsupportedError, match="not delegated"):
        find_place("n1", second.told("/session.scope"))

    assert not (second.root / "session.scope" / "factory-rest").exists()


@pytest.mark.parametrize("own", ["/unit", "/unit/main"])
def test_a_delegated_group_is_divided(second: FakeKernel, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    second.write(second.root / "cgroup.subtree_control", "+memory")
    second.make(second.root / "unit")
    if own == "/unit/main":  # systemd's DelegateSubgroup=
        second.make(second.root / "unit" / "main")
    second.write(second.root / own[1:] / "cgroup.procs", "11")

    def getxattr(path: Path, name: str) -> bytes:
        if (path, name) == (second.root / "unit", "user.delegate"):
            return b"1"
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    monkeypatch.setattr(os, "getxattr", getxattr)

    place = find_place("n1", second.told(own))
    prove(place)

    assert place.base == second.root / "unit"


def test_a_group_of_the_second_version_is_killed_in_one_go_and_removed(second: FakeKernel) -> None:
    group = find_place("n1", second.told("/")).group("r1")
    group.create()
    group.add(os.getpid())

    assert clear(group)

    assert second.killed == [group.path]
    assert not group.path.exists()


def test_all_of_a_group_of_the_second_version_goes_with_one_of_it(second: FakeKernel) -> None:
    group = find_place("n1", second.told("/")).group("r1")

    group.create()

    assert read(group, "memory.oom.group") == "1"


def test_two_nodes_of_one_machine_do_not_see_each_others_groups(kernel: FakeKernel) -> None:
    mine, other = (find_place(name, kernel.told("/")) for name in ("n1", "n10"))
    mine.group("r1").create()

    assert (mine.replicas(), other.replicas()) == (["r1"], [])


def test_a_forced_watchdog_offers_no_group_and_finds_those_that_are_there(
    kernel: FakeKernel, node: NodeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kernel, "here", classmethod(lambda _: kernel.told("/")))
    assert open_groups("n1", node, "auto").limits == "cgroup"
    enter_group(node, "r1")

    forced = open_groups("n1", node, "watchdog")
    enter_group(node, "r2")

    assert (forced.limits, list(forced.all())) == ("watchdog", ["r1"])
    assert forced.pids() == {"r1": {os.getpid()}}


def test_groups_of_an_agent_that_lived_elsewhere_are_found_until_they_are_gone(
    first: FakeKernel, node: NodeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.make(first.root / "old")
    first.make(first.root / "new")
    own = "/old"
    monkeypatch.setattr(Kernel, "here", classmethod(lambda _: first.told(own)))
    open_groups("n1", node, "auto")
    enter_group(node, "r1")

    own = "/new"
    groups = open_groups("n1", node, "auto")
    assert groups.all()["r1"].path.parent == first.root / "old"
    first.write(first.root / "cgroup.procs", str(os.getpid()))
    groups.all()["r1"].remove()
    open_groups("n1", node, "auto")

    assert read_json(node.cgroup) == {
        "base": str(first.root / "new"), "version": 1, "prefix": "factory-n1.", "earlier": [],
    }  # fmt: skip


def test_where_no_group_can_be_made_it_is_the_watchdog(node: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "here", classmethod(lambda _: Kernel("0::/\n", "")))

    assert open_groups("n1", node, "auto").limits == "watchdog"
    enter_group(node, "r1")
    assert open_groups("n1", node, "auto").all() == {}
