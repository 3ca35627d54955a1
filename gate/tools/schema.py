"""What is generated from the models: the list of the event's fields, and the JSON Schema of what is sent."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gate.model.event import AbsentIfNull, Event, EventPart
from gate.model.wire import OURS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_TYPES: Final[dict[Any, str]] = {str: "str", float: "float", bool: "bool", Mapping: "mapping", Sequence: "list of str"}
_NULL: Final = {"type": "null"}


class Presence(StrEnum):
    """What an action reads where nothing was sent."""

    ALWAYS = "always"  # an attempt without it is not readable, or the object is there without it
    OR_NONE = "or None"
    EMPTY = "empty if absent"  # a mapping or list without members


@dataclass(frozen=True, slots=True, kw_only=True)
class EventField:
    """One field of the event, as an action reads it."""

    path: str  # "event.request.geoip.country_code"
    json_path: str | None  # "request.geoip.countryCode"; None for what is derived and never sent
    type: str
    presence: Presence
    meaning: str

    @property
    def parent(self) -> str:
        """Path of the object that has it."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Name of the attribute."""
        return self.path.rpartition(".")[2]

    @property
    def json_name(self) -> str | None:
        """Name on the wire, where that is another one than the attribute's."""
        name = (self.json_path or "").rpartition(".")[2]
        return name if name != self.name and name else None


def event_fields() -> list[EventField]:
    """Return every field of the event, each object followed by its own."""
    return list(_fields(Event, "event", ""))


def _fields(part: type[EventPart], path: str, json_path: str) -> Iterator[EventField]:
    for name, field in part.model_fields.items():
        kinds = _kinds(field.annotation)
        here = f"{path}.{name}"
        json_here = f"{json_path}{field.alias or name}"
        yield EventField(
            path=here,
            json_path=json_here,
            type=_type(kinds),
            presence=_presence(kinds, field.default),
            meaning=field.description or "",
        )

        for kind in kinds:
            if _is_part(kind):
                yield from _fields(kind, here, f"{json_here}.")

    for name, member in vars(part).items():
        if isinstance(member, property):
            kinds = _kinds(get_type_hints(member.fget)["return"])
            meaning = (member.__doc__ or "").partition("\n")[0]
            yield EventField(
                path=f"{path}.{name}", json_path=None, type=_type(kinds), presence=_presence(kinds, ...), meaning=meaning
            )


def _kinds(annotation: Any) -> list[Any]:
    """Return the types of an annotation, without what only the reader needs to know of them."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]

    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]

    return [get_origin(annotation) or annotation]


def _type(kinds: Sequence[Any]) -> str:
    return " or ".join("object" if _is_part(kind) else _TYPES[kind] for kind in kinds if kind is not types.NoneType)


def _presence(kinds: Sequence[Any], default: object) -> Presence:
    if types.NoneType in kinds:
        return Presence.OR_NONE

    return Presence.EMPTY if isinstance(default, (dict, list)) else Presence.ALWAYS


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, EventPart)


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema of an attempt's value: what `Event.from_document` reads, by the names on the wire.

    Without what only the gate sets. A schema cannot say how deep free-form parts may be nested or how large a value may be.
    """
    schema = Event.model_json_schema(schema_generator=_WireSchema)
    schema["properties"] = {name: part for name, part in schema["properties"].items() if name not in OURS}
    return {"$schema": DIALECT, **schema}


class _WireSchema(GenerateJsonSchema):
    """What may be sent; defaults and made-up titles say nothing about that."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        return {"anyOf": [inner, _NULL]} if schema["function"]["function"] is AbsentIfNull.func else inner

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False
