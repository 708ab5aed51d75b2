"""Connections that belong to a group: a person gives them to it, and its members' agents use them under the group's
rule. The group owns such a connection: `user_id` is the group's ID, and its tokens are sealed under the group's own
key, so that no part of it ends with the person who gave it. `vault.refresh.accounts` reads membership with each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vault import connections, groups
from vault.classes.immutable import immutable
from vault.groups import Group
from vault.keys.key_ring import KeyRing
from vault.records import TENANT, Connection, ConnectionState, format_scope, parse_scope
from vault.refusals import CiphertextRejected, TemporarilyUnavailable, TransitionRefused, VaultError
from vault.storage.database import Reader, Row, Transaction, Value, integer, integer_or_none, text
from vault.upstream import Account, TokenAnswer, UpstreamPolicy

GIVEN: Final = "given_to_group"  # reason why the person's own connection ended
_TAKE: Final = """
    update connections set state = :state, reason = :reason, ended_at = :now
    where tenant = :tenant and id = :id and user_id = :user_id and ended_at is null and renewed_by is null
        and state = :active
        and (lease_until is null or lease_until <= :now)
        and not exists (
            select 1 from intents i where i.tenant = connections.tenant and i.connection_id = connections.id
        )
    returning generation, access_generation, refresh_sealed, access_sealed, access_expires_at, grant_expires_at,
        idle_expires_at, consented_ms, created_at
"""
# Giving it is neither a use nor a consent.
_KEEP_TIMES: Final = """
    update connections set idle_expires_at = :idle_expires_at, consented_ms = :consented_ms
    where tenant = :tenant and id = :id
"""
_EMPTY: Final = "update connections set refresh_sealed = null, access_sealed = null where tenant = :tenant and id = :id"
_DROP_NARROWED: Final = "delete from narrowed_tokens where tenant = :tenant and connection_id = :id"
_END_DELEGATIONS: Final = """
    update delegations set revoked_at = :now, changed_at = :now
    where tenant = :tenant and user_id = :user_id and connection_id = :id and revoked_at is null
"""
_RULE: Final = """
    insert into shared_connections (tenant, connection_id, group_id, scopes, ask, given_by, given_at)
    values (:tenant, :id, :group_id, :scopes, :ask, :given_by, :now)
    on conflict (tenant, connection_id) do update set scopes = excluded.scopes, ask = excluded.ask,
        given_by = excluded.given_by, given_at = excluded.given_at
"""
_CHANGE_RULE: Final = """
    update shared_connections set scopes = :scopes, ask = :ask
    where tenant = :tenant and connection_id = :id and group_id = :group_id
"""
_RULES_OF_GROUP: Final = """
    select connection_id, group_id, scopes, ask, given_by, given_at from shared_connections
    where tenant = :tenant and group_id = :group_id
"""
_FORGET_DELETED: Final = """
    insert into deletions (tenant, user_id, name, requested_at)
    select cast(:tenant as text), cast(:id as text), cast(:name as text), cast(:now as bigint)
    where exists (select 1 from keys.user_keys k where k.tenant = :tenant and k.user_id = :id)
    on conflict (tenant, user_id) do nothing
"""


@immutable
class SharingRule:
    """The most that members' agents can have, and what their person is asked about each time (as `Delegation.ask`).
    `scopes` also lists scopes that others in it include (`covers`), so that a member can allow an agent a part.
    """

    scopes: frozenset[str]
    ask: frozenset[str] = frozenset()


@immutable
class SharedConnection:
    """A group's connection. Its record's `user_id` is the group's ID."""

    connection: Connection
    group: Group
    rule: SharingRule
    given_by: str
    given_at: int

    @property
    def is_reading(self) -> bool:
        """Whether the rule allows less than the account has."""
        return not self.connection.scopes <= self.rule.scopes

    @property
    def for_members(self) -> Connection:
        """The connection with only the scopes that the rule allows."""
        return replace(self.connection, scopes=self.rule.scopes) if self.is_reading else self.connection


