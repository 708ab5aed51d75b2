"""Which of a person's accounts an agent may use: the checkboxes of the consent and agents pages, and storing them.

Deciding a call by it is `vault.exchange`. Only the person's own live connections and only scopes that they hold can be
chosen, whatever a form says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from providers.catalog import Catalog
from server.deployment import Deployment
from vault import audit, connections, delegations
from vault.attenuate import expand
from vault.records import Connection, Delegation, Event, User

FIELD = "use"


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


async def account_choices(deployment: Deployment, user: User, *, client_id: str) -> tuple[AccountChoices, ...]:
    """The person's accounts with what this agent may use of each now."""
    now = deployment.now()
    held = {
        delegation.connection_id: delegation
        for delegation in await delegations.list_for_client(deployment.database, user.id, client_id=client_id)
        if delegation.is_live(now)
    }
    owned = await connections.list_connections(deployment.database, user.id)
    return tuple(
        found
        for connection in owned
        if (found := _choices(deployment.catalog, connection, held.get(connection.id), now=now)) is not None
    )


def _choices(catalog: Catalog, connection: Connection, held: Delegation | None, *, now: int) -> AccountChoices | None:
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
        for scope in sorted(offered(catalog, connection))
    )
    return AccountChoices(connection, provider.title, connection.status(now), choices)


def offered(catalog: Catalog, connection: Connection) -> frozenset[str]:
    """The scopes of a connection that an agent can be given: what was granted, and what that includes."""
    provider = catalog.get(connection.provider)
    if provider is None:
        return frozenset()
    return expand(connection.scopes, provider.covers) - provider.always_granted


def chosen(accounts: Sequence[AccountChoices], ticked: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """Connection id to ticked scopes; what is no checkbox of this person's page does not count."""
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
