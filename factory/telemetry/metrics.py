"""Prometheus metrics of the control plane, names `aifactory_…` (notes/reliability.md §7).

Gauges of the factory's state are read from the database when scraped, so that they are right after a restart and on
every replica. No metric carries a job or attempt id; tenants appear as the largest `TOP_TENANTS` and "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

__all__ = ["CONTENT_TYPE", "TOP_TENANTS", "Metrics", "StateSample"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TOP_TENANTS = 50
_PASS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_HTTP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class StateSample:
    """What the database says at one moment. Slots in thousandths."""

    jobs: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # (state, tenant, queue) -> open jobs
    slots_capacity: Mapping[str, int] = field(default_factory=dict)  # pool ->
    slots_allocated: Mapping[str, int] = field(default_factory=dict)  # pool ->
    quota_limit: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (queue, pool) ->
    quota_used: Mapping[tuple[str, str], int] = field(default_factory=dict)
    leader_epoch: int = 0


class Metrics:
    """The registry of one process; made once by bootstrap, given to those who count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.submissions = Counter("aifactory_job_submissions_total", "Jobs accepted.", ["kind"], registry=r)
        self.rejections = Counter(
            "aifactory_job_rejections_total", "Submissions refused, by problem code.", ["code"], registry=r
        )
        self.queue_wait = Histogram(
            "aifactory_job_queue_wait_seconds",
            "From accepted to running, of first attempts.",
            registry=r,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200),
        )
        self.pass_seconds = Histogram(
            "aifactory_scheduler_pass_duration_seconds",
            "One turn of the control loop.",
            registry=r,
            buckets=_PASS_BUCKETS,
        )
        self.decisions = Counter(
            "aifactory_scheduler_decisions_total", "What turns of the loop did.", ["outcome", "reason"], registry=r
        )
        self.loop_errors = Counter("aifactory_control_loop_errors_total", "Turns that raised.", registry=r)
        self.fenced = Counter("aifactory_fenced_writes_total", "Writes refused because the lease was lost.", registry=r)
        self.is_leader = Gauge("aifactory_is_leader", "1 if this process leads.", registry=r)
        self.requests = Counter(
            "aifactory_http_requests_total", "Answered requests.", ["method", "route", "status"], registry=r
        )
        self.request_seconds = Histogram(
            "aifactory_http_request_duration_seconds",
            "From the request to the answer's first byte; long polls and streams left out.",
            ["method", "route"],
            registry=r,
            buckets=_HTTP_BUCKETS,
        )
        self.reports = Counter("aifactory_runner_reports_total", "Reports taken.", ["kind"], registry=r)
        self.log_bytes = Counter("aifactory_log_bytes_total", "Bytes of job logs stored.", registry=r)
        self.projection_failures = Counter(
            "aifactory_mlflow_projection_failures_total", "Turns of the MLflow projection that failed.", registry=r
        )

    def watch(self, sample: Callable[[], StateSample]) -> None:
        """Read the state's gauges through `sample` at each scrape."""
        self.registry.register(_StateCollector(sample))

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)


class _StateCollector:
    """Turns a StateSample into gauges."""

    def __init__(self, sample: Callable[[], StateSample]) -> None:
        self._sample = sample

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not read the database

    def collect(self) -> Iterable[Metric]:
        now = self._sample()
        yield _family("aifactory_jobs", "Open jobs.", ("state", "tenant", "queue"), _top_tenants(now.jobs), 1)
        by_pool = ("pool",)
        yield _family("aifactory_slots_capacity", "Slots of ready nodes.", by_pool, _keyed(now.slots_capacity), 1000)
        yield _family(
            "aifactory_slots_allocated", "Slots that attempts hold.", by_pool, _keyed(now.slots_allocated), 1000
        )
        yield _family("aifactory_quota_limit", "Nominal quota in slots.", ("queue", "pool"), now.quota_limit, 1000)
        yield _family("aifactory_quota_used", "Slots in use.", ("queue", "pool"), now.quota_used, 1000)
        yield _family("aifactory_leader_epoch", "Epoch of the current lease.", (), {(): now.leader_epoch}, 1)


def _keyed(values: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(name,): value for name, value in values.items()}


def _family(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int], divisor: int
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key in sorted(values):
        family.add_metric(key, values[key] / divisor)
    return family


def _top_tenants(jobs: Mapping[tuple[str, str, str], int]) -> dict[tuple[str, ...], int]:
    total: dict[str, int] = {}
    for (_, tenant, _), count in jobs.items():
        total[tenant] = total.get(tenant, 0) + count
    top = set(sorted(total, key=lambda t: (-total[t], t))[:TOP_TENANTS])
    found: dict[tuple[str, ...], int] = {}
    for (state, tenant, queue), count in jobs.items():
        key = (state, tenant, queue) if tenant in top else (state, "other", "other")
        found[key] = found.get(key, 0) + count
    return found
