"""Someone else's MCP server as a provider, built from the operator's decisions and its authorization server. Nothing
that the server states about itself gets into a scope's title: people see the operator's name for it and the names of
its tools. `providers.remote` finds these facts, lists the tools and calls them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from pydantic import TypeAdapter

from providers.definitions.model import Provider

API: Final = "mcp"  # the only API of such a provider: the server's address
OPEN: Final = "open"  # stored for an account at a server that requires no credential
LIST: Final = "list:tools"
_CALL: Final = "call:"
_EVERYTHING: Final = "account"  # our scope for everything that a server without scopes allows
_LONGEST_NAME: Final = 64  # characters of a tool's name that common clients accept
_OFFLINE: Final = "offline_access"


@dataclass(frozen=True, slots=True)
class RemoteAuthorization:
    """How the server authorizes (RFC 9728, RFC 8414). `resource`: the resource that its tokens are requested for (RFC
    8707). `scopes` are requested from everyone who connects; a step-up may add those in `more`. `issuer` only if every
    authorization response names it (RFC 9207). `authorization_server`: its issuer; None if added by an older release.
    """

    authorize_url: str
    token_url: str
    resource: str
    revoke_url: str | None = None
    issuer: str | None = None
    client_auth: Literal["client_secret_basic", "client_secret_post", "none"] = "none"
    scopes: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    has_offline: bool = False
    authorization_server: str | None = None

    def facts(self) -> Mapping[str, object]:
        """As stored."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RemoteCredential:
    """How a server without OAuth is called: with a key that people enter, after `scheme` in this header. An empty
    `header`: without any credential.
    """

    header: str
    scheme: str

    @property
    def is_open(self) -> bool:
        """Whether the server requires no credential."""
        return not self.header

    def facts(self) -> Mapping[str, object]:
        """As stored."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RemoteProgram:
    """A program in the operator's settings, by its name there, which the vault runs itself."""

    program: str

    def facts(self) -> Mapping[str, object]:
        """As stored."""
        return asdict(self)


HowCalled = RemoteAuthorization | RemoteCredential | RemoteProgram
_AUTHORIZATION: Final = TypeAdapter[HowCalled](HowCalled)


def authorization_of(facts: Mapping[str, object]) -> HowCalled:
    """Parse what was stored. Raises pydantic's ValidationError for anything else."""
    return _AUTHORIZATION.validate_python(facts)


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool that an operator accepted: `definition` is the canonical JSON that was reviewed.

    `shown` is its name here without the server's prefix; `effect` and `asks` are the operator's decisions.
    """

    name: str
    shown: str
    definition: str = field(repr=False)
    effect: Literal["read", "create", "update", "delete"] = "delete"
    asks: bool = True

    @property
    def scope(self) -> str:
        """The vault's own scope for calling it."""
        return f"{_CALL}{self.shown}"


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """One MCP server behind the vault. `away`: accepted tools that can't be called now, but that rules still know."""

    name: str
    title: str
    url: str
    authorization: HowCalled
    tools: tuple[RemoteTool, ...] = ()
    away: tuple[RemoteTool, ...] = ()
    is_disabled: bool = False  # turned off by an operator: all tools are away

    @property
    def program(self) -> str | None:
        """Its name in the settings, if the vault runs it."""
        return self.authorization.program if isinstance(self.authorization, RemoteProgram) else None

    @property
    def prefix(self) -> str:
        """The prefix of its tools' names here."""
        return f"{self.name.replace('-', '_')}_"


def shown_names(prefix: str, names: Iterable[str], *, taken: Iterable[str] = ()) -> Mapping[str, str]:
    """Our names for the server's tools, without the prefix: short, unique, and of characters that clients accept."""
    used, found = set(taken), dict[str, str]()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        whole, length = plain, 6
        while f"{prefix}{plain}" in used or len(prefix) + len(plain) > _LONGEST_NAME:
            mark = "_" + hashlib.sha256(name.encode()).hexdigest()[:length]
            plain, length = whole[: max(0, _LONGEST_NAME - len(prefix) - len(mark))] + mark, length + 1
        used.add(f"{prefix}{plain}")
        found[name] = plain
    return found


def own_scopes(server: RemoteServer) -> frozenset[str]:
    """Scopes that only the vault knows: one for the list, and one for each tool."""
    return frozenset({LIST, *(tool.scope for tool in server.tools)})


def is_foreign_scope(scope: str) -> bool:
    """Whether this can be a server's scope, because ours have other names."""
    return scope != LIST and not scope.startswith(_CALL)


def provider_of(server: RemoteServer) -> Provider:
    """The provider, under the strictest assumptions: a used refresh token ends the grant, and tokens can't be narrowed.

    Raises pydantic's ValidationError.
    """
    facts = server.authorization
    scopes = (*facts.scopes, *facts.more) if isinstance(facts, RemoteAuthorization) else ()
    titles: dict[str, object] = {one: {"title": one} for one in scopes}
    if not (isinstance(facts, RemoteAuthorization) and facts.scopes):
        titles[_EVERYTHING] = {"title": f"Everything that {server.title} allows"}
    titles[LIST] = {"title": "List its tools", "reads": True}
    titles |= {tool.scope: {"title": f"Call {tool.shown}", "reads": tool.effect == "read"} for tool in server.tools}
    signs_in = _of_oauth(facts) if isinstance(facts, RemoteAuthorization) else _of_credential(facts)
    url = f"https://{server.name}.invalid" if server.program is not None else server.url  # nothing is sent there
    made = Provider.model_validate(
        {
            "name": server.name,
            "title": server.title,
            "identity": {"source": "none"},
            "apis": {API: url},
            "scopes": titles,
            **signs_in,
        }
    )
    return made.as_remote(own_scopes(server))


def _of_oauth(facts: RemoteAuthorization) -> Mapping[str, object]:
    asked = {"resource": facts.resource}
    hosts: dict[str, object] = {"authorize_url": facts.authorize_url, "token_url": facts.token_url}
    hosts |= {"revoke_url": facts.revoke_url} if facts.revoke_url else {}
    hosts |= {"issuer": facts.issuer} if facts.issuer else {}
    scope: dict[str, object] = {"default": list(facts.scopes) or [_EVERYTHING], "app_level": not facts.scopes}
    if facts.has_offline and facts.scopes:
        scope["offline"] = [_OFFLINE]
    params = {"authorize": asked, "token": asked, "refresh": asked}
    return {"client_auth": facts.client_auth, "hosts": hosts, "params": params, "scope": scope}


def _of_credential(facts: RemoteCredential | RemoteProgram) -> Mapping[str, object]:
    """A field with a single choice, so that there is nothing to enter: the person only names the account."""
    field: dict[str, object] = {"title": "API key"}
    if isinstance(facts, RemoteProgram):
        facts = RemoteCredential("", "")
    if facts.is_open:
        field = {"title": "Access", "secret": False, "pattern": OPEN, "choices": [OPEN], "default": OPEN}
    send = {} if facts.is_open else {"headers": {facts.header: f"{facts.scheme} {{key}}".strip()}}
    credential = {"title": "API key", "fields": {"key": field}, "send": send}
    return {"credential": credential, "scope": {"default": [_EVERYTHING], "app_level": True}}


def scopes_without_offline(scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes as a server names them, without the one for refresh tokens."""
    return tuple(dict.fromkeys(one for one in scopes if one != _OFFLINE))
