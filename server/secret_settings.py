"""The settings of secret sources: where references such as `op://...` in other settings are read."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from providers.credentials.references import prefix_problem
from server.provider_settings import Section, read_secret


class SecretSettings(Section):
    """The sources of secrets that other settings refer to."""

    cache: int = Field(default=30, ge=0, le=3600, description="Seconds that a secret is cached after it was read")
    entered: tuple[str, ...] = Field(
        default=(),
        description="Prefixes of the references that people can enter in place of secrets, such as bao://people/{user}/",
    )
    onepassword_url: str | None = Field(
        default=None, description="1Password Connect server for op://; if unset, the command `op` is used"
    )
    onepassword_token: SecretStr | None = Field(
        default=None, description="Token of the Connect server, or of a service account for `op`"
    )
    onepassword_token_file: Path | None = Field(default=None, description="File that holds the token")
    bitwarden_url: str | None = Field(default=None, description="Bitwarden server for bws://, if not the cloud service")
    bitwarden_token: SecretStr | None = Field(
        default=None, description="Access token of a Secrets Manager machine account, for the command `bws`"
    )
    bitwarden_token_file: Path | None = Field(default=None, description="File that holds the access token")
    openbao_url: str | None = Field(default=None, description="OpenBao or HashiCorp Vault for bao:// (KV version 2)")
    openbao_namespace: str | None = Field(default=None, description="Namespace there")
    openbao_token: SecretStr | None = Field(default=None, description="Token with read access there")
    openbao_token_file: Path | None = Field(default=None, description="File that holds that token")

    def token(self, source: str) -> str | None:
        """The token for one of the sources, reread each time. Raises SettingsRefused."""
        value: SecretStr | None = getattr(self, f"{source}_token")
        file: Path | None = getattr(self, f"{source}_token_file")
        return read_secret(value, file, name=f"secrets.{source}_token")

    @field_validator("entered")
    @classmethod
    def _check_entered(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for one in prefixes:
            if (problem := prefix_problem(one)) is not None:
                raise ValueError(f"{one}: {problem}")
        return prefixes
