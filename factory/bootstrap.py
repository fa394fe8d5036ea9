"""The composition root of the control plane: opens the stores, joins the services, makes the first keys.

Nothing reachable from here imports ray, torch, duckdb, deltalake, pandas or the algorithms' code (DESIGN §1).
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from uuid_utils import uuid7

from factory.algorithms.catalogue import Catalogue, load_catalogue
from factory.control.loop import ControlLoop
from factory.control.loop import Settings as LoopSettings
from factory.control.ports import ControlReader
from factory.control.view import View, build, catch_up, since_at
from factory.datasets.service import DatasetService
from factory.datasets.settling import settle
from factory.datasets.tables import LocalTables
from factory.domain.ids import KeyId, TenantId
from factory.domain.jobs import Job
from factory.domain.pools import NodeState
from factory.domain.resources import slots_in
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.domain.time import Clock, Instant
from factory.errors import ConfigurationError, FactoryError, FeedPrunedError, UnauthenticatedError
from factory.jobs.bundles import Bundles
from factory.jobs.history import HistoryService
from factory.jobs.ports import EndedHook
from factory.jobs.service import JobService
from factory.models.mlflow import MlflowRegistry
from factory.models.service import ModelService
from factory.objects.files import FileObjectStore
from factory.objects.ports import ObjectStore
from factory.pools.service import PoolService
from factory.scheduling.planning import Policy
from factory.scheduling.snapshot import Snapshot
from factory.schemas.platform import KeyRequest, TenantRequest
from factory.serving.service import EndpointService, follow_aliases
from factory.settings import Settings
from factory.storage.folder import private_folder
from factory.storage.hooks import CommitHooks
from factory.storage.store import SqlStore, open_store
from factory.telemetry.metrics import Metrics, StateSample
from factory.tenants.service import TenantService
from factory.tenants.tokens import AttemptTokens

__all__ = [
    "ADMIN_KEY",
    "CONTROL",
    "RUNNER_KEY",
    "ControlPlane",
    "SystemClock",
    "UuidIds",
    "assemble",
    "first_steps",
    "policy_of",
    "tune_collector",
]

_log = logging.getLogger(__name__)
CONTROL = Principal("control", Role.PLATFORM, None)  # who the control plane itself is in the audit log
DEFAULT_TENANT = TenantId("default")
ADMIN_KEY = "admin.key"  # in <data>/run: shown once by the supervisor, who removes it
RUNNER_KEY = "runner.key"  # in <data>/run
_OWN_RUNNER = "runner of this machine"  # title of that key
_BASE32 = "0123456789abcdefghijklmnopqrstuv"  # base32hex sorts as the number does


def tune_collector() -> None:
    """Let the garbage collector look rarely, once everything is loaded.

    Rows are frozen values without cycles and die by their counts, but each full collection looks at every one of them:
    with 50,000 jobs in view that was a sixth of the control plane's time.
    """
    gc.freeze()  # what is loaded now stays: later collections need not look at it
    gc.set_threshold(50_000, 20, 50)


class SystemClock:
    """The wall clock (rule 12: read only in shells)."""

    def now(self) -> Instant:
        return time.time_ns() // 1_000_000


class UuidIds:
    """`IdSource` of UUIDv7: `<kind>-` and 26 letters that sort by creation.

    >>> ids = UuidIds()
    >>> a, b = ids.new("job"), ids.new("job")
    >>> a < b, len(a)
    (True, 30)
    """

    def new(self, kind: str) -> str:
        number = uuid7().int
        return f"{kind}-" + "".join(_BASE32[(number >> shift) & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Everything one control-plane process works with."""

    settings: Settings
    clock: SystemClock
    store: SqlStore
    database: str  # what it is, with its version, for people
    objects: ObjectStore
    tokens: AttemptTokens
    metrics: Metrics
    catalogue: Catalogue
    tenants: TenantService
    pools: PoolService
    jobs: JobService
    history: HistoryService
    bundles: Bundles
    datasets: DatasetService
    models: ModelService
    endpoints: EndpointService
    loop: ControlLoop
    on_ended: EndedHook
    registry: MlflowRegistry | None  # where our models are shown; None: no MLflow

    def close(self) -> None:
        """Finish what was asked of the database and let go of it, and of MLflow."""
        self.store.close()
        if self.registry is not None:
            self.registry.close()


