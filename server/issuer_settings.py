"""Issuers whose tokens the vault accepts: who a client acts for, and what a company's identity provider allows."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from server.provider_settings import Section, checked_address, checked_domains


class IssuerSettings(Section):
    """An external issuer whose JWTs identify the user that a client acts for, by a linked identity."""

    issuer: str = Field(description="The `iss` of its tokens")
    audience: str = Field(description="What `aud` must contain")
    jwks_uri: str | None = Field(default=None, description="URL of its keys. Default: discovered")
    identity_issuer: str | None = Field(
        default=None, description="Issuer under which its users are linked. Default: itself"
    )
    subject_claim: str = Field(default="sub", description="Claim that identifies the user")
    clients: tuple[str, ...] = Field(
        default=(),
        description="Client IDs that can present its tokens. Default: all that an admin registered",
    )

    @field_validator("issuer", "jwks_uri", "identity_issuer")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return checked_address(value)


class AllowedAgents(Section):
    """What a company allows some agents to do for its people without asking each person.

    An agent without a matching rule gets nothing; matching rules add up.
    """

    agents: tuple[str, ...] = Field(min_length=1, description="Client IDs or names of agents that an admin registered")
    groups: tuple[str, ...] = Field(default=(), description="Only people in one of these groups. Default: everyone")
    scopes: tuple[str, ...] = Field(
        default=("connections", "tools"), description="Upper limit of the scopes of its tokens"
    )
    accounts: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict[str, tuple[str, ...]],
        description="What it can do with the person's accounts, by provider: `read`, `all`, or scopes",
    )
    tools: tuple[str, ...] = Field(default=(), description="Tools that it can use: adds the scopes that they need")
    ask_writes: bool = Field(default=False, description="Ask the person before each change")


class EnterpriseSettings(Section):
    """A company's identity provider that admits its people's agents (ID-JAG)."""

    issuer: str = Field(description="The `iss` of its assertions")
    title: str | None = Field(
        default=None, min_length=1, max_length=60, description="The company's name on people's pages. Default: NAME"
    )
    jwks_uri: str | None = Field(default=None, description="URL of its keys. Default: discovered")
    identity_issuer: str | None = Field(
        default=None, description="Issuer under which its people are linked. Default: itself"
    )
    tenant: str | None = Field(
        default=None,
        description=(
            "Required value of `tenant`, for an issuer that several companies share: each needs its own "
            "`identity_issuer`"
        ),
    )
    domains: tuple[str, ...] = Field(
        default=(),
        description="Match people who aren't linked yet to the user whose name is their verified email address in "
        "these domains, but never to an admin",
    )
    create_people: bool = Field(
        default=False, description="Create people who aren't known yet; with `domains`, only those with such an address"
    )
    directory_claim: str | None = Field(
        default=None, description="Claim that equals the directory's `externalId` (SCIM): links a provisioned person"
    )
    groups_claim: str = Field(
        default="groups", description="Claim with the person's groups, which are added to those that the vault knows"
    )
    longest: int = Field(default=600, ge=10, le=3600, description="Maximum number of seconds from `iat` to `exp`")
    max_age: int | None = Field(
        default=None, ge=60, description="Maximum number of seconds since the person signed in there (`auth_time`)"
    )
    acr: tuple[str, ...] = Field(default=(), description="Accepted values of `acr`")
    public_clients: bool = Field(
        default=False, description="Accept unbound assertions from clients that can't authenticate"
    )
    permission_days: int = Field(
        default=30, ge=1, le=365, description="Days that permissions stay valid after the agent's last assertion"
    )
    allow: Mapping[str, AllowedAgents] = Field(default_factory=dict[str, AllowedAgents])

    @field_validator("issuer", "jwks_uri", "identity_issuer")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return checked_address(value)

    @field_validator("domains")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_domains(value)

    def title_for(self, name: str) -> str:
        """The company's name on pages. `name`: its name in the settings."""
        return self.title or name.capitalize()
