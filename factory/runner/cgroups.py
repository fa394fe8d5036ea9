"""Where a node's replicas may have memory groups, proven by making one; and what agents before this one left behind.

Only below a group that is ours to divide: on version 1 this process's own group; on version 2, where a group either
holds processes or divides memory among its children, this process's group or its parent, if it was delegated (systemd:
`Delegate=yes`) or is the root of a container's own tree. What else is in that group moves to a child of its own, as in
every container that starts containers. A limit over all of them (a container's, a unit's) keeps its force.

Source: Linux Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint" and "Delegation"; systemd
CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from factory.domain.resources import MIB
from factory.errors import UnsupportedError
from factory.worker import cgroups
from factory.worker.cgroups import MemoryGroup, Place, place_of
from factory.worker.folders import NodeFolder, read_json, write_durably

__all__ = ["Kernel", "MemoryGroups", "clear", "find_place", "oom_message", "open_groups", "prove"]

log = logging.getLogger(__name__)

_REST = "factory-rest"  # version 2: child of the divided group with everything that is no replica
_PROBE_BYTES = 64 * MIB
_PATIENCE_S = 5.0  # until a killed process has left its group
_ROUNDS = 20  # of moving: what is moved may fork meanwhile


@dataclass(frozen=True, slots=True)
class Kernel:
    """What this process is told of groups: the texts of /proc/self/cgroup and /proc/self/mountinfo."""

    own: str
    mounts: str

    @classmethod
    def here(cls) -> Kernel:
        """Read them. Raises: OSError: there is no /proc."""
        return cls(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())

    def memory(self) -> tuple[Path, int]:
        """Return this process's own memory group and its version. Raises: UnsupportedError."""
        paths: dict[int, str] = {}
        for line in self.own.splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                paths[1] = path
            elif number == "0":
                paths[2] = path
        version = min(paths, default=0)  # memory is a controller of version 1 if that names it, else of version 2
        for line in self.mounts.splitlines():
            fields, _, kind = line.partition(" - ")
            root, mount = fields.split()[3:5]
            filesystem, _, options = kind.split()[:3]
            is_it = (
                filesystem == "cgroup" and "memory" in options.split(",") if version == 1 else filesystem == "cgroup2"
            )
            if is_it and version:
                inside = os.path.relpath(paths[version], root)
                if inside.startswith(".."):
                    raise UnsupportedError(f"its memory group {paths[version]} is not mounted here")
                return Path(mount, inside), version
        raise UnsupportedError("no memory cgroup is mounted")


class MemoryGroups:
    """The memory groups of one node's replicas."""

    def __init__(self, place: Place | None = None, earlier: tuple[Place, ...] = ()) -> None:
        """`place`: where new replicas make theirs; `earlier`: where those stay that earlier agents let make."""
        self._places = earlier if place is None else (place, *earlier)
        self.limits: Literal["cgroup", "watchdog"] = "watchdog" if place is None else "cgroup"

    def all(self) -> dict[str, MemoryGroup]:
        """Return the groups that are there, by replica."""
        return {replica: place.group(replica) for place in reversed(self._places) for replica in place.replicas()}

    def pids(self) -> dict[str, frozenset[int]]:
        """Return the processes in each replica's group, as of now."""
        return {replica: group.pids() for replica, group in self.all().items()}


def open_groups(node_id: str, folder: NodeFolder, wish: Literal["auto", "watchdog"]) -> MemoryGroups:
    """Find out how this node holds memory limits, and tell the replicas that will be born.

    Args:
        wish: "auto": by cgroup if that can be done; "watchdog": not even then.
    """
    earlier = [old for old in (place_of(folder), *_earlier(folder)) if old is not None and old.replicas()]
    place = None
    if wish == "auto":
        try:
            found = find_place(node_id, Kernel.here())
            prove(found)
            place = found
        except (UnsupportedError, OSError) as exc:
            log.info("memory limits by watchdog: %s", exc, extra={"event": "agent.no_cgroup", "node": node_id})
    earlier = [old for old in earlier if old != place]
    told = {"earlier": [_as_json(old) for old in earlier]}
    write_durably(folder.cgroup, told if place is None else told | _as_json(place))
    return MemoryGroups(place, tuple(earlier))