def assemble(settings: Settings, *, hooks: CommitHooks | None = None) -> ControlPlane:
    """Open, migrate and join everything. On SQLite the caller holds `folders_to_lock`.

    Raises: ConfigurationError: a file of the data folder cannot be used, or its schema is newer than this release.
    """
    for folder in (settings.data.absolute(), settings.run, settings.objects, settings.tables):
        private_folder(folder)
    clock, ids, metrics = SystemClock(), UuidIds(), Metrics()
    store = open_store(settings.store_url, clock=clock, hooks=hooks)
    objects = FileObjectStore(settings.objects)
    catalogue = load_catalogue()
    bundles = Bundles(objects)
    snapshots = EvolvingSnapshots(clock)

    def ended(tx: object, job: Job, now: Instant) -> None:
        settle(tx, job, now, jobs=jobs)

    policy = policy_of(settings)
    jobs = JobService(
        store,
        ids=ids,
        bundles=bundles,
        catalogue=catalogue,
        snapshots=snapshots,
        on_ended=ended,
        policy=policy,
    )
    plane = ControlPlane(
        settings=settings,
        clock=clock,
        store=store,
        database=f"SQLite {sqlite3.sqlite_version}" if settings.is_sqlite else "PostgreSQL",
        objects=objects,
        tokens=AttemptTokens(_secret(settings.secret_file or settings.data.absolute() / "secret.key")),
        metrics=metrics,
        catalogue=catalogue,
        tenants=TenantService(store, secrets=lambda size: secrets.token_bytes(size), views=snapshots, policy=policy),
        pools=PoolService(store),
        jobs=jobs,
        history=HistoryService(store),
        bundles=bundles,
        datasets=DatasetService(store, objects, ids=ids, jobs=jobs, tables=LocalTables(settings.tables)),
        models=ModelService(store, objects),
        endpoints=EndpointService(store),
        loop=ControlLoop(
            store,
            holder=ids.new("server"),
            submitter=jobs,
            settings=LoopSettings(
                lease_s=settings.lease_ttl_s,
                renew_s=max(1, settings.lease_ttl_s // 5),
                runner_silence_s=settings.runner_silence_s,
                lost_node_keep_s=settings.lost_node_keep_s,
                policy=policy,
            ),
            follow=follow_aliases,
            on_ended=ended,
            proven_dead=settings.is_sqlite,  # the database folder's lock is held: no other process can lead
        ),
        on_ended=ended,
        registry=MlflowRegistry(settings.mlflow_url) if settings.mlflow_url else None,
    )
    metrics.watch(lambda: _sample(plane, snapshots))
    return plane


def policy_of(settings: Settings) -> Policy:
    """Return what the operator set of the scheduler: one value for the loop, explanations and dry runs."""
    return Policy(
        min_runtime_s=settings.min_runtime_s,
        max_preemptions=settings.max_preemptions,
        max_victims=settings.max_victims,
        preempts_for_share=settings.preempts_for_share,
    )


def first_steps(plane: ControlPlane) -> Path | None:
    """Make what a factory needs to be used at all: the tenant "default", a platform key, the runner's key.

    Returns: the file that holds the new admin key (0600), None if there was a platform key already. Who starts the
        server shows it once and removes the file; the secret is nowhere else.
    """
    now = plane.clock.now()
    if not plane.store.read(lambda tx: tx.tenants(PLATFORM)):
        plane.tenants.put_tenant(CONTROL, DEFAULT_TENANT, TenantRequest(title="Default"), now=now)
    _runner_key(plane, now)
    keys = plane.store.read(lambda tx: tx.keys(PLATFORM))
    path = plane.settings.run / ADMIN_KEY
    if any(k.role is Role.PLATFORM and k.revoked_at is None for k in keys):
        return path if path.exists() else None
    made = plane.tenants.create_key(CONTROL, KeyRequest(role=Role.PLATFORM, title="first admin"), now=now)
    _write_private(path, made.secret)
    _log.info("first platform key made", extra={"event": "key.first", "key": made.id})
    return path


class EvolvingSnapshots:
    """Adapter of `jobs.ports.Snapshots`: kept up from the change feed, O(changes) per look.

    It sees what the leader's loop sees, history of usage and run times included.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._view: View | None = None

    def at(self, reader: object) -> Snapshot:
        opened: ControlReader = reader  # pyright: ignore[reportAssignmentType]  # one store satisfies every port
        view, now = self._view, self._clock.now()
        if view is not None and since_at(now) > view.snapshot.since:
            view = None
        try:
            view = build(opened, now) if view is None else catch_up(opened, view)[0]
        except FeedPrunedError:
            view = build(opened, now)
        # the value is frozen: threads that race here lose at most work
        if self._view is None or view.cursor >= self._view.cursor:
            self._view = view
        return view.snapshot


def _runner_key(plane: ControlPlane, now: Instant) -> None:
    path = plane.settings.run / RUNNER_KEY
    try:
        if plane.tenants.authenticate(path.read_text().strip(), now=now).role is Role.RUNNER:
            path.chmod(0o600)
            return
    except (OSError, UnicodeDecodeError, UnauthenticatedError):
        pass  # missing, or of an earlier database: a new one is made
    if plane.settings.is_sqlite:  # one control plane: nobody else has made one. The lost one's end frees its runner
        for key in plane.tenants.list_keys(CONTROL):
            if key.role is Role.RUNNER and key.title == _OWN_RUNNER and key.revoked_at is None:
                plane.tenants.revoke_key(CONTROL, KeyId(key.id), now=now)
    made = plane.tenants.create_key(CONTROL, KeyRequest(role=Role.RUNNER, title=_OWN_RUNNER), now=now)
    _write_private(path, made.secret)


def _secret(path: Path) -> bytes:
    """Return the server's secret, made at the first start. Without it no token of a running attempt would be known."""
    if not path.exists():
        _write_private(path, secrets.token_hex(32))
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"the secret {path} cannot be read", hint="restore it from a backup; without it running attempts are lost"
        ) from exc
    if len(secret) < 32:
        raise ConfigurationError(f"the secret {path} is too short", hint="restore it from a backup")
    return secret


