"""Rows that the first release wrote load into this one: what they lack takes its default."""

from __future__ import annotations

from factory.domain.events import Submitted
from factory.domain.ids import PoolName
from factory.domain.jobs import Topology
from factory.domain.tenancy import Quota
from factory.storage import codec

# as the first release stored them
JOB = (
    '{"id":"job-1","tenant":"mobility","spec":{"name":"job-1","entry":{"argv":["true"],"bundle":null,"type":"Co'
    'mmandEntry"},"queue":"mobility","resources":{"cpu_milli":2000,"memory_bytes":0,"gpu_milli":0},"replicas":2'
    ',"pool":"cpu","priority":"normal","inputs":[],"outputs":[],"ray":"none","retry":{"max_retries":3,"user_err'
    'ors":false,"backoff_s":1},"timeout_s":null,"start_timeout_s":300,"grace_s":10,"env":[],"seed":0,"after":[]'
    ',"labels":[]},"state":"running","submitted_at":0,"submitted_by":"key-test","seq":2,"state_since":0,"group"'
    ':null,"attempts":[{"id":"job-1.1","ordinal":1,"state":"running","runner":"runner-1","allocation":{"pool":"'
    'cpu","slots_milli":4000,"placements":[{"rank":0,"node":"n1","resources":{"cpu_milli":2000,"memory_bytes":0'
    ',"gpu_milli":0},"devices":[]},{"rank":1,"node":"n2","resources":{"cpu_milli":2000,"memory_bytes":0,"gpu_mi'
    'lli":0},"devices":[]}]},"admitted_at":0,"starting_at":0,"running_at":0,"ended_at":null,"stop":null,"outcom'
    'e":null,"proof":"","code_digest":""}],"retries":0,"not_before":null,"hold":null,"outcome":null,"ended_at":'
    "null}"
)
SUBMITTED = (
    '{"at":1,"job_id":"job-1","tenant":"mobility","by":"key-a","spec":{"name":"job-1","entry":{"argv":["true"],'
    '"bundle":null,"type":"CommandEntry"},"queue":"mobility","resources":{"cpu_milli":2000,"memory_bytes":0,"gp'
    'u_milli":0},"replicas":2,"pool":"cpu","priority":"normal","inputs":[],"outputs":[],"ray":"none","retry":{"'
    'max_retries":3,"user_errors":false,"backoff_s":1},"timeout_s":null,"start_timeout_s":300,"grace_s":10,"env'
    '":[],"seed":0,"after":[],"labels":[]},"group":null,"hold":null,"type":"Submitted"}'
)
POOL = (
    '{"name":"cpu","flavor":{"name":"cpu","slot":{"cpu_milli":1000,"memory_bytes":4294967296,"gpu_milli":0}},"r'
    'unner":"runner-1","isolation":"shared","tenant":null,"self_fence_s":null,"version":0}'
)
QUEUE = (
    '{"name":"mobility","tenant":"mobility","parent":null,"weight":1,"quotas":[{"pool":"cpu","nominal_milli":40'
    '00,"borrowing_milli":0,"lending_milli":null}],"version":0}'
)


def test_a_job_of_the_first_release_loads_and_can_be_stored_again() -> None:
    job = codec.JOB.load(JOB)
    assert (job.id, job.spec.replicas, job.spec.pool, job.live_attempt is not None) == ("job-1", 2, "cpu", True)
    spec = job.spec
    assert (spec.min_replicas, spec.flavors, spec.gpu_models) == (None, (), ())
    assert (spec.topology, spec.estimate_s) == (Topology.ANY, None)
    assert job.attempts[0].checkpointed_at is None
    assert codec.JOB.load(codec.JOB.dump(job)) == job


def test_an_event_of_the_first_release_loads() -> None:
    event = codec.EVENT.load(SUBMITTED)
    assert isinstance(event, Submitted)
    assert event.spec == codec.JOB.load(JOB).spec


def test_a_pool_of_the_first_release_is_fair_and_its_queue_lends_all() -> None:
    assert codec.POOL.load(POOL).policy == "fair"
    assert codec.QUEUE.load(QUEUE).quotas == (Quota(PoolName("cpu"), 4000, 0, None),)
