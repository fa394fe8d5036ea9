"""The suites of pools, tenants, datasets, models and endpoints (their ports.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from factory.control.ports import FeedKind
from factory.domain.datasets import (
    Check,
    CheckKind,
    Contract,
    Dataset,
    DatasetVersion,
    Upload,
    UploadState,
    VersionState,
)
from factory.domain.endpoints import Backend, Endpoint, EndpointState, Revision
from factory.domain.ids import (
    AttemptId,
    DatasetName,
    Digest,
    EndpointName,
    JobId,
    KeyId,
    ModelName,
    NodeId,
    PoolName,
    QueueName,
    RunnerId,
    TenantId,
    UploadId,
    VersionId,
)
from factory.domain.models import Lineage, Model, ModelVersion
from factory.domain.tenancy import PLATFORM, Key, Role, Scope
from factory.errors import ConflictError, StaleWriteError
from factory.testing.behaviours import refused
from factory.testing.builders import node, pool, queue, resources, runner, tenant
from factory.testing.conformance_store import NOW, Store, StoreTx

__all__ = ["DatasetSuite", "EndpointSuite", "ModelSuite", "PoolSuite", "TenantSuite"]

_MOBILITY = TenantId("mobility")
_PARKS = TenantId("parks")
_OWN = Scope(_MOBILITY)
_OTHERS = Scope(_PARKS)


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=_Versioned)


class _Guarded:
    """The guard of every `put_*`, checked alike for each kind of value."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _guards(self, put: Callable[[StoreTx, V], V], load: Callable[[StoreTx], V | None], value: V, other: V) -> None:
        """`value` and `other` have one key, version 0, and differ."""
        first = self._store.transact(lambda tx: put(tx, value))
        assert first.version == 1
        assert self._store.read(load) == first
        with refused(ConflictError):
            self._store.transact(lambda tx: put(tx, value))
        changed = replace(other, version=1)  # pyright: ignore[reportArgumentType]  # frozen dataclass
        second = self._store.transact(lambda tx: put(tx, changed))
        assert second == replace(other, version=2)  # pyright: ignore[reportArgumentType]
        for version in (1, 3):
            stale = replace(value, version=version)  # pyright: ignore[reportArgumentType]
            with refused(StaleWriteError):
                self._store.transact(lambda tx, stale=stale: put(tx, stale))
        assert self._store.read(load) == second

    def _feed(self) -> list[tuple[FeedKind, str]]:
        return [(entry.kind, entry.key) for entry in self._store.read(lambda tx: tx.feed(0))]


