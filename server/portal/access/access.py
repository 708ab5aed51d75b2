"""The Access component: what one agent may do with one account, as rows of a form, and reading them back.

Pages of agents show one row for each account, and pages of accounts one for each agent; `parts.html` draws both in the
same way. `server.portal.access.access_changes` stores changes. Only the person's own live connections and the scopes
that they hold can be chosen, whatever a form contains.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from providers.definitions.catalog import Catalog, Provider
from providers.definitions.unruled_calls import ANY_CALL, ANY_READ
from server.deployment import Deployment
from server.portal import texts
from server.portal.forms import Form, PageRefused
from vault import company_permissions, delegations, shared_connections
from vault.exchange.approval_rules import TOOL, WRITES
from vault.records import Client, Connection, ConnectionState, Delegation, User
from vault.scopes import expand

HELD_FIELD: Final = "held"  # each row of the form, with the revision that it showed
USE_FIELD: Final = "use"  # scopes under Custom
ASK_FIELD: Final = "ask"  # tools under Custom
DEFAULT_FIELD: Final = "default"
ASKED: Final = "asked"  # the key of the row on a connect page
DAYS: Final = (1, 7, 30, 90)  # durations that a person can choose without a calendar
_DAY: Final = 86400
_NOTHING: Final = frozenset[str]()


class Level(StrEnum):
    """The four choices for an agent and an account."""

    OFF = "off"
    READ = "read"
    WRITE = "write"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a person sets for one agent and one account.

    `until` is the last day on which it is valid, as an ISO date in UTC; empty for no end. `asks`: the scopes and tools
    (`tool:NAME`) that the person is asked about each time, in addition to `asks_writes`.
    """

    scopes: frozenset[str]
    asks_writes: bool = False
    asks: frozenset[str] = frozenset()
    until: str = ""
    is_default: bool = False

    @property
    def revision(self) -> str:
        """Identifies the setting in a form: an old form must not overwrite newer permissions."""
        content = [sorted(self.scopes), self.asks_writes, sorted(self.asks), self.until, self.is_default]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Offer:
    """A scope of the account that the agent can be given."""

    scope: str
    title: str
    reads: bool


@dataclass(frozen=True, slots=True)
class AskableTool:
    """Something that the person can be asked about each time: a tool, or a scope that a command has set."""

    entry: str
    title: str
    writes: bool


@dataclass(frozen=True, slots=True)
class OfferedAccount:
    """An account, and what agents can be given of it. `write_asks`: the tools and scopes of "ask before writes"."""

    connection: Connection
    provider: Provider
    status: str
    offers: tuple[Offer, ...]
    tools: tuple[AskableTool, ...]
    write_asks: frozenset[str]
    all_scopes: frozenset[str]
    reads: frozenset[str]
    is_one_of_several: bool  # at its provider; one of them can be the default if the agent names none


@dataclass(frozen=True, slots=True)
class AccessRow:
    """One agent and one account: what can be set, and what is set. `key` identifies the row in its form."""

    key: str
    client: Client
    account: OfferedAccount
    tools: tuple[AskableTool, ...]
    setting: Setting
    expires_at: int | None = None
    company: str = ""  # the company that gave the permission, if one did

    @property
    def connection(self) -> Connection:
        return self.account.connection

    @property
    def provider(self) -> str:
        return self.account.provider.title

    @property
    def status(self) -> str:
        return self.account.status

    @property
    def offers(self) -> tuple[Offer, ...]:
        return self.account.offers

    @property
    def all_scopes(self) -> frozenset[str]:
        return self.account.all_scopes

    @property
    def reads(self) -> frozenset[str]:
        return self.account.reads

    @property
    def write_asks(self) -> frozenset[str]:
        return self.account.write_asks

    @property
    def unruled_extent(self) -> str:
        """The part of it that no request rule limits: `any:read`, `any:call`, or nothing."""
        found = self.account.provider.unruled_scopes & self.all_scopes
        return ANY_CALL if ANY_CALL in found else ANY_READ if found else ""

    @property
    def is_one_of_several(self) -> bool:
        return self.account.is_one_of_several

    @property
    def level(self) -> Level:
        """The choice that matches the setting."""
        scopes = self.setting.scopes
        if not scopes:
            return Level.OFF
        if self.setting.asks:
            return Level.CUSTOM
        if scopes == self.reads:
            return Level.READ
        return Level.WRITE if scopes == self.all_scopes else Level.CUSTOM

    @property
    def levels(self) -> tuple[Level, ...]:
        """The choices that make a difference for this account."""
        found = [Level.OFF]
        found += [Level.READ] if self.reads else []
        found += [Level.WRITE] if self.reads != self.all_scopes else []
        return (*found, Level.CUSTOM)

    @property
    def form_state(self) -> str:
        """The row as a form field: its key, and the revision that the page shows."""
        return f"{self.key} {self.setting.revision}"

    @property
    def words(self) -> tuple[str, ...]:
        """What the agent may do, in words."""
        return tuple(one.title for one in self.offers if one.scope in self.setting.scopes)

    def ask_entries(self, setting: Setting) -> frozenset[str]:
        """The stored form; a release that doesn't know `WRITES` finds the tools and scopes by name."""
        return setting.asks | (self.write_asks | {WRITES} if setting.asks_writes else _NOTHING)


