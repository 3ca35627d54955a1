"""The event: what an action reads about one attempt.

Auth0's pre-user-registration v2 `event` (AUTH0.md 1.1) with snake_case attributes over the JSON names. Objects that Auth0
always sends are always there; absent optional values read as None, absent metadata, body, secrets and config as empty
mappings. Unknown keys are kept: `event.user.loyalty_number` or `event.user["loyalty_number"]`. Nothing can be written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema, PlainValidator, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, core_schema

from gate.errors import InvalidEvent
from gate.model.readonly import EMPTY, NO_SECRETS, NO_TEXTS, READ_ONLY, ReadOnlyList, Secrets, freeze, freeze_object

DATABASE: Final = "auth0"
"""Strategy of database connections."""

PASSWORDLESS: Final = frozenset({"email", "sms"})
"""Strategies of passwordless connections; every other one counts as a database (DESIGN.md section 2)."""


def _object(value: Any) -> Mapping[str, Any]:
    if type(value) is dict:
        return freeze_object(value)

    if value is None:
        return EMPTY

    if isinstance(value, Mapping):
        return value if isinstance(value, Secrets) else freeze_object(dict(value))

    raise PydanticCustomError("object_type", "must be an object")


JsonObject = Annotated[Mapping[str, Any], PlainValidator(_object, json_schema_input_type=dict[str, Any] | None)]
"""A free-form object, read-only; null and absent are empty."""

_texts = core_schema.no_info_after_validator_function(
    ReadOnlyList, core_schema.list_schema(core_schema.str_schema(strict=True), strict=True)
)

Texts = Annotated[Sequence[str], GetPydanticSchema(lambda _source, _handler: _texts)]  # pydantic's own Sequence costs 2 µs more
"""A list of strings, read-only."""


def _absent(value: Any) -> Any:
    return {} if value is None else value


AbsentIfNull = BeforeValidator(_absent)
"""For objects that are always there: null counts as empty."""


class EventPart(BaseModel):
    """An object of the event: attributes for the known keys, attributes and items for the others, nothing writable."""

    model_config = ConfigDict(
        frozen=True,  # lets type checkers flag assignments; the refusal itself is worded below
        strict=True,
        extra="allow",
        protected_namespaces=(),
        hide_input_in_errors=True,  # events are personal data
        use_attribute_docstrings=True,
    )

    __pydantic_extra__: dict[str, Annotated[Any, PlainValidator(freeze)]] = Field(init=False)
    _attributes: ClassVar[dict[str, str]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._attributes = {field.alias or name: name for name, field in cls.model_fields.items()}

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError(READ_ONLY)

    def __delattr__(self, name: str) -> NoReturn:
        raise TypeError(READ_ONLY)

    def __getitem__(self, name: str) -> Any:
        """Return the value of a key by its JSON name; raises KeyError for a key that is neither known nor sent."""
        attribute = self._attributes.get(name)

        if attribute is not None:
            return getattr(self, attribute)

        return (self.__pydantic_extra__ or {})[name]

    def __contains__(self, name: object) -> bool:
        return name in self._attributes or name in (self.__pydantic_extra__ or {})

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a key by its JSON name, or `default` where the key is unknown or its value None."""
        value = self[name] if name in self else None  # noqa: SIM401 - this is get()
        return default if value is None else value


class AkamaiBot(EventPart):
    """Akamai's verdict on bots, where Akamai forwards it."""

    model_config = ConfigDict(alias_generator=to_camel)

    type: str | None = None
    """Kind of bot, in Akamai's words."""
    action: str | None = None
    """What Akamai did about it, such as `monitor`."""
    bot_category: Texts | None = None
    """Categories that the bot belongs to, in Akamai's words."""
    bot_score: float | None = None
    """Score of Bot Manager, a number without unit: the higher, the more like a bot."""
    bot_score_response_segment: str | None = None
    """Range that the score falls in, such as `aggressive`."""
    botnet_id: str | None = None
    """Id of the botnet."""


class AkamaiUserRisk(EventPart):
    """Akamai's verdict on the user, where Akamai forwards it."""

    action: str | None = None
    """What Akamai did about it, such as `monitor`."""
    allow: float | None = None
    """Whether Akamai allows the user, as it numbers that."""
    email_domain: str | None = Field(None, alias="emailDomain")
    """Domain of the user's address."""
    general: JsonObject = EMPTY
    """Signals of a general kind, by Akamai's codes."""
    ouid: str | None = None
    """Akamai's OUID of the user."""
    requestid: str | None = None
    """Id of the request at Akamai."""
    risk: JsonObject = EMPTY
    """Signals against the user, by Akamai's codes."""
    score: float | None = None
    """Score of Account Protector, a number without unit: the higher, the riskier the user looks."""
    status: float | None = None
    """Status of the verdict, as Akamai numbers it."""
    trust: JsonObject = EMPTY
    """Signals for the user, by Akamai's codes."""
    username: str | None = None
    """User name as Akamai saw it."""
    uuid: str | None = None
    """Akamai's UUID of the user."""