class PoolSuite(_Guarded):
    """Every method is a behaviour."""

    def pools_nodes_and_runners_are_guarded_by_their_version(self) -> None:
        self._guards(
            lambda tx, v: tx.put_pool(v),
            lambda tx: next(iter(tx.pools(PLATFORM)), None),
            pool("cpu"),
            pool("cpu", tenant="parks"),
        )
        self._guards(
            lambda tx, v: tx.put_node(v),
            lambda tx: next(iter(tx.nodes(PLATFORM)), None),
            node("n1", gpus=2),
            node("n1", zone="b"),
        )
        self._guards(
            lambda tx, v: tx.put_runner(v),
            lambda tx: next(iter(tx.runners(PLATFORM)), None),
            runner(),
            runner(incarnation="inc-2"),
        )

    def lists_are_sorted(self) -> None:
        for name in ("b", "a", "c"):
            self._store.transact(lambda tx, name=name: tx.put_pool(pool(name)))
            self._store.transact(lambda tx, name=name: tx.put_node(node(name)))
            self._store.transact(lambda tx, name=name: tx.put_runner(runner(name)))
        seen = self._store.read(
            lambda tx: (
                [p.name for p in tx.pools(PLATFORM)],
                [n.id for n in tx.nodes(PLATFORM)],
                [r.id for r in tx.runners(PLATFORM)],
            )
        )
        assert seen == (["a", "b", "c"],) * 3

    def a_tenant_sees_shared_pools_and_its_own_and_what_is_behind_them(self) -> None:
        self._fill()
        for scope, names in (
            (PLATFORM, ["orphan", "own", "shared"]),
            (_OWN, ["own", "shared"]),
            (_OTHERS, ["shared"]),
        ):
            seen = self._store.read(
                lambda tx, scope=scope: (
                    [p.name for p in tx.pools(scope)],
                    [n.id for n in tx.nodes(scope)],
                    [r.id for r in tx.runners(scope)],
                )
            )
            assert seen == ([name for name in names if name != "orphan"], names, names)

    def a_tenant_deletes_neither_what_is_shared_nor_what_is_anothers(self) -> None:
        self._fill()
        for name in ("shared", "own"):
            self._delete(_OTHERS, name)
        assert len(self._store.read(lambda tx: (*tx.pools(PLATFORM), *tx.nodes(PLATFORM), *tx.runners(PLATFORM)))) == 8

    def what_is_deleted_is_gone(self) -> None:
        self._fill()
        for name in ("shared", "own", "orphan"):
            self._delete(PLATFORM, name)
        assert self._store.read(lambda tx: (*tx.pools(PLATFORM), *tx.nodes(PLATFORM), *tx.runners(PLATFORM))) == ()
        self._store.transact(lambda tx: tx.put_pool(pool("own")))

    def _fill(self) -> None:
        def work(tx: StoreTx) -> None:
            tx.put_pool(pool("shared", runner="shared"))
            tx.put_pool(pool("own", runner="own", tenant="mobility"))
            for name in ("shared", "own", "orphan"):
                tx.put_node(node(name, pool=name, runner=name))
                tx.put_runner(runner(name))

        self._store.transact(work)

    def _delete(self, scope: Scope, name: str) -> None:
        def work(tx: StoreTx) -> None:
            tx.delete_node(scope, NodeId(name))
            tx.delete_runner(scope, RunnerId(name))
            tx.delete_pool(scope, PoolName(name))

        self._store.transact(work)


class TenantSuite(_Guarded):
    """Every method is a behaviour."""

    def tenants_queues_and_keys_are_guarded_by_their_version(self) -> None:
        self._guards(
            lambda tx, v: tx.put_tenant(v),
            lambda tx: next(iter(tx.tenants(PLATFORM)), None),
            tenant("mobility"),
            tenant("mobility", title="Roads"),
        )
        self._guards(
            lambda tx, v: tx.put_queue(v),
            lambda tx: next(iter(tx.queues(PLATFORM)), None),
            queue("night", quota={"cpu": 4}),
            queue("night", weight=3, borrowing=None, quota={"cpu": 1}),
        )
        self._guards(
            lambda tx, v: tx.put_key(v),
            lambda tx: tx.key(PLATFORM, KeyId("k1")),
            self._key("k1", _MOBILITY),
            replace(self._key("k1", _MOBILITY), revoked_at=NOW),
        )

    def a_tenant_sees_its_own_only(self) -> None:
        def work(tx: StoreTx) -> None:
            for name in (_PARKS, _MOBILITY):
                tx.put_tenant(tenant(name))
                tx.put_queue(queue(name))
                tx.put_key(self._key(f"k-{name}", name))
            tx.put_key(self._key("k-platform", None))

        self._store.transact(work)
        for scope, names, keys in (
            (PLATFORM, ["mobility", "parks"], ["k-mobility", "k-parks", "k-platform"]),
            (_OWN, ["mobility"], ["k-mobility"]),
        ):
            seen = self._store.read(
                lambda tx, scope=scope: (
                    [t.id for t in tx.tenants(scope)],
                    [q.name for q in tx.queues(scope)],
                    [k.id for k in tx.keys(scope)],
                )
            )
            assert seen == (names, names, keys)
        assert self._store.read(lambda tx: tx.key(_OWN, KeyId("k-parks"))) is None
        assert self._store.read(lambda tx: tx.key(_OWN, KeyId("k-platform"))) is None

    def a_queue_is_deleted_by_its_tenant_only(self) -> None:
        self._store.transact(lambda tx: tx.put_queue(queue("mobility")))
        self._store.transact(lambda tx: tx.delete_queue(_OTHERS, QueueName("mobility")))
        assert len(self._store.read(lambda tx: tx.queues(_OWN))) == 1
        self._store.transact(lambda tx: tx.delete_queue(_OWN, QueueName("mobility")))
        assert self._store.read(lambda tx: tx.queues(PLATFORM)) == ()
        assert self._feed() == [(FeedKind.QUEUE, "mobility")] * 2

    @staticmethod
    def _key(id: str, owner: TenantId | None) -> Key:
        return Key(KeyId(id), "ab" * 32, Role.OPERATOR if owner else Role.PLATFORM, owner)


