"""The proof "self-fence": only for pools that have one, only after twice its time, only while nothing shows life."""

from __future__ import annotations

from dataclasses import replace

from factory.domain.jobs import AttemptState, EndReason, JobState
from factory.domain.pools import NodeState
from factory.testing import builders
from tests.unit.control.factory_floor import START, Floor, node_report, said

FENCE_S = 60


def running(fence_s: int | None = FENCE_S) -> Floor:
    """A running attempt on node n1 of a pool with that fence."""
    floor = Floor(
        replace(builders.pool(), self_fence_s=fence_s),
        builders.node("n1", cpu=2),
        builders.queue(),
        builders.runner(seen_at=START),
    )
    floor.submit("job-a")
    floor.tick()
    floor.report(said("job-a.1", "running"))
    return floor


def lose(floor: Floor) -> None:
    """The runner says that n1 is dead, and goes on saying so; the loop sees it."""
    floor.report(nodes=[node_report("n1", is_alive=False)])
    floor.tick()
    assert floor.attempt("job-a").state is AttemptState.UNKNOWN


def pass_time(floor: Floor, seconds: int, *, step: int = 3, alive: bool | None = False) -> None:
    """Let the loop turn as it does; `alive` None: the runner is silent."""
    for _ in range(seconds // step):
        floor.clock.at += step * 1000
        if alive is not None:
            floor.report(nodes=[node_report("n1", is_alive=alive)])
        floor.tick()


def test_an_attempt_on_a_lost_node_is_dead_after_twice_the_fence() -> None:
    floor = running()
    lose(floor)
    pass_time(floor, 2 * FENCE_S - 3)
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN
    pass_time(floor, 6)
    ended = floor.job("job-a").attempts[0]
    assert (ended.state, ended.proof) == (AttemptState.ENDED, "self-fence")
    assert ended.outcome is not None
    assert ended.outcome.reason is EndReason.NODE_LOST
    assert "n1" in ended.outcome.message
    assert floor.job("job-a").state is JobState.QUEUED, "its retry policy decides what comes then"


def test_a_silent_runners_attempts_are_dead_after_its_silence_and_twice_the_fence() -> None:
    floor = running()
    pass_time(floor, 30 + 2 * FENCE_S - 3, alive=None)
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN
    pass_time(floor, 9, alive=None)
    assert floor.job("job-a").attempts[0].proof == "self-fence"


def test_without_a_fence_time_alone_is_never_proof() -> None:
    floor = running(fence_s=None)
    lose(floor)
    pass_time(floor, 3600, step=5)
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN


def test_a_sign_of_life_begins_the_count_anew() -> None:
    floor = running()
    lose(floor)
    pass_time(floor, 2 * FENCE_S - 9)
    floor.report(nodes=[node_report("n1")])  # between two looks of the loop: it never sees the node ready
    floor.clock.at += 1
    floor.report(nodes=[node_report("n1", is_alive=False)])
    floor.tick()
    pass_time(floor, 2 * FENCE_S - 6)
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN
    pass_time(floor, 12)
    assert floor.job("job-a").attempts[0].proof == "self-fence"


def test_a_jump_of_the_clock_proves_nothing() -> None:
    floor = running()
    lose(floor)
    floor.clock.at += 10 * 3600 * 1000
    floor.tick()
    floor.tick()
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN


def test_a_new_leader_counts_anew() -> None:
    floor = running()
    lose(floor)
    pass_time(floor, 2 * FENCE_S - 6)
    floor.loop.release()
    floor.loop = floor.another_loop("b")
    pass_time(floor, 2 * FENCE_S - 6)
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN
    pass_time(floor, 12)
    assert floor.job("job-a").attempts[0].proof == "self-fence"


def test_a_gang_is_dead_only_when_all_of_its_nodes_are() -> None:
    floor = Floor(
        replace(builders.pool(), self_fence_s=FENCE_S),
        builders.node("n1", cpu=2),
        builders.node("n2", cpu=2),
        builders.queue(),
        builders.runner(seen_at=START),
    )
    floor.submit("job-a", cpu=2, replicas=2)
    floor.tick()
    assert {p.node for p in floor.attempt("job-a").allocation.placements} == {"n1", "n2"}

    def say(*dead: str) -> None:
        floor.clock.at += 3_000
        floor.report(nodes=[node_report(n, is_alive=n not in dead) for n in ("n1", "n2")])
        floor.tick()

    for _ in range(FENCE_S):
        say("n1")
    assert floor.job("job-a").attempts[0].state is AttemptState.UNKNOWN
    for _ in range(2 * FENCE_S // 3 + 2):
        say("n1", "n2")
    assert floor.job("job-a").attempts[0].proof == "self-fence"


def test_a_dead_nodes_reports_are_no_writes() -> None:
    floor = running()
    lose(floor)
    node = floor.node("n1")
    pass_time(floor, 30)
    assert floor.node("n1") == node
    assert node.state is NodeState.LOST