class Akamai(EventPart):
    """What Akamai forwards."""

    akamai_bot: AkamaiBot | None = Field(None, alias="akamaiBot")
    """Akamai's verdict on bots."""
    akamai_user_risk: AkamaiUserRisk | None = Field(None, alias="akamaiUserRisk")
    """Akamai's verdict on the user."""


class Supplemental(EventPart):
    """Signals of other systems."""

    akamai: Akamai | None = None
    """What Akamai forwards; absent unless it does."""


class RiskAssessment(EventPart):
    """How risky the attempt looks."""

    supplemental: Supplemental | None = None
    """Signals of other systems."""


class Authentication(EventPart):
    """What is known from authentication so far."""

    risk_assessment: RiskAssessment | None = Field(None, alias="riskAssessment")
    """How risky the attempt looks."""


class Client(EventPart):
    """The application that the person signs up for."""

    client_id: str | None = None
    """Id of the application."""
    name: str | None = None
    """Name of the application."""
    metadata: JsonObject = EMPTY
    """Metadata of the application."""


class Connection(EventPart):
    """The connection that the user would be created in."""

    strategy: str
    """`auth0` for a database, `email` or `sms` for passwordless; others count as a database."""
    id: str | None = None
    """Id of the connection."""
    name: str | None = None
    """Name of the connection."""
    metadata: JsonObject = EMPTY
    """Metadata of the connection."""

    @property
    def passwordless(self) -> bool:
        """Whether users of this connection have no password: they can be denied, but get no metadata."""
        return self.strategy in PASSWORDLESS


class CustomDomain(EventPart):
    """The custom domain that the attempt came through."""

    domain: str | None = None
    """The domain."""
    domain_metadata: JsonObject = EMPTY
    """Metadata of the domain."""


class GeoIp(EventPart):
    """Where the request came from, as far as its address tells."""

    model_config = ConfigDict(alias_generator=to_camel)

    city_name: str | None = None
    """Name of the city."""
    continent_code: str | None = None
    """Two letters: AF, AN, AS, EU, NA, OC or SA."""
    country_code: str | None = None
    """ISO 3166-1 alpha-2."""
    country_code3: str | None = None
    """ISO 3166-1 alpha-3."""
    country_name: str | None = None
    """Name of the country."""
    latitude: float | None = None
    """Degrees north."""
    longitude: float | None = None
    """Degrees east."""
    subdivision_code: str | None = None
    """Code of the state, province or region."""
    subdivision_name: str | None = None
    """Name of the state, province or region."""
    time_zone: str | None = None
    """IANA name, such as Europe/Berlin."""


_NOWHERE = GeoIp()


class Request(EventPart):
    """The HTTP request that submitted the form."""

    body: JsonObject = EMPTY
    """The submitted form; custom fields of sign-up prompts are named `ulp-…`."""
    geoip: Annotated[GeoIp, AbsentIfNull] = _NOWHERE
    """Where the request came from."""
    hostname: str | None = None
    """Host name that was asked."""
    ip: str | None = None
    """Address of the person's machine."""
    language: str | None = None
    """Language of the person's browser, such as `es` (BCP 47), or its whole Accept-Language header."""
    method: str | None = None
    """HTTP method."""
    user_agent: str | None = None
    """Name of the person's browser."""


class SecurityContext(EventPart):
    """TLS fingerprints of the person's browser."""

    ja3: str | None = None
    """JA3 fingerprint."""
    ja4: str | None = None
    """JA4 fingerprint."""


class Tenant(EventPart):
    """The tenant that is signed up to."""

    id: str | None = None
    """Name of the tenant."""


_NO_TENANT = Tenant()


class Transaction(EventPart):
    """The authorization transaction; absent when the sign-up came straight to the sign-up endpoint."""

    acr_values: Texts = NO_TEXTS
    """Requested authentication context classes."""
    correlation_id: str | None = None
    """Correlation id given by the application."""
    locale: str | None = None
    """Language of the sign-up page (BCP 47)."""
    login_hint: str | None = None
    """Hint at who signs up."""
    prompt: Texts | None = None
    """Requested prompts."""
    protocol: str | None = None
    """Protocol of the transaction, such as `oidc-basic-profile`."""
    redirect_uri: str | None = None
    """Where the person goes next."""
    requested_scopes: Texts = NO_TEXTS
    """Requested scopes."""
    response_mode: str | None = None
    """`query`, `fragment`, `form_post` or `web_message`."""
    response_type: Texts | None = None
    """`code`, `token`, `id_token`."""
    state: str | None = None
    """State given by the application."""
    ui_locales: Texts = NO_TEXTS
    """Languages that the application asked for (BCP 47), best first."""