@dataclass(frozen=True, slots=True)
class Change:
    """A row that the person changed, with the new setting."""

    row: AccessRow
    wanted: Setting


def agent_path(client_id: str) -> str:
    """The page of an agent."""
    return f"/agents/{quote(client_id, safe='')}"


async def rows_of_agent(
    deployment: Deployment, user: User, client: Client, *, providers: frozenset[str] | None = None
) -> tuple[AccessRow, ...]:
    """A row for each of the person's accounts; `providers` limits them."""
    held = await delegations.list_for_client(deployment.database, user.id, client_id=client.id)
    owned = await shared_connections.usable_by(deployment.database, user.id, now=deployment.now())
    accounts = offered_accounts(deployment, owned)
    wanted = [one for one in accounts if providers is None or one.connection.provider in providers]
    givers = await titles_of_givers(deployment, user)
    return agent_rows(client, wanted, delegated=held, givers=givers, now=deployment.now())


def asked_row(
    deployment: Deployment, user: User, client: Client, *, provider: Provider, scopes: frozenset[str]
) -> AccessRow | None:
    """The row of an agent that requests these scopes of any account: it offers no others, and nothing is set.

    None if only the account's name is requested.
    """
    asked = expand(scopes, provider.covers) - provider.always_granted
    whichever = Connection(
        id=ASKED,
        user_id=user.id,
        provider=provider.name,
        account="",
        label="",
        scopes=scopes,
        state=ConnectionState.ACTIVE,
        generation=0,
        created_at=0,
    )
    account = _account_offer(deployment, whichever, is_one_of_several=False)
    if account is None or not asked:
        return None
    shown = replace(
        account,
        offers=tuple(one for one in account.offers if one.scope in asked),
        all_scopes=asked,
        reads=asked & account.reads,
    )
    return AccessRow(ASKED, client, shown, shown.tools, Setting(_NOTHING))


def offered_accounts(deployment: Deployment, owned: Sequence[Connection]) -> tuple[OfferedAccount, ...]:
    """What agents can be given of each account that has a known provider."""
    several, now = Counter(connection.provider for connection in owned), deployment.now()
    alike: dict[tuple[str, frozenset[str]], OfferedAccount | None] = {}  # what accounts with the same scopes share
    found: list[OfferedAccount] = []
    for connection in owned:
        which = connection.provider, connection.scopes
        if which not in alike:
            alike[which] = _account_offer(deployment, connection, is_one_of_several=several[connection.provider] > 1)
        account = alike[which]
        if account is not None:
            found.append(replace(account, connection=connection, status=connection.status(now)))
    return tuple(found)


async def titles_of_givers(deployment: Deployment, user: User) -> Mapping[tuple[str, str], str]:
    """The names of the companies that gave the person's permissions, by client ID and connection ID."""
    known, found = deployment.settings.enterprise, dict[tuple[str, str], str]()
    for which, name in (await company_permissions.list_givers(deployment.database, user.id)).items():
        trusted = known.get(name)
        found[which] = name.capitalize() if trusted is None else trusted.title_for(name)
    return found


