"""Self-fence on a node, on real processes: what is not renewed ends, by the agent and by the replica itself."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from factory.domain.jobs import CommandEntry, EndReason, Placement
from factory.domain.resources import Resources
from factory.runner.fencing import NodeFence, Renewals
from factory.schemas.attempt import WorkOrder
from factory.testing.builders import spec
from factory.worker.fencing import EXIT_FENCED, SelfFence, boot_clock, renewed_at, write_renewal
from factory.worker.folders import NodeFolder, read_json
from factory.worker.orders import ReplicaOrder
from tests.unit.runner.plain_node import ATTEMPT, LogStore, Replicas, agent_of, is_gone, until


@pytest.fixture
def logs() -> Iterator[LogStore]:
    store = LogStore()
    yield store
    store.shutdown()
    store.server_close()


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    """A node with an id of its own: the agents of other tests, which go on, must not take its processes for theirs."""
    folder = NodeFolder(tmp_path / f"n-{secrets.token_hex(4)}")
    folder.create()
    return folder


@pytest.fixture
def serve(node: NodeFolder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a replica's process that serves a command."""
    replicas = Replicas(node, node.root.name)
    yield replicas.serve
    replicas.end()


# --- on the node ------------------------------------------------------------------------------------------------------


def test_the_agent_ends_what_was_not_renewed_and_says_why(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    write_renewal(node, boot_clock())
    agent = agent_of(node, logs, name=node.root.name)
    process = serve("sh", "-c", "echo up; setsid sleep 60 & sleep 60", fence_s=30)
    assert logs.has("stdout", b"up\n")
    family = psutil.Process(process.pid).children(recursive=True)

    agent.fence = NodeFence(node, clock=lambda: boot_clock() + 31)  # half a minute goes by for the agent alone
    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.NODE_LOST
    assert gone.outcome.message == "its node was not renewed by the control plane for 30 s (self-fence)"
    assert len(family) >= 2
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)


