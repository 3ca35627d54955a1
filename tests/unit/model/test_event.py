"""The event: every field of Auth0's, nothing writable, no values in errors."""

from __future__ import annotations

import copy
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.errors import InvalidEvent
from gate.model.event import Event
from gate.model.readonly import MAX_DEPTH, ReadOnlyDict, Secrets

SMALLEST: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {}, "user": {}}

COMPLETE: dict[str, Any] = {
    "anonymous_session": {
        "user_id": "u",
        "session_id": "s",
        "created_at": 1.5,
        "expires_at": "2026-01-01T00:00:00Z",
        "metadata": {"a": 1},
    },
    "authentication": {
        "riskAssessment": {
            "supplemental": {
                "akamai": {
                    "akamaiBot": {
                        "type": "t",
                        "action": "monitor",
                        "botCategory": ["c"],
                        "botScore": 12,
                        "botScoreResponseSegment": "low",
                        "botnetId": "b",
                    },
                    "akamaiUserRisk": {
                        "action": "none",
                        "allow": 1,
                        "emailDomain": "example.org",
                        "general": {"g": "1"},
                        "ouid": "o",
                        "requestid": "r",
                        "risk": {"r": "1"},
                        "score": 3,
                        "status": 0,
                        "trust": {"t": "1"},
                        "username": "n",
                        "uuid": "i",
                    },
                }
            }
        }
    },
    "client": {"client_id": "c1", "name": "Shop", "metadata": {"team": "growth"}},
    "configuration": {"k": "v"},
    "connection": {"id": "con_1", "name": "Users", "strategy": "auth0", "metadata": {"m": "1"}},
    "custom_domain": {"domain": "login.example.org", "domain_metadata": {"d": "1"}},
    "experiment": {"experiment_id": "e", "variation_id": "v", "config": {"c": 1}, "is_control": False},
    "request": {
        "body": {"ulp-plan": "free"},
        "geoip": {
            "cityName": "Lyon",
            "continentCode": "EU",
            "countryCode": "FR",
            "countryCode3": "FRA",
            "countryName": "France",
            "latitude": 45.75,
            "longitude": 5,
            "subdivisionCode": "ARA",
            "subdivisionName": "Auvergne-Rhône-Alpes",
            "timeZone": "Europe/Paris",
        },
        "hostname": "login.example.org",
        "ip": "192.0.2.7",
        "language": "fr",
        "method": "POST",
        "user_agent": "Browser/1",
    },
    "security_context": {"ja3": "three", "ja4": "four"},
    "tenant": {"id": "example"},
    "transaction": {
        "acr_values": ["a"],
        "correlation_id": "c",
        "locale": "fr",
        "login_hint": "h",
        "prompt": ["login"],
        "protocol": "oidc-basic-profile",
        "redirect_uri": "https://example.org/cb",
        "requested_scopes": ["openid"],
        "response_mode": "query",
        "response_type": ["code"],
        "state": "s",
        "ui_locales": ["fr"],
    },
    "user": {
        "app_metadata": {"a": 1},
        "email": "ana@example.org",
        "family_name": "Diaz",
        "given_name": "Ana",
        "name": "Ana Diaz",
        "nickname": "ana",
        "phone_number": "+33000",
        "picture": "https://example.org/p",
        "user_metadata": {"u": {"deep": [1, {"x": 2}]}},
        "username": "ana_d",
    },
}


def event(**changes: Any) -> Event:
    return Event.from_document({**SMALLEST, **changes})


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(document, dict):
        return [leaf for key, value in document.items() for leaf in leaves(value, (*path, key))]

    return [(path, document)]


@pytest.mark.parametrize(
    ("path", "value"), leaves(COMPLETE), ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else ""
)
def test_every_documented_field_reads_under_its_json_name(path: tuple[str, ...], value: Any) -> None:
    found: Any = Event.from_document(COMPLETE)

    for key in path:
        found = found[key]

    assert value == found


def test_every_documented_field_is_known() -> None:
    read = Event.from_document(COMPLETE)
    parts = [
        read,
        read.client,
        read.connection,
        read.request,
        read.request.geoip,
        read.transaction,
        read.user,
        read.security_context,
        read.tenant,
        read.custom_domain,
        read.anonymous_session,
        read.experiment,
        read.authentication,
    ]

    assert [{}] * len(parts) == [part.model_extra for part in parts if part is not None]


