"""What all models of the resource share: strictness, rules, and the types of fields.

The models are the only description of the resource. They validate manifest files, and the CRD's schema is generated
from them. The type of a field states what a schema can express (patterns, bounds, lengths, enumerations). ``one_of``
and ``rules`` state what CEL can express. Functions of ``checks`` do the rest.

The only default of a field is None. GitOps tools report a default that the API server writes into an object as drift,
and it hides whether the user gave a value. ``translate`` puts the defaults in place.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from scheduledjob.domain.time.durations import MAX_DURATION
from scheduledjob.domain.time.instants import DAY, SECOND
from scheduledjob.domain.triggers.calendar_days import MAX_WEEKS, TIME_PATTERN

from . import checks
from .cron_rules import CRON_RULES
from .problems import quoted
from .rules import (
    ALTERNATIVES,
    DATE_PATTERN,
    DURATION_PATTERN,
    INSTANT_PATTERN,
    INTERVAL_PATTERN,
    TIME_ZONE_PATTERN,
    VALIDATIONS,
    Rule,
    is_duration,
    matches,
    seconds,
    stated,
)
from .spanning_rules import AnyRule, SpanningRule, alternatives

LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
ABSOLUTE_PATH_PATTERN = r"^/"
ENVIRONMENT_NAME_PATTERN = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
STATUS_PATTERN = r"^[1-5]([0-9]{2}|xx)$"
KIND_PATTERN = r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$"
IMAGE_PATTERN = r"^[a-zA-Z0-9][^\s]*$"
HOST_NAME_PATTERN = r"^[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?$"

JOB_NAME_LIMIT = 52
"""Characters of a job's name: it leaves room for what the name of a Pod appends."""

PATTERN_MEANINGS = {
    DURATION_PATTERN: 'whole numbers with d, h, m or s, the largest first, as in "1h30m" or "45s"',
    INTERVAL_PATTERN: 'whole numbers with d, h, m or s, the largest first, as in "1h30m", or weeks, as in "2w"',
    LABEL_PATTERN: 'lower-case letters, digits and "-", with a letter or digit at both ends',
    SUBDOMAIN_PATTERN: 'lower-case letters, digits, "-" and ".", with a letter or digit at both ends',
    KEY_PATTERN: 'letters, digits, "-", "_" and "."',
    ABSOLUTE_PATH_PATTERN: 'an absolute path, one that begins with "/"',
    ENVIRONMENT_NAME_PATTERN: 'letters, digits, "_", "-" and ".", not beginning with a digit',
    STATUS_PATTERN: 'a status or a class of them, as in "200" or "2xx"',
    KIND_PATTERN: 'letters, digits, "-", "_" and ".", with a letter or digit at both ends',
    HOST_NAME_PATTERN: 'a host name, as in "example.com"',
    IMAGE_PATTERN: 'a container image without spaces, as in "registry.example.com/team/image:1.2"',
}
"""A description of what each pattern allows, for messages."""


class Model(BaseModel):
    """A part of the resource. Unknown keys and wrong types are errors. Unset fields are None."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    one_of: ClassVar[tuple[str, ...]] = ()
    """Keys of which exactly one must be given."""
    one_of_unless: ClassVar[Mapping[str, str]] = {}
    """Keys of ``one_of`` that don't count beside another key, which gives them another meaning."""
    at_most_one_of: ClassVar[tuple[str, ...]] = ()
    """Keys of which at most one may be given."""
    rules: ClassVar[tuple[AnyRule, ...]] = ()
    """Rules for fields that belong together."""

    @classmethod
    def all_rules(cls) -> Iterator[AnyRule]:
        """Its rules; those for ``one_of`` and ``at_most_one_of`` come first."""
        for keys, needed in ((cls.one_of, True), (cls.at_most_one_of, False)):
            if keys:
                yield alternatives(keys, needed=needed, unless=cls.one_of_unless)
        yield from cls.rules

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for keys, amount in ((cls.at_most_one_of, "At most"), (cls.one_of, "Exactly")):
            if keys:
                schema[ALTERNATIVES] = f"{amount} one of {', '.join(keys)}."
        validations = [(rule if isinstance(rule, Rule) else rule.cel).schema() for rule in cls.all_rules()]
        if validations:
            schema[VALIDATIONS] = validations
        return schema

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.all_rules():
            fault = rule.fault_in(self) if isinstance(rule, SpanningRule) else None
            if fault is not None:
                checks.refuse(fault.message, fault.advice, *fault.path)
        return self

    @property
    def keys_given(self) -> set[str]:
        """The keys that the user gave a value."""
        fields = type(self).model_fields
        return {fields[name].alias or name for name in self.model_fields_set if getattr(self, name) is not None}


QUANTITY_PATTERN = f"^(?:{checks.QUANTITY.pattern.removesuffix(chr(92) + 'Z')})$"


