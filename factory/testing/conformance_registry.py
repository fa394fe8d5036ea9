"""What every model registry must do (models/ports.py, RegistryProjection): run on MLflow, and on the one in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from factory.errors import NotFoundError
from factory.models.ports import RegistryProjection, RegistryVersion
from factory.testing.behaviours import behaviours_of, refused

__all__ = ["RegistrySuite", "registry_failures"]

_names = itertools.count()  # one server serves the whole suite: each behaviour has a model of its own


class RegistrySuite:
    """The behaviours of a model registry."""

    def __init__(self, registry: RegistryProjection, prefix: str = "mobility") -> None:
        self._registry = registry
        self._name = f"{prefix}.model-{next(_names)}"

    def a_model_is_made_once(self) -> None:
        self._registry.ensure_model(self._name)
        self._add("k/1")
        self._registry.ensure_model(self._name)
        assert len(self._registry.versions(self._name)) == 1, "the second call must keep what is there"

    def a_model_that_is_not_there_has_no_versions(self) -> None:
        with refused(NotFoundError):
            self._registry.versions(f"{self._name}-absent")

    def a_version_is_made_once_for_its_key(self) -> None:
        self._registry.ensure_model(self._name)
        first = self._add("k/1")
        assert self._add("k/1") == first
        assert [v.version for v in self._registry.versions(self._name)] == [first]

    def other_keys_are_other_versions_in_order(self) -> None:
        self._registry.ensure_model(self._name)
        made = [self._add(f"k/{n}") for n in range(1, 13)]
        assert len(set(made)) == 12
        assert [v.version for v in self._registry.versions(self._name)] == made, "oldest first, as numbers"

    def a_version_keeps_its_source_and_tags(self) -> None:
        self._registry.ensure_model(self._name)
        self._add("k/1", tags={"factory.format": "pt2", "empty": ""})
        (version,) = self._registry.versions(self._name)
        assert version.name == self._name
        assert version.source == "factory://k/1"
        assert dict(version.tags) == {"factory.format": "pt2", "empty": "", "factory.key": "k/1"}

    def a_key_belongs_to_its_model(self) -> None:
        other = f"{self._name}-other"
        self._registry.ensure_model(self._name)
        self._registry.ensure_model(other)
        self._add("k/1")
        self._registry.ensure_version(other, key="k/1", source="factory://k/1", run_id="", tags={})
        assert len(self._registry.versions(self._name)) == len(self._registry.versions(other)) == 1

    def a_run_that_is_gone_hinders_nothing(self) -> None:
        self._registry.ensure_model(self._name)
        run = "0" * 32
        made = self._registry.ensure_version(self._name, key="k/1", source="factory://k/1", run_id=run, tags={})
        assert [v.version for v in self._registry.versions(self._name)] == [made]

    def an_alias_points_to_one_version(self) -> None:
        self._registry.ensure_model(self._name)
        one, two = self._add("k/1"), self._add("k/2")
        self._registry.set_alias(self._name, "champion", one)
        self._registry.set_alias(self._name, "champion", two)
        assert self._aliases() == {one: (), two: ("champion",)}

    def a_version_may_have_several_aliases(self) -> None:
        self._registry.ensure_model(self._name)
        one = self._add("k/1")
        self._registry.set_alias(self._name, "previous", one)
        self._registry.set_alias(self._name, "champion", one)
        self._registry.set_alias(self._name, "champion", one)
        assert self._aliases() == {one: ("champion", "previous")}

    def an_alias_needs_a_version(self) -> None:
        self._registry.ensure_model(self._name)
        with refused(NotFoundError):
            self._registry.set_alias(self._name, "champion", "99")

    def an_alias_that_is_not_there_can_be_deleted(self) -> None:
        self._registry.ensure_model(self._name)
        one = self._add("k/1")
        self._registry.set_alias(self._name, "champion", one)
        self._registry.delete_alias(self._name, "champion")
        self._registry.delete_alias(self._name, "champion")
        assert self._aliases() == {one: ()}

    def _add(self, key: str, tags: Mapping[str, str] | None = None) -> str:
        return self._registry.ensure_version(
            self._name, key=key, source=f"factory://{key}", run_id="", tags=tags or {"a": "b"}
        )

    def _aliases(self) -> dict[str, tuple[str, ...]]:
        found: tuple[RegistryVersion, ...] = self._registry.versions(self._name)
        return {v.version: v.aliases for v in found}


def registry_failures(make: Callable[[], RegistryProjection]) -> tuple[str, ...]:
    """Run every behaviour on a registry of its own; return those that do not hold."""
    failed: list[str] = []
    for name, behaviour in behaviours_of(RegistrySuite).items():
        try:
            behaviour(RegistrySuite(make()))
        except Exception:  # whatever a broken adapter raises, it has not behaved
            failed.append(name)
    return tuple(failed)
