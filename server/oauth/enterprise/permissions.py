"""What a company's rules allow becomes permissions of the person's accounts, which are like any other.

`vault.company_permissions` decides what a renewal may change of them. Runs at each assertion, and for a connection that
is made later: `allow_connected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from server.deployment import Deployment
from server.oauth.enterprise.rules import Allowed, scopes_of
from vault import company_permissions, connections, delegations
from vault.audit import audit
from vault.company_permissions import CompanyPermission, Renewal, renew
from vault.exchange.approval_rules import WRITES
from vault.records import Connection, Delegation, Event
from vault.storage.database import Transaction

_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is to be allowed, and until when."""

    title: str  # of the company
    accounts: Mapping[str, frozenset[str]]
    end: int
    ask_writes: bool = False


async def settle(
    transaction: Transaction,
    deployment: Deployment,
    permission: CompanyPermission,
    allowed: Allowed,
    *,
    now: int,
) -> tuple[Event, ...]:
    """Bring the agent's permissions into line with what the company allows now; the events to record."""
    trusted = deployment.settings.enterprise[permission.company]
    end = now + trusted.permission_days * _DAY
    wish = _Wish(trusted.title_for(permission.company), allowed.accounts, end, allowed.ask_writes)
    given, events = await _renew_all(transaction, deployment, permission, wish, now=now)
    renewed = replace(permission, scopes=allowed.scopes, accounts=allowed.accounts, given=given, expires_at=end)
    await company_permissions.save(transaction, renewed, now=now)
    return events


async def allow_connected(deployment: Deployment, user_id: str) -> None:
    """Allow what the person's companies allowed before, of accounts that they connected since."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        for known in await company_permissions.list_for_user(transaction, user_id):
            trusted = deployment.settings.enterprise.get(known.company)
            if trusted is None or not known.is_live(now):
                continue
            held = await company_permissions.hold(
                transaction, user_id=user_id, client_id=known.client_id, company=known.company, now=now
            )
            wish = _Wish(trusted.title_for(known.company), held.accounts, held.expires_at)
            given, events = await _renew_all(transaction, deployment, held, wish, now=now)
            await company_permissions.save(transaction, replace(held, given=given), now=held.renewed_at)
            if events:
                await audit.append(transaction, *events, now=now)


async def _renew_all(
    transaction: Transaction, deployment: Deployment, permission: CompanyPermission, wish: _Wish, *, now: int
) -> tuple[dict[str, frozenset[str]], tuple[Event, ...]]:
    """Every connection of the person: what is remembered as given, and the events."""
    events: list[Event] = []
    given = dict(permission.given)
    held = {
        one.connection_id: one
        for one in await delegations.list_for_client(transaction, permission.user_id, client_id=permission.client_id)
    }
    for connection in await connections.list_connections(transaction, permission.user_id):
        policy = deployment.vault.policies.get(connection.provider)
        words = wish.accounts.get(connection.provider, frozenset[str]())
        wanted = frozenset[str]() if policy is None else scopes_of(words, granted=connection.scopes, policy=policy)
        before = held.get(connection.id)
        renewal = renew(
            before,
            given=given.get(connection.id),
            wanted=wanted,
            end_before=permission.expires_at,
            end=wish.end,
        )
        if renewal.given is None:
            given.pop(connection.id, None)
        else:
            given[connection.id] = renewal.given
        if renewal.scopes is not None:
            await _store(transaction, permission, connection, renewal, wish=wish, is_new=before is None, now=now)
            events += _events(permission, connection, before, renewal, wish=wish, now=now)
    return given, tuple(events)


async def _store(
    transaction: Transaction,
    permission: CompanyPermission,
    connection: Connection,
    renewal: Renewal,
    *,
    wish: _Wish,
    is_new: bool,
    now: int,
) -> None:
    which = {"user_id": permission.user_id, "client_id": permission.client_id, "connection_id": connection.id}
    if not renewal.scopes:
        await delegations.revoke(transaction, **which, now=now)
        return
    await delegations.allow(transaction, **which, scopes=renewal.scopes, now=now, expires_at=renewal.expires_at)
    if is_new and wish.ask_writes:
        await delegations.set_ask(transaction, **which, ask=frozenset({WRITES}), now=now)


def _events(
    permission: CompanyPermission,
    connection: Connection,
    before: Delegation | None,
    renewal: Renewal,
    *,
    wish: _Wish,
    now: int,
) -> list[Event]:
    """None for a renewal that only moves the end."""
    was = before.scopes if before is not None and before.is_live(now) else frozenset[str]()
    if renewal.scopes is None or renewal.scopes == was:
        return []
    details: dict[str, object] = {
        "provider": connection.provider,
        "account": connection.label,
        "scopes": sorted(renewal.scopes),
        "company": wish.title,
    }
    kind = "company.allowed" if renewal.scopes - was else "company.taken"
    return [
        Event(
            kind,
            user_id=permission.user_id,
            client_id=permission.client_id,
            connection_id=connection.id,
            details=details,
        )
    ]