def agent_rows(
    client: Client,
    accounts: Iterable[OfferedAccount],
    *,
    delegated: Sequence[Delegation],
    givers: Mapping[tuple[str, str], str],
    now: int,
) -> tuple[AccessRow, ...]:
    """A row for each of these accounts."""
    held = {one.connection_id: one for one in delegated}
    rows = (_row(client, one, held=held.get(one.connection.id), key=one.connection.id, now=now) for one in accounts)
    return tuple(_with_giver(one, givers) for one in rows)


def is_usable(account: OfferedAccount, held: Delegation | None) -> bool:
    """Whether a live permission gives anything of the account."""
    return held is not None and not account.all_scopes.isdisjoint(expand(held.scopes, account.provider.covers))


def _with_giver(row: AccessRow, givers: Mapping[tuple[str, str], str]) -> AccessRow:
    company = givers.get((row.client.id, row.connection.id), "") if row.setting.scopes else ""
    return replace(row, company=company) if company else row


def account_rows(
    account: OfferedAccount,
    agents: Iterable[Client],
    *,
    delegated: Sequence[Delegation],
    givers: Mapping[tuple[str, str], str],
    now: int,
) -> tuple[AccessRow, ...]:
    """A row for each of these agents."""
    held = {one.client_id: one for one in delegated if one.connection_id == account.connection.id}
    rows = (_row(one, account, held=held.get(one.id), key=one.id, now=now) for one in agents)
    return tuple(_with_giver(one, givers) for one in rows)


def usable_providers(deployment: Deployment, client: Client, *, scopes: frozenset[str]) -> frozenset[str] | None:
    """The providers whose accounts an agent with these token scopes can use; None: all, since it can exchange."""
    if "exchange" in scopes:
        return None
    offered = deployment.offer.names_for(client.id)
    return frozenset(one.provider for one in deployment.tools if one.provider is not None and one.name in offered)


def _account_offer(deployment: Deployment, connection: Connection, *, is_one_of_several: bool) -> OfferedAccount | None:
    provider = deployment.catalog.get(connection.provider)
    if provider is None:
        return None
    offered = offered_scopes(deployment.catalog, connection)
    tools = [spec for spec in deployment.tools if spec.provider == provider.name]
    return OfferedAccount(
        connection=connection,
        provider=provider,
        status=connection.status(deployment.now()),
        offers=tuple(
            Offer(scope, texts.scope_title(provider, scope), scope in provider.reading_scopes)
            for scope in sorted(offered)
        ),
        tools=tuple(AskableTool(f"{TOOL}{one.name}", texts.tool_title(one), not one.read_only) for one in tools),
        write_asks=_write_asks(
            provider,
            offered=offered,
            tools={f"{TOOL}{one.name}" for one in tools if not one.read_only},
            read=_NOTHING.union(*(one.scopes for one in tools if one.read_only)),
        ),
        all_scopes=offered,
        reads=offered & provider.reading_scopes,
        is_one_of_several=is_one_of_several,
    )


def is_as_shown(row: AccessRow, held: Delegation | None, *, now: int) -> bool:
    """Whether this permission, read again, is what the row says."""
    return _row(row.client, row.account, held=held, key=row.key, now=now).setting.revision == row.setting.revision


def _row(client: Client, account: OfferedAccount, *, held: Delegation | None, key: str, now: int) -> AccessRow:
    if held is None:
        return AccessRow(key, client, account, account.tools, Setting(_NOTHING))
    provider = account.provider
    asks_writes = WRITES in held.ask  # kept without access, so that it still applies if access is given again
    asks = held.ask - account.write_asks - {WRITES} if asks_writes else held.ask
    tools = account.tools
    if asks:
        named = {one.entry for one in tools}
        tools += tuple(
            AskableTool(one, texts.scope_title(provider, one), one not in provider.reading_scopes)
            for one in sorted(asks - named)
            if one in provider.scopes
        )
        asks &= {one.entry for one in tools}
    if not held.is_live(now):
        return AccessRow(key, client, account, tools, Setting(_NOTHING, asks_writes, asks), held.expires_at)
    setting = Setting(
        scopes=expand(held.scopes, provider.covers) & account.all_scopes,
        asks_writes=asks_writes,
        asks=asks,
        until="" if held.expires_at is None else _last_day(held.expires_at),
        is_default=held.is_default,
    )
    return AccessRow(key, client, account, tools, setting, held.expires_at)


