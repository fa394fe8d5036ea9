"""Writes our models to the outside registry and repairs it where it differs: our rows are the truth.

Turned by a loop of its own beside the control loop (DESIGN §3: `tick` waits for no vendor). Each round is idempotent; a
crash between two calls costs a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from factory.domain.models import AliasName, Model, ModelVersion
from factory.domain.tenancy import PLATFORM, Scope
from factory.domain.time import Instant
from factory.errors import ConflictError, NotFoundError, StaleWriteError
from factory.models.mlflow import KEY_TAG, registry_name
from factory.models.ports import ModelStore, ModelTx, RegistryProjection, RegistryVersion

__all__ = ["Projected", "project_once", "version_key"]


@dataclass(frozen=True, slots=True)
class Projected:
    """What one round did."""

    versions: int = 0  # written
    aliases: int = 0  # set, moved or removed
    refused: tuple[str, ...] = ()  # what the registry would not take, with why: shown in `factory status`


def version_key(version: ModelVersion) -> str:
    """Return the mark of our version in the registry: "mobility/footfall-24h/3"."""
    return f"{version.tenant}/{version.model}/{version.number}"


def project_once(store: ModelStore, registry: RegistryProjection, now: Instant) -> Projected:
    """Write the versions that are not there, then make every alias what our rows say.

    Raises: UnavailableError: the registry does not answer; what was written stays, the next round goes on.
    """
    refused: list[str] = []
    written = moved = 0
    for model in store.read(lambda r: r.models(PLATFORM)):
        ours = store.read(lambda r, m=model: r.model_versions(Scope(m.tenant), m.tenant, m.name))
        theirs = _theirs(registry, model)
        for version in sorted(ours, key=lambda v: v.number):
            # also one that was written before and is gone: deleted behind our back, or the registry began anew
            if version.mlflow_version and version_key(version) in theirs:
                continue
            try:
                theirs[version_key(version)] = _write(store, registry, version)
                written += 1
            except (ConflictError, NotFoundError) as exc:  # one version that it refuses must not stop the others
                refused.append(f"{version_key(version)}: {exc.message}")
        moved += _align(registry, model, ours, theirs)
    return Projected(written, moved, tuple(refused))


def _theirs(registry: RegistryProjection, model: Model) -> dict[str, str]:
    """Return our key -> their version number; the model is made if it is not there."""
    name = registry_name(model.tenant, model.name)
    registry.ensure_model(name)
    return {key: v.version for v in registry.versions(name) for tag, key in v.tags if tag == KEY_TAG}


def _write(store: ModelStore, registry: RegistryProjection, version: ModelVersion) -> str:
    """Write one version, note its number there in our row, and return it."""
    name = registry_name(version.tenant, version.model)
    lineage = version.lineage
    key = version_key(version)
    source = f"factory://{key}"  # the file is asked of us, with a key: MLflow serves no model file
    tags = {
        "factory.algorithm": f"{lineage.algorithm}@{lineage.algorithm_version}",
        "factory.attempt": lineage.attempt,
        "factory.datasets": ",".join(lineage.manifest_ids),
        "factory.format": version.format,
        "factory.sha256": version.sha256,
    }
    theirs = registry.ensure_version(name, key=key, source=source, run_id=version.mlflow_run_id, tags=tags)

    def note(tx: ModelTx) -> None:
        present = tx.model_version(Scope(version.tenant), version.tenant, version.model, version.number)
        if present is None:
            raise StaleWriteError(f"model version {version_key(version)} is gone")
        if present.mlflow_version != theirs:
            tx.put_model_version(replace(present, mlflow_version=theirs))

    store.transact(note)
    return theirs


def _align(registry: RegistryProjection, model: Model, ours: tuple[ModelVersion, ...], theirs: dict[str, str]) -> int:
    """Set each alias where it should point, remove it where it should not; return how many calls that took."""
    name = registry_name(model.tenant, model.name)
    present = registry.versions(name)
    calls = 0
    for alias in AliasName:
        number = model.number(alias)
        version = next((v for v in ours if v.number == number), None)
        wanted = None if version is None else theirs.get(version_key(version))
        if wanted == _holder(present, alias):
            continue
        if wanted is not None:
            registry.set_alias(name, alias.value, wanted)
        else:
            registry.delete_alias(name, alias.value)
        calls += 1
    return calls


def _holder(theirs: tuple[RegistryVersion, ...], alias: AliasName) -> str | None:
    return next((v.version for v in theirs if alias.value in v.aliases), None)