class DatasetSuite(_Guarded):
    """Every method is a behaviour."""

    def datasets_and_versions_are_guarded_by_their_version(self) -> None:
        self._guards(
            lambda tx, v: tx.put_dataset(v),
            lambda tx: tx.dataset(PLATFORM, _MOBILITY, DatasetName("footfall")),
            self._dataset(),
            replace(self._dataset(), head=1, last=2),
        )
        self._guards(
            lambda tx, v: tx.put_version(v),
            lambda tx: tx.version(PLATFORM, VersionId("dsv-1")),
            self._version(1),
            replace(self._version(1), state=VersionState.QUARANTINED),
        )

    def a_number_of_a_dataset_is_given_once(self) -> None:
        self._put(self._version(1))
        with refused(ConflictError):
            self._put(replace(self._version(1), id=VersionId("dsv-x")))
        self._put(replace(self._version(1), id=VersionId("dsv-y"), tenant=_PARKS))

    def versions_are_found_by_number_job_request_and_parent(self) -> None:
        first = self._put(self._version(1, job="job-a", request="req"))
        second = self._put(self._version(2, job="job-b", parents=("dsv-1", "dsv-0")))
        tenth = self._put(self._version(10, job="job-b", parents=("dsv-1",)))
        found = self._store.read(
            lambda tx: {
                "all": tx.versions(PLATFORM, _MOBILITY, DatasetName("footfall")),
                "number": tx.version_by_number(PLATFORM, _MOBILITY, DatasetName("footfall"), 2),
                "none": tx.version_by_number(PLATFORM, _MOBILITY, DatasetName("footfall"), 3),
                "job": {v.id for v in tx.versions_of_job(PLATFORM, JobId("job-b"))},
                "request": tx.version_by_request(PLATFORM, _MOBILITY, DatasetName("footfall"), "req"),
                "children": {v.id for v in tx.versions_from(PLATFORM, first.id)},
                "grandparent": tx.versions_from(PLATFORM, VersionId("dsv-0")),
            }
        )
        assert found == {
            "all": (first, second, tenth),
            "number": second,
            "none": None,
            "job": {second.id, tenth.id},
            "request": first,
            "children": {second.id, tenth.id},
            "grandparent": (second,),
        }

    def a_replaced_version_is_found_by_what_it_now_holds(self) -> None:
        first = self._put(self._version(1, job="job-a", parents=("dsv-0",)))
        self._put(replace(first, job=JobId("job-b"), parents=(VersionId("dsv-9"),)))
        found = self._store.read(
            lambda tx: [
                len(tx.versions_of_job(PLATFORM, JobId("job-a"))),
                len(tx.versions_of_job(PLATFORM, JobId("job-b"))),
                len(tx.versions_from(PLATFORM, VersionId("dsv-0"))),
                len(tx.versions_from(PLATFORM, VersionId("dsv-9"))),
            ]
        )
        assert found == [0, 1, 0, 1]

    def a_request_finds_its_version_unless_that_failed(self) -> None:
        failed = self._put(replace(self._version(1, request="req"), state=VersionState.FAILED))
        assert self._by_request("req") is None
        again = self._put(self._version(2, request="req"))
        assert self._by_request("req") == again
        self._put(replace(failed, message="not a table"))
        assert self._by_request("req") == again

    def a_version_that_no_request_made_is_not_found_by_an_empty_one(self) -> None:
        self._put(self._version(1))
        assert self._by_request("") is None

    def an_upload_is_kept_once(self) -> None:
        upload = Upload(UploadId("upl-1"), _MOBILITY, "a.csv", "csv", "staging/upl-1", 3, "ab" * 32, NOW, "key-1")
        stored = self._store.transact(lambda tx: tx.put_upload(upload))
        with refused(ConflictError):
            self._store.transact(lambda tx: tx.put_upload(upload))
        assert stored == replace(upload, version=1)
        assert self._store.read(lambda tx: tx.upload(_OWN, upload.id)) == stored
        assert self._store.read(lambda tx: tx.upload(_OTHERS, upload.id)) is None

    def an_upload_that_changed_is_neither_written_nor_forgotten(self) -> None:
        old = self._upload("upl-1")
        new = self._store.transact(lambda tx: tx.put_upload(replace(old, versions=(VersionId("dsv-1"),))))
        with refused(StaleWriteError):
            self._store.transact(lambda tx: tx.put_upload(replace(old, state=UploadState.REMOVING)))
        with refused(StaleWriteError):
            self._store.transact(lambda tx: tx.delete_upload(old))
        assert self._store.read(lambda tx: tx.upload(_OWN, old.id)) == new
        self._store.transact(lambda tx: tx.delete_upload(new))
        assert self._store.read(lambda tx: tx.upload(_OWN, old.id)) is None
        with refused(StaleWriteError):
            self._store.transact(lambda tx: tx.delete_upload(new))

    def an_upload_is_found_by_its_bytes_best_one_with_bytes_first(self) -> None:
        kept = self._upload("upl-1")
        self._upload("upl-2", state=UploadState.REMOVED)
        self._upload("upl-3", format="parquet")
        self._upload("upl-4", sha256="cd" * 32)
        look = self._store.read
        assert look(lambda tx: tx.upload_by_digest(_OWN, _MOBILITY, kept.sha256, "csv")) == kept
        assert look(lambda tx: tx.upload_by_digest(_OTHERS, _MOBILITY, kept.sha256, "csv")) is None
        assert look(lambda tx: tx.upload_by_digest(_OTHERS, TenantId("parks"), kept.sha256, "csv")) is None
        assert look(lambda tx: tx.upload_by_digest(_OWN, _MOBILITY, "ef" * 32, "csv")) is None
        removed = self._store.transact(lambda tx: tx.put_upload(replace(kept, state=UploadState.REMOVED)))
        newest = look(lambda tx: tx.upload_by_digest(_OWN, _MOBILITY, removed.sha256, "csv"))
        assert newest is not None
        assert newest.id == "upl-2"

    def uploads_with_bytes_are_listed_by_id_in_batches(self) -> None:
        for number, state in enumerate(UploadState, start=1):
            self._upload(f"upl-{number}", state=state)

        def ids(scope: Scope, after: str | None = None, limit: int = 100) -> list[str]:
            listed = self._store.read(
                lambda tx: tx.uploads_with_bytes(scope, after=UploadId(after) if after else None, limit=limit)
            )
            return [str(upload.id) for upload in listed]

        assert ids(PLATFORM) == ["upl-1", "upl-2", "upl-3"]
        assert ids(PLATFORM, limit=2) == ["upl-1", "upl-2"]
        assert ids(PLATFORM, after="upl-2") == ["upl-3"]
        assert ids(_OWN) == ["upl-1", "upl-2", "upl-3"]
        assert ids(_OTHERS) == []

    def another_tenant_sees_nothing_of_a_dataset(self) -> None:
        self._store.transact(lambda tx: tx.put_dataset(self._dataset()))
        self._put(self._version(1, job="job-a", request="req", parents=("dsv-0",)))
        name = DatasetName("footfall")
        for scope, visible in ((_OTHERS, False), (_OWN, True)):
            seen = self._store.read(
                lambda tx, scope=scope: [
                    tx.datasets(scope),
                    tx.dataset(scope, _MOBILITY, name),
                    tx.version(scope, VersionId("dsv-1")),
                    tx.version_by_number(scope, _MOBILITY, name, 1),
                    tx.versions(scope, _MOBILITY, name),
                    tx.version_by_request(scope, _MOBILITY, name, "req"),
                    tx.versions_of_job(scope, JobId("job-a")),
                    tx.versions_from(scope, VersionId("dsv-0")),
                ]
            )
            assert [bool(each) for each in seen] == [visible] * len(seen), seen

    def a_changed_version_is_in_the_feed(self) -> None:
        self._put(self._put(self._version(1)))
        assert self._feed() == [(FeedKind.VERSION, "dsv-1")] * 2

    def _upload(
        self, id: str, *, state: UploadState = UploadState.KEPT, format: str = "csv", sha256: str = "ab" * 32
    ) -> Upload:
        made = Upload(
            UploadId(id), _MOBILITY, "a.csv", format, f"uploads/mobility/{id}", 3, sha256, NOW, "key-1", state
        )
        return self._store.transact(lambda tx: tx.put_upload(made))

    def _by_request(self, digest: str) -> DatasetVersion | None:
        return self._store.read(lambda tx: tx.version_by_request(PLATFORM, _MOBILITY, DatasetName("footfall"), digest))

    def _put(self, version: DatasetVersion) -> DatasetVersion:
        return self._store.transact(lambda tx: tx.put_version(version))

    @staticmethod
    def _dataset() -> Dataset:
        return Dataset(_MOBILITY, DatasetName("footfall"), NOW)

    @staticmethod
    def _version(
        number: int, *, job: str | None = None, request: str = "", parents: tuple[str, ...] = ()
    ) -> DatasetVersion:
        return DatasetVersion(
            id=VersionId(f"dsv-{number}"),
            tenant=_MOBILITY,
            dataset=DatasetName("footfall"),
            number=number,
            state=VersionState.STAGED,
            contract=Contract((Check("rows", CheckKind.ROW_COUNT, minimum=1.0),)),
            created_at=NOW,
            created_by="key-1",
            job=None if job is None else JobId(job),
            request_digest=request,
            parents=tuple(VersionId(parent) for parent in parents),
        )