class User(EventPart):
    """The user who would be created."""

    app_metadata: JsonObject = EMPTY
    """What the user may not change. Changes made by other actions of the chain are not visible here."""
    email: str | None = None
    """E-mail address, not verified."""
    family_name: str | None = None
    """Family name."""
    given_name: str | None = None
    """Given name."""
    name: str | None = None
    """Full name."""
    nickname: str | None = None
    """Nickname."""
    phone_number: str | None = None
    """Phone number, not verified."""
    picture: str | None = None
    """Address of a picture."""
    user_metadata: JsonObject = EMPTY
    """What the user may change. Changes made by other actions of the chain are not visible here."""
    username: str | None = None
    """User name, where the connection has them."""


class AnonymousSession(EventPart):
    """The session that the person had before signing up."""

    user_id: str | None = None
    """Id of the person before signing up."""
    session_id: str | None = None
    """Id of the session."""
    created_at: float | str | None = None
    """When it began, a number or ISO 8601: Auth0's pages disagree."""
    expires_at: float | str | None = None
    """When it ends, a number or ISO 8601: Auth0's pages disagree."""
    metadata: JsonObject = EMPTY
    """Metadata of the session."""


class Experiment(EventPart):
    """The variation of an experiment that the person sees."""

    experiment_id: str | None = None
    """Id of the experiment."""
    variation_id: str | None = None
    """Id of the variation."""
    config: JsonObject = EMPTY
    """Settings of the variation."""
    is_control: bool | None = None
    """Whether it is the variation without a change."""


class Event(EventPart):
    """One attempt to register."""

    connection: Connection
    """The connection that the user would be created in."""
    request: Request
    """The request that submitted the form."""
    user: User
    """The user who would be created."""
    tenant: Annotated[Tenant, AbsentIfNull] = _NO_TENANT
    """The tenant that is signed up to."""
    client: Client | None = None
    """The application that the person signs up for."""
    transaction: Transaction | None = None
    """The authorization transaction."""
    security_context: SecurityContext | None = None
    """TLS fingerprints."""
    authentication: Authentication | None = None
    """What is known from authentication so far."""
    custom_domain: CustomDomain | None = None
    """The custom domain that the attempt came through."""
    anonymous_session: AnonymousSession | None = None
    """The session that the person had before signing up."""
    experiment: Experiment | None = None
    """The variation of an experiment that the person sees."""
    configuration: JsonObject = EMPTY
    """Private to Auth0."""

    secrets: JsonObject = Field(NO_SECRETS, repr=False)
    """The secrets of the action that reads this; set by the gate."""
    config: JsonObject = EMPTY
    """The `config` of the action that reads this; set by the gate."""
    attempt_id: str | None = None
    """Id of the attempt, the same when it is submitted again: pass it on as an idempotency key. Set by the gate."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Event:
        """Read the JSON object of an attempt; raises InvalidEvent with the JSON path of the first fault."""
        try:
            event: Event = _validate(document)
        except ValidationError as error:
            raise _invalid(error) from None
        except RecursionError:  # of a dict that was not read from JSON
            raise InvalidEvent("$", "is nested too deeply") from None

        return event

    def seen_by(self, *, secrets: Mapping[str, str], config: Mapping[str, Any], attempt_id: str) -> Event:
        """Return this event as one action sees it: a shallow copy, for what it holds cannot be changed.

        `secrets` and `config` must be read-only already; nothing is validated again.
        """
        seen: Event = _new(Event)
        fields = self.__dict__.copy()
        fields["secrets"] = secrets
        fields["config"] = config
        fields["attempt_id"] = attempt_id
        _set_fields(seen, fields)
        _set_extra(seen, self.__pydantic_extra__)
        _set_fields_set(seen, self.__pydantic_fields_set__)
        _set_private(seen, None)
        return seen


_validate = Event.__pydantic_validator__.validate_python
# What pydantic's own `__copy__` does, at a third of its price: four slots, filled through their descriptors.
_new = Event.__new__
_set_fields = BaseModel.__dict__["__dict__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__

_PROBLEMS: Final = {
    "missing": "is missing",
    "string_type": "must be a string",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "model_type": "must be an object",
    "object_type": "must be an object",
    "list_type": "must be a list",
    "sequence_type": "must be a list",
    "value_error": "is nested too deeply",
}


def _invalid(error: ValidationError) -> InvalidEvent:
    """Map pydantic's first fault to ours: a JSON path of known names and indices, and a text without values."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    return InvalidEvent("$" + path, _PROBLEMS.get(fault["type"], "has the wrong type"))