def test_attributes_are_the_snake_case_of_the_json_names() -> None:
    read = Event.from_document(COMPLETE)
    akamai = read.authentication.risk_assessment.supplemental.akamai  # type: ignore[union-attr]  # it is there

    assert "FRA" == read.request.geoip.country_code3
    assert "Lyon" == read.request.geoip.city_name
    assert ["c"] == akamai.akamai_bot.bot_category  # type: ignore[union-attr]  # it is there
    assert "example.org" == akamai.akamai_user_risk.email_domain  # type: ignore[union-attr]  # it is there


def test_objects_that_are_always_there_are_there() -> None:
    smallest = event()

    assert None is smallest.request.geoip.continent_code
    assert None is smallest.tenant.id
    assert (
        {} == smallest.user.user_metadata == smallest.user.app_metadata == smallest.request.body == smallest.connection.metadata
    )
    assert {} == smallest.secrets == smallest.config


@pytest.mark.parametrize("name", ["client", "transaction", "security_context", "authentication", "custom_domain", "attempt_id"])
def test_absent_optional_values_read_as_none(name: str) -> None:
    assert None is getattr(event(), name)


def test_null_reads_as_absent() -> None:
    read = event(
        tenant=None,
        security_context=None,
        client=None,
        request={"geoip": None, "body": None},
        user={"email": None, "app_metadata": None},
    )

    assert None is read.tenant.id
    assert None is read.security_context
    assert None is read.request.geoip.country_code
    assert {} == read.request.body == read.user.app_metadata


def test_an_empty_security_context_has_no_fingerprints() -> None:
    context = event(security_context={}).security_context

    assert context is not None
    assert (None, None) == (context.ja3, context.ja4)


def test_unknown_keys_are_kept_and_read_as_attributes_and_items() -> None:
    read = event(user={"loyalty": {"tier": [1]}}, risk_score=7)

    assert {"tier": [1]} == read.user.loyalty == read.user["loyalty"]  # type: ignore[attr-defined]  # an unknown key
    assert 7 == read.risk_score == read["risk_score"]  # type: ignore[attr-defined]  # an unknown key
    assert "risk_score" in read
    assert "nothing" not in read
    assert (None, "d") == (read.get("nothing"), read.user.get("email", "d"))

    with pytest.raises(KeyError):
        read["nothing"]


def test_an_unknown_key_named_like_a_method_reads_as_item() -> None:
    assert 1 == event(user={"copy": 1}).user["copy"]


@pytest.mark.parametrize(
    "write",
    [
        lambda e: setattr(e, "attempt_id", "x"),
        lambda e: setattr(e.user, "email", "x"),
        lambda e: setattr(e.user, "loyalty", "x"),
        lambda e: delattr(e.user, "email"),
        lambda e: e.user.user_metadata.update(a=1),
        lambda e: e.user.user_metadata.__setitem__("a", 1),
        lambda e: e.user.user_metadata.pop("u"),
        lambda e: e.user.user_metadata["u"].__delitem__("deep"),
        lambda e: e.user.user_metadata["u"]["deep"].append(1),
        lambda e: e.user.user_metadata["u"]["deep"][1].clear(),
        lambda e: e.transaction.ui_locales.append("x"),
        lambda e: e.transaction.ui_locales.sort(),
        lambda e: e["unknown"].setdefault("a", 1),
        lambda e: e["unknown"]["list"].extend([1]),
        lambda e: e.secrets.update(a="b"),
        lambda e: e.config.update(a="b"),
    ],
)
def test_nothing_can_be_written_to(write: Any) -> None:
    read = Event.from_document({**COMPLETE, "unknown": {"list": []}})

    with pytest.raises(TypeError, match="the event is read-only"):
        write(read)


def test_in_place_operators_are_refused() -> None:
    read = Event.from_document(COMPLETE)
    metadata: Any = read.user.user_metadata
    locales: Any = read.transaction.ui_locales  # type: ignore[union-attr]  # it is there

    with pytest.raises(TypeError, match="read-only"):
        metadata |= {"a": 1}

    with pytest.raises(TypeError, match="read-only"):
        locales += ["x"]


def test_an_event_does_not_change_with_the_document_it_was_read_from() -> None:
    document = copy.deepcopy(COMPLETE)
    read = Event.from_document(document)

    document["user"]["user_metadata"]["u"]["deep"].append("later")
    document["transaction"]["ui_locales"].append("later")

    assert [1, {"x": 2}] == read.user.user_metadata["u"]["deep"]
    assert ["fr"] == read.transaction.ui_locales  # type: ignore[union-attr]  # it is there


