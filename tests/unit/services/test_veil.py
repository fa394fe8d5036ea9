"""Rule 9 in sentences: what a reason says of other tenants' queues and jobs loses its names."""

from __future__ import annotations

import pytest

from factory.domain.ids import QueueName, TenantId
from factory.domain.jobs import Waiting, WaitReason
from factory.errors import InfeasibleError
from factory.schemas.platform import QueueRequest, TenantRequest
from factory.schemas.veil import Veil

from .world import ANNA, NOW, PAUL, ROOT, World, command

OWN, FOREIGN = "job-0own", "job-0theirs"
VEIL = Veil({"water", "city"}, lambda id: id == FOREIGN)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("queue 'water' holds 3 slots", "a queue of other departments holds 3 slots"),
        ("5 lent to `water` until 14:20", "5 lent to other departments until 14:20"),
        ("5 lent to 'water' and 'city'", "5 lent to other departments"),
        ("5 lent to 'water', 'mobility' and 'city'", "5 lent to other departments, 'mobility' and other departments"),
        ("queue 'mobility' holds 3 of pool 'water'", "queue 'mobility' holds 3 of pool 'water'"),
        (f"held by {OWN} and {FOREIGN}, which ends", f"held by {OWN} and a job of other departments, which ends"),
        ("water is wet", "water is wet"),
    ],
)
def test_names_of_others_are_hidden_and_nothing_else(said: str, read: str) -> None:
    assert VEIL.over(said) == read


def test_numbers_are_hidden_as_the_sentence_is() -> None:
    numbers = (("job", FOREIGN), ("mine", OWN), ("pool", "water"), ("queue", "city"), ("used_milli", 5))
    veiled = VEIL.waiting(Waiting(WaitReason.WAITING_FOR_QUOTA, "queue 'city' is full", f"ask {FOREIGN}", numbers))
    assert dict(veiled.numbers) == {
        "job": "other departments", "mine": OWN, "pool": "water", "queue": "other departments", "used_milli": 5,
    }  # fmt: skip
    assert veiled.hint == "ask a job of other departments"


def test_a_reason_names_no_queue_above_that_is_anothers(world: World) -> None:
    world.tenants.put_tenant(ROOT, TenantId("townhall"), TenantRequest(), now=NOW)
    limit = {"pool": "cpu", "nominal": 1, "borrowing": 0}
    for name, fields in (("townhall", {"quotas": [limit]}), ("mobility", {"parent": "townhall"})):
        request = QueueRequest.model_validate({"tenant": name} | fields)
        world.tenants.put_queue(ROOT, QueueName(name), request, now=NOW)
    running = world.jobs.submit(ANNA, command(), now=NOW).job
    world.start(running.id)
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    seen = [
        world.jobs.explain(ANNA, job.id, now=NOW).model_dump_json(),
        world.jobs.view(ANNA, job.id, now=NOW).model_dump_json(),
        world.jobs.plan(ANNA, command(), now=NOW).model_dump_json(),
        world.jobs.plan(ANNA, command(cpu=2), now=NOW).model_dump_json(),
        world.tenants.show_queue(ANNA, QueueName("mobility"), now=NOW).model_dump_json(),
    ]
    assert all("townhall" not in text for text in seen)
    assert all("other departments" in text for text in seen[:2])
    with pytest.raises(InfeasibleError, match="may never hold more than 1 slot"):
        world.jobs.submit(ANNA, command(cpu=2), now=NOW)
    assert "townhall" in world.jobs.explain(ROOT, job.id, now=NOW).model_dump_json()
    assert PAUL.tenant not in "".join(seen)
