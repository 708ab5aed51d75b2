"""The settings of one provider, and of all requests that leave the vault.

Also contains what all sections share. `server.settings` has the other sections and reads them all.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from providers.definitions.enterprise import IdJag
from providers.definitions.file_errors import reason_of
from providers.definitions.method_overrides import HostPattern
from providers.definitions.unruled_calls import UnruledCalls
from providers.outbound.addresses import AddressPolicy, private_network

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class SettingsRefused(Exception):
    """The settings can't be used. The one-line message names the setting and the fix."""


class SecretUnreadable(SettingsRefused):
    """The file of a secret can't be read."""


class Section(BaseModel):
    """A table of the settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


def read_secret(value: SecretStr | None, file: Path | None, *, name: str) -> str | None:
    """A secret given directly or by file; never empty, because anyone could send an empty one.

    Raises SettingsRefused if both are set, if the file can't be read, or if it is empty.
    """
    if value is not None and file is not None:
        raise SettingsRefused(f"{name} and {name}_file are both set: remove one of them")
    if file is None:
        secret = None if value is None else value.get_secret_value()
    else:
        try:
            secret = file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SecretUnreadable(f"{name}_file: can't read {file}: {reason_of(error)}") from error
    if secret is not None and not secret.strip():
        where = f"{name}: the value" if file is None else f"{name}_file: {file}"
        raise SettingsRefused(f"{where} is empty: set it, or remove it")
    return secret


def is_domain(text: str) -> bool:
    """Whether this is a domain in the form that mail addresses are compared with: lowercase ASCII, with a dot."""
    return (
        len(text) <= 253
        and re.fullmatch(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*", text) is not None
    )


def checked_domains(value: tuple[str, ...]) -> tuple[str, ...]:
    """The domains, unchanged. Raises ValueError if one isn't a domain."""
    for one in value:
        if not is_domain(one):
            raise ValueError(f"{one!r} isn't a domain; use the form company.example, in ASCII and lowercase")
    return value


def checked_address(value: str | None) -> str | None:
    """The address of an external service, unchanged. Raises ValueError unless it is https, or http on loopback."""
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.fragment:
        raise ValueError("use the form https://host[:port][/path]")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise ValueError("use https; plain http works on loopback only")
    return value


