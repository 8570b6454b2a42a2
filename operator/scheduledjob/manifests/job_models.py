"""What a job does: a shell command, an HTTP request, a container or a registered Python job."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from . import checks
from .base import HOST_NAME_PATTERN, KIND_PATTERN, STATUS_PATTERN, AbsolutePath, Image, Model, Regex, Text, Url
from .problems import quoted
from .rules import VALIDATIONS, Rule
from .sources import EnvironmentVariable, SecretValue, ValueFrom


class Shell(Model):
    """A command for a shell."""

    command: Annotated[Text, Field(min_length=1)] = Field(
        description="The command, run as `shell -c command`; the payload is on its standard input."
    )
    shell: AbsolutePath | None = Field(None, description="Absolute path of the shell. Default: /bin/sh.")
    env: list[EnvironmentVariable] | None = Field(
        None,
        max_length=256,
        description="Environment variables, beside those that every run is given.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    working_dir: AbsolutePath | None = Field(
        None, description="Absolute path of the directory in which the command starts."
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        first: dict[str, int] = {}
        for index, variable in enumerate(self.env or ()):
            if variable.name in first:
                checks.refuse(
                    f"{quoted(variable.name)} is given twice, first as env[{first[variable.name]}]",
                    "leave one out",
                    "env",
                    index,
                    "name",
                )
            first[variable.name] = index
        return self


class Expect(Model):
    """What a response must look like to count as success."""

    status: list[Annotated[str, Field(max_length=3, pattern=STATUS_PATTERN)]] | None = Field(
        None,
        min_length=1,
        max_length=32,
        description='Statuses that are a success, such as "204" or "2xx". Default: 2xx.',
    )
    body_regex: Regex | None = Field(
        None, description="Regular expression (RE2) that must match somewhere in the body."
    )


class Tls(Model):
    """How the server is trusted, and the client shown to it."""

    rules: ClassVar = (
        Rule(
            "has(self.clientCertificate) == has(self.clientKey)",
            "clientCertificate and clientKey go together: give both or none",
        ),
    )

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

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.client_certificate is None) != (self.client_key is None):
            missing = "clientKey" if self.client_key is None else "clientCertificate"
            checks.refuse(f"{missing} is missing: a client certificate and its key go together", "give both or none")
        return self


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
            "!has(self.auth) || !has(self.headers) || !self.headers.exists(name, name.lowerAscii() == 'authorization')",
            "the request has the header Authorization from auth already: leave one out",
            "headers",
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
            description="Headers, beside those that every run is given.",
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

    @model_validator(mode="after")
    def _check_authorisation(self) -> Self:
        if self.auth is not None:
            for name in self.headers or ():
                if name.lower() == "authorization":
                    checks.refuse("the request has this header from auth already", "leave one out", "headers", name)
        return self


class Container(Model):
    """A container of its own, run as a Pod."""

    image: Image = Field(description="Image of the container.")
    command: list[Text] | None = Field(
        None, min_length=1, max_length=256, description="Entry point, instead of the image's."
    )
    args: list[Text] | None = Field(None, max_length=256, description="Arguments, instead of the image's.")


class Custom(Model):
    """A Python job that is registered under a name; `print` is built in."""

    rules: ClassVar = (
        Rule(
            "!(self.kind in ['shell', 'curl', 'container'])",
            "is built in: write job.shell, job.curl or job.container instead of job.custom",
            "kind",
        ),
    )

    kind: str = Field(
        min_length=1, max_length=63, pattern=KIND_PATTERN, description="Name under which the job is registered."
    )
    params: dict[str, Any] | None = Field(
        None,
        max_length=1024,
        description="Parameters for the job: any fields.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )

    @model_validator(mode="after")
    def _check_built_in(self) -> Self:
        if self.kind in ("shell", "curl", "container"):
            checks.refuse(f"{quoted(self.kind)} is built in", f"write job.{self.kind} instead of job.custom", "kind")
        if self.kind == "print":
            for name, value in (self.params or {}).items():
                if name != "text":
                    checks.refuse("print has no such parameter", "text is the only one", "params", name)
                if not isinstance(value, str):
                    checks.refuse("must be text", 'put it in quotes ("...")', "params", "text")
        return self


class JobModel(Model):
    """What to do: exactly one kind of job."""

    one_of: ClassVar = ("shell", "curl", "container", "custom")

    shell: Shell | None = Field(None, description="Run a shell command.")
    curl: Curl | None = Field(None, description="Make an HTTP request.")
    container: Container | None = Field(None, description="Run a container, always as a Pod.")
    custom: Custom | None = Field(None, description="Run a registered Python job.")


class Hook(Model):
    """What is called after a run."""

    curl: Curl = Field(description="The HTTP request to make.")