def _write_private(path: Path, text: str) -> None:
    """Write a file for this user only, whole or not at all, durable before it is named."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sample(plane: ControlPlane, snapshots: EvolvingSnapshots) -> StateSample:
    """Read the state's gauges. A database that is away gives empty ones: the scrape itself still answers."""
    try:
        snapshot, lease = plane.store.read(lambda tx: (snapshots.at(tx), tx.lease()))
    except FactoryError:
        return StateSample()
    jobs: dict[tuple[str, str, str], int] = {}
    allocated: dict[str, int] = {}
    for _, job in snapshot.jobs.items():
        key = (job.state.value, str(job.tenant), str(job.spec.queue))
        jobs[key] = jobs.get(key, 0) + 1
        live = job.live_attempt
        if live is not None:
            pool = str(live.allocation.pool)
            allocated[pool] = allocated.get(pool, 0) + live.allocation.slots_milli
    capacity = {str(name): 0 for name, _ in snapshot.pools.items()}
    for _, node in snapshot.nodes.items():
        pool = snapshot.pools.get(node.pool)
        if node.state is NodeState.READY and pool is not None:
            capacity[str(node.pool)] += slots_in(node.capacity, pool.flavor.slot)
    limits = {(str(q.name), str(x.pool)): x.nominal_milli for _, q in snapshot.queues.items() for x in q.quotas}
    held = {(str(queue), str(pool)): milli for (queue, pool), milli in snapshot.used.items()}
    return StateSample(
        jobs=jobs,
        slots_capacity=capacity,
        slots_allocated=allocated,
        quota_limit=limits,
        quota_used={k: held.get(k, 0) for k in limits},
        leader_epoch=lease.epoch if lease is not None else 0,
    )
