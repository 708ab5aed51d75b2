"""How one face of the simulator treats tokens: rotation, grace, lifetimes, narrowing, revocation. All scriptable.

The defaults are those of Slack (with token rotation) and Google; the rest is known behavior of other providers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from providers.simulator.accounts import Face


class RotationRule(StrEnum):
    """What happens to a refresh token when it is used."""

    NONE = "none"  # it stays
    GRACE = "grace"  # it rotates; reuse within `grace_seconds` is answered
    STRICT = "strict"  # it rotates; reuse is refused and nothing else happens
    REUSE_REVOKES_FAMILY = "reuse_revokes_family"  # it rotates; reuse ends all tokens of its family


class FaceRules(BaseModel):
    """The behavior of one face; changed as a whole through the control endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: RotationRule
    grace_seconds: float = Field(default=60, ge=0)
    grace_answer: Literal["resend", "sibling"] = "resend"
    after_grace: Literal["refuse", "revoke_family"] = "refuse"
    access_lifetime: int = Field(gt=0)  # seconds
    refresh_lifetime: int | None = None  # seconds from consent until the family ends, however often it is refreshed
    refresh_idle: int | None = None  # seconds without a refresh until the family ends
    refresh_limit: int | None = (
        None  # live families with a refresh token per person and client; the oldest ends silently
    )
    code_lifetime: int = 60
    # `scope` on refresh; sticky shrinks the grant permanently, refused accepts only exactly the granted scopes
    narrowing: Literal["ignored", "real", "sticky", "refused"] = "ignored"
    refresh_ends_access: bool = False  # a refresh ends the access tokens issued before it
    revoke: Literal["grant", "token", "family", "lies"]  # what the revocation endpoint actually ends
    additive_scopes: bool = False  # a new consent keeps the scopes of earlier ones
    # Slack accepts http redirects only from apps with PKCE; a sandbox accepts all
    http_for_public_apps_only: bool = False
    tells_refresh_lifetime: bool = False  # the answer has `refresh_token_expires_in`, if the family ends at all
    api_enabled: bool = True  # false: the client's project hasn't turned on the API
    page_size: int = Field(default=100, gt=0)  # the server's own limit for a page of a list


def default_rules(face: Face) -> FaceRules:
    """The real service's documented behavior."""
    if face == "slack":
        return FaceRules(
            rotation=RotationRule.STRICT, access_lifetime=43200, revoke="token", additive_scopes=True, page_size=4
        )
    if face == "company":
        return FaceRules(rotation=RotationRule.REUSE_REVOKES_FAMILY, access_lifetime=300, revoke="family")
    return FaceRules(
        rotation=RotationRule.NONE,
        access_lifetime=3600,
        refresh_idle=180 * 86400,
        refresh_limit=100,
        narrowing="real",
        revoke="grant",
        page_size=5,
    )