def _quantity(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        checks.refuse("a quantity is expected", 'write it like 2, "500m" or "1Gi"')
    if isinstance(value, int):
        if value < 0:
            checks.refuse(f"{value} is not allowed", "0 or more")
        return value
    if not checks.QUANTITY.match(value):
        checks.refuse(f"{quoted(value)} is not a quantity", 'write it like "500m", "2" or "1Gi"')
    return value


NO_NUL = Rule(r"!self.contains('\x00')", "contains a NUL character: remove it")
_A_CENTURY = Rule(
    f"!{is_duration('self')} || {seconds('self')} <= {MAX_DURATION // SECOND}",
    f"is longer than a century: write at most {MAX_DURATION // DAY}d",
)
_A_CENTURY_OF_WEEKS = Rule(
    f"!{matches('self', '^[0-9]{1,9}w$')} || int(self.replace('w', '')) <= {MAX_WEEKS}",
    f"is longer than a century: write at most {MAX_WEEKS}w",
)
_AT_LEAST_A_SECOND = Rule(matches("self", "[1-9]"), "is too short: write at least 1s")

Text = Annotated[str, Field(max_length=checks.PAYLOAD_LIMIT), AfterValidator(checks.without_nul), stated(NO_NUL)]
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN_PATTERN)]
JobName = Annotated[str, Field(min_length=1, max_length=JOB_NAME_LIMIT, pattern=SUBDOMAIN_PATTERN)]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_PATTERN)]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=KEY_PATTERN)]
Duration = Annotated[
    str,
    Field(min_length=2, max_length=40, pattern=DURATION_PATTERN),
    BeforeValidator(checks.duration),
    stated(_A_CENTURY),
]
PositiveDuration = Annotated[
    str,
    Field(min_length=2, max_length=40, pattern=DURATION_PATTERN),
    BeforeValidator(checks.duration),
    AfterValidator(checks.positive),
    stated(_AT_LEAST_A_SECOND, _A_CENTURY),
]
Interval = Annotated[
    str,
    Field(min_length=2, max_length=40, pattern=INTERVAL_PATTERN),
    BeforeValidator(checks.interval),
    AfterValidator(checks.positive),
    stated(_AT_LEAST_A_SECOND, _A_CENTURY, _A_CENTURY_OF_WEEKS),
]
CronExpression = Annotated[
    str,
    Field(min_length=1, max_length=512),
    AfterValidator(checks.cron),
    stated(*CRON_RULES),
]
TimeZone = Annotated[
    str,
    Field(min_length=1, max_length=64),
    AfterValidator(checks.time_zone),
    stated(Rule(matches("self", TIME_ZONE_PATTERN), 'write an IANA name such as "Europe/Lisbon", or "UTC"')),
]
InstantText = Annotated[
    str,
    BeforeValidator(checks.no_number),
    Field(min_length=1, max_length=40),
    AfterValidator(checks.instant),
    stated(
        Rule(
            matches("self", INSTANT_PATTERN),
            'write an instant with its offset, as in "2026-12-01T10:00:00Z" or "2026-12-01T10:00:00+01:00"',
        )
    ),
]
InstantOrTime = Annotated[
    str,
    BeforeValidator(checks.no_number),
    Field(min_length=1, max_length=40),
    AfterValidator(checks.instant_or_time),
    stated(
        Rule(
            matches("self", f"{INSTANT_PATTERN}|^{TIME_PATTERN}$"),
            'write an instant with its offset, as in "2026-12-01T10:00:00Z", or beside every a time of day, as "09:00"',
        )
    ),
]
InstantOrDate = Annotated[
    str,
    Field(min_length=1, max_length=40),
    AfterValidator(checks.instant_or_date),
    stated(
        Rule(
            matches("self", f"{DATE_PATTERN}|{INSTANT_PATTERN}"),
            'write a date or an instant with its offset, as in "2026-12-24" or "2026-12-24T18:00:00Z"',
        )
    ),
]
AbsolutePath = Annotated[
    str,
    Field(max_length=4096, pattern=ABSOLUTE_PATH_PATTERN),
    AfterValidator(checks.without_nul),
    stated(NO_NUL),
]
Regex = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(checks.regex)]
_URL_RULES = (
    Rule("!" + matches("self", r"[\pZ\pC]"), "contains a space or a control character: write %20 for a space"),
    Rule(
        matches("self", checks.URL_PATTERN),
        "write an http or https URL with a host and, if at all, a port from 1 to 65535, as in "
        '"https://example.com/path"',
    ),
)
Url = Annotated[str, Field(min_length=1, max_length=8192), AfterValidator(checks.url), stated(*_URL_RULES)]
ProxyUrl = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(checks.proxy_url), stated(*_URL_RULES)]
Image = Annotated[str, Field(min_length=1, max_length=1024, pattern=IMAGE_PATTERN)]
Quantity = Annotated[
    Any,
    BeforeValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 64,
            VALIDATIONS: [
                Rule(
                    f"type(self) == int ? self >= 0 : {matches('self', QUANTITY_PATTERN)}",
                    'write a quantity, as in 2, "500m" or "1Gi"',
                ).schema()
            ],
        }
    ),
]
