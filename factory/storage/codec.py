"""Domain values as JSON text and back: what stands in the `body` column of every table.

The schema of a value is read from its dataclass, once, and compiled by pydantic-core (Rust), so that the domain itself
needs no pydantic. Three rules hold for each value, at every depth:

- A field that the text lacks takes its default: rows of an older release load.
- A field that this release does not know is refused, never dropped: a row of a newer release is not ours to rewrite.
- A member of a union of dataclasses (`Entry`, `Event`) carries `"type": "<ClassName>"`.

Nothing is coerced: a wrong type is refused when it is written, not when somebody reads it.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic_core import (
    CoreConfig,
    CoreSchema,
    PydanticSerializationError,
    SchemaSerializer,
    SchemaValidator,
    ValidationError,
    core_schema,
)

from factory.domain.datasets import Dataset, DatasetVersion, Upload
from factory.domain.endpoints import Endpoint
from factory.domain.events import Event
from factory.domain.jobs import Job, JobSpec
from factory.domain.models import Model, ModelVersion
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Key, Queue, Tenant
from factory.errors import ConfigurationError
from factory.jobs.ports import AttemptProgress

__all__ = [
    "DATASET",
    "DATASET_VERSION",
    "ENDPOINT",
    "EVENT",
    "JOB",
    "KEY",
    "MODEL",
    "MODEL_VERSION",
    "NODE",
    "POOL",
    "PROGRESS",
    "QUEUE",
    "RUNNER",
    "SPEC",
    "TENANT",
    "UPLOAD",
    "Codec",
]

T = TypeVar("T")

_TAG = "type"
_CONFIG = CoreConfig(strict=True, ser_json_inf_nan="constants", allow_inf_nan=True)
_SCALARS: dict[object, CoreSchema] = {
    str: core_schema.str_schema(),
    int: core_schema.int_schema(),
    float: core_schema.float_schema(),
    bool: core_schema.bool_schema(),
}


class Codec(Generic[T]):
    """Encodes and decodes one type: a dataclass, or a union of dataclasses (then `name` says which, for messages)."""

    def __init__(self, kind: object, name: str = "", *, remembers: int = 0) -> None:
        """Compile the schema; `remembers`: how many texts are decoded only once, of rows that every look reads."""
        self.name = name or getattr(kind, "__name__", str(kind))
        # A tagged union finds its member by "type" when reading; when writing the member's class is at hand.
        self._write = SchemaSerializer(_schema(kind, writing=True), _CONFIG)
        self._read = SchemaValidator(_schema(kind, writing=False), _CONFIG)
        self._known: Callable[[str], T] = lru_cache(remembers)(self._decode) if remembers else self._decode

    def dump(self, value: T, **texts: str) -> str:
        """Return the value's JSON.

        Args:
            texts: JSON of fields that is at hand; they are not encoded again.
        Raises: TypeError: a field holds what its annotation does not allow.
        """
        try:
            text = self._write.to_json(value, by_alias=True, warnings="error", exclude=set(texts) or None).decode()
        except PydanticSerializationError as exc:
            raise TypeError(f"not a valid {self.name}, so it is not stored: {exc}") from exc
        for name, given in texts.items():
            text = f'{{"{name}":{given},{text[1:]}'
        return text

    def load(self, text: str) -> T:
        """Return the value. Raises: ConfigurationError: it was written by a release that knows more, or is damaged."""
        return self._known(text)

    def _decode(self, text: str) -> T:
        try:
            return self._read.validate_json(text)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(
                f"a stored {self.name} cannot be read at '{where}': {first['msg']}",
                hint="the database was written by a newer release: run that release, or restore a backup of this one",
                facts={"kind": self.name, "where": where},
            ) from exc


def _schema(kind: object, *, writing: bool) -> CoreSchema:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if hasattr(kind, "__supertype__"):  # NewType
        return _schema(kind.__supertype__, writing=writing)  # pyright: ignore[reportAttributeAccessIssue]
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), writing=writing)
    if origin is tuple:
        items = get_args(kind)
        if len(items) == 2 and items[1] is Ellipsis:
            return core_schema.tuple_schema([_schema(items[0], writing=writing)], variadic_item_index=0)
        return core_schema.tuple_schema([_schema(item, writing=writing) for item in items])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return core_schema.enum_schema(kind, list(kind.__members__.values()), sub_type="str")
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, writing=writing)
    raise TypeError(f"no JSON form is defined for {kind!r}; use frozen dataclasses, enums, tuples and plain scalars")


def _union(members: tuple[object, ...], *, writing: bool) -> CoreSchema:
    present = [m for m in members if m is not types.NoneType]
    if len(present) < len(members):
        inner = _schema(present[0], writing=writing) if len(present) == 1 else _union(tuple(present), writing=writing)
        return core_schema.nullable_schema(inner)
    classes = [m for m in present if isinstance(m, type) and dataclasses.is_dataclass(m)]
    if len(classes) < len(present):
        return core_schema.union_schema([_schema(m, writing=writing) for m in present])
    choices = {c.__name__: _dataclass(c, writing=writing, tag=c.__name__) for c in classes}
    if writing:
        return core_schema.union_schema(list(choices.values()))
    return core_schema.tagged_union_schema(choices, _TAG)


def _dataclass(cls: type[Any], *, writing: bool, tag: str | None = None) -> CoreSchema:
    hints = get_type_hints(cls)
    fields = [_field(f, _schema(hints[f.name], writing=writing)) for f in dataclasses.fields(cls)]
    computed: list[core_schema.ComputedField] = []
    if tag is not None:
        # Accepted when reading and then forgotten; written from the class itself.
        literal = core_schema.with_default_schema(core_schema.literal_schema([tag]), default=tag)
        fields.append(core_schema.dataclass_field(_TAG, literal, kw_only=True, init_only=True))
        written = core_schema.plain_serializer_function_ser_schema(lambda _: tag)
        computed.append(
            core_schema.computed_field("__class__", core_schema.any_schema(serialization=written), alias=_TAG)
        )
    names = [f.name for f in dataclasses.fields(cls)]
    arguments = core_schema.dataclass_args_schema(
        cls.__name__, fields, computed_fields=computed, extra_behavior="forbid"
    )
    # The configuration does not reach into a dataclass from outside: each carries it.
    return core_schema.dataclass_schema(cls, arguments, names, slots=True, frozen=True, config=_CONFIG)


def _field(field: dataclasses.Field[Any], schema: CoreSchema) -> core_schema.DataclassField:
    if field.default is not dataclasses.MISSING:
        schema = core_schema.with_default_schema(schema, default=field.default)
    elif field.default_factory is not dataclasses.MISSING:
        schema = core_schema.with_default_schema(schema, default_factory=field.default_factory)
    return core_schema.dataclass_field(field.name, schema, kw_only=False)


TENANT = Codec[Tenant](Tenant)
QUEUE = Codec[Queue](Queue, remembers=8192)
KEY = Codec[Key](Key)
POOL = Codec[Pool](Pool, remembers=256)
NODE = Codec[Node](Node, remembers=16384)
RUNNER = Codec[Runner](Runner, remembers=256)
JOB = Codec[Job](Job)
SPEC = Codec[JobSpec](JobSpec)
EVENT = Codec[Event](Event, "Event")
PROGRESS = Codec[AttemptProgress](AttemptProgress)
DATASET = Codec[Dataset](Dataset)
UPLOAD = Codec[Upload](Upload)
DATASET_VERSION = Codec[DatasetVersion](DatasetVersion)
MODEL = Codec[Model](Model)
MODEL_VERSION = Codec[ModelVersion](ModelVersion)
ENDPOINT = Codec[Endpoint](Endpoint)