def _write_asks(
    provider: Provider, *, offered: frozenset[str], tools: set[str], read: frozenset[str]
) -> frozenset[str]:
    """The tools that write, and the scopes that write and aren't needed by any reading tool."""
    reading = provider.reading_scopes
    free = expand(read, provider.covers) - reading
    scopes = {one for one in offered - reading if free.isdisjoint(expand(frozenset({one}), provider.covers))}
    return frozenset(tools | scopes)


def offered_scopes(catalog: Catalog, connection: Connection) -> frozenset[str]:
    """The scopes of a connection that an agent can be given: the granted ones, the ones they include, and the vault's
    own."""
    provider = catalog.get(connection.provider)
    if provider is None:
        return frozenset()
    return provider.policy().delegable(expand(connection.scopes, provider.covers) - provider.always_granted)


def changed_rows(rows: Sequence[AccessRow], form: Form, *, now: int) -> tuple[Change, ...]:
    """The rows that the person changed on the page, which may show only some of `rows`.

    Raises PageRefused if a row of the page has changed elsewhere since, so that an old page can't restore permissions.
    """
    shown: dict[str, str] = {}
    for value in form.many(HELD_FIELD):
        key, _, revision = value.rpartition(" ")
        shown[key] = revision
    known = {row.key: row.setting.revision for row in rows}
    if any(known.get(key) != revision for key, revision in shown.items()):  # changed, or the account or agent is gone
        raise PageRefused("permissions_changed", kind="conflict")
    changes: list[Change] = []
    for row in rows:
        wanted = read_setting(row, form, now=now)
        if wanted is None or wanted.revision == row.setting.revision:
            continue
        if row.key not in shown:
            raise PageRefused("permissions_changed", kind="conflict")
        changes.append(Change(row, wanted))
    return tuple(changes)


def read_setting(row: AccessRow, form: Form, *, now: int) -> Setting | None:
    """The row's setting in the form; None if the form doesn't contain it."""
    level = form.one(f"level.{row.key}")
    match level:
        case Level.OFF:
            scopes = _NOTHING
        case Level.READ:
            scopes = row.reads
        case Level.WRITE:
            scopes = row.all_scopes
        case Level.CUSTOM:
            scopes = _of_row(row, form.many(USE_FIELD)) & row.all_scopes
        case _:
            return None
    if not scopes:
        return replace(row.setting, scopes=_NOTHING, until="", is_default=False)
    is_custom = level == Level.CUSTOM
    asks = _of_row(row, form.many(ASK_FIELD)) & {one.entry for one in row.tools} if is_custom else _NOTHING
    asks_writes = form.one(f"asks.{row.key}") == "writes"
    end = form.one(f"until.{row.key}") if f"until.{row.key}" in form.fields else row.setting.until
    end = (form.one(f"on.{row.key}") if is_custom else "") or end
    return Setting(
        scopes=scopes,
        asks_writes=asks_writes,
        asks=asks - row.write_asks if asks_writes else asks,
        until=_read_day(end, row.setting.until, now=now),
        is_default=row.key in form.many(DEFAULT_FIELD) if row.is_one_of_several else row.setting.is_default,
    )


def _of_row(row: AccessRow, ticked: frozenset[str]) -> frozenset[str]:
    start = f"{row.key} "
    return frozenset(value.removeprefix(start) for value in ticked if value.startswith(start))


def _read_day(sent: str, current: str, *, now: int) -> str:
    """The last day in the form's value: a number of days from now, a date, or none."""
    if sent in ("", current):
        return sent
    today = datetime.fromtimestamp(now, UTC).date()
    if sent.isascii() and sent.isdigit() and len(sent) < 5:
        return (today + timedelta(days=int(sent))).isoformat()
    try:
        day = date.fromisoformat(sent)
    except ValueError as error:
        raise PageRefused("end_day") from error
    if day < today or day.year > today.year + 50:
        raise PageRefused("end_day")
    return day.isoformat()


def _last_day(expires_at: int) -> str:
    return datetime.fromtimestamp(expires_at - 1, UTC).date().isoformat()


def end_of(setting: Setting, row: AccessRow) -> int | None:
    """When the permission ends; exactly as stored if the day is the same."""
    if not setting.until:
        return None
    if row.expires_at is not None and setting.until == _last_day(row.expires_at):
        return row.expires_at
    day = datetime.combine(date.fromisoformat(setting.until), datetime.min.time(), UTC)
    return int(day.timestamp()) + _DAY
