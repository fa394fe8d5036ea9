"""The model registry port on a real MLflow server and in memory; our projection into it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

pytest.register_assert_rewrite("factory.testing.conformance_registry")

from factory.domain.ids import AttemptId, Digest, JobId, ModelName, TenantId, VersionId  # noqa: E402
from factory.domain.models import Lineage, Model, ModelVersion  # noqa: E402
from factory.domain.tenancy import PLATFORM  # noqa: E402
from factory.errors import UnavailableError  # noqa: E402
from factory.models.mlflow import MlflowRegistry  # noqa: E402
from factory.models.mlflow_process import mlflow_command  # noqa: E402
from factory.models.ports import RegistryProjection  # noqa: E402
from factory.models.projection import Projected, project_once  # noqa: E402
from factory.testing.behaviours import behaviours_of  # noqa: E402
from factory.testing.conformance_registry import RegistrySuite, registry_failures  # noqa: E402
from factory.testing.memory import MemoryStore  # noqa: E402
from factory.testing.registry import MemoryRegistry  # noqa: E402

pytestmark = pytest.mark.xdist_group("mlflow")  # one server for the file

BEHAVIOURS = behaviours_of(RegistrySuite)
NAME = "mobility.footfall-24h"


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    (folder / "mlflow").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv, environment = mlflow_command(folder, port)
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            argv, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def _await_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(f"{url}/health", trust_env=False, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)  # a server of another project tells nobody when it is up
    raise AssertionError(f"MLflow is not up: {log.read_text()[-2000:]}")


@pytest.fixture(params=["memory", "mlflow"])
def registry(request: pytest.FixtureRequest) -> Iterator[RegistryProjection]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
    with MlflowRegistry(request.getfixturevalue("mlflow_url")) as opened:
        yield opened


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_model_registry_behaves(registry: RegistryProjection, name: str) -> None:
    BEHAVIOURS[name](RegistrySuite(registry))


class ForgetsKeys(MemoryRegistry):
    """Makes a version anew for every call."""

    def ensure_version(self, name: str, *, key: str, source: str, run_id: str, tags: Mapping[str, str]) -> str:
        count = len(self.versions(name))
        return super().ensure_version(name, key=f"{key}#{count}", source=source, run_id=run_id, tags=tags)


class PilesUpAliases(MemoryRegistry):
    """Lets an alias point to every version that ever had it."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        taken = [a for v in self.versions(name) for a in v.aliases]
        super().set_alias(name, f"{alias}{'+' * len(taken)}", version)


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (ForgetsKeys, "a_version_is_made_once_for_its_key"),
        (PilesUpAliases, "an_alias_points_to_one_version"),
    ],
)
def test_a_broken_registry_is_found(broken: Callable[[], RegistryProjection], found: str) -> None:
    assert found in registry_failures(broken)


def test_a_server_that_is_away_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, nobody listens
        with (
            MlflowRegistry(f"http://127.0.0.1:{taken.getsockname()[1]}") as registry,
            pytest.raises(UnavailableError, match="does not answer"),
        ):
            registry.ensure_model(NAME)


# --- the projection ---------------------------------------------------------------------------------------------------


def version(number: int, *, run: str = "") -> ModelVersion:
    lineage = Lineage(
        (VersionId("dsv-1"),),
        (Digest("sha256:aa"),),
        "series-forecast",
        "1.0.0",
        "{}",
        JobId(f"job-{number}"),
        AttemptId(f"job-{number}.1"),
        "sha256:cc",
        0,
    )
    return ModelVersion(
        tenant=TenantId("mobility"),
        model=ModelName("footfall-24h"),
        number=number,
        format="safetensors",
        object_key=f"models/mobility/job-{number}.1/model",
        size_bytes=1,
        sha256="ab",
        signature_json="{}",
        metadata_json="{}",
        metrics=(),
        evaluation_json="{}",
        lineage=lineage,
        created_at=1,
        mlflow_run_id=run,
    )


def store_with(*versions: ModelVersion, champion: int | None = None, previous: int | None = None) -> MemoryStore:
    store = MemoryStore()

    def fill(tx: object) -> None:
        model = Model(TenantId("mobility"), ModelName("footfall-24h"), 1, len(versions), champion, previous)
        tx.put_model(model)  # pyright: ignore[reportAttributeAccessIssue]
        for one in versions:
            tx.put_model_version(one)  # pyright: ignore[reportAttributeAccessIssue]

    store.transact(fill)
    return store


def move(store: MemoryStore, champion: int, previous: int | None) -> None:
    def work(tx: object) -> None:
        (model,) = tx.models(PLATFORM)  # pyright: ignore[reportAttributeAccessIssue]
        tx.put_model(replace(model, champion=champion, previous=previous))  # pyright: ignore[reportAttributeAccessIssue]

    store.transact(work)


def shown(registry: RegistryProjection) -> dict[str, tuple[str, ...]]:
    return {dict(v.tags)["factory.key"].rpartition("/")[2]: v.aliases for v in registry.versions(NAME)}


def test_versions_and_aliases_are_written_once() -> None:
    store, registry = store_with(version(1), version(2), champion=2, previous=1), MemoryRegistry()
    assert project_once(store, registry, 5) == Projected(versions=2, aliases=2)
    assert shown(registry) == {"1": ("previous",), "2": ("champion",)}
    assert store.read(lambda r: r.unprojected(PLATFORM)) == ()
    assert project_once(store, registry, 6) == Projected()


def test_an_alias_that_moved_is_moved() -> None:
    store, registry = store_with(version(1), version(2), champion=1), MemoryRegistry()
    project_once(store, registry, 5)
    move(store, 2, 1)
    assert project_once(store, registry, 6) == Projected(aliases=2)
    assert shown(registry) == {"1": ("previous",), "2": ("champion",)}


def test_an_alias_that_somebody_else_moved_is_put_back() -> None:
    store, registry = store_with(version(1), version(2), champion=1), MemoryRegistry()
    project_once(store, registry, 5)
    registry.set_alias(NAME, "champion", "2")
    registry.set_alias(NAME, "previous", "2")
    assert project_once(store, registry, 6) == Projected(aliases=2)
    assert shown(registry) == {"1": ("champion",), "2": ()}


def test_a_model_that_somebody_deleted_is_written_again() -> None:
    store, registry = store_with(version(1), champion=1), MemoryRegistry()
    project_once(store, registry, 5)
    registry.forget(NAME)
    assert project_once(store, registry, 6) == Projected(versions=1, aliases=1)
    assert shown(registry) == {"1": ("champion",)}


def test_a_registry_that_is_down_loses_nothing() -> None:
    store, registry = store_with(version(1), champion=1), MemoryRegistry()
    registry.is_down = True
    with pytest.raises(UnavailableError):
        project_once(store, registry, 5)
    registry.is_down = False
    assert project_once(store, registry, 6) == Projected(versions=1, aliases=1)


def test_the_projection_reaches_a_real_mlflow(mlflow_url: str) -> None:
    store = store_with(version(1, run="0" * 32), version(2), champion=2, previous=1)
    with MlflowRegistry(mlflow_url) as registry:
        assert project_once(store, registry, 5) == Projected(versions=2, aliases=2)
        assert shown(registry) == {"1": ("previous",), "2": ("champion",)}
        assert project_once(store, registry, 6) == Projected()
