"""The part of a provider file about requests to a token endpoint and its answers, where they differ from RFC 6749."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from providers.definitions.method_overrides import FilePart, Key


class Renames(FilePart):
    """OAuth's parameter -> the provider's name for it; an empty name omits the parameter."""

    authorize: Mapping[str, str] = Field(default_factory=dict[str, str])
    token: Mapping[str, str] = Field(default_factory=dict[str, str])  # for the code's request and for a refresh


class LongLived(FilePart):
    """A second step after the code: the short-lived token is exchanged for a long-lived one (Meta's services).

    A GET with `grant_type`, our client ID and secret, and the token as `token_param`.
    """

    url: str
    grant_type: str
    token_param: str


class Params(FilePart):
    """Extra parameters, sent unchanged."""

    authorize: Mapping[str, str] = Field(default_factory=dict[str, str])
    token: Mapping[str, str] = Field(default_factory=dict[str, str])
    refresh: Mapping[str, str] = Field(default_factory=dict[str, str])


class TokenShape(FilePart):
    """How the token endpoint's answer differs from RFC 6749 §5.1."""

    root: str | None = None  # the member that holds the tokens
    access_token: str = "access_token"  # paths, from there
    refresh_token: str = "refresh_token"
    scope: str = "scope"
    error: str = "error"  # paths, from the top
    error_description: str = "error_description"
    ok_flag: str | None = None  # false there means an error, whatever the status
    keep: Mapping[Key, str] = Field(default_factory=dict[str, str])  # our name -> path of a fact worth keeping
    grant_expires: str | None = None  # path of the seconds until the grant ends, if answers have it


class Expiry(FilePart):
    """Lifetimes in seconds, if answers don't have them; and how answers state the end of the access token."""

    path: str = "expires_in"  # from the member that holds the tokens
    unit: Literal["seconds", "milliseconds", "epoch", "epoch_milliseconds", "iso"] = "seconds"
    default: int = Field(default=3600, ge=60)
    grant: int | None = Field(default=None, ge=3600)
    idle: int | None = Field(default=None, ge=3600)  # without a refresh, after which the grant ends
    testing: int | None = Field(default=None, ge=3600)  # of the grant, while our app there is unpublished


class Git(FilePart):
    """The API for git over HTTPS, which accepts the token as the password of this user (RFC 7617)."""

    api: Key
    user: str = Field(pattern=r"^[A-Za-z0-9-]{1,60}$")
