"""Lost nodes are removed by time only once nothing on them may still live."""

from __future__ import annotations

from factory.domain.jobs import AttemptState
from factory.domain.pools import NodeState
from factory.domain.tenancy import PLATFORM
from tests.unit.control.factory_floor import Floor, node_report, said

HOUR = 3600


def nodes(floor: Floor) -> list[str]:
    return [n.id for n in floor.store.read(lambda reader: reader.nodes(PLATFORM))]


def lose(floor: Floor) -> None:
    """Node n1 dies while its runner goes on; n2 stays."""
    floor.report(nodes=[node_report("n1"), node_report("n2")])
    floor.report(nodes=[node_report("n1", is_alive=False), node_report("n2")])
    assert floor.node("n1").state is NodeState.LOST


def pass_time(floor: Floor, seconds: int, *, said_of_n1: bool = True) -> None:
    floor.clock.at += seconds * 1000
    n1 = [node_report("n1", is_alive=False)] if said_of_n1 else []
    floor.report(nodes=[*n1, node_report("n2")])
    floor.tick()


def test_a_lost_node_that_holds_nothing_is_removed_after_an_hour() -> None:
    floor = Floor()
    lose(floor)
    pass_time(floor, HOUR - 1)
    assert nodes(floor) == ["n1", "n2"]
    pass_time(floor, 61)
    assert nodes(floor) == ["n2"]
    pass_time(floor, 61)
    assert nodes(floor) == ["n2"], "a runner that still names it dead does not bring it back"


def test_how_long_it_is_kept_can_be_set() -> None:
    floor = Floor()
    lose(floor)
    floor.loop = floor.another_loop("b", lost_node_keep_s=30, lease_s=1)
    pass_time(floor, 31)
    assert nodes(floor) == ["n2"]


def test_a_lost_node_with_an_attempt_that_is_not_proven_dead_stays_for_ever() -> None:
    floor = Floor()
    floor.submit("job-a")
    floor.tick()
    lose(floor)
    pass_time(floor, 2 * HOUR)
    assert floor.attempt("job-a").state is AttemptState.UNKNOWN
    assert nodes(floor) == ["n1", "n2"]
    floor.report(said("job-a.1", "ended"))
    pass_time(floor, 61)
    assert nodes(floor) == ["n2"]


def test_a_node_that_came_back_is_not_removed() -> None:
    floor = Floor()
    lose(floor)
    floor.clock.at += 2 * HOUR * 1000
    floor.report(nodes=[node_report("n1"), node_report("n2")])
    floor.tick()
    assert nodes(floor) == ["n1", "n2"]
