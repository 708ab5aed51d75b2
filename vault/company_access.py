"""Turns what a company allows an agent into ordinary permissions for the person's accounts.

Runs at each identity assertion, and for each account that the person connects later. `vault.company_permissions` stores
what was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from vault import company_permissions, delegations
from vault.classes.immutable import immutable
from vault.company_permissions import CompanyPermission, Renewal, renew
from vault.delegations import WRITES
from vault.records import Connection, Delegation, Event
from vault.scopes import expand
from vault.storage.database import Transaction
from vault.upstream import UpstreamPolicy

# Keywords, other than scopes, for what an agent can do with accounts at a provider.
READ: Final = "read"
ALL: Final = "all"
ASK: Final = "ask"  # the person is asked before each change
WORDS: Final = frozenset({READ, ALL, ASK})


def scopes_of(words: frozenset[str], *, granted: frozenset[str], policy: UpstreamPolicy) -> frozenset[str]:
    """The scopes that these keywords mean for an account with these granted scopes: never more than it holds."""
    held = expand(granted, policy.covers) - policy.always_granted
    if policy.is_remote:
        held = frozenset[str]()
    if ALL in words:
        return held | (words & policy.own)
    reads = held & policy.reading if READ in words else frozenset[str]()
    return reads | (expand(words - WORDS, policy.covers) & (held | policy.own))


@immutable
class OwnedAccount:
    """A connection of the person, and its provider's policy; None if the vault doesn't know the provider anymore."""

    connection: Connection
    policy: UpstreamPolicy | None


async def settle(
    transaction: Transaction,
    permission: CompanyPermission,
    accounts: Sequence[OwnedAccount],
    *,
    before: CompanyPermission,
    now: int,
) -> tuple[Event, ...]:
    """Bring the agent's permissions into line with what the company allows now; the events to record.

    `permission` has what is allowed until when, and what was given before; `before` is the previous row. Covers all
    accounts of the person, or only the new ones.
    """
    held = {
        one.connection_id: one
        for one in await delegations.list_for_client(transaction, permission.user_id, client_id=permission.client_id)
    }
    given, events = dict(permission.given), list[Event]()
    for one in accounts:
        was = held.get(one.connection.id)
        renewal = _renewal(permission, one, was, end_before=before.expires_at)
        if renewal.given is None:
            given.pop(one.connection.id, None)
        else:
            given[one.connection.id] = renewal.given
        if renewal.scopes is not None:
            await _store(transaction, permission, one.connection.id, renewal, now=now)
            if _adds_ask(one.connection, renewal, was, before=before, permission=permission):
                which = {**_agent_of(permission), "connection_id": one.connection.id}
                asked = frozenset({WRITES}) | (frozenset[str]() if was is None else was.ask)
                await delegations.set_ask(transaction, **which, ask=asked, now=now)
            events += _events(permission, one.connection, was, renewal, now=now)
    await company_permissions.save(transaction, replace(permission, given=given))
    return tuple(events)


async def allow_opened(
    transaction: Transaction, connection: Connection, policy: UpstreamPolicy | None, *, now: int
) -> tuple[Event, ...]:
    """Apply what the person's companies already allowed to an account that was just connected."""
    events: tuple[Event, ...] = ()
    for known in await company_permissions.list_for_user(transaction, connection.user_id):
        if not known.is_live(now):
            continue
        which = {"user_id": known.user_id, "client_id": known.client_id, "company": known.company}
        permission = await company_permissions.hold(transaction, **which, now=now)
        account = OwnedAccount(connection, policy)
        events += await settle(transaction, permission, [account], before=permission, now=now)
    return events


async def take_back(transaction: Transaction, permission: CompanyPermission, *, now: int) -> CompanyPermission:
    """Remove what the company gave, and keep what the person allowed or ended. Returns the row to store.

    What was removed comes back with the next assertion, if the row accepts one.
    """
    held = {
        one.connection_id: one
        for one in await delegations.list_for_client(transaction, permission.user_id, client_id=permission.client_id)
    }
    given = dict[str, frozenset[str]]()
    for connection_id, scopes in permission.given.items():
        end = permission.expires_at
        renewal = renew(held.get(connection_id), given=scopes, wanted=frozenset(), end_before=end, end=end)
        if renewal.given is not None:
            given[connection_id] = renewal.given
        if renewal.scopes is not None:
            await _store(transaction, permission, connection_id, renewal, now=now)
    return replace(permission, given=given)


def _renewal(
    permission: CompanyPermission, account: OwnedAccount, before: Delegation | None, *, end_before: int
) -> Renewal:
    connection, policy = account.connection, account.policy
    words = permission.accounts.get(connection.provider, frozenset())
    wanted = scopes_of(words, granted=connection.scopes, policy=policy) if policy is not None else frozenset[str]()
    return renew(
        before,
        given=permission.given.get(connection.id),
        wanted=wanted,
        end_before=end_before,
        end=permission.expires_at,
    )


def _adds_ask(
    connection: Connection,
    renewal: Renewal,
    was: Delegation | None,
    *,
    before: CompanyPermission,
    permission: CompanyPermission,
) -> bool:
    """Whether the person is asked about changes from now on: because this is newly given, or because the rule requires
    it now.

    Otherwise the person may have chosen not to be asked.
    """
    if not renewal.scopes or ASK not in permission.accounts.get(connection.provider, ()):
        return False
    is_more = was is None or bool(renewal.scopes - was.scopes)
    return is_more or ASK not in before.accounts.get(connection.provider, ())


def _agent_of(permission: CompanyPermission) -> Mapping[str, str]:
    return {"user_id": permission.user_id, "client_id": permission.client_id}


async def _store(
    transaction: Transaction, permission: CompanyPermission, connection_id: str, renewal: Renewal, *, now: int
) -> None:
    which = {**_agent_of(permission), "connection_id": connection_id}
    if not renewal.scopes:
        await delegations.revoke(transaction, **which, now=now)
        return
    await delegations.allow(transaction, **which, scopes=renewal.scopes, now=now, expires_at=renewal.expires_at)


def _events(
    permission: CompanyPermission,
    connection: Connection,
    before: Delegation | None,
    renewal: Renewal,
    *,
    now: int,
) -> list[Event]:
    """The event; None for a renewal that only moves the end."""
    was = before.scopes if before is not None and before.is_live(now) else frozenset[str]()
    if renewal.scopes is None or renewal.scopes == was:
        return []
    details: dict[str, object] = {
        "provider": connection.provider,
        "account": connection.label,
        "scopes": sorted(renewal.scopes),
        "company": permission.company,
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
