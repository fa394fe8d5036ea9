"""Room that is kept, and who may start beside it: rules P1 to P5 of the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId, NodeId, QueueName
from factory.domain.jobs import AttemptState, EndReason, Job, JobState, PriorityClass, Stop, Topology, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.cycle import Cycle, Reservation
from factory.scheduling.planning import Admit, Planning, Policy
from factory.scheduling.reserving import Claims, quota_opens_at, reserve
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot

CPU = pool("cpu", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
NOW = 10_000_000
MINUTE = 60 * SECOND


def lasting(row: Job, minutes: float | None) -> Job:
    estimate = None if minutes is None else round(60 * minutes)
    return replace(row, spec=replace(row.spec, estimate_s=estimate))


def busy(
    id: str,
    cpu: float = 1,
    on: str = "n1",
    *,
    minutes: float | None = None,
    since: int = NOW,
    of: str = "mobility",
    stop: Stop | None = None,
) -> Job:
    """A job that runs since `since` and is expected to take so many minutes."""
    row = running(lasting(job(id, cpu=cpu, queue=of), minutes), allocation([on], pool=CPU, cpu=cpu))
    state = AttemptState.RUNNING if stop is None else AttemptState.STOPPING
    live = replace(row.attempts[0], admitted_at=since, running_at=since, stop=stop, state=state)
    return replace(row, attempts=(live,))


def gang(cpu: float = 1, replicas: int = 1, *, id: str = "gang", topology: Topology = Topology.ANY, at: int = 0) -> Job:
    row = job(id, cpu=cpu, replicas=replicas, submitted_at=at)
    return replace(row, spec=replace(row.spec, topology=topology))


def run(*things: Pool | Node | Queue | Job, policy: Policy | None = None) -> Planning:
    made = Planning(snapshot(CPU, queue(), *things), policy or Policy(), NOW)
    made.run()
    return made


def started(made: Planning) -> list[str]:
    return [decision.job_id for decision in made.decisions if isinstance(decision, Admit)]


def kept(made: Planning, pool: Pool = CPU) -> list[Reservation]:
    return made.cycle.stock(pool.name).reservations


def claims(made: Planning) -> list[Reservation]:
    return [room for room in kept(made) if room.is_claim]


def nodes_of(reservation: Reservation) -> list[str]:
    return [placement.node for placement in reservation.placements]


# -- P2: for whom, where, when -----------------------------------------------------------------------------------------


def test_room_is_kept_from_the_first_moment_at_which_the_gang_fits() -> None:
    made = run(node("n1", cpu=4), busy("a", 1, minutes=30), busy("b", 1, minutes=10), busy("c", 1, minutes=20), gang(3))
    (room,) = kept(made)
    assert (room.job_id, room.queue, room.is_claim) == ("gang", "mobility", False)
    assert room.starts_at == NOW + 20 * MINUTE
    assert nodes_of(room) == ["n1"]


def test_ends_on_other_nodes_do_not_help_a_replica_that_needs_one() -> None:
    """By counts three CPUs are free after ten minutes; on one node they are only after half an hour."""
    made = run(
        node("n1", cpu=3), node("n2", cpu=3), busy("a", 2, "n1", minutes=30), busy("b", 2, "n2", minutes=40),
        busy("c", 1, "n1", minutes=10), busy("d", 1, "n2", minutes=10), gang(3),
    )  # fmt: skip
    (room,) = kept(made)
    assert (room.starts_at, nodes_of(room)) == (NOW + 30 * MINUTE, ["n1"])


def test_many_ends_are_looked_through_one_by_one() -> None:
    """More than one batch of them, and the one that makes the difference is in the middle of a batch."""
    jobs = [busy(f"j{i:02}", 1, minutes=1 + i) for i in range(40)]
    for size, minute in ((1, 1), (16, 16), (17, 17), (21, 21), (40, 40)):
        (room,) = kept(run(node("n1", cpu=40), *jobs, gang(size)))
        assert room.starts_at == NOW + minute * MINUTE


def test_only_so_many_ends_are_looked_through() -> None:
    jobs = [busy(f"j{i:02}", 1, minutes=1 + i) for i in range(8)]
    (room,) = kept(run(node("n1", cpu=8), *jobs, gang(4), policy=Policy(lookahead=4)))
    assert room.starts_at == NOW + 4 * MINUTE
    (room,) = kept(run(node("n1", cpu=8), *jobs, gang(5), policy=Policy(lookahead=4)))
    assert room.starts_at is None


def test_an_attempt_that_is_being_stopped_ends_after_its_grace() -> None:
    stop = Stop(EndReason.CANCELLED, NOW - 4 * SECOND)
    (room,) = kept(run(node("n1", cpu=2), busy("a", 2, stop=stop), gang(2)))
    assert room.starts_at == NOW + 6 * SECOND


def test_an_overrun_is_expected_to_take_twice_as_long() -> None:
    (room,) = kept(run(node("n1", cpu=2), busy("a", 2, minutes=10, since=NOW - 15 * MINUTE), gang(2)))
    assert room.starts_at == NOW + 5 * MINUTE


def test_what_this_plan_starts_is_expected_to_end_too() -> None:
    made = run(
        node("n1", cpu=4), busy("a", 2, minutes=60), lasting(job("first", cpu=2, submitted_at=-5), 20), gang(2, at=1)
    )
    assert started(made) == ["first"]
    made = run(
        queue("water"), node("n1", cpu=4), busy("a", 2, minutes=60), gang(4),
        lasting(job("short", cpu=2, queue="water", submitted_at=5), 20),
    )  # fmt: skip
    assert started(made) == ["short"]
    (room,) = kept(made)
    assert room.starts_at == NOW + 60 * MINUTE


def test_where_ends_are_not_known_room_is_kept_on_the_freest_nodes() -> None:
    made = run(node("n1", cpu=4), node("n2", cpu=4), busy("a", 3, "n1"), busy("b", 2, "n2"), gang(4))
    (room,) = kept(made)
    assert (room.starts_at, nodes_of(room)) == (None, ["n2"])


def test_the_freest_are_so_many_as_the_gang_needs() -> None:
    nodes = [node(f"n{i}", cpu=4) for i in range(1, 5)]
    jobs = [busy("a", 4, "n1"), busy("b", 1, "n2"), busy("c", 3, "n3"), busy("d", 2, "n4")]
    (room,) = kept(run(*nodes, *jobs, gang(4, 2)))
    assert nodes_of(room) == ["n2", "n4"]
    (room,) = kept(run(*nodes, *jobs, gang(3, 3)))
    assert sorted(nodes_of(room)) == ["n2", "n3", "n4"]


def test_nodes_that_are_not_ready_or_too_small_are_passed_over() -> None:
    made = run(
        node("n1", cpu=8, state=NodeState.DRAINING), node("n2", cpu=2), node("n3", cpu=4), busy("a", 3, "n3"), gang(3)
    )
    (room,) = kept(made)
    assert nodes_of(room) == ["n3"]


def test_the_freest_of_one_node_must_hold_the_whole_gang() -> None:
    made = run(
        node("n1", cpu=2),
        node("n2", cpu=4),
        busy("a", 1, "n1"),
        busy("b", 4, "n2"),
        gang(1, 4, topology=Topology.ONE_NODE),
    )
    (room,) = kept(made)
    assert nodes_of(room) == ["n2"] * 4


def test_the_freest_of_a_zone_lie_in_one() -> None:
    nodes = [node("n1", cpu=2, zone="east"), node("n2", cpu=2, zone="west"), node("n3", cpu=2, zone="west")]
    jobs = [busy("b", 2, "n2"), busy("c", 1, "n3")]
    (room,) = kept(run(*nodes, *jobs, gang(1, 4, topology=Topology.SAME_ZONE)))
    assert sorted(nodes_of(room)) == ["n2", "n2", "n3", "n3"]


def test_a_spread_gang_keeps_one_place_on_each_node() -> None:
    nodes = [node(f"n{i}", cpu=4) for i in range(1, 4)]
    jobs = [busy("a", 4, "n1"), busy("b", 4, "n2"), busy("c", 1, "n3")]
    (room,) = kept(run(*nodes, *jobs, gang(1, 2, topology=Topology.SPREAD)))
    assert sorted(nodes_of(room)) == ["n1", "n3"]


def test_a_node_is_as_free_as_its_scarcest_resource_is() -> None:
    """n1 has more CPUs left, n2 more memory: by slots n2 is the freer."""

    def full(id: str, cpu: float, gib: float, on: str) -> Job:
        return running(job(id, cpu=cpu, memory_gib=gib), allocation([on], pool=CPU, cpu=cpu, memory_gib=gib))

    made = run(
        node("n1", cpu=8, memory_gib=32),
        node("n2", cpu=8, memory_gib=32),
        full("a", 1, 28, "n1"),
        full("b", 5, 4, "n2"),
        job("gang", cpu=8, memory_gib=32),
    )
    (room,) = kept(made)
    assert nodes_of(room) == ["n2"]


def test_room_is_kept_for_one_gang_only_and_that_is_the_one_that_has_waited_longest() -> None:
    made = run(
        queue("water"), node("n1", cpu=4), busy("a", 4, minutes=60), gang(3, id="second", at=5),
        job("first", cpu=2, queue="water", submitted_at=1),
    )  # fmt: skip
    assert [room.job_id for room in kept(made)] == ["first"]


def test_a_policy_without_room_keeps_none() -> None:
    for name in ("shortest", "least-attained-service"):
        made = Planning(
            snapshot(replace(CPU, policy=name), queue(), node("n1", cpu=4), busy("a", 4, minutes=60), gang(2)),
            Policy(),
            NOW,
        )
        made.run()
        assert kept(made) == []


def test_no_room_is_kept_for_what_could_never_fit_or_may_not_start_for_its_quota() -> None:
    made = run(node("n1", cpu=4), busy("a", 4, minutes=60), gang(5))
    assert kept(made) == []
    made = Planning(
        snapshot(CPU, queue("mobility", quota={"cpu": 4}), node("n1", cpu=8), busy("a", 4, minutes=60), gang(2)),
        Policy(),
        NOW,
    )
    made.run()
    assert kept(made) == []


def test_every_pool_keeps_room_for_its_own() -> None:
    made = Planning(
        snapshot(
            CPU,
            GPU,
            queue(),
            queue("water"),
            node("n1", cpu=2),
            node("g1", pool="gpu", cpu=8, memory_gib=32, gpus=2),
            busy("a", 2),
            running(
                job("g", gpu=2, cpu=1), allocation(["g1"], pool=GPU, gpu=2, cpu=1, devices=[[(0, 1000), (1, 1000)]])
            ),
            job("one", cpu=1, pool="cpu"),
            job("two", cpu=1, gpu=1, queue="water", submitted_at=5),
        ),
        Policy(),
        NOW,
    )
    made.run()
    assert [room.job_id for room in kept(made, CPU)] == ["one"]
    assert [room.job_id for room in kept(made, GPU)] == ["two"]


# -- P4: beside what is kept -------------------------------------------------------------------------------------------


def test_who_ends_before_the_reservation_starts_goes_first() -> None:
    things = (node("n1", cpu=4), busy("a", 2, minutes=30), gang(4))
    for minutes, starts in ((29, ["b"]), (30, ["b"]), (30.1, []), (None, [])):
        assert started(run(*things, lasting(job("b", cpu=2, submitted_at=5), minutes))) == starts


def test_who_needs_nothing_of_what_is_kept_starts_however_long() -> None:
    made = run(
        node("n1", cpu=4), node("n2", cpu=2), busy("a", 2, "n1", minutes=30), gang(4), job("b", cpu=2, submitted_at=5)
    )
    assert started(made) == ["b"]
    assert [p.node for d in made.decisions if isinstance(d, Admit) for p in d.allocation.placements] == ["n2"]


def test_what_the_gang_leaves_of_its_nodes_others_may_use() -> None:
    things = (node("n1", cpu=6), busy("a", 4, minutes=30), gang(4))
    assert started(run(*things, job("b", cpu=2, submitted_at=5))) == ["b"]
    assert started(run(*things, job("b", cpu=1, submitted_at=5), job("c", cpu=2, submitted_at=6))) == ["b"]


def test_when_the_start_is_not_known_nobody_goes_past() -> None:
    made = run(node("n1", cpu=4), busy("a", 2), gang(4), lasting(job("b", cpu=2, submitted_at=5), 1))
    assert started(made) == []
    assert dict(made.result().waiting) == {JobId("gang"): WaitReason.GANG_DOES_NOT_FIT}


def test_a_timeout_is_an_end_that_is_known() -> None:
    row = job("b", cpu=2, submitted_at=5)
    row = replace(row, spec=replace(row.spec, timeout_s=60))
    assert started(run(node("n1", cpu=4), busy("a", 2, minutes=30), gang(4), row)) == ["b"]


# -- P5: quota that is kept --------------------------------------------------------------------------------------------


def limited(*things: Node | Job, quota: float = 4, borrowing: float | None = 0) -> Planning:
    made = Planning(
        snapshot(CPU, queue("mobility", quota={"cpu": quota}, borrowing=borrowing), node("n1", cpu=9), *things),
        Policy(),
        NOW,
    )
    made.run()
    return made


def test_behind_a_job_that_waits_for_quota_only_those_start_that_end_before_it_can() -> None:
    things = (busy("a", 2, minutes=30), gang(4))
    for minutes, starts in ((29, ["b"]), (30, ["b"]), (31, []), (None, [])):
        assert started(limited(*things, lasting(job("b", cpu=1, submitted_at=5), minutes))) == starts


def test_where_nobody_knows_when_the_quota_opens_nobody_starts_behind() -> None:
    made = limited(busy("a", 2), gang(4), lasting(job("b", cpu=1, submitted_at=5), 1))
    assert started(made) == []
    assert dict(made.result().waiting) == {JobId("gang"): WaitReason.WAITING_FOR_QUOTA}


def test_a_quota_opens_when_enough_of_the_queues_own_jobs_have_ended() -> None:
    rows = (
        CPU, queue("mobility", quota={"cpu": 6}), queue("water"), node("n1", cpu=20), busy("a", 3, minutes=30),
        busy("b", 2, minutes=10), busy("c", 1), busy("w", 5, minutes=1, of="water"),
    )  # fmt: skip
    cycle = Cycle(snapshot(*rows), Policy(), NOW)
    stock = cycle.stock(CPU.name)
    opens = [quota_opens_at(cycle, stock, QueueName("mobility"), slots * 1000) for slots in (1, 2, 3, 5, 6)]
    assert opens == [NOW + 10 * MINUTE, NOW + 10 * MINUTE, NOW + 30 * MINUTE, NOW + 30 * MINUTE, None]
    assert quota_opens_at(cycle, stock, QueueName("bikes"), 1000) is None


def test_a_quota_above_counts_what_is_freed_below() -> None:
    rows = (
        CPU, queue("city", quota={"cpu": 4}), queue("mobility", parent="city", quota={"cpu": 0}, borrowing=None),
        node("n1", cpu=9), busy("a", 3, minutes=30), busy("b", 1, minutes=10),
    )  # fmt: skip
    cycle = Cycle(snapshot(*rows), Policy(), NOW)
    stock = cycle.stock(CPU.name)
    assert quota_opens_at(cycle, stock, QueueName("mobility"), 1000) == NOW + 10 * MINUTE
    assert quota_opens_at(cycle, stock, QueueName("mobility"), 4000) == NOW + 30 * MINUTE


# -- P1, P3: claims ----------------------------------------------------------------------------------------------------


PREEMPTED = Stop(EndReason.PREEMPTED, NOW - 5 * SECOND, "comes")
CITY = (
    queue("city"),
    queue("a", parent="city", quota={"cpu": 4}),
    queue("b", parent="city", quota={"cpu": 0}, borrowing=None),
)


def dead(row: Job, at: int = NOW) -> Job:
    last = replace(row.attempts[-1], state=AttemptState.ENDED, ended_at=at)
    return replace(row, state=JobState.QUEUED, attempts=(*row.attempts[:-1], last), submitted_at=0)


def claiming(*things: Node | Job, comes: Job | None = None) -> Planning:
    row = comes or job("comes", cpu=2, queue="a", submitted_at=NOW)
    made = Planning(snapshot(CPU, *CITY, *things, row), Policy(), NOW)
    made.run()
    return made


def test_while_its_victims_stop_a_preemptor_keeps_what_they_hold() -> None:
    made = claiming(node("n1", cpu=2), busy("v", 2, of="b", stop=PREEMPTED), job("x", queue="a", submitted_at=0))
    assert made.decisions == []
    (room,) = claims(made)
    assert (room.job_id, room.is_claim, room.starts_at, nodes_of(room)) == ("comes", True, None, ["n1"])
    assert dict(made.result().waiting)[JobId("comes")] is WaitReason.WAITING_FOR_PREEMPTION


def test_once_they_are_dead_it_starts_before_everybody_else() -> None:
    made = claiming(
        node("n1", cpu=2), dead(busy("v", 2, of="b", stop=PREEMPTED)),
        *(job(f"x{i}", queue="a", submitted_at=0, priority=PriorityClass.HIGH) for i in range(3)),
    )  # fmt: skip
    assert started(made) == ["comes"]


def test_a_preemptor_that_needs_one_victim_more_waits_for_it() -> None:
    gone, going = dead(busy("v1", 1, of="b", stop=PREEMPTED)), busy("v2", 1, of="b", stop=PREEMPTED)
    made = claiming(node("n1", cpu=2), gone, going, job("x", queue="a", submitted_at=0))
    assert started(made) == []
    assert [room.job_id for room in claims(made)] == ["comes"]


def test_nobody_however_short_starts_in_what_was_claimed() -> None:
    made = claiming(
        node("n1", cpu=3),
        busy("v", 2, of="b", stop=PREEMPTED),
        lasting(job("short", cpu=1, queue="b", submitted_at=0), 0.01),
        comes=job("comes", cpu=3, queue="a", submitted_at=NOW),
    )
    assert started(made) == []
    roomier = claiming(
        node("n1", cpu=3),
        busy("v", 2, of="b", stop=PREEMPTED),
        lasting(job("short", cpu=1, queue="b", submitted_at=0), 0.01),
    )
    assert started(roomier) == ["short"]


def test_the_quota_that_a_claim_will_need_is_counted_once() -> None:
    """Two of the preemptor's three slots are still counted as the victim's."""
    made = claiming(
        node("n1", cpu=9), node("n2", cpu=3), busy("v", 2, "n2", of="b", stop=PREEMPTED), busy("h", 7, "n1", of="b"),
        comes=job("comes", cpu=3, queue="a", submitted_at=NOW),
    )  # fmt: skip
    stock = made.cycle.stock(CPU.name)
    assert stock.used(QueueName("a")) == 1000
    assert stock.used(QueueName("city")) == 10_000
    assert stock.settled(QueueName("a")) == 3000
    assert stock.settled(QueueName("b")) == 7000
    assert stock.settled(QueueName("city")) == 10_000


def test_a_claim_ends_with_the_attempt_that_it_led_to() -> None:
    """It ran meanwhile and was stopped itself: what was freed for it then is nobody's any more."""
    row = job("comes", cpu=2, queue="a", submitted_at=NOW)
    row = running(row, allocation(["n1"], pool=CPU, cpu=2))
    row = dead(row, at=NOW - SECOND)
    rows = (CPU, *CITY, node("n1", cpu=4), busy("v", 2, of="b", stop=PREEMPTED), row)
    assert Claims(Cycle(snapshot(*rows), Policy(), NOW)).places == []
    later = replace(PREEMPTED, at=NOW - SECOND)
    rows = (CPU, *CITY, node("n1", cpu=4), busy("v", 2, of="b", stop=later), row)
    assert [place.turn[2] for place in Claims(Cycle(snapshot(*rows), Policy(), NOW)).places] == ["comes"]


