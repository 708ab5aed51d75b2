"""Which of a person's accounts an agent may use: the checkboxes of the consent and agents pages, and storing them.

`vault.exchange` decides calls by it. Only the person's own live connections and only scopes that they hold can be
chosen, whatever a form says.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from providers.definitions.catalog import Catalog
from server.deployment import Deployment
from vault import connections, delegations
from vault.audit import audit
from vault.exchange.approval_rules import TOOL
from vault.records import Connection, Delegation, Event, User
from vault.scopes import expand

FIELD = "use"
HELD_FIELD = "held"
ASK_FIELD = "ask"
DEFAULT_FIELD = "default"


@dataclass(frozen=True, slots=True)
class Choice:
    """One checkbox: one scope of one account."""

    value: str
    title: str
    scope: str
    is_allowed: bool


@dataclass(frozen=True, slots=True)
class AccountChoices:
    """The checkboxes of one account."""

    connection: Connection
    provider: str
    status: str
    choices: tuple[Choice, ...]
    tools: tuple[Choice, ...] = ()  # what the person can be asked about each time: tools, and scopes set before
    ask: frozenset[str] = frozenset()
    is_default: bool = False
    is_one_of_several: bool = False  # at its provider: one of them can be the default when the agent names none

    @property
    def asks(self) -> int:
        return len(self.ask)

    @property
    def form_state(self) -> str:
        """What the agent holds of the account, as a form field: an old form must not overwrite newer permissions."""
        allowed = sorted(choice.scope for choice in self.choices if choice.is_allowed)
        content = json.dumps([allowed, sorted(self.ask), self.is_default])
        return f"{self.connection.id} {hashlib.sha256(content.encode()).hexdigest()[:32]}"


def is_current(accounts: Sequence[AccountChoices], sent: frozenset[str]) -> bool:
    """Whether a form shows the current permissions: none given or revoked since."""
    return sent == frozenset(account.form_state for account in accounts)


async def account_choices(deployment: Deployment, user: User, *, client_id: str) -> tuple[AccountChoices, ...]:
    """The person's accounts with what this agent may use of each now."""
    held = await delegations.list_for_client(deployment.database, user.id, client_id=client_id)
    return choices_of(deployment, await connections.list_connections(deployment.database, user.id), held)


def choices_of(
    deployment: Deployment, owned: Sequence[Connection], delegated: Sequence[Delegation]
) -> tuple[AccountChoices, ...]:
    """These accounts with what one agent was delegated of each and still holds."""
    now = deployment.now()
    held = {delegation.connection_id: delegation for delegation in delegated if delegation.is_live(now)}
    several = Counter(connection.provider for connection in owned)
    return tuple(
        replace(found, is_one_of_several=several[connection.provider] > 1)
        for connection in owned
        if (found := _choices(deployment, connection, held.get(connection.id), now=now)) is not None
    )


def _choices(
    deployment: Deployment, connection: Connection, held: Delegation | None, *, now: int
) -> AccountChoices | None:
    catalog = deployment.catalog
    provider = catalog.get(connection.provider)
    if provider is None:
        return None
    allowed = expand(held.scopes, provider.covers) if held is not None else frozenset[str]()
    choices = tuple(
        Choice(
            value=f"{connection.id} {scope}",
            title=provider.scopes[scope].title if scope in provider.scopes else scope,
            scope=scope,
            is_allowed=scope in allowed,
        )
        for scope in sorted(offered_scopes(catalog, connection))
    )
    ask = frozenset[str]() if held is None else held.ask
    titles = {f"{TOOL}{spec.name}": spec.title for spec in deployment.tools if spec.provider == provider.name}
    titles |= {scope: provider.scopes[scope].title for scope in sorted(ask) if scope in provider.scopes}
    tools = tuple(
        Choice(f"{connection.id} {entry}", title, scope=entry.removeprefix(TOOL), is_allowed=entry in ask)
        for entry, title in titles.items()
    )
    is_default = held is not None and held.is_default
    return AccountChoices(connection, provider.title, connection.status(now), choices, tools, ask, is_default)