def oom_message(group: MemoryGroup, asked_bytes: int) -> str | None:
    """Return what the kernel's killing in a group says to the job's owner; None if it killed nothing there."""
    try:
        if not group.oom_kills():
            return None
        peak, limit, has_met_it = group.peak_bytes(), group.limit_bytes(), group.has_met_its_limit()
    except (OSError, KeyError):
        return None  # it went meanwhile
    cause = "its memory group was full" if has_met_it else "the machine had no memory left"
    facts = [] if peak is None else [f"it used {peak // MIB} MiB at its peak"]
    if limit is not None:
        own = (limit - asked_bytes) // MIB
        facts.append(f"its limit is {asked_bytes // MIB} MiB (and {own} MiB for the worker's own code)")
    return f"out of memory: {cause}; {'; '.join(facts)}"


def find_place(node_id: str, kernel: Kernel) -> Place:
    """Return where groups can be made; on version 2 that group is made ready. Raises: UnsupportedError, OSError."""
    own, version = kernel.memory()
    if version == 2:
        own = _divided(own)
    return Place(own, version, f"factory-{node_id}.")


def prove(place: Place) -> None:
    """Do once all that a replica needs: make a group, limit it, put a process into it, read its evidence, remove it.

    Raises: UnsupportedError: something of it cannot be done.
    """
    group = MemoryGroup(place.base / f"{place.prefix}probe-{secrets.token_hex(4)}", place.version)
    try:
        group.create()
        group.set_limit(_PROBE_BYTES)
        process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
        try:
            group.add(process.pid)
            is_held = process.pid in group.pids() and group.limit_bytes() == _PROBE_BYTES
            group.oom_kills()
            group.used_bytes()
        finally:
            process.kill()
            process.wait()
    except KeyError as exc:
        raise UnsupportedError("the kernel does not count OOM kills per group") from exc
    except OSError as exc:
        raise UnsupportedError(f"no memory group can be used in {place.base}: {exc.strerror}") from exc
    finally:
        with contextlib.suppress(OSError):
            clear(group)
    if not is_held:
        raise UnsupportedError(f"a group in {place.base} does not hold its process or its limit")


def clear(group: MemoryGroup) -> bool:
    """Kill whatever is in a group and remove it; True if it is gone."""
    deadline = time.monotonic() + _PATIENCE_S
    while not group.remove():
        group.kill()
        if time.monotonic() > deadline:
            log.error("a memory group stays", extra={"event": "agent.group_stays", "group": group.path.name})
            return False
        time.sleep(0.005)
    return True


def _divided(own: Path) -> Path:
    """Return the group of version 2 whose children can have limits, made so if it is ours to divide."""
    if own.name == _REST:
        own = own.parent  # an earlier agent has divided it
    is_top = not (own.parent / "cgroup.controllers").exists()  # of all we can see: nobody above manages it
    for group in (own, own.parent):
        is_ours = _is_delegated(group) or (group == own and is_top)
        if not is_ours or "memory" not in _words(group / "cgroup.controllers"):
            continue
        if "memory" not in _words(group / "cgroup.subtree_control"):
            _divide(group)
        return group
    raise UnsupportedError(f"the group {own} is not delegated to us with its memory controller")


def _is_delegated(group: Path) -> bool:
    """True if systemd has handed it over, by a unit's `Delegate=yes`."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _divide(group: Path) -> None:
    """Let its children have memory limits; its own processes move to one of them first, if the kernel insists."""
    for _ in range(_ROUNDS):
        try:
            cgroups.write(group / "cgroup.subtree_control", "+memory")
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
        rest = MemoryGroup(group / _REST, 2)
        rest.create()
        for pid in sorted(MemoryGroup(group, 2).pids()):
            with contextlib.suppress(ProcessLookupError):
                rest.add(pid)
    raise UnsupportedError(f"processes keep coming into {group}")


def _earlier(folder: NodeFolder) -> list[Place]:
    told = (read_json(folder.cgroup) or {}).get("earlier", [])
    return [Place(Path(old["base"]), int(old["version"]), str(old["prefix"])) for old in told]


def _as_json(place: Place) -> dict[str, object]:
    return {"base": str(place.base), "version": place.version, "prefix": place.prefix}


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
