"""What is generated from the event's model is complete, and says of a document what the reader says of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.errors import InvalidEvent
from gate.model.event import Event
from gate.model.wire import OURS
from gate.tools.schema import EventField, Presence, event_fields, event_schema

SUPPLEMENTAL = "authentication.riskAssessment.supplemental"
BOT = f"{SUPPLEMENTAL}.akamai.akamaiBot"
RISK = f"{SUPPLEMENTAL}.akamai.akamaiUserRisk"

# Typed from AUTH0.md 1.1, row by row: path in JSON, its type there, and ? where it is optional inside its object.
AUTH0 = """
authentication                          object  ?
authentication.riskAssessment           object  ?
{SUPPLEMENTAL}                          object  ?
{SUPPLEMENTAL}.akamai                   object  ?
{BOT}                                   object  ?
{BOT}.type                              str     ?
{BOT}.action                            str     ?
{BOT}.botCategory                       str[]   ?
{BOT}.botScore                          number  ?
{BOT}.botScoreResponseSegment           str     ?
{BOT}.botnetId                          str     ?
{RISK}                                  object  ?
{RISK}.action                           str     ?
{RISK}.allow                            number  ?
{RISK}.emailDomain                      str     ?
{RISK}.general                          dict    ?
{RISK}.ouid                             str     ?
{RISK}.requestid                        str     ?
{RISK}.risk                             dict    ?
{RISK}.score                            number  ?
{RISK}.status                           number  ?
{RISK}.trust                            dict    ?
{RISK}.username                         str     ?
{RISK}.uuid                             str     ?
client                                  object  ?
client.client_id                        str
client.metadata                         dict
client.name                             str
connection                              object
connection.id                           str
connection.name                         str
connection.strategy                     str
connection.metadata                     dict    ?
custom_domain                           object  ?
custom_domain.domain                    str
custom_domain.domain_metadata           dict
request                                 object
request.body                            dict
request.geoip                           object
request.geoip.cityName                  str     ?
request.geoip.continentCode             str     ?
request.geoip.countryCode               str     ?
request.geoip.countryCode3              str     ?
request.geoip.countryName               str     ?
request.geoip.latitude                  number  ?
request.geoip.longitude                 number  ?
request.geoip.subdivisionCode           str     ?
request.geoip.subdivisionName           str     ?
request.geoip.timeZone                  str     ?
request.hostname                        str     ?
request.ip                              str
request.language                        str     ?
request.method                          str
request.user_agent                      str     ?
secrets                                 dict
security_context                        object  ?
security_context.ja3                    str     ?
security_context.ja4                    str     ?
tenant                                  object
tenant.id                               str
transaction                             object  ?
transaction.acr_values                  str[]
transaction.locale                      str
transaction.requested_scopes            str[]
transaction.ui_locales                  str[]
transaction.login_hint                  str     ?
transaction.prompt                      str[]   ?
transaction.redirect_uri                str     ?
transaction.state                       str     ?
transaction.protocol                    str     ?
transaction.response_mode               str     ?
transaction.response_type               str[]   ?
transaction.correlation_id              str     ?
user                                    object
user.app_metadata                       dict    ?
user.email                              str     ?
user.family_name                        str     ?
user.given_name                         str     ?
user.name                               str     ?
user.nickname                           str     ?
user.phone_number                       str     ?
user.picture                            str     ?
user.user_metadata                      dict    ?
user.username                           str     ?
anonymous_session                       object  ?
anonymous_session.user_id               str
anonymous_session.session_id            str
anonymous_session.created_at            number|str
anonymous_session.expires_at            number|str
anonymous_session.metadata              dict
experiment                              object  ?
experiment.experiment_id                str
experiment.variation_id                 str
experiment.config                       dict
experiment.is_control                   bool
configuration                           dict
"""

ROWS = [
    (path.format(SUPPLEMENTAL=SUPPLEMENTAL, BOT=BOT, RISK=RISK), kind, bool(optional))
    for path, kind, *optional in map(str.split, AUTH0.strip().splitlines())
]
SENT = [(path, kind, optional) for path, kind, optional in ROWS if path not in OURS]
OURS_ALONE = {"config", "attempt_id"}  # the gate's own, not Auth0's
REQUIRED = {"connection", "connection.strategy", "request", "user"}  # of these alone the absence makes an attempt unreadable

TYPES = {"object": "object", "dict": "mapping", "str": "str", "str[]": "list of str", "number": "float", "bool": "bool"} | {
    "number|str": "float or str"
}
SAMPLES: dict[str, Any] = {"object": {}, "dict": {"k": [1]}, "str": "x", "str[]": ["x"], "number": 1.5, "bool": True} | {
    "number|str": 1
}

FIELDS = {field.json_path: field for field in event_fields() if field.json_path is not None}
SCHEMA = event_schema()


def put(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")

    for parent in parents:
        document = document.setdefault(parent, {})

        if not isinstance(document, dict):
            return

    document[name] = value


def complete() -> dict[str, Any]:
    document: dict[str, Any] = {}

    for path, kind, _ in SENT:
        put(document, path, copy.deepcopy(SAMPLES[kind]))

    return document


def without(path: str) -> dict[str, Any]:
    document = complete()
    *parents, name = path.split(".")
    part = document

    for parent in parents:
        part = part[parent]

    del part[name]
    return document


def reads(document: dict[str, Any]) -> bool:
    try:
        Event.from_document(document)
    except InvalidEvent:
        return False

    return True


def read(event: Event, field: EventField) -> Any:
    value: Any = event

    for name in field.path.split(".")[1:]:
        value = getattr(value, name)

    return value


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether JSON Schema says that a value is valid: the keywords that ours uses, as the specification has them."""
    known = {"$schema", "$defs", "$ref", "title", "description"} | {
        "anyOf", "type", "properties", "required", "items", "additionalProperties"
    }  # fmt: skip
    assert set() == schema.keys() - known

    if "$ref" in schema and not accepts(SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], value):
        return False

    if "anyOf" in schema and not any(accepts(option, value) for option in schema["anyOf"]):
        return False

    if "type" in schema and not is_of(schema["type"], value):
        return False

    if isinstance(value, list):
        return all(accepts(schema.get("items", {}), item) for item in value)

    if not isinstance(value, dict):
        return True

    properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    assert others in ({}, True)
    return set(schema.get("required", ())) <= value.keys() and all(
        accepts(properties[name], item) for name, item in value.items() if name in properties
    )


