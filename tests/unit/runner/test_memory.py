"""What the runner remembers, joined with what the agents show."""

from __future__ import annotations

from factory.lifecycle.reconciling import FoundReplica, Process
from factory.runner.agent import AgentView, ReplicaView
from factory.runner.memory import Memory


def view(*replicas: ReplicaView, look: int = 1) -> dict[str, AgentView]:
    return {"n1": AgentView("n1", 1, look, replicas)}


def one(memory: Memory, views: dict[str, AgentView], now: int = 0) -> FoundReplica:
    (found,) = memory.look(views, {"n1"}, now).replicas
    return found


def test_what_was_asked_for_is_starting_until_it_is_seen() -> None:
    memory = Memory()
    memory.ask("r1", "n1", "job-a.1", 0)

    found = one(memory, view())

    assert (found.process, found.attempt) == (Process.STARTING, "job-a.1")
    assert memory.look(view(), {"n1"}, 0).started == {"job-a.1"}


def test_an_order_under_way_makes_the_warm_replica_the_attempts() -> None:
    memory = Memory()
    memory.ask("r1", "n1", "job-a.1", 2)

    found = one(memory, view(ReplicaView("r1", Process.ALIVE)))

    assert (found.process, found.attempt, found.rank, found.began) == (Process.ALIVE, "job-a.1", 2, False)


def test_a_replica_that_lost_its_rank_to_another_one_is_not_the_attempts() -> None:
    memory = Memory()
    memory.ask("r2", "n1", "job-a.1", 0)
    served = ReplicaView("r1", Process.ALIVE, "job-a.1", 0, began=True)

    found = memory.look(view(served, ReplicaView("r2", Process.GONE)), {"n1"}, 0).replicas

    assert [(r.id, r.attempt) for r in found] == [("r1", "job-a.1"), ("r2", None)]


def test_a_death_that_ray_tells_of_is_proven_only_by_a_later_look() -> None:
    memory = Memory()
    memory.ask("r1", "n1", "job-a.1", 0)
    memory.failed("r1", 4)

    assert one(memory, view(look=4)).process is Process.STARTING
    assert one(memory, view(look=5)).process is Process.GONE


def test_the_first_sight_of_an_end_is_kept() -> None:
    memory = Memory()
    gone = view(ReplicaView("r1", Process.GONE, "job-a.1", 0))

    assert [one(memory, gone, now).gone_at for now in (7, 9)] == [7, 7]


def test_a_kill_explains_nothing_but_an_outcome_does() -> None:
    from factory.domain.jobs import EndReason, Outcome

    memory = Memory()
    memory.killed("r1")
    gone = ReplicaView("r1", Process.GONE, "job-a.1", 0)
    told = ReplicaView("r1", Process.GONE, "job-a.1", 0, outcome=Outcome(EndReason.COMPLETED))

    assert one(memory, view(gone)).killed
    assert not one(memory, view(told)).killed


def test_a_node_that_does_not_answer_is_shown_as_not_reachable_with_its_last_look() -> None:
    memory = Memory()

    found = memory.look(view(ReplicaView("r1", Process.ALIVE, "job-a.1", 0)), set(), 0)

    assert [n.reachable for n in found.nodes] == [False]
    assert [r.id for r in found.replicas] == ["r1"]


def test_what_is_neither_desired_nor_there_is_forgotten() -> None:
    memory = Memory()
    memory.ask("r1", "n1", "job-a.1", 0)
    memory.forget("r1")
    memory.keep_only([])

    assert memory.look(view(), {"n1"}, 0).started == frozenset()
    assert memory.look(view(), {"n1"}, 0).replicas == ()
