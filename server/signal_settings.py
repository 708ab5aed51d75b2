"""The settings of signals: who can report events about people and grants, and how the vault reacts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from server.provider_settings import Section, SettingsRefused, checked_address, read_secret

Effect = Literal["note", "sign_out", "stop_agents", "disable"]
Secret = Literal["push_token", "poll_token", "management_token", "revocation_token"]
SECRETS: Final[tuple[Secret, ...]] = ("push_token", "poll_token", "management_token", "revocation_token")
EFFECTS: Final[tuple[Effect, ...]] = ("note", "sign_out", "stop_agents", "disable")
GOOGLE: Final = "https://accounts.google.com"  # as in ID tokens; in its signals, it ends with a slash
_log = logging.getLogger("token_vault.signals")


class TransmitterSettings(Section):
    """A transmitter of security events (OpenID Shared Signals Framework 1.0) about people."""

    issuer: str = Field(description="The `iss` of its events")
    audiences: tuple[str, ...] = Field(
        default=(), description="`aud` must contain one of them. Default: PUBLIC_URL/signals/NAME. Google: client IDs"
    )
    jwks_uri: str | None = Field(
        default=None, description="URL of its keys. Default: discovered at /.well-known/ssf-configuration"
    )
    identity_issuer: str | None = Field(
        default=None, description="Issuer under which its people are linked. Default: `issuer`"
    )
    provider: str | None = Field(
        default=None, description="Provider whose accounts its events also concern: these are checked immediately"
    )
    is_google: bool = Field(default=False, description="Google's Cross-Account Protection, which deviates from SSF")
    push_token: SecretStr | None = Field(default=None, description="Bearer token that it must send with each event")
    push_token_file: Path | None = Field(default=None, description="File that holds the token")
    poll_url: str | None = Field(default=None, description="Poll it for events here (RFC 8936)")
    poll_token: SecretStr | None = Field(default=None, description="Bearer token for `poll_url`")
    poll_token_file: Path | None = Field(default=None, description="File that holds the token")
    poll_every: int = Field(default=10, ge=5, le=3600, description="Seconds between two polls")
    management_token: SecretStr | None = Field(
        default=None, description="Bearer token with which `signals streams` manages its streams"
    )
    management_token_file: Path | None = Field(default=None, description="File that holds the token")
    revocation_token: SecretStr | None = Field(
        default=None, description="Bearer token with which it may call /global-token-revocation"
    )
    revocation_token_file: Path | None = Field(default=None, description="File that holds the token")
    revokes: bool = Field(
        default=False, description="Let it call /global-token-revocation with JWTs that its keys sign, as Okta does"
    )
    max_age: int = Field(
        default=86400,
        ge=60,
        le=604_800,
        description="Seconds after which a pushed event is refused as too old; a polled one never is",
    )
    per_minute: int = Field(default=600, ge=1, le=60_000, description="Events per minute")
    session_revoked: Effect = Field(
        default="sign_out",
        description=(
            "Action on CAEP `session-revoked`, RISC `sessions-revoked`: note | sign_out | stop_agents | disable"
        ),
    )
    credential_change: Effect = Field(
        default="sign_out",
        description=(
            "Action on CAEP `credential-change`, RISC `credential-compromise`, `account-credential-change-required`"
        ),
    )
    token_claims_change: Effect = Field(default="note", description="Action on CAEP `token-claims-change`")
    account_disabled: Effect = Field(
        default="stop_agents", description="Action on RISC `account-disabled`, `account-purged`"
    )

    @field_validator("issuer", "jwks_uri", "identity_issuer", "poll_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return checked_address(value)

    @model_validator(mode="after")
    def _names_clients_at_google(self) -> Self:
        if self.is_google and not self.audiences:
            raise ValueError("set audiences to the client IDs that you have at Google: its events are for these")
        return self

    @property
    def people_of(self) -> str:
        """The issuer under which its people are linked here."""
        return self.identity_issuer or (GOOGLE if self.is_google else self.issuer)

    @property
    def can_revoke(self) -> bool:
        """Whether it can use the Global Token Revocation endpoint."""
        return self.revokes or self.revocation_token is not None or self.revocation_token_file is not None

    def secret(self, which: Secret, name: str) -> str | None:
        """One of its bearer tokens. Raises SettingsRefused."""
        value, file = {
            "push_token": (self.push_token, self.push_token_file),
            "poll_token": (self.poll_token, self.poll_token_file),
            "management_token": (self.management_token, self.management_token_file),
            "revocation_token": (self.revocation_token, self.revocation_token_file),
        }[which]
        return read_secret(value, file, name=f"signals.transmitters.{name}.{which}")


class ProviderWebhookSettings(Section):
    """Webhooks in which a provider reports that a person ended a grant."""

    secret: SecretStr | None = Field(
        default=None, description="Webhook secret (GitHub), signing secret (Slack), or signature key (Square)"
    )
    secret_file: Path | None = Field(default=None, description="File that holds the secret")
    previous_secret: SecretStr | None = Field(
        default=None, description="The previous secret, which also works until the provider uses the new one"
    )
    previous_secret_file: Path | None = Field(default=None, description="File that holds it")
    url: str | None = Field(default=None, description="Address that Square signs. Default: PUBLIC_URL/webhooks/NAME")

    @model_validator(mode="after")
    def _has_secret(self) -> Self:
        if self.secret is None and self.secret_file is None:
            raise ValueError("set secret or secret_file: webhooks without a signature are refused")
        return self

    def keys(self, name: str) -> tuple[str, ...]:
        """The secrets that are accepted. Raises SettingsRefused."""
        return tuple(one for one in (self._current(name), self._previous(name)) if one)

    def readable_keys(self, name: str) -> tuple[str, ...]:
        """The same, but without a previous secret that can't be read. Raises SettingsRefused if the current one can't
        be read."""
        current, previous = self._current(name), None
        try:
            previous = self._previous(name)
        except SettingsRefused as refused:
            _log.warning("previous webhook secret left out: %s", refused)
        return tuple(one for one in (current, previous) if one)

    def _current(self, name: str) -> str | None:
        return read_secret(self.secret, self.secret_file, name=f"signals.providers.{name}.secret")

    def _previous(self, name: str) -> str | None:
        setting = f"signals.providers.{name}.previous_secret"
        return read_secret(self.previous_secret, self.previous_secret_file, name=setting)


class SignalSettings(Section):
    """Signals from identity providers and services."""

    transmitters: Mapping[str, TransmitterSettings] = Field(default_factory=dict[str, TransmitterSettings])
    providers: Mapping[str, ProviderWebhookSettings] = Field(default_factory=dict[str, ProviderWebhookSettings])

    def check_secrets(self) -> None:
        """Read each secret once. Raises SettingsRefused if one can't be used."""
        for name, one in self.transmitters.items():
            for which in SECRETS:
                one.secret(which, name)
        for name, webhooks in self.providers.items():
            webhooks.keys(name)
