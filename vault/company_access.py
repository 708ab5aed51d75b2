"""What a company allows an agent becomes permissions of the person's accounts, which are like any other.

Runs at each identity assertion, and for each account that the person connects later. `vault.company_permissions`
remembers what was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vault import company_permissions, delegations
from vault.company_permissions import CompanyPermission, Renewal, renew
from vault.delegations import WRITES
from vault.records import Connection, Delegation, Event
from vault.scopes import expand
from vault.storage.database import Transaction
from vault.upstream import UpstreamPolicy

# Words for what an agent gets of accounts at a provider, beside scopes.
READ: Final = "read"
ALL: Final = "all"
ASK: Final = "ask"  # the person is asked before each change
WORDS: Final = frozenset({READ, ALL, ASK})


def scopes_of(words: frozenset[str], *, granted: frozenset[str], policy: UpstreamPolicy) -> frozenset[str]:
    """What these words mean for an account with these granted scopes: never more than it holds."""
    held = expand(granted, policy.covers) - policy.always_granted
    if ALL in words:
        return held | (words & policy.unruled)
    reads = held & policy.reading if READ in words else frozenset[str]()
    return reads | (expand(words - WORDS, policy.covers) & (held | policy.unruled))


@dataclass(frozen=True, slots=True)
class OwnedAccount:
    """A connection of the person, and its provider's policy; None if the vault doesn't know the provider any more."""

    connection: Connection
    policy: UpstreamPolicy | None


async def settle(
    transaction: Transaction,
    permission: CompanyPermission,
    accounts: Sequence[OwnedAccount],
    *,
    end_before: int,
    now: int,
) -> tuple[Event, ...]:
    """Bring the agent's permissions into line with what the company allows now; the events to record.

    `permission` says what is allowed until when, and what was given before, until `end_before`. All accounts of the
    person, or those that are new.
    """
    held = {
        one.connection_id: one
        for one in await delegations.list_for_client(transaction, permission.user_id, client_id=permission.client_id)
    }
    given, events = dict(permission.given), list[Event]()
    for one in accounts:
        before = held.get(one.connection.id)
        renewal = _renewal(permission, one, before, end_before=end_before)
        if renewal.given is None:
            given.pop(one.connection.id, None)
        else:
            given[one.connection.id] = renewal.given
        if renewal.scopes is not None:
            await _store(transaction, permission, one.connection, renewal, is_new=before is None, now=now)
            events += _events(permission, one.connection, before, renewal, now=now)
    await company_permissions.save(transaction, replace(permission, given=given))
    return tuple(events)


async def allow_opened(
    transaction: Transaction, connection: Connection, policy: UpstreamPolicy | None, *, now: int
) -> tuple[Event, ...]:
    """Allow what the person's companies allowed before, of an account that was connected just now."""
    events: tuple[Event, ...] = ()
    for known in await company_permissions.list_for_user(transaction, connection.user_id):
        if not known.is_live(now):
            continue
        which = {"user_id": known.user_id, "client_id": known.client_id, "company": known.company}
        permission = await company_permissions.hold(transaction, **which, now=now)
        account = OwnedAccount(connection, policy)
        events += await settle(transaction, permission, [account], end_before=permission.expires_at, now=now)
    return events


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


async def _store(
    transaction: Transaction,
    permission: CompanyPermission,
    connection: Connection,
    renewal: Renewal,
    *,
    is_new: bool,
    now: int,
) -> None:
    which: Mapping[str, str] = {
        "user_id": permission.user_id,
        "client_id": permission.client_id,
        "connection_id": connection.id,
    }
    if not renewal.scopes:
        await delegations.revoke(transaction, **which, now=now)
        return
    await delegations.allow(transaction, **which, scopes=renewal.scopes, now=now, expires_at=renewal.expires_at)
    if is_new and ASK in permission.accounts.get(connection.provider, ()):
        await delegations.set_ask(transaction, **which, ask=frozenset({WRITES}), now=now)


def _events(
    permission: CompanyPermission,
    connection: Connection,
    before: Delegation | None,
    renewal: Renewal,
    *,
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
