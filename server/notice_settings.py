"""The settings of notifications: the mail server, and the services that people can add by an Apprise URL."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from providers.outbound.addresses import Network, is_loopback_host, private_network
from server.provider_settings import Section, read_secret


class MailSettings(Section):
    """The mail server for notifications to people. Without a host, there is no mail."""

    host: str | None = Field(default=None, description="Host of the SMTP server")
    port: int = Field(default=587, ge=1, le=65535, description="Its port")
    security: Literal["starttls", "tls", "none"] = Field(default="starttls", description="starttls | tls | none")
    username: str | None = Field(default=None, description="User name there, if it needs one")
    password: SecretStr | None = Field(default=None, description="Password there")
    password_file: Path | None = Field(default=None, description="File that holds the password")
    sender: str | None = Field(
        default=None, description="Sender's address. Default: token-vault@ and the host of the public URL"
    )

    @model_validator(mode="after")
    def _password_is_encrypted(self) -> Self:
        if self.security == "none" and self.username is not None and not is_loopback_host(self.host or ""):
            raise ValueError("the password would be sent in the clear: set security to starttls or tls")
        return self

    def secret(self) -> str | None:
        return read_secret(self.password, self.password_file, name="mail.password")


class ServiceSettings(Section):
    """Additional services for notifications, through the Apprise package (extra `apprise`).

    Each message is sent by a separate process, which can only reach public addresses and `notices.private_networks`.
    """

    apprise: bool = Field(
        default=False, description="Let people add services by Apprise URL. Not together with `outbound.proxy`"
    )
    private_networks: tuple[str, ...] = Field(
        default=(), description="Private networks, such as 10.20.0.0/16, in which these services can be"
    )

    @field_validator("private_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        if names := [one for one in networks if private_network(one) is None]:
            raise ValueError(f"{names[0]!r} is a name: enter its network, such as 10.20.0.0/16")
        return networks

    @property
    def networks(self) -> tuple[Network, ...]:
        found = (private_network(one) for one in self.private_networks)
        return tuple(one for one in found if one is not None)
