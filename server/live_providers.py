"""The providers as they are currently set up: in the settings, and by an administrator in the browser.

A change in the browser rebuilds everything that depends on it in one step: catalog, tools, tool sets, policies, and
OAuth clients. Every process looks for changes by other processes (`server.lifecycle.maintenance`). If the settings name
a client ID for a provider, its stored registration is ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from providers.definitions.catalog import Catalog, ProviderFileRefused
from providers.remote.sightings import Sightings
from providers.tools.declarations import ToolFileRefused
from providers.tools.sets import ToolOffer
from providers.tools.spec import ToolSpec
from server.provider_settings import SettingsRefused
from server.runtime.catalog import is_set_here, remote_server
from server.runtime.late_names import LateName, check_late_names
from server.secret_sources import EnteredSecrets
from server.settings import Settings
from vault import registrations
from vault.keys.key_ring import KeyRing
from vault.mcp import imported_apis, servers
from vault.mcp.imported_apis import AcceptedApi
from vault.mcp.servers import McpServer
from vault.refusals import CiphertextRejected
from vault.registrations import EnteredRegistration, StoredRegistration
from vault.storage.database import Database
from vault.upstream import IdentityAssertions, UpstreamOAuth, UpstreamPolicy, VouchedAccess

Made = TypeVar("Made")
Entered = Mapping[str, EnteredRegistration]
LOOK_EVERY = 2.0  # seconds until another process notices a change
REFUSALS = (ProviderFileRefused, SettingsRefused, ToolFileRefused)
logger = logging.getLogger("token_vault.providers")


@dataclass(frozen=True, slots=True)
class ProviderSet:
    """Everything that follows from the settings and the `entered` registrations.

    `away`: tools of external MCP servers that can't be called now but that rules may still name. `unusable`: by
    provider, a sentence that explains why its stored registration can't be used. `late`: names in the settings that
    match no tool yet.
    """

    catalog: Catalog
    tools: Sequence[ToolSpec]
    away: Sequence[ToolSpec]
    offer: ToolOffer
    policies: Mapping[str, UpstreamPolicy]
    upstreams: Mapping[str, UpstreamOAuth]
    assertions: IdentityAssertions
    secrets: EnteredSecrets = field(repr=False)
    entered: Entered
    unusable: Mapping[str, str]
    late: Sequence[LateName] = ()
    by_name: Mapping[str, ToolSpec] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {spec.name: spec for spec in self.tools})


def registered_in(settings: Settings, current: ProviderSet, name: str) -> Literal["settings", "browser"] | None:
    """Where our registration at this provider is stored, usable or not. The settings take precedence."""
    if is_set_here(settings, name):
        return "settings"
    if name in current.entered:
        return None if current.entered[name].imported is not None else "browser"
    return "browser" if name in current.unusable else None


@dataclass(frozen=True, slots=True)
class _StoredSet:
    """Providers that are stored in the database, in addition to the settings."""

    registrations: tuple[StoredRegistration, ...] = ()
    servers: tuple[McpServer, ...] = ()
    apis: tuple[AcceptedApi, ...] = ()


class LiveProviders:
    """The current `ProviderSet` of one process. `make` raises one of REFUSALS."""

    def __init__(self, make: Callable[[Entered], ProviderSet], *, sightings: Sightings | None = None) -> None:
        self._make = make
        self.sightings = sightings or Sightings()  # of external MCP servers
        self._lock = asyncio.Lock()
        self._stored = _StoredSet()
        self._mark: object | None = None
        self.initial = self.current = make({})  # from the settings alone
        self.policies: Mapping[str, UpstreamPolicy] = _Current(lambda: self.current.policies)
        self.upstreams: Mapping[str, UpstreamOAuth] = _Current(lambda: self.current.upstreams)
        self.assertions: IdentityAssertions = _CurrentAssertions(self)

    async def refresh(self, database: Database, keys: KeyRing) -> None:
        """Look for registrations that any process has added, changed, or removed."""
        async with self._lock:
            mark = database.mark()
            if mark is not None and mark == self._mark:
                return
            stored = _StoredSet(
                await registrations.list_registrations(database),
                await servers.list_accepted(database),
                await imported_apis.list_accepted(database),
            )
            if stored != self._stored:
                await self._use(stored, database, keys)
            self._mark = mark

    def check_names(self, imported: Collection[str]) -> None:
        """Check that the server tools and APIs named in the settings are stored; call it after `refresh`.

        `imported`: all imported APIs, including those that are not accepted yet. Raises ProviderFileRefused or
        SettingsRefused.
        """
        for name, problem in self.initial.catalog.unknown.items():
            if name not in imported:
                raise ProviderFileRefused(problem)
        names = [one.name for one in (*self._stored.servers, *self._stored.apis)]
        check_late_names(self.current.late, names)

    async def check(self, name: str, entered: EnteredRegistration) -> None:
        """Check that this registration works together with the others and with each MCP server. Raises one of
        REFUSALS."""
        known = self.current.entered.get(name)
        if known is not None and entered.server is None:
            entered = replace(entered, server=known.server)
        await self.make_with({name: entered})

    async def make_with(self, entered: Entered) -> ProviderSet:
        """The current set with these registrations, without using it. Raises one of REFUSALS."""
        return await asyncio.to_thread(self._make, {**self.current.entered, **entered})

    async def _use(self, stored: _StoredSet, database: Database, keys: KeyRing) -> None:
        entered = dict(imported_registrations(stored.apis))
        unusable: dict[str, str] = {}
        remote = {one.name: one for one in stored.servers}
        for one in stored.registrations:
            try:
                opened = await registrations.open_registration(database, keys, one)
                entered[one.provider] = replace(opened, server=remote.get(one.provider))
            except CiphertextRejected as error:
                unusable[one.provider] = "its secret can't be opened: enter it again"
                logger.error("a registration does not open", extra={"provider": one.provider, "detail": error.detail})  # noqa: TRY400
        self.current = await asyncio.to_thread(self._made_of, entered, unusable, stored.servers)
        self._stored = stored

    def _made_of(self, entered: Entered, unusable: dict[str, str], remote: Sequence[McpServer]) -> ProviderSet:
        made = replace(make_of_usable(self._make, entered, unusable), unusable=unusable)
        lost = [one for one in remote if one.name not in made.catalog.remote]
        return replace(made, away=(*made.away, *_tools_of_lost(lost, self.sightings))) if lost else made


def imported_registrations(accepted: Sequence[AcceptedApi]) -> Entered:
    """Imported APIs that are turned on, in the form that `make` takes."""
    return {one.name: EnteredRegistration("", imported=one.content) for one in accepted}


def make_of_usable(make: Callable[[Entered], Made], entered: Entered, unusable: dict[str, str]) -> Made:
    """The result of `make` for all registrations that can be used together; adds to `unusable` why the others can't."""
    try:
        return make(entered)
    except REFUSALS:
        usable: dict[str, EnteredRegistration] = {}
        for name, one in entered.items():
            try:
                make({**usable, name: one})
            except REFUSALS as refusal:
                unusable[name] = str(refusal)
                logger.error("a registration cannot be used", extra={"provider": name, "cause": str(refusal)})  # noqa: TRY400
            else:
                usable[name] = one
        return make(usable)


