"""``curl`` of a job or of a hook in a manifest."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.curl_spec import CurlSpec

from .. import checks
from ..base import HOST_NAME_PATTERN, STATUS_PATTERN, Model, ProxyUrl, Regex, Url
from ..rules import VALIDATIONS, Rule
from ..sources import SecretValue, ValueFrom
from ..spanning_rules import both_or_neither, no_key_with, only_with
from .job_part import JobPart, optional_value, short

if TYPE_CHECKING:
    from ..policies import CompleteOn


class Expect(Model):
    """What a response must look like to count as success."""

    status: list[Annotated[str, Field(max_length=3, pattern=STATUS_PATTERN)]] | None = Field(
        None,
        min_length=1,
        max_length=32,
        description='Statuses that are a success, such as "204" or "2xx". Default: 2xx.',
    )
    body_regex: Regex | None = Field(
        None, description="Regular expression (RE2) that must match somewhere in the first MiB of the body."
    )


class Tls(Model):
    """Which servers are trusted, and the certificate of the client."""

    rules: ClassVar = (both_or_neither("clientCertificate", "clientKey"),)

    insecure_skip_verify: bool | None = Field(
        None, description="Whether to accept any certificate of the server. Default: false."
    )
    server_name: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=HOST_NAME_PATTERN,
        description="Name that the server's certificate must have, instead of the URL's host.",
    )
    ca: ValueFrom | None = Field(
        None, description="Certificates (PEM) of the authorities to trust, instead of the system's."
    )
    client_certificate: ValueFrom | None = Field(None, description="The client's certificate chain (PEM).")
    client_key: SecretValue | None = Field(None, description="The private key (PEM) of the client's certificate.")


class BasicAuth(Model):
    """User name and password, both from a Secret."""

    username: SecretValue = Field(description="The user name.")
    password: SecretValue = Field(description="The password.")


_HEADER_RULES = (
    Rule(
        r"self.all(name, name.matches('^[!#$%&\'*+.^_`|~0-9A-Za-z-]+$'))",
        "a header's name has letters, digits and !#$%&'*+-.^_`|~ only",
    ),
    Rule(
        "self.all(name, self.exists_one(other, other.lowerAscii() == name.lowerAscii()))",
        "a header is given twice: leave one out, capital letters make no difference",
    ),
    Rule(
        "!self.exists(name, name.lowerAscii() in ['content-length', 'transfer-encoding', 'connection'])",
        "Content-Length, Transfer-Encoding and Connection are set by the request itself: leave them out",
    ),
    Rule(
        "!self.exists(name, name.lowerAscii() == 'idempotency-key' || name.lowerAscii().startsWith('x-scheduledjob-'))",
        "Idempotency-Key and X-ScheduledJob-... are set for each run: leave them out",
    ),
    Rule(
        r"self.all(name, !self[name].matches('[\x00-\x08\x0a-\x1f\x7f]'))",
        "a header's value can't hold line breaks or control characters: write it in one line",
    ),
)


class Auth(Model):
    """How the request is authorised."""

    one_of: ClassVar = ("basic", "bearer")

    basic: BasicAuth | None = Field(None, description="HTTP basic authentication.")
    bearer: SecretValue | None = Field(None, description="The bearer token.")


class Curl(Model):
    """An HTTP request."""

    rules: ClassVar = (
        # Not with the URL itself, because an answer about a text repeats the text.
        Rule(
            "!self.url.matches('^[^/?#]*//[^/?#]*@')",
            "must not hold a user or a password: put them into a Secret and name it in auth.basic",
            "url",
        ),
        Rule(
            "!has(self.proxy) || !self.proxy.matches('^[^/?#]*//[^/?#]*@')",
            "must not hold a user or a password: put them into a Secret and name it in proxyAuth",
            "proxy",
        ),
        only_with("proxyAuth", "proxy"),
        no_key_with(
            "headers",
            "authorization",
            "auth",
            message="the request has the header Authorization from auth already",
            advice="leave one out",
        ),
    )

    url: Url = Field(description="Absolute http or https URL, without user or password.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] | None = Field(
        None, description="Method of the request. Default: GET."
    )
    headers: Annotated[dict[str, Annotated[str, Field(max_length=8192)]], AfterValidator(checks.headers)] | None = (
        Field(
            None,
            max_length=64,
            description="Headers in addition to those that every run gets.",
            json_schema_extra={VALIDATIONS: [rule.schema() for rule in _HEADER_RULES]},
        )
    )
    body: Annotated[str, Field(max_length=256 * 1024)] | None = Field(
        None, description="Body of the request. Default: the payload."
    )
    expect: Expect | None = Field(None, description="What counts as success. Default: any status 2xx.")
    follow_redirects: bool | None = Field(None, description="Whether to follow redirects. Default: true.")
    tls: Tls | None = Field(None, description="Settings of an https connection.")
    auth: Auth | None = Field(None, description="Credentials, always from a Secret.")
    proxy: ProxyUrl | None = Field(
        None,
        description="URL (http or https) of a proxy, without user or password. An https request goes through it with "
        "CONNECT. Inside the operator, the administrator has to allow the proxy. Default: none.",
    )
    proxy_auth: BasicAuth | None = Field(None, description="User name and password for the proxy.")


class CurlPart(JobPart):
    """The key ``curl``."""

    key: ClassVar[str] = "curl"

    curl: Curl | None = Field(None, description="Make an HTTP request.")

    def to_stored(self, complete_on: "CompleteOn | None", namespace: str) -> tuple[str, Any]:
        """Return the kind and the stored job."""
        assert self.curl is not None
        return "curl", short(_curl_spec(self.curl, complete_on, namespace))


class Hook(Model):
    """What is called after a run."""

    curl: Curl = Field(description="The HTTP request to make.")

    def to_stored(self, namespace: str) -> Any:
        """Return the request as plain JSON."""
        return short(_curl_spec(self.curl, None, namespace))


def _curl_spec(curl: Curl, complete_on: "CompleteOn | None", namespace: str) -> CurlSpec:
    spec = CurlSpec(
        curl.url,
        headers={name: Value(value) for name, value in (curl.headers or {}).items()},
        body=None if curl.body is None else Value(curl.body),
        complete_status=frozenset((complete_on.http_status if complete_on is not None else None) or ()),
    )
    if curl.method is not None:
        spec.method = curl.method
    if curl.follow_redirects is not None:
        spec.follow_redirects = curl.follow_redirects
    if curl.expect is not None:
        spec.expect_body = curl.expect.body_regex
        if curl.expect.status is not None:
            spec.expect_status = tuple(curl.expect.status)
    if curl.tls is not None:
        spec.insecure_skip_verify = bool(curl.tls.insecure_skip_verify)
        spec.server_name = curl.tls.server_name
        spec.ca = optional_value(curl.tls.ca, namespace)
        spec.client_certificate = optional_value(curl.tls.client_certificate, namespace)
        spec.client_key = optional_value(curl.tls.client_key, namespace)
    if curl.auth is not None and curl.auth.basic is not None:
        spec.basic_username = optional_value(curl.auth.basic.username, namespace)
        spec.basic_password = optional_value(curl.auth.basic.password, namespace)
    spec.proxy = curl.proxy
    if curl.proxy_auth is not None:
        spec.proxy_username = optional_value(curl.proxy_auth.username, namespace)
        spec.proxy_password = optional_value(curl.proxy_auth.password, namespace)
    if curl.auth is not None:
        spec.bearer = optional_value(curl.auth.bearer, namespace)
    return spec
