"""The part of a provider file about a credential that a person enters instead of consenting to an app. `[credential]`
replaces OAuth: an API key, a pair of keys, a user and password, or what is needed to request an access token.
`providers.credentials` reads what was entered and puts it into requests; the vault seals it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from providers.definitions.method_overrides import FilePart, Key, QueryName
from providers.definitions.session import SessionExchange
from providers.definitions.signed_token import SignedToken

# Facts about a credential for which a file names sources, instead of those about OAuth.
CREDENTIAL_FACTS: Final = (
    "endpoints",
    "placement",
    "shape",
    "probe",
    "lifetimes",
    "revocation",
    "console",
    "scopes",
)
SAFE_PART: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # of an address
NAMES: Final = re.compile(r"\{([^{}]*)\}")
_BETWEEN: Final = re.compile(r"[ ,]+")
LINE: Final = r"[\x21-\x7e]{8,4096}"
LINES: Final = r"[\t\r\n\x20-\x7e]{8,16384}"
FieldTitle = Annotated[str, StringConstraints(min_length=1, max_length=120, strip_whitespace=True)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,60}$")]
Template = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=200)]


class CredentialField(FilePart):
    """One thing that the person enters.

    The whole value must match `pattern`; the default is 8 to 4096 printable characters without spaces. A named group of
    a pattern, such as `(?P<region>[a-z]+)`, is a separate value. Fields that aren't `secret` may be part of addresses.
    `many`: one or more of `choices`, separated by commas; the first is the default of a call. `lines`: text of several
    lines, such as a key file, which people paste or choose. `members`: the value is a JSON object whose members with
    these names are separate values, each with its pattern. `by_admin`: only admins may enter it.
    """

    title: FieldTitle
    pattern: str = LINE
    lines: bool = False
    members: Mapping[Key, str] = Field(default_factory=dict[str, str])
    by_admin: bool = False
    example: str = ""
    secret: bool = True
    optional: bool = False  # empty text if left out
    default: str = ""
    choices: tuple[str, ...] = ()  # the only values
    many: bool = False

    @field_validator("pattern")
    @classmethod
    def _is_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError("not a regular expression") from error
        return pattern

    @field_validator("members")
    @classmethod
    def _are_expressions(cls, members: Mapping[str, str]) -> Mapping[str, str]:
        for pattern in members.values():
            cls._is_expression(pattern)
        return members

    @cached_property
    def shape(self) -> re.Pattern[str]:
        return re.compile(LINES if self.lines and self.pattern == LINE else self.pattern)

    def parts(self, value: str) -> tuple[str, ...]:
        """The values of a field that accepts several; otherwise the value itself."""
        return tuple(dict.fromkeys(_BETWEEN.split(value.strip(" ,")))) if self.many else (value,)

    @cached_property
    def groups(self) -> frozenset[str]:
        """The values derived from this one, which may be part of addresses."""
        return frozenset(self.shape.groupindex)


class BasicPair(FilePart):
    """User and password of HTTP's Basic scheme (RFC 7617), as texts with `{fields}`."""

    user: Template
    password: Template = ""


class AwsSignature(FilePart):
    """How requests are signed with an access key (AWS Signature Version 4): texts with `{fields}`.

    `services`: for each API, the name of its service in signatures.
    """

    access_key_id: Template
    secret_access_key: Template
    session_token: Template = ""
    region: Template
    services: Mapping[Key, Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]] = Field(min_length=1)


class ClientCertificate(FilePart):
    """A certificate with which the vault opens TLS connections to the service (RFC 8446 §4.4.2).

    `file`: the field with certificate and private key, both in PEM or PKCS#12 in base64. `passphrase`: the field that
    opens it.
    """

    file: Key
    passphrase: Key | None = None


class CredentialPlacement(FilePart):
    """Where a request has the credential: texts with `{fields}`. An empty header or parameter is left out."""

    headers: Mapping[HeaderName, Template] = Field(default_factory=dict[str, str])
    query: Mapping[QueryName, Template] = Field(default_factory=dict[str, str])
    basic: BasicPair | None = None
    aws: AwsSignature | None = None
    certificate: ClientCertificate | None = None

    @property
    def templates(self) -> Iterator[tuple[str, str]]:
        """Each text with its place in the file."""
        for name, text in self.headers.items():
            yield f"headers.{name}", text
        for name, text in self.query.items():
            yield f"query.{name}", text
        if self.basic is not None:
            yield "basic.user", self.basic.user
            yield "basic.password", self.basic.password
        if self.aws is not None:
            yield "aws.access_key_id", self.aws.access_key_id
            yield "aws.secret_access_key", self.aws.secret_access_key
            yield "aws.session_token", self.aws.session_token
            yield "aws.region", self.aws.region
        if self.certificate is not None:
            yield "certificate.file", f"{{{self.certificate.file}}}"
            if self.certificate.passphrase is not None:
                yield "certificate.passphrase", f"{{{self.certificate.passphrase}}}"


class Credential(FilePart):
    """What a person enters for an account, and how requests use it. `kind`: `key` is sent unchanged, by `send`;
    `client_credentials` are the fields `client_id` and `client_secret` that get a token at `hosts.token_url` (RFC 6749
    §4.4), sent by `[authorization]`; with `signed_token`, a private key signs the token, or an assertion that gets it;
    with `session`, a sign-in gets it. `dead` and `alive`: statuses of the lookup in `[identity]` that prove that the
    credential is refused or accepted, in addition to 401 and any success; `alive_texts`: parts of the error's message
    that prove that it's accepted, whatever the status.
    """

    kind: Literal["key", "client_credentials", "signed_token", "session"] = "key"
    title: FieldTitle = "API key"  # the service's name for it
    fields: Mapping[Key, CredentialField] = Field(min_length=1)
    send: CredentialPlacement = CredentialPlacement()
    signed_token: SignedToken | None = None
    session: SessionExchange | None = None
    dead: frozenset[Annotated[int, Field(ge=400, le=499)]] = frozenset({401})
    alive: frozenset[Annotated[int, Field(ge=400, le=499)]] = frozenset()
    alive_texts: frozenset[Annotated[str, StringConstraints(min_length=8, max_length=120)]] = frozenset()
    rotate_days: int | None = Field(default=None, ge=1, le=3650)  # days after which the service recommends replacing it

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The names of the fields that must not be shown."""
        return tuple(name for name, field in self.fields.items() if field.secret)

    @cached_property
    def public_names(self) -> frozenset[str]:
        """The values that may be part of addresses."""
        found = {name for name, field in self.fields.items() if not field.secret}
        return frozenset(found).union(*(field.groups for field in self.fields.values()))

    @cached_property
    def names(self) -> frozenset[str]:
        """All values."""
        return self.public_names | frozenset(self.fields) | self.member_names

    @cached_property
    def member_names(self) -> frozenset[str]:
        """The values that are members of key files, which are never part of an address."""
        return frozenset[str]().union(*(field.members for field in self.fields.values()))

    @property
    def region_field(self) -> str | None:
        """The field with the regions that requests are signed for."""
        name = "" if self.send.aws is None else self.send.aws.region.removeprefix("{").removesuffix("}")
        return name if name in self.fields else None

    @property
    def passphrase(self) -> str | None:
        """The field that opens a private key, which is never sent."""
        if self.signed_token is not None:
            return self.signed_token.passphrase
        return None if self.send.certificate is None else self.send.certificate.passphrase