class ProviderSettings(Section):
    """The registration at a provider, and what differs from its provider file."""

    client_id: str | None = Field(default=None, description="Client ID there. Without it, the provider isn't set up")
    client_secret: SecretStr | None = Field(default=None, description="Client secret there, or a reference to it")
    client_secret_file: Path | None = Field(default=None, description="File that holds the secret")
    client_certificate_file: Path | None = Field(
        default=None,
        description="PEM file with the certificate and private key that identify this vault to the provider (RFC 8705)",
    )
    authorize_url: str | None = Field(default=None, description="Replaces `hosts.authorize_url` of the provider file")
    token_url: str | None = Field(default=None, description="Replaces `hosts.token_url`")
    refresh_url: str | None = Field(default=None, description="Replaces `hosts.refresh_url`")
    long_lived_url: str | None = Field(default=None, description="Replaces `long_lived.url`")
    revoke_url: str | None = Field(default=None, description="Replaces `hosts.revoke_url`")
    userinfo_url: str | None = Field(default=None, description="Replaces the `[identity]` address")
    apis: Mapping[str, str] = Field(default_factory=dict[str, str], description="Base URLs by key; replaces `[apis]`")
    downloads: tuple[HostPattern, ...] | None = Field(
        default=None, description="Hosts that the API redirects downloads to; replaces `downloads` of `[proxied]`"
    )
    id_jag: IdJag | None = Field(
        default=None, description="Replaces `id_jag` of `[enterprise]`: `audience`, `resource`, `scopes`"
    )
    issuer: str | None = Field(default=None, description="OpenID Connect issuer of a provider without a file")
    title: str | None = Field(default=None, description="Name on pages of a provider without a file")
    inputs: Mapping[str, str] = Field(
        default_factory=dict[str, str], description="Values for the provider file, such as tenant, region, or instance"
    )
    scopes: tuple[str, ...] | None = Field(default=None, description="Upper limit of the scopes of every token")
    testing: bool = Field(
        default=False, description="The app is unpublished (Google's testing mode): grants expire sooner"
    )

    enabled: bool = Field(
        default=True, description="People can connect a service with their own credential, such as an API key"
    )
    regions: tuple[str, ...] = Field(
        default=(),
        description="AWS regions that can be called; if empty, all that people enter. Calls there can still "
        "copy data between regions: to prevent that, use a service control policy",
    )
    unruled_calls: UnruledCalls = Field(
        default="refuse",
        description="Calls that match no request rule: `refuse`, `read` (any GET), or `any`. Only host and method are "
        "checked",
    )
    unruled_approval: bool = Field(
        default=True,
        description="Such calls other than GET need approval each time, and work as tool calls only",
    )

    private: tuple[str, ...] = Field(
        default=(),
        description="Hosts or private networks that only this provider can use",
    )
    ca_file: Path | None = Field(default=None, description="PEM file of an authority trusted for this provider only")

    @field_validator("private")
    @classmethod
    def _is_private(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            private_network(entry)
        return entries

    def reach(self, name: str, *, allow_loopback: bool) -> AddressPolicy | None:
        """Its address policy; None if it has no special one. Raises SettingsRefused for a file that can't be used."""
        if not self.private and self.ca_file is None:
            return None
        networks = {entry: private_network(entry) for entry in self.private}
        return AddressPolicy(
            allow_loopback=allow_loopback,
            private_hosts=frozenset(entry.lower() for entry, network in networks.items() if network is None),
            private_networks=tuple(network for network in networks.values() if network is not None),
            ca_file=None if self.ca_file is None else _authority(self.ca_file, name=f"providers.{name}.ca_file"),
        )

    def certificate(self, name: str) -> str | None:
        """The client certificate file. Raises SettingsRefused for one that can't be used."""
        if self.client_certificate_file is None:
            return None
        from providers.credentials.certificates import read_certificate_file  # loads cryptography, seldom needed

        path = str(self.client_certificate_file.expanduser())
        try:
            read_certificate_file(path)
        except (OSError, ValueError) as error:
            raise SettingsRefused(
                f"providers.{name}.client_certificate_file: {path} isn't a readable PEM file with a certificate and "
                "its private key"
            ) from error
        return path

    def secret(self, name: str) -> str | None:
        return read_secret(self.client_secret, self.client_secret_file, name=f"providers.{name}.client_secret")


def _authority(file: Path, *, name: str) -> str:
    path = file.expanduser()
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise SettingsRefused(f"{name}: {file} isn't a readable PEM file of certificates: {error}") from error
    return str(path)


class OutboundSettings(Section):
    """Requests to providers and other hosts. The vault resolves and checks names; a proxy gets the checked address."""

    proxy: SecretStr | None = Field(
        default=None,
        description="HTTP proxy, http://[USER:PASSWORD@]HOST:PORT, or `environment` for HTTPS_PROXY; not for loopback "
        "and `providers.NAME.private`",
    )
    proxy_file: Path | None = Field(default=None, description="File that holds the proxy's address")

    def proxy_address(self) -> str | None:
        """The proxy's URL. Raises SettingsRefused."""
        address = read_secret(self.proxy, self.proxy_file, name="outbound.proxy")
        if address == "environment":
            address = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or None
        if address is None:
            return None
        try:
            parts = urlsplit(address)
            is_usable = parts.scheme == "http" and parts.hostname and parts.port and not parts.path.strip("/")
        except ValueError:
            is_usable = False
        if not is_usable:
            raise SettingsRefused("outbound.proxy: write it as http://[USER:PASSWORD@]HOST:PORT")
        return address