def is_of(kind: str, value: Any) -> bool:
    match kind:
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "null":
            return value is None
        case _:
            return isinstance(value, {"object": dict, "array": list, "string": str, "boolean": bool}[kind])


# -- The list of fields -------------------------------------------------------------------------------------------------


def test_every_field_of_auth0_is_there_and_no_other_but_ours() -> None:
    assert {path for path, _, _ in ROWS} | OURS_ALONE == FIELDS.keys()


@pytest.mark.parametrize(("path", "kind", "optional"), ROWS, ids=str)
def test_every_field_has_auth0s_type_and_reads_as_its_optionality_says(path: str, kind: str, optional: bool) -> None:
    field = FIELDS[path]
    expected = Presence.OR_NONE

    if kind == "dict" or (kind == "str[]" and not optional):
        expected = Presence.EMPTY
    elif (kind == "object" and not optional) or path in REQUIRED:
        expected = Presence.ALWAYS

    assert (TYPES[kind], expected) == (field.type, field.presence)


@pytest.mark.parametrize("path", [path for path, _, _ in SENT])
def test_what_is_not_sent_reads_as_the_list_says_or_makes_the_attempt_unreadable(path: str) -> None:
    document = without(path)
    assert (path not in REQUIRED) == reads(document)

    if path in REQUIRED:
        return

    field = FIELDS[path]
    value = read(Event.from_document(document), field)

    match field.presence:
        case Presence.OR_NONE:
            assert None is value
        case Presence.EMPTY:
            assert ({} if field.type == "mapping" else []) == value
        case Presence.ALWAYS:
            assert value is not None


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, kind, _ in SENT if kind != "object"])
def test_what_is_sent_reads_under_the_path_of_the_list(path: str, kind: str) -> None:
    assert SAMPLES[kind] == read(Event.from_document(complete()), FIELDS[path])


def test_the_list_has_no_holes() -> None:
    assert [] == [field.path for field in event_fields() if not (field.meaning.strip() and field.type)]


def test_paths_are_snake_case_and_differ_from_json_only_in_that() -> None:
    assert [] == [field.path for field in event_fields() if field.path != field.path.lower()]
    assert "countryCode3" == FIELDS["request.geoip.countryCode3"].json_name
    assert "event.request.geoip.country_code3" == FIELDS["request.geoip.countryCode3"].path
    assert None is FIELDS["request.geoip"].json_name


def test_what_is_derived_is_listed_as_never_sent() -> None:
    assert ["event.connection.passwordless"] == [field.path for field in event_fields() if field.json_path is None]


# -- The JSON Schema ----------------------------------------------------------------------------------------------------


def test_the_schema_names_its_dialect_and_has_nothing_that_only_the_gate_sets() -> None:
    assert "https://json-schema.org/draft/2020-12/schema" == SCHEMA["$schema"]
    assert set() == set(OURS) & SCHEMA["properties"].keys()
    assert ["connection", "request", "user"] == SCHEMA["required"]


def test_the_schema_describes_every_field_that_is_sent_by_its_json_name() -> None:
    def names(schema: dict[str, Any], prefix: str = "") -> set[str]:
        found: set[str] = set()

        for option in (schema, *schema.get("anyOf", ())):
            part = SCHEMA["$defs"][option["$ref"].rpartition("/")[2]] if "$ref" in option else option

            for name, inner in part.get("properties", {}).items():
                found |= {prefix + name} | names(inner, f"{prefix}{name}.")

        return found

    assert {path for path, _, _ in SENT} == names(SCHEMA)


def test_a_complete_attempt_is_valid_and_what_is_no_object_is_not() -> None:
    assert accepts(SCHEMA, complete())
    assert [False] * 4 == [accepts(SCHEMA, value) for value in (None, [], "x", 1)]


VALUES: list[Any] = [None, True, False, 0, -1.5, "", "x", [], ["x"], [1], [None], {}, {"a": 1}]


@pytest.mark.parametrize("path", [path for path, _, _ in SENT])
def test_the_schema_and_the_reader_agree_on_every_type_of_value_in_every_field(path: str) -> None:
    documents = {"as it is": complete(), "absent": without(path)}

    for value in VALUES:
        documents[repr(value)] = document = complete()
        put(document, path, value)

    said = {name: (reads(document), accepts(SCHEMA, document)) for name, document in documents.items()}

    assert {} == {value: both for value, both in said.items() if both[0] != both[1]}
    assert {True, False} == {reader for reader, _ in said.values()}  # both answers were heard


text = st.text("abé", max_size=4)
names = st.sampled_from(sorted({part for path, _, _ in SENT for part in path.split(".")})) | text
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from([*(path for path, _, _ in SENT), "unknown", "user.unknown"]), json_values), max_size=4))
def test_the_schema_and_the_reader_agree_on_any_attempt(changes: list[tuple[str, Any]]) -> None:
    document = complete()

    for path, value in changes:
        put(document, path, value)

    assert reads(document) == accepts(SCHEMA, document)