def offered_scopes(catalog: Catalog, connection: Connection) -> frozenset[str]:
    """The scopes of a connection that an agent can be given: those granted, and those they include."""
    provider = catalog.get(connection.provider)
    if provider is None:
        return frozenset()
    return expand(connection.scopes, provider.covers) - provider.always_granted


async def save_defaults(
    deployment: Deployment, user: User, *, client_id: str, accounts: Sequence[AccountChoices], ticked: frozenset[str]
) -> None:
    """Set the default account for when the agent names none, for each provider with several."""
    now = deployment.now()
    several = [account.connection for account in accounts if account.is_one_of_several]
    async with deployment.transaction() as transaction:
        events: list[Event] = []
        for provider in sorted({connection.provider for connection in several}):
            mine = [one for one in several if one.provider == provider]
            chosen_one = next((one for one in mine if one.id in ticked), None)
            connection_id = None if chosen_one is None else chosen_one.id
            if await delegations.set_default(
                transaction,
                user_id=user.id,
                client_id=client_id,
                provider=provider,
                connection_id=connection_id,
                now=now,
            ):
                details = {"provider": provider, "account": "" if chosen_one is None else chosen_one.label}
                events.append(
                    Event(
                        kind="delegation.default",
                        user_id=user.id,
                        client_id=client_id,
                        connection_id=connection_id,
                        details=details,
                    )
                )
        await audit.append(transaction, *events, now=now)


async def save_asking(
    deployment: Deployment, user: User, *, client_id: str, accounts: Sequence[AccountChoices], ticked: frozenset[str]
) -> None:
    """Set what the person is asked about each time, for every account that the agent may use."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        events: list[Event] = []
        for account in accounts:
            connection = account.connection
            ask = frozenset(choice.value.partition(" ")[2] for choice in account.tools if choice.value in ticked)
            if ask == account.ask or not await delegations.set_ask(
                transaction, user_id=user.id, client_id=client_id, connection_id=connection.id, ask=ask, now=now
            ):
                continue
            details = {"provider": connection.provider, "account": connection.label, "ask": sorted(ask)}
            events.append(
                Event(
                    kind="delegation.asks",
                    user_id=user.id,
                    client_id=client_id,
                    connection_id=connection.id,
                    details=details,
                )
            )
        await audit.append(transaction, *events, now=now)


def chosen_scopes(accounts: Sequence[AccountChoices], ticked: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """Connection id to selected scopes; ignores what is not a checkbox of this person's page."""
    return {
        account.connection.id: frozenset(choice.scope for choice in account.choices if choice.value in ticked)
        for account in accounts
    }


async def save(
    deployment: Deployment,
    user: User,
    *,
    client_id: str,
    accounts: Sequence[AccountChoices],
    wanted: Mapping[str, frozenset[str]],
) -> int:
    """Set exactly these permissions for the agent; how many accounts changed. Each change is an event."""
    now = deployment.now()
    changes = [
        (account, wanted.get(account.connection.id, frozenset[str]()))
        for account in accounts
        if frozenset(choice.scope for choice in account.choices if choice.is_allowed)
        != wanted.get(account.connection.id, frozenset())
    ]
    if not changes:
        return 0
    events: list[Event] = []
    async with deployment.transaction() as transaction:
        for account, scopes in changes:
            connection_id = account.connection.id
            if scopes:
                await delegations.allow(
                    transaction,
                    user_id=user.id,
                    client_id=client_id,
                    connection_id=connection_id,
                    scopes=scopes,
                    now=now,
                )
            else:
                await delegations.revoke(
                    transaction, user_id=user.id, client_id=client_id, connection_id=connection_id, now=now
                )
            events.append(
                Event(
                    kind="delegation.changed" if scopes else "delegation.revoked",
                    user_id=user.id,
                    client_id=client_id,
                    connection_id=connection_id,
                    details={
                        "provider": account.connection.provider,
                        "account": account.connection.label,
                        "scopes": sorted(scopes),
                    },
                )
            )
        await audit.append(transaction, *events, now=now)
    return len(changes)
