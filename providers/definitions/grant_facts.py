"""What happens to a grant at a provider: how its tokens rotate, narrow, and end, and how the vault checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from providers.definitions.method_overrides import FilePart, Key
from vault.upstream import Downscope, ItemLimit, RotationMode

Title = Annotated[str, StringConstraints(min_length=1, max_length=120, strip_whitespace=True)]


class RotationFacts(FilePart):
    """What a provider does with a used refresh token. Unknown means `revokes`, the strictest class."""

    mode: RotationMode = RotationMode.REVOKES
    grace: int = Field(default=0, ge=0, le=86400)
    ends_access_token: bool = False  # a refresh ends the previous access token (GitHub App, Miro, Snowflake ...)


class DownscopeFacts(FilePart):
    """Whether and how the provider can issue a narrower token, and whether that harms the grant.

    `api` and `path`: the endpoint of a proprietary way. `items`: whether a narrower token can, or must, be limited to
    one item of an API; `item` has paths below an API's base that identify one, with `{parts}`. An answer that doesn't
    state its scopes proves nothing: `told_path` is where `api` reports a token's scopes, requested with that token, and
    `scopes_at` is the path in that answer.
    """

    mode: Downscope = Downscope.NONE
    destructive: bool = False
    param: str = "scope"
    array: bool = False  # the scopes are sent as a JSON array
    api: Key | None = None
    path: str | None = None  # `{client_id}` is filled in
    items: ItemLimit = ItemLimit.NONE
    item: tuple[str, ...] = ()
    told_path: str | None = None
    scopes_at: str = "scopes"


class PublicClient(FilePart):
    """The second way to register: an app without a secret, for a vault on the person's own machine.

    Used when settings have a client ID and no secret, and the redirect URI is on loopback.
    """

    pkce: Literal["S256"] = "S256"
    grant: int | None = Field(default=None, ge=3600)  # seconds until such a grant ends, instead of `expires.grant`
    idle: int | None = Field(default=None, ge=3600)  # instead of `expires.idle`
    rotation: RotationFacts | None = None  # where it differs
    downscope: DownscopeFacts | None = None  # where it differs


class ProbeFacts(FilePart):
    """How to check whether a token still works after its revocation. `identity`: the account lookup, where 401 or one
    of `errors.unauthorized` means that the token is dead. `introspection`: RFC 7662 at `url`, with our client
    authentication. `refresh`: only where a refresh uses up no token and a revocation ends the whole grant; new tokens
    are revoked at once.
    """

    access_token: Literal["identity", "introspection"] | None = None
    refresh_token: Literal["introspection", "refresh"] | None = None
    url: str | None = None


class RevocationFacts(FilePart):
    """How to end the grant at the provider. `tokens` in order of preference; `each`: all of them, not the first.

    With `token_in = "path"`, `{token}` is part of the address; `{client_id}` may always be. `account`: the parameter
    for the account's ID where no token is sent. `pages`: where a person removes the app, by kind of account.
    """

    method: Literal["POST", "GET", "DELETE"] = "POST"
    token_in: Literal["form", "json", "query", "path", "header", "header_and_form"] = "form"
    param: str = "token"
    tokens: tuple[Literal["refresh_token", "access_token"], ...] = ("refresh_token", "access_token")
    each: bool = False
    account: str | None = None
    # true: as at the token endpoint; client_header: `Authorization: Client SECRET`
    client_auth: bool | Literal["client_secret_post", "client_secret_basic", "secret_as_user", "client_header"] = True
    ends_grant: bool | None = None
    probe: ProbeFacts = ProbeFacts()
    pages: Mapping[Title, str] = Field(default_factory=dict[str, str])
