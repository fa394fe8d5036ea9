"""The catalogue: which algorithms there are, in which versions, with which parameters.

Read by the control plane (admission, `GET /algorithms`) and by the worker (which then imports `manifest.entry`).
Built-in algorithms are listed here; installed packages add theirs through the entry point group
`aifactory.algorithms`, each entry giving a `Registration`. A name belongs to one provider: a clash is an error at
start, never a silent choice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from factory.algorithms.manifests import Params, Registration, series_forecast
from factory.domain.algorithms import AlgorithmManifest
from factory.domain.ids import Digest
from factory.errors import ConfigurationError, InvalidRequestError, NotFoundError, did_you_mean

__all__ = ["ENTRY_POINT_GROUP", "Catalogue", "built_in", "load_catalogue", "source_digest"]

ENTRY_POINT_GROUP = "aifactory.algorithms"
_BUILT_IN_PROVIDER = "ai-factory"


class Catalogue:
    """Algorithms by name and version; immutable once built."""

    def __init__(self, registrations: Iterable[tuple[str, Registration]]) -> None:
        """Build it from (provider, registration) pairs.

        Raises:
            ConfigurationError: two providers claim one name, or one name and version is given twice.
        """
        self._entries: dict[str, dict[str, Registration]] = {}
        providers: dict[str, str] = {}
        for provider, registration in registrations:
            name, version = registration.manifest.name, registration.manifest.version
            owner = providers.setdefault(name, provider)
            versions = self._entries.setdefault(name, {})
            if owner != provider:
                raise ConfigurationError(
                    f"the algorithm '{name}' is offered by '{owner}' and by '{provider}'",
                    hint="uninstall one of the two packages, or rename the algorithm",
                    facts={"algorithm": name, "providers": sorted((owner, provider))},
                )
            if version in versions:
                raise ConfigurationError(
                    f"'{provider}' offers the algorithm '{name}' version {version} twice",
                    hint="give every version of an algorithm once",
                    facts={"algorithm": name, "version": version},
                )
            _semver(name, version)
            versions[version] = registration

    def list(self) -> tuple[AlgorithmManifest, ...]:
        """Return every algorithm's manifests, by name, newest version first."""
        return tuple(
            self._entries[name][version].manifest
            for name in sorted(self._entries)
            for version in sorted(self._entries[name], key=lambda v: _semver(name, v), reverse=True)
        )

    def get(self, name: str, version: str | None = None) -> AlgorithmManifest:
        """Return the manifest of an algorithm, by default its newest version.

        Raises:
            NotFoundError: there is no such algorithm or version; says which one may have been meant.
        """
        return self._registration(name, version).manifest

    def validate_params(self, manifest: AlgorithmManifest, params: Mapping[str, object]) -> str:
        """Return the canonical JSON of the training parameters, defaults filled in.

        Raises:
            InvalidRequestError: a parameter is unknown, missing or not allowed; `facts["fields"]` names every one.
        """
        return _canonical(self.parse_params(manifest, params))

    def validate_predict_params(self, manifest: AlgorithmManifest, params: Mapping[str, object]) -> str:
        """Return the canonical JSON of the batch inference parameters; raises as `validate_params`."""
        return _canonical(self.parse_predict_params(manifest, params))

    def parse_params(self, manifest: AlgorithmManifest, params: Mapping[str, object]) -> Params:
        """Return the training parameters as the algorithm's own model; raises as `validate_params`."""
        return _parse(manifest, self._registration(manifest.name, manifest.version).params, params)

    def parse_predict_params(self, manifest: AlgorithmManifest, params: Mapping[str, object]) -> Params:
        """Return the batch inference parameters as the algorithm's own model; raises as `validate_params`."""
        return _parse(manifest, self._registration(manifest.name, manifest.version).predict_params, params)

    def _registration(self, name: str, version: str | None) -> Registration:
        versions = self._entries.get(name)
        if versions is None:
            raise NotFoundError("algorithm", name, self._entries, hint="see: factory algorithms list")
        if version is None:
            return versions[max(versions, key=lambda v: _semver(name, v))]
        if version not in versions:
            raise NotFoundError(
                "version of the algorithm " + name, version, versions, hint=f"there is: {', '.join(sorted(versions))}"
            )
        return versions[version]


@cache
def load_catalogue() -> Catalogue:
    """Return the catalogue of this installation: built-in algorithms and those of installed packages.

    Raises:
        ConfigurationError: an entry point cannot be loaded, gives something else, or claims a name that is taken.
    """
    installed = (_load(point) for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name))
    return Catalogue([*((_BUILT_IN_PROVIDER, r) for r in built_in()), *installed])


@cache
def built_in() -> tuple[Registration, ...]:
    """Return the algorithms that ship with the factory; their digests are computed once."""
    here = Path(__file__).parent
    return (series_forecast(source_digest(here, [here / "manifests.py", *(here / "forecasting").rglob("*.py")])),)


def source_digest(root: Path, files: Iterable[Path]) -> Digest:
    """Return the sha256 over source files: of each, by path, its path below `root` and its bytes.

    Line ends are taken as written; two installations of one wheel agree, and any edit shows.
    """
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return Digest(f"sha256:{digest.hexdigest()}")


def _load(point: EntryPoint) -> tuple[str, Registration]:
    provider = point.dist.name if point.dist is not None else point.value
    hint = f"mend or uninstall the package '{provider}'"
    try:
        found: object = point.load()
    except Exception as exc:  # whatever a foreign module does at import, the message must name it
        raise ConfigurationError(
            f"the algorithm '{point.name}' of '{provider}' cannot be loaded from {point.value}: {exc}", hint=hint
        ) from exc
    registration = found() if isinstance(found, Callable) else found
    if not isinstance(registration, Registration):
        raise ConfigurationError(
            f"{point.value} of '{provider}' gives {type(registration).__name__}, not a Registration", hint=hint
        )
    if registration.manifest.name != point.name:
        raise ConfigurationError(
            f"the entry point '{point.name}' of '{provider}' gives the algorithm '{registration.manifest.name}'",
            hint="give both the same name",
        )
    return provider, registration


def _semver(name: str, version: str) -> tuple[int, int, int]:
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ConfigurationError(f"the algorithm '{name}' has the version '{version}'", hint="write it as 1.2.3")
    major, minor, patch = (int(part) for part in parts)
    return major, minor, patch


def _canonical(params: Params) -> str:
    document = params.model_dump(mode="json", by_alias=True)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parse(manifest: AlgorithmManifest, model: type[Params], params: Mapping[str, object]) -> Params:
    try:
        return model.model_validate(dict(params))
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
    known = tuple(field.alias or name for name, field in model.model_fields.items())
    sentences = [_sentence(error, known) for error in errors]
    raise InvalidRequestError(
        f"{manifest.name}@{manifest.version}: {'; '.join(sentences)}",
        hint=f"see: factory algorithms show {manifest.name}",
        facts={
            "algorithm": manifest.name,
            "fields": {
                ".".join(map(str, error["loc"])): sentence for error, sentence in zip(errors, sentences, strict=True)
            },
        },
    )


def _sentence(error: ErrorDetails, known: tuple[str, ...]) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"there is no parameter '{field}'{did_you_mean(field, known)} allowed: {', '.join(known)}"
    return f"parameter '{field}': {error['msg'][:1].lower()}{error['msg'][1:]}"