class ModelSuite(_Guarded):
    """Every method is a behaviour."""

    def models_and_versions_are_guarded_by_their_version(self) -> None:
        self._guards(
            lambda tx, v: tx.put_model(v),
            lambda tx: tx.model(PLATFORM, _MOBILITY, ModelName("flow")),
            Model(_MOBILITY, ModelName("flow"), NOW),
            Model(_MOBILITY, ModelName("flow"), NOW, last=2, champion=2, previous=1),
        )
        self._guards(
            lambda tx, v: tx.put_model_version(v),
            lambda tx: tx.model_version(PLATFORM, _MOBILITY, ModelName("flow"), 1),
            self._version(1),
            replace(self._version(1), mlflow_run_id="r", mlflow_version="7"),
        )

    def versions_are_found_by_job_and_by_dataset_version(self) -> None:
        first, tenth = self._put(self._version(1)), self._put(self._version(10, job="job-b", inputs=("dsv-2",)))
        second = self._put(self._version(2, job="job-b", inputs=("dsv-1", "dsv-2")))
        found = self._store.read(
            lambda tx: [
                tx.model_versions(PLATFORM, _MOBILITY, ModelName("flow")),
                tx.models_of_job(PLATFORM, JobId("job-b")),
                tx.models_from(PLATFORM, VersionId("dsv-1")),
                tx.models_from(PLATFORM, VersionId("dsv-2")),
            ]
        )
        assert found == [(first, second, tenth), (second, tenth), (first, second), (second, tenth)]

    def a_version_waits_for_the_projection_until_it_has_its_number_there(self) -> None:
        first, second = self._put(self._version(1)), self._put(self._version(2))
        assert self._store.read(lambda tx: tx.unprojected(PLATFORM, 1)) == (first,)
        self._put(replace(first, mlflow_version="1"))
        assert self._store.read(lambda tx: tx.unprojected(PLATFORM)) == (second,)

    def another_tenant_sees_nothing_of_a_model(self) -> None:
        self._store.transact(lambda tx: tx.put_model(Model(_MOBILITY, ModelName("flow"), NOW)))
        self._put(self._version(1))
        name = ModelName("flow")
        for scope, visible in ((_OTHERS, False), (_OWN, True)):
            seen = self._store.read(
                lambda tx, scope=scope: [
                    tx.models(scope),
                    tx.model(scope, _MOBILITY, name),
                    tx.model_version(scope, _MOBILITY, name, 1),
                    tx.model_versions(scope, _MOBILITY, name),
                    tx.models_of_job(scope, JobId("job-a")),
                    tx.models_from(scope, VersionId("dsv-1")),
                    tx.unprojected(scope),
                ]
            )
            assert [bool(each) for each in seen] == [visible] * len(seen), seen

    def a_changed_model_is_in_the_feed_under_tenant_and_name(self) -> None:
        self._store.transact(lambda tx: tx.put_model(Model(_MOBILITY, ModelName("flow"), NOW)))
        self._put(self._version(1))
        assert self._feed() == [(FeedKind.MODEL, "mobility/flow")] * 2

    def _put(self, version: ModelVersion) -> ModelVersion:
        return self._store.transact(lambda tx: tx.put_model_version(version))

    @staticmethod
    def _version(number: int, *, job: str = "job-a", inputs: tuple[str, ...] = ("dsv-1",)) -> ModelVersion:
        lineage = Lineage(
            dataset_versions=tuple(VersionId(each) for each in inputs),
            manifest_ids=(Digest("sha256:" + "0" * 64),),
            algorithm="series-forecast",
            algorithm_version="1.0.0",
            params_json="{}",
            job=JobId(job),
            attempt=AttemptId(f"{job}.1"),
            code_digest="sha256:1",
            seed=7,
        )
        return ModelVersion(
            tenant=_MOBILITY,
            model=ModelName("flow"),
            number=number,
            format="pt2",
            object_key=f"models/flow/{number}",
            size_bytes=10,
            sha256="ab" * 32,
            signature_json="{}",
            metadata_json="{}",
            metrics=(("mae", 0.5),),
            evaluation_json="{}",
            lineage=lineage,
            created_at=NOW,
        )