def _tools_of_lost(lost: Sequence[McpServer], sightings: Sightings) -> Iterator[ToolSpec]:
    """The accepted tools of servers that can't be used now: rules that name them stay valid."""
    from providers.remote.tools import away_tools

    for one in lost:
        with suppress(ProviderFileRefused):
            found = remote_server(one)
            yield from away_tools(replace(found, tools=(), away=(*found.tools, *found.away)), sightings)


class _CurrentAssertions:
    """The identity assertions of the current providers (`vault.upstream.IdentityAssertions`)."""

    def __init__(self, live: LiveProviders) -> None:
        self._live = live

    @property
    def identities(self) -> Mapping[str, str]:
        return self._live.current.assertions.identities

    @property
    def services(self) -> Sequence[str]:
        return self._live.current.assertions.services

    def scopes_at(self, provider: str) -> frozenset[str] | None:
        return self._live.current.assertions.scopes_at(provider)

    def access(self, provider: str, *, identity: str, subject: str) -> VouchedAccess | None:
        return self._live.current.assertions.access(provider, identity=identity, subject=subject)


class _Current(Mapping[str, Made]):
    """A mapping that always returns the current values, for code that keeps it."""

    def __init__(self, current: Callable[[], Mapping[str, Made]]) -> None:
        self._current = current

    def __getitem__(self, name: str) -> Made:
        return self._current()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())