async def give(
    transaction: Transaction,
    ring: KeyRing,
    connection: Connection,
    group: Group,
    *,
    rule: SharingRule,
    by: str,
    policy: UpstreamPolicy,
    now: int,
) -> Connection:
    """Turn the person's connection into the group's. It ends for the person and their agents, but not at the provider.

    Raises TemporarilyUnavailable while it is being refreshed, and TransitionRefused when it can't be given. The caller
    records who did it, as the last step of its transaction, and destroys the key of the person's connection after the
    commit: on SQLite, keys are in a separate file, which power loss may leave ahead of the tokens.
    """
    await groups.hold_group(transaction, group.id)
    mine: Mapping[str, Value] = {"tenant": TENANT, "id": connection.id, "user_id": connection.user_id, "now": now}
    state: Mapping[str, Value] = {"state": ConnectionState.REVOKED.value, "reason": GIVEN}
    row = await transaction.fetch_one(_TAKE, {**mine, **state, "active": ConnectionState.ACTIVE.value})
    if row is None:
        raise _refusal(await connections.get_connection(transaction, connection.id, user_id=connection.user_id))
    answer = await _answer_of(transaction, ring, row, connection, now=now)
    await transaction.execute(_EMPTY, {"tenant": TENANT, "id": connection.id})
    await transaction.execute(_DROP_NARROWED, {"tenant": TENANT, "id": connection.id})
    await transaction.execute(_END_DELEGATIONS, mine)
    given = await connections.open_connection(
        transaction,
        ring,
        user_id=group.id,
        provider=connection.provider,
        answer=answer,
        asked=connection.scopes,
        policy=policy,
        now=now,
    )
    begun_ms = integer(row, "created_at") * 1000
    consented_ms, idle_at = integer_or_none(row, "consented_ms") or begun_ms, integer_or_none(row, "idle_expires_at")
    times: Mapping[str, Value] = {"idle_expires_at": idle_at, "consented_ms": consented_ms}
    await transaction.execute(_KEEP_TIMES, {"tenant": TENANT, "id": given.id, **times})
    facts: Mapping[str, Value] = {"scopes": format_scope(rule.scopes), "ask": format_scope(rule.ask), "given_by": by}
    await transaction.execute(_RULE, {"tenant": TENANT, "id": given.id, "group_id": group.id, "now": now, **facts})
    return replace(given, idle_expires_at=idle_at, consented_at=consented_ms // 1000)


async def change_rule(transaction: Transaction, shared: SharedConnection, rule: SharingRule) -> bool:
    """Apply this rule to members' agents from their next call on; False when the account is gone."""
    await groups.hold_group(transaction, shared.group.id)
    facts: Mapping[str, Value] = {"scopes": format_scope(rule.scopes), "ask": format_scope(rule.ask)}
    which: Mapping[str, Value] = {"tenant": TENANT, "id": shared.connection.id, "group_id": shared.group.id}
    return await transaction.execute(_CHANGE_RULE, {**which, **facts}) > 0


def _refusal(current: Connection | None) -> VaultError:
    """Why this connection can't be given now."""
    if current is None or current.state is ConnectionState.REVOKED:
        return TransitionRefused("This connection is already disconnected.")
    if current.renewed_by is not None:
        return TransitionRefused("Your sign-in renews this account, so it can't be given to a group.")
    if current.state is ConnectionState.NEEDS_REAUTH:
        return TransitionRefused("This account must be reconnected before it can be given to a group.")
    return TemporarilyUnavailable("This account is being refreshed.", retry_after=2)


async def _answer_of(
    transaction: Transaction, ring: KeyRing, row: Row, connection: Connection, *, now: int
) -> TokenAnswer:
    """The tokens of the row in the form of a provider's answer."""
    try:
        key = await ring.load_key(transaction, user_id=connection.user_id, connection_id=connection.id)
        refresh_token = connections.open_refresh_token(key, row, connection)
        access_token = connections.open_access_token(key, row, connection)
    except CiphertextRejected as error:
        raise TransitionRefused("This connection can't be opened: connect it again first.") from error
    if access_token is None:
        raise TransitionRefused("This connection has no tokens yet: use it once first.")
    expires_at, ends_at = integer_or_none(row, "access_expires_at"), integer_or_none(row, "grant_expires_at")
    return TokenAnswer(
        access_token,
        refresh_token,
        scopes=connection.scopes,
        expires_in=None if expires_at is None else expires_at - now,
        account=Account(connection.account, connection.label),
        grant_expires_in=None if ends_at is None else ends_at - now,
        metadata=connection.metadata,
    )


async def of_group(reader: Reader, group: Group) -> tuple[SharedConnection, ...]:
    """The group's live connections."""
    rows = await reader.fetch(_RULES_OF_GROUP, {"tenant": TENANT, "group_id": group.id})
    rules = {text(row, "connection_id"): row for row in rows}
    found = await connections.list_connections(reader, group.id)
    return tuple(_from_rule(one, group, rules[one.id]) for one in found if one.id in rules)


async def of_person(reader: Reader, user_id: str, *, now: int) -> tuple[SharedConnection, ...]:
    """The connections that the person's agents can use because of the person's current groups."""
    memberships = await groups.of_person(reader, user_id, now=now)
    return tuple([shared for one in memberships for shared in await of_group(reader, one.group)])


async def usable_by(reader: Reader, user_id: str, *, now: int) -> tuple[Connection, ...]:
    """The person's own connections, and those of their groups with the scopes that the rule allows."""
    own = await connections.list_connections(reader, user_id)
    return (*own, *(one.for_members for one in await of_person(reader, user_id, now=now)))


async def usable(reader: Reader, connection_id: str, *, user_id: str, now: int) -> Connection | None:
    """The connection with this ID, if it is the person's own or belongs to one of their groups."""
    own = await connections.get_connection(reader, connection_id, user_id=user_id)
    if own is not None:
        return own
    shared = await of_person(reader, user_id, now=now)
    return next((one.for_members for one in shared if one.connection.id == connection_id), None)


async def end_of_group(transaction: Transaction, ring: KeyRing, group: Group, *, by: str, now: int) -> tuple[str, ...]:
    """End all connections of a deleted group; returns their IDs. Its key is destroyed once they have ended at the
    providers.

    Raises TransitionRefused when the group is already deleted.
    """
    await groups.hold_group(transaction, group.id)
    owned = await connections.list_connections(transaction, group.id)
    for connection in owned:
        await connections.disconnect(transaction, ring, connection, now=now, by=by)
    await transaction.execute(_FORGET_DELETED, {"tenant": TENANT, "id": group.id, "name": group.name, "now": now})
    return tuple(one.id for one in owned)


def _from_rule(connection: Connection, group: Group, row: Row) -> SharedConnection:
    rule = SharingRule(parse_scope(text(row, "scopes")), parse_scope(text(row, "ask")))
    return SharedConnection(connection, group, rule, text(row, "given_by"), integer(row, "given_at"))
