"""The options of one mode of the families' server: how it reads requests, builds answers, and treats tokens. Data
only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from providers.simulator.rules import FaceRules, RotationRule

# secret_user: the secret is the user name of Basic; client_header: `Authorization: Client SECRET` (Square)
ClientAuth = Literal["basic", "post", "none", "secret_user", "client_header"]
PREFIX = "families."  # the name of the face: `families.square` in records and faults

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Shape:
    """How an answer of the token endpoint differs from RFC 6749 §5.1."""

    root: str | None = None  # dotted path of the member that holds the tokens
    ok_flag: str | None = None  # in every answer; errors then have status 200
    errors_with_200: bool = False
    names: Mapping[str, str] = field(default_factory=dict[str, str])  # the standard's member -> the one in answers
    status: int = 200
    expiry: Literal["seconds", "text", "milliseconds", "iso", "epoch", "absent"] = "seconds"
    expiry_name: str = "expires_in"
    scope: Literal["text", "array", "absent"] = "text"
    separator: str = " "
    extra: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])  # next to the tokens, at the top
    form_unless_asked: bool = False  # urlencoded, unless the request accepts application/json
    grant_expiry_name: str | None = None  # member with the seconds until the grant ends
    error_names: tuple[str, str] = ("error", "error_description")  # where answers have errors, as dotted paths
    said: Mapping[str, str] = field(default_factory=dict[str, str])  # scope -> its name in answers
    unsaid: frozenset[str] = frozenset()  # scopes that answers never name (offline_access at Microsoft)


@dataclass(frozen=True, slots=True)
class RevocationMode:
    """The revocation endpoint's ways; what it ends is `rules.revoke`."""

    method: Literal["POST", "DELETE", "GET"] = "POST"
    # account: no token is sent, but the account's id
    token_in: Literal["body", "query", "path", "bearer", "account"] = "body"
    format: Literal["form", "json", "any"] = "any"
    name: str = "token"
    client_auth: frozenset[ClientAuth] = frozenset({"basic", "post", "none"})
    takes: frozenset[Literal["access", "refresh"]] = frozenset({"access", "refresh"})
    unknown: Literal["ok", "refused"] = "ok"  # RFC 7009 §2.2: an unknown token is no error
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the mode's API and the scopes any of which allows it. `path` has `{}` for one segment."""

    method: str
    path: str
    scopes: frozenset[str]


def lenient(**changes: object) -> FaceRules:
    """Rules for a server known only by RFC 6749: tokens stay, live an hour, and everything is revoked at once."""
    plain: dict[str, object] = {
        "rotation": RotationRule.NONE,
        "access_lifetime": 3600,
        "narrowing": "real",
        "revoke": "family",
    }
    return FaceRules.model_validate({**plain, **changes})


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to be an OAuth server. The defaults are a plain server by RFC 6749 and RFC 7636."""

    title: str
    rules: FaceRules = field(default_factory=lenient)
    # Requests
    body: Literal["form", "json", "query", "any"] = "form"
    client_auth: frozenset[ClientAuth] = frozenset({"basic", "post"})
    refresh_client_auth: frozenset[ClientAuth] | None = None  # where it differs
    names: Mapping[str, str] = field(default_factory=dict[str, str])  # the standard's parameter -> what it is called
    token_names: Mapping[str, str] | None = None  # at the token endpoint, where they differ from `names`
    pkce: Literal["required", "optional", "ignored", "refused"] = "optional"
    scope_parameter: str = "scope"
    scope_separator: str = " "
    scopes: frozenset[str] | None = None  # those that exist; None: any
    fixed_scopes: frozenset[str] | None = None  # set on the app: the requested scopes don't matter
    refresh_scope_parameter: str = "scope"
    refresh_scope_is_array: bool = False
    redirect_uri_at_token: Literal["required", "ignored", "refused"] = "required"
    state_at_token: bool = False  # a code is redeemed together with the `state` of its consent
    required_authorize: Mapping[str, str] = field(default_factory=dict[str, str])
    required_token: Mapping[str, str] = field(default_factory=dict[str, str])
    required_refresh: Mapping[str, str] = field(default_factory=dict[str, str])  # only for a refresh
    required_headers: Mapping[str, str] = field(default_factory=dict[str, str])
    api_headers: Mapping[str, str] = field(default_factory=dict[str, str])  # of every call with a token
    token_header: str = "authorization"  # which has the token
    refresh_at: Literal["token", "refresh"] = "token"  # the endpoint of a refresh
    long_lived: tuple[str, str] | None = None  # a second step after the code: its grant type, the token's parameter
    renewal: str | None = None  # the grant type for exchanging a long-lived token for the next one
    grant_types: Mapping[str, str] = field(default_factory=dict[str, str])  # the standard's grant type -> its name here
    # When there is a refresh token
    offline_parameter: tuple[str, str] | None = None  # an authorization parameter and its required value
    offline_scope: str | None = None
    has_refresh: bool = True
    # Answers
    shape: Shape = Shape()
    # what the redirect contains in addition to the code
    callback: Mapping[str, str] = field(default_factory=dict[str, str])
    code_name: str = "code"
    error_codes: Mapping[str, str] = field(default_factory=dict[str, str])  # the standard's code -> the one in answers
    authorize_errors: Literal["page", "redirect"] = "page"
    # Scopes
    covers: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    one_resource: str | None = None  # tokens are for one resource; scopes without a prefix belong to this one
    downscope: Literal["none", "scoped", "exchange"] = "none"  # beside `rules.narrowing`: GitHub's way, RFC 8693
    resources: bool = False  # the scoped token can be limited to one item
    status: bool = False  # an endpoint reports what a token may do
    # The rest
    revoking: RevocationMode = RevocationMode()
    identity_method: Literal["GET", "POST"] = "GET"
    identity: Mapping[str, str] = field(default_factory=lambda: {"sub": "{id}", "email": "{email}", "name": "{name}"})
    identity_in: Literal["endpoint", "answer"] = "endpoint"
    identity_query: str | None = None  # a text that the body of an identity request must contain (GraphQL)
    identity_scopes: frozenset[str] = frozenset()  # one of these is required at the identity endpoint
    busy: str | None = None  # the token endpoint's own code for rate limits
    outage: str | None = None  # and for an unknown outcome
    rotation_known: bool = True  # whether any source documents what a used refresh token does
    account: tuple[str, str] = ("{id}", "{email}")  # an account's ID here, and its name for people
    operations: tuple[Operation, ...] = ()
    api: str = "echo"  # the API with this name in `Sandbox.apis` answers; without one, the answer names the call
    token_prefix: str = ""

    def expand(self, scopes: frozenset[str]) -> frozenset[str]:
        """The scopes and everything that they include."""
        found, waiting = set(scopes), list(scopes)
        while waiting:
            for included in self.covers.get(waiting.pop(), frozenset()):
                if included not in found:
                    found.add(included)
                    waiting.append(included)
        return frozenset(found)