def test_a_claim_in_a_pool_that_is_gone_is_none() -> None:
    rows = (*CITY, node("n1", cpu=4), busy("v", 2, of="b", stop=PREEMPTED), job("comes", queue="a"))
    assert Claims(Cycle(snapshot(*rows), Policy(), NOW)).places == []


def test_preemptors_get_theirs_in_the_order_of_their_keys() -> None:
    one, two = replace(PREEMPTED, by="p1"), replace(PREEMPTED, by="p2")
    rows = (
        CPU, *CITY, node("n1", cpu=2), busy("v1", 1, of="b", stop=one), busy("v2", 1, of="b", stop=two),
        job("p1", queue="a", submitted_at=9), job("p2", queue="a", submitted_at=3),
    )  # fmt: skip
    claims = Claims(Cycle(snapshot(*rows), Policy(), NOW))
    assert [place.turn[2] for place in claims.places] == ["p2", "p1"]
    assert [stock.pool.name for stock in claims.pools(JobId("p1"))] == ["cpu"]


def test_a_preemptor_that_backs_off_is_passed_over() -> None:
    waiting = job("comes", cpu=2, queue="a", submitted_at=0, not_before=NOW + 1)
    made = claiming(node("n1", cpu=2), dead(busy("v", 2, of="b", stop=PREEMPTED)), comes=waiting)
    assert started(made) == ["v"]