def test_read_only_values_are_json_and_their_copies_can_be_changed() -> None:
    metadata = Event.from_document(COMPLETE).user.user_metadata
    changeable = copy.deepcopy(metadata)
    changeable["u"]["deep"][1]["x"] = 3  # type: ignore[index]  # deepcopy gives a plain dict

    assert (
        COMPLETE["user"]["user_metadata"] == metadata == json.loads(json.dumps(metadata)) == orjson.loads(orjson.dumps(metadata))
    )
    assert {"u": {"deep": [1, {"x": 3}]}} == changeable
    assert dict is type(metadata.copy())  # type: ignore[attr-defined]  # a Mapping to type checkers


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "$.connection"),
        ({**SMALLEST, "user": None}, "$.user"),
        ({**SMALLEST, "user": []}, "$.user"),
        ({**SMALLEST, "connection": {}}, "$.connection.strategy"),
        ({**SMALLEST, "connection": {"strategy": 5}}, "$.connection.strategy"),
        ({**SMALLEST, "request": {"geoip": {"latitude": "45"}}}, "$.request.geoip.latitude"),
        ({**SMALLEST, "request": {"geoip": {"latitude": True}}}, "$.request.geoip.latitude"),
        ({**SMALLEST, "request": {"geoip": {"countryCode3": 3}}}, "$.request.geoip.countryCode3"),
        ({**SMALLEST, "request": {"geoip": []}}, "$.request.geoip"),
        ({**SMALLEST, "request": {"body": "x"}}, "$.request.body"),
        ({**SMALLEST, "transaction": {"ui_locales": ["a", 3]}}, "$.transaction.ui_locales[1]"),
        ({**SMALLEST, "transaction": {"ui_locales": "a"}}, "$.transaction.ui_locales"),
        ({**SMALLEST, "user": {"user_metadata": []}}, "$.user.user_metadata"),
        ({**SMALLEST, "experiment": {"is_control": "yes"}}, "$.experiment.is_control"),
        ({**SMALLEST, "tenant": "example"}, "$.tenant"),
    ],
)
def test_a_wrong_type_in_a_known_field_is_invalid_and_named_by_its_path(document: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event.from_document(document)

    assert path == caught.value.path


def test_an_invalid_event_says_nothing_of_its_values() -> None:
    with pytest.raises(InvalidEvent) as caught:
        event(user={"email": ["ana@example.org"]})

    assert "$.user.email: must be a string" == str(caught.value)
    assert None is caught.value.__cause__
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("where", ["user", "unknown"])
def test_free_form_parts_nested_too_deeply_are_invalid(where: str) -> None:
    deep: Any = {}

    for _ in range(MAX_DEPTH + 2):
        deep = {"a": deep}

    with pytest.raises(InvalidEvent, match="nested too deeply"):
        event(**({"user": {"user_metadata": deep}} if where == "user" else {"unknown": deep}))


def test_free_form_parts_may_be_nested_a_hundred_levels() -> None:
    deep: Any = 1

    for _ in range(MAX_DEPTH):
        deep = [deep]

    assert deep == event(unknown=deep)["unknown"]


@pytest.mark.parametrize(
    ("strategy", "passwordless"), [("auth0", False), ("email", True), ("sms", True), ("something-new", False)]
)
def test_unknown_strategies_count_as_database(strategy: str, *, passwordless: bool) -> None:
    assert passwordless == event(connection={"strategy": strategy}).connection.passwordless


def test_each_action_sees_its_own_secrets_and_config_and_the_rest_shared() -> None:
    read = Event.from_document({**COMPLETE, "unknown": 1})
    seen = read.seen_by(secrets=Secrets(KEY="value"), config=ReadOnlyDict(a=1), attempt_id="a-1")

    assert ("value", 1, "a-1") == (seen.secrets["KEY"], seen.config["a"], seen.attempt_id)
    assert ({}, {}, None) == (read.secrets, read.config, read.attempt_id)
    assert seen.user is read.user
    assert 1 == seen["unknown"]
    assert isinstance(seen, Event)


def test_a_secret_is_in_no_representation() -> None:
    seen = event().seen_by(secrets=Secrets(KEY="hunter22"), config=ReadOnlyDict(), attempt_id="a")

    assert "hunter22" not in f"{seen!r} {seen} {seen.secrets!r} {seen.secrets} {[seen.secrets]}"
    assert "Secrets(KEY)" == repr(seen.secrets)


text = st.text("abé", max_size=4)  # of few letters: building the alphabet of all of Unicode takes seconds
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*COMPLETE, "unknown"]), json_values | st.sampled_from(list(COMPLETE.values()))))
def test_any_json_object_is_an_event_or_invalid(document: dict[str, Any]) -> None:
    try:
        read = Event.from_document({**SMALLEST, **document})
    except InvalidEvent as error:
        assert error.path.startswith("$.")  # noqa: PT017 - either outcome is right, and each has its own promise
    else:
        assert isinstance(read.connection.strategy, str)
