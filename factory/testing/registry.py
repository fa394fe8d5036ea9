"""MLflow's model registry in memory, for tests that need no server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from factory.errors import NotFoundError, UnavailableError
from factory.models.mlflow import KEY_TAG
from factory.models.ports import RegistryVersion

__all__ = ["MemoryRegistry"]


@dataclass(slots=True)
class _Model:
    last: int = 0
    versions: dict[str, RegistryVersion] = field(default_factory=dict[str, RegistryVersion])
    aliases: dict[str, str] = field(default_factory=dict[str, str])


class MemoryRegistry:
    """Adapter of `RegistryProjection`. `is_down`: every call raises UnavailableError, as a server that is away."""

    def __init__(self) -> None:
        self.is_down = False
        self._models: dict[str, _Model] = {}

    def ensure_model(self, name: str) -> None:
        self._check_up()
        self._models.setdefault(name, _Model())

    def ensure_version(self, name: str, *, key: str, source: str, run_id: str, tags: Mapping[str, str]) -> str:
        model = self._model(name)
        for version in model.versions.values():
            if (KEY_TAG, key) in version.tags:
                return version.version
        model.last += 1
        number = str(model.last)
        marked = tuple(sorted({**tags, KEY_TAG: key}.items()))
        model.versions[number] = RegistryVersion(name, number, source, marked, ())
        return number

    def set_alias(self, name: str, alias: str, version: str) -> None:
        model = self._model(name)
        if version not in model.versions:
            raise NotFoundError("model version", f"{name} {version}")
        model.aliases[alias] = version

    def delete_alias(self, name: str, alias: str) -> None:
        self._check_up()
        if name in self._models:
            self._models[name].aliases.pop(alias, None)

    def versions(self, name: str) -> tuple[RegistryVersion, ...]:
        model = self._model(name)
        return tuple(
            replace(v, aliases=tuple(sorted(a for a, held in model.aliases.items() if held == v.version)))
            for v in model.versions.values()
        )

    def forget(self, name: str) -> None:
        """Somebody deletes the model behind our back."""
        self._models.pop(name, None)

    def _model(self, name: str) -> _Model:
        self._check_up()
        if name not in self._models:
            raise NotFoundError("model", name)
        return self._models[name]

    def _check_up(self) -> None:
        if self.is_down:
            raise UnavailableError("the registry is down")
