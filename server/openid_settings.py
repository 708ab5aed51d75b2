"""The settings for an OpenID Connect provider that people sign in with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from server.provider_settings import Section, checked_domains, read_secret


class OpenIDSettings(Section):
    """An OpenID Connect provider that people can sign in with; `token-vault openid setup NAME` asks for its values.

    Register `{public_url}/sign-in/openid/NAME/callback` there. `domains` decides about first sign-ins and needs `email`
    with `email_verified` in the ID token (at Google, `hd`). Microsoft Entra doesn't confirm addresses: use your
    tenant's issuer, and `create_users`.

    Others are refused and shown their issuer and subject: `token-vault users add NAME`, then
    `token-vault users link NAME --issuer ISSUER --subject SUBJECT`.
    """

    issuer: str = Field(description="Its issuer")
    client_id: str = Field(description="The vault's client ID there")
    client_secret: SecretStr | None = Field(default=None, description="Its client secret. Omit it for a public client")
    client_secret_file: Path | None = Field(default=None, description="File that holds the secret")
    title: str = Field(default="OpenID Connect", description="Label of its button on the sign-in page")
    create_users: bool = Field(
        default=False,
        description="Admit everyone with an account there",
    )
    domains: tuple[str, ...] = Field(
        default=(),
        description="Admit everyone with a verified email address in these domains",
    )
    groups_claim: str = Field(default="", description="Claim with the names of the person's groups, as `groups`")
    groups_scope: str = Field(default="", description="Scope to request so that the claim is sent")
    groups: Mapping[str, str] = Field(
        default_factory=dict[str, str],
        description="Only these values of the claim, each with its group",
    )
    groups_days: int = Field(default=30, ge=1, le=400, description="Days that these groups stay valid after a sign-in")
    directory_claim: str = Field(
        default="",
        description="Claim that equals the directory's `externalId` (SCIM): `sub`, or `oid` at Entra. Links a "
        "provisioned person at their first sign-in",
    )
    id_jag: bool = Field(
        default=False,
        description="It issues identity assertions (ID-JAG), so that accounts at providers connect without a page",
    )

    @field_validator("domains")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_domains(value)

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.create_users and self.domains:
            raise ValueError("create_users admits everyone, so domains has no effect: remove one of them")
        return self

    def secret(self, name: str) -> str | None:
        return read_secret(self.client_secret, self.client_secret_file, name=f"sign_in.openid.{name}.client_secret")
