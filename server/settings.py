"""The settings: one frozen model, one TOML file, the environment above it. Unknown keys stop the start.

This module only reads settings; `server.app` and `server.cli` create objects from them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from providers.definitions.file_errors import reason_of
from providers.definitions.issuers import is_same_issuer
from providers.definitions.suggestions import did_you_mean, suggest_field
from providers.outbound.addresses import is_loopback_host
from providers.outbound.json_values import is_object
from server.admin_settings import AccessRequestSettings, AdminSettings
from server.checkpoint_settings import CheckpointSettings
from server.issuer_settings import EnterpriseSettings, IssuerSettings
from server.key_settings import KeySettings
from server.local_server_settings import NAME, LocalServerSettings, secret_files
from server.notice_settings import MailSettings, ServiceSettings
from server.openid_settings import OpenIDSettings
from server.policy_settings import PolicySettings
from server.provider_settings import (
    LOOPBACK_HOSTS,
    OutboundSettings,
    ProviderSettings,
    Section,
    SettingsRefused,
    read_secret,
)
from server.secret_settings import SecretSettings
from server.signal_settings import SignalSettings
from server.telemetry_settings import LogSettings, TelemetrySettings
from server.tool_settings import StdioSettings, ToolSettings

PREFIX = "TOKEN_VAULT_"
DEFAULT_PORT = 8765
# read separately, not settings: the settings file, the data directory and the key of `keys.source = "environment"`
OTHER_VARIABLES = frozenset(
    {"TOKEN_VAULT_CONFIG", "TOKEN_VAULT_DATA", "TOKEN_VAULT_KEY", "TOKEN_VAULT_PASSPHRASE", "TOKEN_VAULT_PIN"}
)


class ServerSettings(Section):
    """Where the server listens, and the address that people and clients use.

    The address has no path; plain `http` works on loopback only. Other commands don't know the port given by `serve
    --port`.
    """

    public_url: str | None = Field(default=None, description="Address that clients see. Default: http://localhost:PORT")
    issuer_slash: bool = Field(
        default=False, description="End the issuer (`iss`) with a slash, as Auth0 does. Invalidates earlier tokens"
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="Port to listen on")
    allowed_hosts: tuple[str, ...] = Field(default=(), description="Additional Host values to accept, host[:port]")
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Additional origins that can call, scheme://host[:port]"
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="Proxies whose X-Forwarded-For is trusted: addresses, networks"
    )
    connections: int | None = Field(
        default=None, ge=16, le=100_000, description="Concurrent connections. Default: based on the limit of open files"
    )
    connections_per_address: int = Field(
        default=200, ge=8, le=100_000, description="Concurrent connections from another machine's address"
    )
    drain_notice: int = Field(
        default=0,
        ge=0,
        le=60,
        description="Seconds from SIGTERM, when /readyz fails, to refusing new connections",
    )
    core_dumps: bool = Field(default=False, description="Let a crash write a core dump, which contains secrets")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                network = ip_network(one, strict=False)
            except ValueError as error:
                raise ValueError(f"write {one} as an IP address or a network such as 10.0.0.0/8") from error
            if network.prefixlen == 0:
                raise ValueError(f"{one} lets anyone forge their client address: list only your proxies")
        return value

    @field_validator("public_url")
    @classmethod
    def _https_or_loopback(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise ValueError("use the form https://host[:port]")
        if parts.path not in {"", "/"}:
            raise ValueError("use an origin without a path: https://host[:port]")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
            raise ValueError("use https, or put a TLS proxy in front; plain http works on loopback only")
        return f"{parts.scheme}://{parts.netloc.lower()}"


class DatabaseSettings(Section):
    """The main store and the key store."""

    url: SecretStr | None = Field(
        default=None,
        description="sqlite:///ABSOLUTE/PATH or postgresql://HOST[,HOST]/NAME. Default: SQLite in the data directory",
    )
    url_file: Path | None = Field(default=None, description="File that holds the URL")
    liveness: Literal["locks", "none"] = Field(
        default="locks",
        description="locks | none, for databases without advisory locks: the vault can't detect that a silent process "
        "ended, so connections with rotating refresh tokens wait for it, and after a minute for their person",
    )


class RegistrationSettings(Section):
    """Who can register an OAuth client without the operator."""

    mode: Literal["open", "allow_list", "closed"] | None = Field(
        default=None,
        description="open: any registration or client metadata document | allow_list: documents, https redirect URIs, "
        "and `jwks_uri` on `registration.allowed_hosts`, and loopback redirects | closed: only clients made by "
        "`token-vault clients add`. Default: open on loopback, allow_list elsewhere",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="For allow_list: hosts of documents and https redirect URIs"
    )
    private_use_schemes: tuple[str, ...] = Field(default=("cursor",), description="Redirect URI schemes of native apps")
    per_address_hourly: int = Field(default=60, ge=1, description="Registrations per address and hour")
    total_hourly: int = Field(default=300, ge=1, description="Registrations in total per hour")
    unused_lifetime: int = Field(default=86400, ge=60, description="Seconds until a never-used client is removed")


class TokenSettings(Section):
    """Lifetimes of the vault's own codes and tokens, in seconds."""

    code_lifetime: int = Field(default=60, ge=5, le=60, description="Lifetime of a code, in seconds")
    access_lifetime: int = Field(
        default=3600,
        ge=30,
        le=86400,
        description="Lifetime of an access token, in seconds",
    )
    access_lifetime_alone: int = Field(
        default=86400,
        ge=30,
        le=86400,
        description="Lifetime of an access token, in seconds, for clients without the grant `refresh_token` and "
        "those that register anew instead of refreshing",
    )
    refresh_lifetime: int = Field(
        default=365 * 86400,
        ge=3600,
        description="Seconds from consent to the grant's end; restarted by each refresh of a client that authenticates "
        "or proves a DPoP key",
    )
    refresh_idle_lifetime: int = Field(
        default=90 * 86400, ge=600, description="Lifetime of an unused refresh token, in seconds"
    )
    refresh_grace: int = Field(
        default=600,
        ge=0,
        le=3600,
        description="Seconds during which a used refresh token gets the newest one; later it ends the grant. 0: "
        "each works once",
    )
    per_agent_hourly: int = Field(
        default=36_000, ge=60, le=100_000_000, description="Tokens per hour for one agent of one user, in each process"
    )
    require_dpop: bool = Field(default=False, description="Reject access tokens without DPoP")
    require_pushed: bool = Field(default=False, description="Reject authorization requests without PAR")


class SignInSettings(Section):
    """How people sign in."""

    local: bool = Field(default=True, description="Allow sign-in with passwords stored in the vault")
    openid: Mapping[str, OpenIDSettings] = Field(default_factory=dict[str, OpenIDSettings])
    failures_per_account: int = Field(
        default=20, ge=3, le=100, description="Wrong passwords per account and 15 minutes"
    )
    failures_per_address: int = Field(
        default=60, ge=3, le=1000, description="Wrong passwords per address and 15 minutes"
    )
    waiting_requests_per_address: int = Field(
        default=300,
        ge=3,
        le=100_000,
        description="Agents' requests that wait for a sign-in, per address and 10 minutes",
    )
    passkey_for: tuple[Literal["destructive_tools", "connections", "administration"], ...] = Field(
        default=(),
        description="What needs a passkey: `destructive_tools` (approving calls that change or delete), `connections` "
        "(connecting an account), `administration` (every change, also by programs)",
    )
    recent_lifetime: int = Field(
        default=900,
        ge=60,
        le=86400,
        description="Seconds that a sign-in counts as recent, for `passkey_for` and changes to passkeys, sessions, and "
        "the account",
    )
    answer_lifetime: int = Field(
        default=12 * 3600,
        ge=0,
        le=7 * 86400,
        description="Seconds after a sign-in with a passkey during which people can answer approvals in their "
        "browser's notifications, if they turn that on; 0: only on the page",
    )
    session_idle_lifetime: int = Field(
        default=12 * 3600, ge=300, description="Seconds until an idle browser session ends"
    )
    session_lifetime: int = Field(default=7 * 86400, ge=300, description="Seconds until any browser session ends")

    @field_validator("openid")
    @classmethod
    def _can_be_connected(cls, openid: Mapping[str, OpenIDSettings]) -> Mapping[str, OpenIDSettings]:
        for name, one in openid.items():
            if one.id_jag and (len(name) > 32 or re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) is None):
                raise ValueError(f"openid.{name}: id_jag needs a name of at most 32 a-z, 0-9, and single hyphens")
        return openid


class ExchangeSettings(Section):
    """Token exchange at /token (RFC 8693)."""

    confidential_only: bool = Field(default=False, description="Refuse token exchange for public clients")
    handle_lifetime: int = Field(
        default=300,
        ge=30,
        le=3600,
        description="Lifetime of a proxy handle, in seconds; at most 300 for public clients",
    )
    policy_url: str | None = Field(
        default=None,
        description="Decision point (OpenID AuthZEN) to query each time an account is used, including by tools",
    )
    policy_token: SecretStr | None = Field(default=None, description="Bearer token for `policy_url`")
    policy_token_file: Path | None = Field(default=None, description="File that holds the token")

    @field_validator("policy_url")
    @classmethod
    def _is_secure(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "https://policy")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback_host(parts.hostname or "")):
            raise ValueError("use https, or http on this machine")
        return url

    def policy_secret(self) -> str | None:
        return read_secret(self.policy_token, self.policy_token_file, name="exchange.policy_token")


class Auth0Settings(Section):
    """The interface of Auth0's Token Vault and My Account API, for clients that were written for it."""

    enabled: bool = Field(default=False, description="Serve the paths of Auth0's interface")
    connections: Mapping[str, str] = Field(
        default_factory=dict[str, str], description="Provider by additional names of Auth0 connections"
    )


class ActivitySettings(Section):
    """How long events are kept: what people and agents did."""

    retention_days: int = Field(default=400, ge=0, le=36500, description="Days until events are deleted. 0 keeps all")


SHORTEST_RETENTION: Final = 8  # days; the answer journal names connections and goes back 7


class RetentionSettings(Section):
    """How long records are kept after they end.

    Kept longer: ended connections with a pending revocation, and, so that a company doesn't restore what a person
    ended, the last account that they disconnected at a service where it connects accounts, and ended permissions of
    agents that it lets in. Finished revocations at providers are kept 30 days; agents' refresh tokens until a day after
    the family's end, the last 256 of each; codes, links, sessions, approvals, handles, and single-use values about a
    day after their end; names, passwords, and identities of deleted people not at all, their keys until the last grant
    is ended at its provider.
    """

    ended_days: int = Field(
        default=400,
        ge=0,
        le=36500,
        description="Days after which ended connections, grants, permissions, and removed agents are deleted, at least "
        f"{SHORTEST_RETENTION}. 0 keeps everything",
    )

    receipts_days: int = Field(
        default=0,
        ge=0,
        le=36500,
        description=(
            "Days after which receipts are deleted, unless outstanding. `panic` counts the remaining ones. 0: never"
        ),
    )

    @field_validator("ended_days")
    @classmethod
    def _outlives_the_journal(cls, value: int) -> int:
        if 0 < value < SHORTEST_RETENTION:
            raise ValueError(
                f"use at least {SHORTEST_RETENTION} days, or 0 to keep everything: the answer journal goes "
                "back 7 days and needs the connections it names"
            )
        return value


class ApprovalSettings(Section):
    """Calls that everyone must approve each time, and limits on standing approvals."""

    ask: tuple[str, ...] = Field(
        default=(), description="Tools by name (`slack_post`), and scopes as `provider:scope` (`slack:chat:write`)"
    )
    no_standing: tuple[str, ...] = Field(
        default=("destructive",),
        description="Tools without standing approvals: names, `destructive` (those that change or delete), or `all`",
    )


class TransportSettings(Section):
    """Which MCP transports are served."""

    sse: bool = Field(default=True, description="Serve the legacy HTTP+SSE transport at /sse")


class ProxySettings(Section):
    """Limits on calls that clients send to a provider's API through the vault."""

    body_limit: int = Field(default=64 * 1024 * 1024, ge=65536, description="Maximum size of a request body, in bytes")
    read_limit: int = Field(
        default=8 * 1024 * 1024,
        ge=65536,
        le=64 * 1024 * 1024,
        description="Maximum size of a body that is read to check a call, in bytes",
    )
    answer_limit: int = Field(default=256 * 1024 * 1024, ge=65536, description="Maximum size of an answer, in bytes")
    deadline: int = Field(default=120, ge=1, le=3600, description="Seconds for a call, from first to last byte")
    per_agent_hourly: int = Field(
        default=36_000, ge=60, le=100_000_000, description="Calls per hour for one agent of one user, in each process"
    )


class SandboxSettings(Section):
    """Unsafe switches for one machine; refused unless the public URL is loopback."""

    loopback_upstreams: bool = Field(
        default=False, description="Allow providers at loopback addresses; `--sandbox` sets it"
    )
    loopback_client_metadata: bool = Field(
        default=False, description="Allow client metadata documents at loopback addresses"
    )
    loopback_openid: bool = Field(default=False, description="Allow OpenID Connect sign-in at loopback addresses")


class Settings(BaseSettings):
    """All settings. Create an instance with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    keys: KeySettings = KeySettings()
    registration: RegistrationSettings = RegistrationSettings()
    tokens: TokenSettings = TokenSettings()
    sign_in: SignInSettings = SignInSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    policy: Annotated[PolicySettings, Field(default_factory=PolicySettings)]
    auth0: Auth0Settings = Auth0Settings()
    issuers: Annotated[Mapping[str, IssuerSettings], Field(default_factory=dict[str, IssuerSettings])]
    signals: Annotated[SignalSettings, Field(default_factory=SignalSettings)]
    enterprise: Annotated[Mapping[str, EnterpriseSettings], Field(default_factory=dict[str, EnterpriseSettings])]
    approvals: ApprovalSettings = ApprovalSettings()
    activity: ActivitySettings = ActivitySettings()
    checkpoints: Annotated[CheckpointSettings, Field(default_factory=CheckpointSettings)]
    retention: RetentionSettings = RetentionSettings()
    tools: Annotated[ToolSettings, Field(default_factory=ToolSettings)]
    mail: MailSettings = MailSettings()
    notices: ServiceSettings = ServiceSettings()
    transports: TransportSettings = TransportSettings()
    proxy: ProxySettings = ProxySettings()
    outbound: OutboundSettings = OutboundSettings()
    local_servers: Annotated[Mapping[str, LocalServerSettings], Field(default_factory=dict[str, LocalServerSettings])]
    secrets: Annotated[SecretSettings, Field(default_factory=SecretSettings)]
    admin: AdminSettings = AdminSettings()
    access_requests: AccessRequestSettings = AccessRequestSettings()
    sandbox: SandboxSettings = SandboxSettings()
    stdio: StdioSettings = StdioSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    logs: LogSettings = LogSettings()
    providers: Annotated[Mapping[str, ProviderSettings], Field(default_factory=dict[str, ProviderSettings])]
    provider_folders: tuple[Path, ...] = Field(default=(), description="Folders with your own provider files")
    _file: Path | None = PrivateAttr(default=None)

    def read_from(self, file: Path | None) -> Self:
        """The same settings, with access to their file."""
        self._file = file
        return self

    def secret_files(self) -> tuple[Path, ...]:
        """The settings file and the secret files that it names."""
        own = () if self._file is None else (self._file.expanduser().resolve(),)
        return *own, *secret_files(self)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file; there are no other sources (no .env, no secrets folder)."""
        return (EnvSettingsSource(settings_cls), init_settings)

    @property
    def public_url(self) -> str:
        """Origin that everything derives from, without a trailing slash."""
        return self.server.public_url or f"http://localhost:{self.server.port}"

    @property
    def issuer(self) -> str:
        """The `iss` of tokens and documents (RFC 8414 §2): the public URL, with a trailing slash if so configured."""
        return f"{self.public_url}/" if self.server.issuer_slash else self.public_url

    @property
    def is_loopback(self) -> bool:
        return urlsplit(self.public_url).hostname in LOOPBACK_HOSTS

    @property
    def registration_mode(self) -> Literal["open", "allow_list", "closed"]:
        return self.registration.mode or ("open" if self.is_loopback else "allow_list")

    def database_url(self) -> str:
        """The database URL; `sqlite:` means SQLite in the data directory."""
        return read_secret(self.database.url, self.database.url_file, name="database.url") or "sqlite:"

    @model_validator(mode="after")
    def _loopback_listens_on_loopback(self) -> Self:
        """Check that rules relaxed for loopback (open registration, plain http, owner windows) apply to loopback only.

        Anyone who reaches a listener can send `Host: localhost`.
        """
        if self.is_loopback and not is_loopback_host(self.server.host.strip("[]")):
            raise ValueError(
                f"other machines can reach server.host {self.server.host}, but server.public_url is "
                f"{self.public_url}. Set server.public_url to the https address that clients use, or set "
                "server.host to 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _companies_at_one_issuer_differ(self) -> Self:
        """A subject is unique within its tenant only."""
        for (one, first), (other, second) in combinations(self.enterprise.items(), 2):
            if not is_same_issuer(first.issuer, second.issuer):
                continue
            if first.tenant == second.tenant:
                raise ValueError(
                    f"enterprise.{one} and enterprise.{other} have the same issuer: set a different tenant for each"
                )
            if (first.identity_issuer or first.issuer) == (second.identity_issuer or second.issuer):
                raise ValueError(
                    f"enterprise.{one} and enterprise.{other} have the same issuer: set another "
                    "identity_issuer for each"
                )
        return self

    @model_validator(mode="after")
    def _local_servers_have_names(self) -> Self:
        for name in self.local_servers:
            if NAME.fullmatch(name) is None:
                raise ValueError(f"local_servers.{name}: use a name of at most 32 a-z, 0-9, and hyphens")
        return self

    @model_validator(mode="after")
    def _sandbox_on_loopback_only(self) -> Self:
        switched = [name for name in SandboxSettings.model_fields if getattr(self.sandbox, name)]
        if switched and not self.is_loopback:
            raise ValueError(
                f"sandbox.{switched[0]} requires a loopback public_url: remove it, or unset server.public_url"
            )
        return self


def default_data_directory() -> Path:
    """TOKEN_VAULT_DATA, or else the platform's directory for a user's application data.

    Raises SettingsRefused if the user has none, as in many containers.
    """
    chosen = os.environ.get("TOKEN_VAULT_DATA")
    try:
        return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("token-vault", appauthor=False))
    except RuntimeError as error:  # no HOME, and no entry in the user database
        raise SettingsRefused(
            "this user has no home directory: set an absolute data directory with --data or TOKEN_VAULT_DATA"
        ) from error


def load_settings(
    config: Path | None = None, *, data: Path | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read the TOML file and the environment. Raises SettingsRefused with a one-line message.

    The file is the given one, else TOKEN_VAULT_CONFIG, else `config.toml` in the data directory if it exists.
    `overrides` are sections from the command line or a test; they replace the file's values key by key.
    """
    path = config or (Path(os.environ["TOKEN_VAULT_CONFIG"]) if os.environ.get("TOKEN_VAULT_CONFIG") else None)
    if path is None and data is not None and (data / "config.toml").is_file():
        path = data / "config.toml"
    values = _read(path) if path is not None else {}
    for section, content in (overrides or {}).items():
        values[section] = _merge(values.get(section), content)
    for variable in sorted(os.environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        section = variable.removeprefix(PREFIX).split("__", 1)[0].lower()
        if section not in Settings.model_fields:
            near = did_you_mean(section, Settings.model_fields) or " Check its spelling."
            raise SettingsRefused(f"{variable}: no setting section {section!r}.{near}")
    try:
        settings = Settings(**values)  # pyright: ignore[reportArgumentType] -- pydantic checks the values
    except SettingsError as error:
        cause = str(error).removesuffix(' from source "EnvSettingsSource"')
        raise SettingsRefused(f"the environment: {cause}; write lists and tables as JSON") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        # A misspelled setting may be reported as missing, too.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        where, message = ".".join(map(str, first["loc"])) or "settings", first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"no such setting.{suggest_field(Settings, first['loc']) or ' Check its spelling.'}"
        raise SettingsRefused(f"{where}: {message}") from None
    return settings.read_from(path)


def _read(path: Path) -> dict[str, object]:
    try:
        return dict(tomllib.loads(path.expanduser().read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise SettingsRefused(f"settings file {path} doesn't exist: create it, or correct --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"can't read settings file {path}: {reason_of(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsRefused(f"settings file {path} is not valid TOML: {error}") from error


def _merge(old: object, new: object) -> object:
    if is_object(old) and is_object(new):
        return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
    return new
