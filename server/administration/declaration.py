"""A declaration file: people, groups, agents, APIs, providers, MCP servers, and rules as they should be.

A missing section isn't managed. Unknown keys are refused with a suggestion.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from providers.definitions.file_errors import reason_of
from providers.definitions.suggestions import what_is_wrong
from server.policy.files import MOST_BYTES, SUFFIX
from vault.records import Role

_FILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class DeclarationRefused(Exception):
    """The file can't be used. The one-line message names the place and the fix."""


class _DeclaredPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=4096)


class DeclaredIdentity(_DeclaredPart):
    """A person's identity at an identity provider."""

    issuer: str = Field(min_length=1, max_length=500)
    subject: str = Field(min_length=1, max_length=255)


class DeclaredPerson(_DeclaredPart):
    """A person, by name. A new person gets a one-time sign-in link."""

    admin: bool = False
    role: Role | None = Field(default=None, description="The person's role, instead of `admin`")
    disabled: bool | None = Field(default=None, description="Default: as it is; a new person isn't disabled")
    identities: list[DeclaredIdentity] | None = Field(
        default=None, max_length=20, description="All of the person's identities. Default: as they are"
    )

    @model_validator(mode="after")
    def _has_one_role(self) -> Self:
        if self.role is not None and "admin" in self.model_fields_set:
            raise ValueError("admin and role are both set: remove one")
        return self


class DeclaredGroup(_DeclaredPart):
    """A group, by name. `members`: the people that the vault adds; a directory and sign-ins can add others."""

    members: list[str] = Field(default=[], max_length=5000)


class DeclaredWorker(_DeclaredPart):
    """The limits of a worker."""

    addresses: list[str] = Field(min_length=1, max_length=100)
    connections: list[str] = Field(min_length=1, max_length=100)
    scopes: list[str] = Field(min_length=1, max_length=200)


class DeclaredAsking(_DeclaredPart):
    """How an agent asks people in the background (CIBA)."""

    notify: str = Field(default="", max_length=2048)
    push: bool = False
    details_types: list[str] = Field(default=[], max_length=30)
    signing_alg: Literal["ES256", "RS256", "PS256"] | None = None
    user_code: bool = False


class DeclaredByItself(_DeclaredPart):
    """An agent that acts for itself at its `resources`. `scopes`: the only scopes that it can get."""

    scopes: list[str] = Field(default=[], max_length=200)


class DeclaredAgent(_DeclaredPart):
    """An agent, by a name in the file. `confidential` creates a secret, which is returned once."""

    id: str | None = Field(
        default=None, pattern=r"^[a-z][a-z0-9-]{2,63}$", description="Client ID, for the settings. Default: a new one"
    )
    title: str | None = Field(
        default=None, max_length=200, description="Name shown to people. Default: the name in the file"
    )
    redirect_uris: list[str] = Field(default=[], max_length=30)
    confidential: bool = False
    jwks: dict[str, object] | None = None
    resources: list[str] = Field(default=[], max_length=30)
    device: bool = False
    exchange: bool = False
    auth0: bool = False
    ciba: DeclaredAsking | None = None
    release: dict[str, Literal["proxy", "narrowed", "full"]] = Field(default={}, max_length=20)
    origins: list[str] = Field(default=[], max_length=30)
    worker: DeclaredWorker | None = None
    client_credentials: DeclaredByItself | None = None


class DeclaredApi(_DeclaredPart):
    """An API of your own, by its identifier. `clients` are agents in the file, or client IDs."""

    name: str | None = Field(default=None, max_length=200)
    scopes: list[str] = Field(default=[], max_length=200)
    clients: list[str] = Field(default=[], max_length=50)


class DeclaredProvider(_DeclaredPart):
    """Our registration at a provider, by its name."""

    client_id: str = Field(min_length=1, max_length=200)
    client_secret: SecretStr | None = Field(default=None, description="If missing, the stored one is kept")
    client_secret_file: Path | None = Field(default=None, description="File that contains it, next to this one")
    inputs: dict[str, str] = Field(default={}, max_length=30)
    testing: bool = False


class DeclaredMcpServer(_DeclaredPart):
    """An MCP server behind the vault, by its name. A person reviews its tools."""

    url: str = Field(min_length=1, max_length=2000)
    title: str = Field(default="", max_length=60)
    sign_in: Literal["oauth", "key", "open"] = "oauth"
    key_header: str = Field(default="", max_length=100)
    issuer: str | None = Field(default=None, max_length=2000)
    client_id: str | None = Field(
        default=None, min_length=1, max_length=2000, description="Default: the server registers the vault"
    )
    client_secret: SecretStr | None = None
    client_secret_file: Path | None = Field(default=None, description="File that contains it, next to this one")
    disabled: bool | None = Field(default=None, description="Default: as it is; a new server isn't disabled")