def test_what_is_renewed_goes_on(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    write_renewal(node, boot_clock())
    agent = agent_of(node, logs, name=node.root.name)
    serve("sh", "-c", "echo up; sleep 2; echo done", fence_s=30)
    assert logs.has("stdout", b"up\n")

    ahead = NodeFence(node, clock=lambda: boot_clock() + 31)
    ahead.renew(ahead.challenge())
    agent.fence = ahead
    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.COMPLETED


def test_a_replica_ends_itself_and_its_children_where_no_agent_does(node: NodeFolder, serve: Callable) -> None:
    write_renewal(node, boot_clock() - 28)  # renewed 28 s ago, and never again
    process = serve("sh", "-c", "setsid sleep 60 & sleep 60", fence_s=30)

    assert process.wait(20) == EXIT_FENCED

    outcome = json.loads(node.rank(ATTEMPT, 0).outcome.read_text())["outcome"]
    assert (outcome["reason"], "self-fence" in outcome["message"]) == ("NodeLost", True)
    mark = f"FACTORY_NODE={node.root.name}".encode()
    assert not [p for p in Path("/proc").glob("[0-9]*/environ") if mark in _bytes(p).split(b"\0")]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it went meanwhile, or is not ours to read
        return b""


@pytest.mark.parametrize("age_s", [31, None])
def test_an_order_that_comes_too_late_never_begins(node: NodeFolder, serve: Callable, age_s: int | None) -> None:
    if age_s is not None:
        write_renewal(node, boot_clock() - age_s)
    process = serve("sh", "-c", "echo never", fence_s=30)

    assert process.wait(20) == EXIT_FENCED
    assert not node.rank(ATTEMPT, 0).claim.exists(), "user code never began"


def test_a_pool_without_a_fence_needs_no_renewal(node: NodeFolder) -> None:
    assert not SelfFence(node, None).is_over()
    assert SelfFence(node, 30).is_over()


def test_a_renewal_of_an_earlier_boot_counts_for_nothing(node: NodeFolder) -> None:
    write_renewal(node, boot_clock())
    assert renewed_at(node) is not None
    path = node.root / "renewed.json"
    path.write_text(json.dumps((read_json(path) or {}) | {"boot": "another"}))
    assert renewed_at(node) is None


def test_a_late_renewal_never_seems_younger_than_its_challenge(node: NodeFolder) -> None:
    now = 1000.0
    fence = NodeFence(node, clock=lambda: now)
    first, now = fence.challenge(), 1010.0
    second, now = fence.challenge(), 1100.0
    fence.renew(second)
    fence.renew(first)  # it was under way longer
    assert renewed_at(node) == 1010.0


def test_an_agent_that_follows_knows_the_last_renewal(node: NodeFolder) -> None:
    NodeFence(node).renew(boot_clock() - 5)
    rank = node.rank(ATTEMPT, 0)
    rank.path.mkdir(parents=True)
    rank.order.write_text(_order(fence_s=30))
    assert NodeFence(node).overdue(rank) is None
    assert NodeFence(node, clock=lambda: boot_clock() + 26).overdue(rank) is not None


def _order(fence_s: int) -> str:
    work = WorkOrder(
        attempt=ATTEMPT, job="job-a", tenant="mobility", ordinal=1, api_url="http://127.0.0.1:9",
        spec=replace(spec(), entry=CommandEntry(("true",))),
    )  # fmt: skip
    placement = Placement(0, "n1", Resources(1000, 1 << 30, 0))  # pyright: ignore[reportArgumentType]
    return ReplicaOrder(work=work, placement=placement, token="", self_fence_s=fence_s).model_dump_json()


# --- the runner's part ------------------------------------------------------------------------------------------------


class Agent:
    """Answers challenges by a clock of its own; notes its renewals."""

    def __init__(self) -> None:
        self.clock = 500.0
        self.waiting: list[Callable[[object], None]] = []
        self.renewed: list[float] = []

    def ask(self, method: str, on_answer: Callable[[object], None]) -> None:
        assert method == "challenge"
        self.waiting.append(on_answer)

    def answer(self) -> None:
        self.waiting.pop(0)(self.clock)

    def tell(self, method: str, *args: object) -> None:
        assert method == "renew"
        self.renewed.extend(a for a in args if isinstance(a, float))


@pytest.fixture
def renewals() -> Renewals:
    made = Renewals()
    made.is_on = True
    return made


def test_a_renewal_is_what_the_agent_asked_for_before_the_report_was_sent(renewals: Renewals) -> None:
    agent = Agent()
    renewals.ask({"n1": agent})
    agent.answer()
    report = renewals.take(["n1"])
    agent.clock = 900.0  # the report is under way for long
    assert not renewals.is_fresh("n1", 30)
    renewals.give(report)
    assert agent.renewed == [500.0]
    assert renewals.is_fresh("n1", 30)


def test_a_report_that_failed_renews_nothing(renewals: Renewals) -> None:
    agent = Agent()
    renewals.ask({"n1": agent})
    agent.answer()
    renewals.take(["n1"])
    renewals.give(renewals.take(["n1"]))
    assert agent.renewed == []


def test_a_node_that_the_report_calls_dead_is_not_renewed(renewals: Renewals) -> None:
    agents = {"n1": Agent(), "n2": Agent()}
    renewals.ask(agents)
    for agent in agents.values():
        agent.answer()
    renewals.give(renewals.take(["n2"]))
    assert (agents["n1"].renewed, agents["n2"].renewed) == ([], [500.0])


def test_a_challenge_that_came_after_the_report_waits_for_the_next(renewals: Renewals) -> None:
    agent = Agent()
    renewals.ask({"n1": agent})
    report = renewals.take(["n1"])
    agent.answer()
    renewals.give(report)
    assert agent.renewed == []
    renewals.give(renewals.take(["n1"]))
    assert agent.renewed == [500.0]


def test_nothing_is_asked_where_no_pool_has_a_fence() -> None:
    agent = Agent()
    Renewals().ask({"n1": agent})
    assert agent.waiting == []