def test_victims_that_free_too_little_keep_nothing() -> None:
    made = claiming(
        node("n1", cpu=4), busy("v", 1, of="b", stop=PREEMPTED), busy("h", 3, of="b", since=NOW - 5 * SECOND),
        comes=job("comes", cpu=2, queue="a", submitted_at=NOW),
    )  # fmt: skip
    assert all(not room.is_claim for room in kept(made))


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_gang_without_any_node_keeps_nothing() -> None:
    snap = snapshot(CPU, queue(), node("n1", cpu=2), gang(3))
    cycle = Cycle(snap, Policy(), NOW)
    place = snap.places[JobId("gang")]
    reserve(cycle, snap.jobs[JobId("gang")], place.lane, cycle.stock(CPU.name))
    assert cycle.stock(CPU.name).reservations == []


@pytest.mark.parametrize("is_claim", [True, False])
def test_what_is_kept_is_what_will_be_left_of_the_nodes_then(is_claim: bool) -> None:
    snap = snapshot(CPU, queue(), node("n1", cpu=6), busy("a", 2, minutes=9), gang(4))
    cycle = Cycle(snap, Policy(), NOW)
    stock = cycle.stock(CPU.name)
    room = stock.floor.copy()
    room.give(snap.jobs[JobId("a")].attempts[0].allocation.placements)
    placements = room.place(snap.places[JobId("gang")].lane.shape, 1)
    assert placements is not None
    room.take(placements)
    stock.reserve(Reservation(JobId("gang"), QueueName("mobility"), placements, NOW + 9, is_claim), room)
    left = stock.floor.free_of(NodeId("n1"))[0].cpu_milli
    assert left == (2000 if is_claim else 4000)
    assert stock.room(snap.places[JobId("gang")].lane.shape) == 0
    assert stock.may_reserve is is_claim