class DeclaredImportedApi(_DeclaredPart):
    """An API with tools from its description, by its name."""

    kind: Literal["openapi", "graphql"] = "openapi"
    document: str | None = Field(default=None, max_length=5_000_000, description="The OpenAPI document or schema")
    document_file: Path | None = Field(default=None, description="File that contains it, next to this one")
    title: str = Field(default="", max_length=120)
    audience: str = Field(default="", max_length=2000)
    server: str = Field(default="", max_length=2000)
    only: list[str] = Field(default=[], max_length=100)
    reviewed: str | None = Field(
        default=None, max_length=64, description="Digest of the import that you reviewed: only that import is turned on"
    )
    tools: dict[str, Literal["accept", "ask", "leave"]] = Field(
        default={}, max_length=500, description="Decisions about tools; for others, the review's proposals apply"
    )


class DeclaredPolicy(_DeclaredPart):
    """Rules in Cedar, by the name of their file in `policy.folder`, without `.cedar`."""

    rules: str | None = Field(default=None, max_length=MOST_BYTES)
    rules_file: Path | None = Field(default=None, description="File that contains them, next to this one")


def _checked_file_name(name: str) -> str:
    if _FILE_NAME.fullmatch(name) is None:
        raise ValueError(f"use at most 64 a-z, 0-9, hyphens, and underscores, without {SUFFIX}")
    return name


Secretive = TypeVar("Secretive", DeclaredProvider, DeclaredMcpServer)


class Declaration(_DeclaredPart):
    """The desired state. A missing section isn't managed."""

    people: dict[str, DeclaredPerson] | None = Field(default=None, max_length=5000)
    groups: dict[str, DeclaredGroup] | None = Field(default=None, max_length=1000)
    agents: dict[str, DeclaredAgent] | None = Field(default=None, max_length=1000)
    apis: dict[str, DeclaredApi] | None = Field(default=None, max_length=1000)
    providers: dict[str, DeclaredProvider] | None = Field(default=None, max_length=300)
    mcp_servers: dict[str, DeclaredMcpServer] | None = Field(default=None, max_length=100)
    imported_apis: dict[str, DeclaredImportedApi] | None = Field(default=None, max_length=100)


class DeclarationFile(Declaration):
    """The whole file, with the rules, which are files on the vault's host."""

    policies: dict[Annotated[str, AfterValidator(_checked_file_name)], DeclaredPolicy] | None = Field(
        default=None, max_length=1000
    )


Kind = TypeVar("Kind", bound=Declaration)


def parse_declaration(content: Mapping[str, object]) -> Declaration:
    """The declaration from parsed TOML or JSON. Raises DeclarationRefused."""
    return _parse(Declaration, content)


def _parse(kind: type[Kind], content: Mapping[str, object]) -> Kind:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        place = ".".join(str(part) for part in first["loc"]).removesuffix(".[key]")
        raise DeclarationRefused(f"{place}: {what_is_wrong(kind, first)}") from None


def read_declaration(file: Path) -> DeclarationFile:
    """The declaration from a TOML file, with the content of the files that it names. Raises DeclarationRefused."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationRefused(f"can't read {file}: {reason_of(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise DeclarationRefused(f"{file} isn't valid TOML: {error}") from error
    found = _parse(DeclarationFile, content)
    changed: dict[str, object] = {}
    if found.providers is not None:
        changed["providers"] = _with_secrets("providers", found.providers, file.parent)
    if found.mcp_servers is not None:
        changed["mcp_servers"] = _with_secrets("mcp_servers", found.mcp_servers, file.parent)
    if found.imported_apis is not None:
        changed["imported_apis"] = {
            name: _with_document(f"imported_apis.{name}", one, file.parent) for name, one in found.imported_apis.items()
        }
    if found.policies is not None:
        changed["policies"] = {
            name: _with_rules(f"policies.{name}", one, file.parent) for name, one in found.policies.items()
        }
    return found.model_copy(update=changed)


def _with_rules(place: str, declared: DeclaredPolicy, folder: Path) -> DeclaredPolicy:
    """With the rules, and the name of their file, for messages."""
    text = _text_of(place, "rules", declared.rules_file, folder, beside=declared.rules)
    if text is None and declared.rules is None:
        raise DeclarationRefused(f"{place}: rules are missing: set rules or rules_file")
    return declared if text is None else declared.model_copy(update={"rules": text})


def _with_document(place: str, declared: DeclaredImportedApi, folder: Path) -> DeclaredImportedApi:
    text = _text_of(place, "document", declared.document_file, folder, beside=declared.document)
    return declared if text is None else declared.model_copy(update={"document": text, "document_file": None})


def _with_secrets(section: str, declared: Mapping[str, Secretive], folder: Path) -> Mapping[str, Secretive]:
    return {name: _with_secret(f"{section}.{name}", one, folder) for name, one in declared.items()}


def _with_secret(place: str, declared: Secretive, folder: Path) -> Secretive:
    text = _text_of(place, "client_secret", declared.client_secret_file, folder, beside=declared.client_secret)
    if text is None:
        return declared
    return declared.model_copy(update={"client_secret": SecretStr(text.strip()), "client_secret_file": None})


def _text_of(place: str, member: str, named: Path | None, folder: Path, *, beside: object) -> str | None:
    """The content of the file that is named in place of a member, if there is one. Raises DeclarationRefused."""
    if named is None:
        return None
    if beside is not None:
        raise DeclarationRefused(f"{place}: {member} and {member}_file are both set: remove one")
    file = folder / named.expanduser()
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationRefused(f"{place}.{member}_file: can't read {file}: {reason_of(error)}") from error