class EndpointSuite(_Guarded):
    """Every method is a behaviour."""

    def endpoints_are_guarded_by_their_version(self) -> None:
        backend = Backend(JobId("job-a"), "job-a.1", 1, "127.0.0.1", 9000, NOW)
        self._guards(
            lambda tx, v: tx.put_endpoint(v),
            lambda tx: tx.endpoint(PLATFORM, _MOBILITY, EndpointName("flow")),
            self._endpoint(),
            replace(self._endpoint(), state=EndpointState.READY, backends=(backend,)),
        )

    def one_name_may_belong_to_two_tenants(self) -> None:
        for owner in (_PARKS, _MOBILITY):
            self._store.transact(lambda tx, owner=owner: tx.put_endpoint(self._endpoint(owner)))
        assert [e.tenant for e in self._store.read(lambda tx: tx.endpoints(PLATFORM))] == ["mobility", "parks"]
        assert [e.tenant for e in self._store.read(lambda tx: tx.endpoints(_OWN))] == ["mobility"]

    def another_tenant_neither_sees_nor_deletes_an_endpoint(self) -> None:
        name = EndpointName("flow")
        self._store.transact(lambda tx: tx.put_endpoint(self._endpoint()))
        assert self._store.read(lambda tx: tx.endpoint(_OTHERS, _MOBILITY, name)) is None
        self._store.transact(lambda tx: tx.delete_endpoint(_OTHERS, _MOBILITY, name))
        assert self._store.read(lambda tx: tx.endpoint(_OWN, _MOBILITY, name)) is not None

    def a_deleted_endpoint_is_gone_and_the_feed_says_so(self) -> None:
        self._store.transact(lambda tx: tx.put_endpoint(self._endpoint()))
        self._store.transact(lambda tx: tx.delete_endpoint(_OWN, _MOBILITY, EndpointName("flow")))
        assert self._store.read(lambda tx: tx.endpoints(PLATFORM)) == ()
        assert self._feed() == [(FeedKind.ENDPOINT, "mobility/flow")] * 2

    @staticmethod
    def _endpoint(owner: TenantId = _MOBILITY) -> Endpoint:
        return Endpoint(
            tenant=owner,
            name=EndpointName("flow"),
            state=EndpointState.DEPLOYING,
            queue=QueueName(owner),
            pool=PoolName("cpu"),
            follow="champion",
            revisions=(Revision(1, ModelName("flow"), 1, 2, resources(cpu=1), NOW),),
            backends=(),
            created_at=NOW,
            created_by="key-1",
        )
