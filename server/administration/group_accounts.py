"""Accounts of groups: given by the person who connected them, and ended by admins.

Only that person can give an account away, or the owner of the data directory for them.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from vault import connections, shared_connections
from vault.audit import audit
from vault.delegations import WRITES
from vault.groups import Group, hold_group
from vault.records import Connection, User
from vault.refusals import StorageUnavailable, TemporarilyUnavailable
from vault.scopes import expand
from vault.shared_connections import SharedConnection, SharingRule
from vault.storage.database import Reader
from vault.upkeep import revocations
from vault.upstream import UpstreamPolicy

_NO_CONNECTION: Final = "There is no such connection."


async def give(
    actor: Actor, person: User, connection_id: str, group: Group, *, reads_only: bool, asks_writes: bool
) -> Connection:
    """Transfer the person's account to the group: its members' agents use it under this rule, the person's own no
    longer.

    Giving an account that the group already has replaces its tokens and the rule. Raises ChangeRefused and the
    exceptions of `vault.shared_connections.give`.
    """
    deployment, now = actor.deployment, actor.deployment.now()
    if actor.user is not None and actor.user.id != person.id:
        raise ChangeRefused(
            "not_yours_to_give", "Only the person who connected an account can give it.", kind="forbidden"
        )
    found = await connections.get_connection(deployment.database, connection_id, user_id=person.id)
    provider = None if found is None else deployment.catalog.get(found.provider)
    if found is None or provider is None:
        raise ChangeRefused("no_connection", _NO_CONNECTION, kind="not_found")
    policy = provider.policy()
    if policy.audience is not None:
        raise ChangeRefused("not_given", "This account represents one person, so it can't be given to a group.")
    rule = _rule(found, policy, reads_only=reads_only, asks_writes=asks_writes)
    async with actor.change() as transaction:
        given = await shared_connections.give(
            transaction, deployment.keys, found, group, rule=rule, by=person.name, policy=policy, now=now
        )
        event = actor.event(
            "connection.given",
            user_id=person.id,
            provider=found.provider,
            account=found.label,
            group=group.name,
            reads_only=reads_only,
        )
        await audit.append(transaction, replace(event, connection_id=given.id), now=now)
    await _destroy_key(deployment, found)
    return given


def _rule(connection: Connection, policy: UpstreamPolicy, *, reads_only: bool, asks_writes: bool) -> SharingRule:
    scopes = expand(connection.scopes, policy.covers)
    if reads_only:
        scopes &= policy.reading | policy.always_granted
        if not scopes - policy.always_granted:
            raise ChangeRefused("nothing_to_read", "No permission of this account only reads, so none would be left.")
    return SharingRule(scopes, frozenset({WRITES}) if asks_writes else frozenset())


async def change_rule(
    actor: Actor, group: Group, connection_id: str, *, reads_only: bool | None, asks_writes: bool | None
) -> SharedConnection:
    """Change what members' agents can do with a group's account, starting with their next call; None keeps a part.

    Raises ChangeRefused.
    """
    async with actor.change() as transaction:
        await hold_group(transaction, group.id)
        shared = await shared_with_id(actor, group, connection_id, reader=transaction)
        provider = actor.deployment.catalog.get(shared.connection.provider)
        if provider is None:
            raise ChangeRefused("no_connection", _NO_CONNECTION, kind="not_found")
        policy, asks = provider.policy(), bool(shared.rule.ask) if asks_writes is None else asks_writes
        rule = _rule(shared.connection, policy, reads_only=bool(reads_only), asks_writes=asks)
        if reads_only is None:
            rule = replace(rule, scopes=shared.rule.scopes)
        if not await shared_connections.change_rule(transaction, shared, rule):
            raise ChangeRefused("no_connection", _NO_CONNECTION, kind="not_found")
        asked: dict[str, object] = {"reads_only": reads_only, "asks_writes": asks_writes}
        event = actor.event(
            "connection.rule_changed",
            provider=shared.connection.provider,
            account=shared.connection.label,
            group=group.name,
        )
        details = {**event.details, **{name: value for name, value in asked.items() if value is not None}}
        event = replace(event, connection_id=connection_id, details=details)
        await audit.append(transaction, event, now=actor.deployment.now())
    return replace(shared, rule=rule)


async def _destroy_key(deployment: Deployment, given: Connection) -> None:
    """Destroy the key of the person's connection, now that its tokens are sealed for the group; otherwise retention
    does."""
    with contextlib.suppress(StorageUnavailable, TemporarilyUnavailable):
        async with deployment.transaction() as transaction:
            await deployment.keys.destroy_connection_key(transaction, given.id)
    await revocations.scrub(deployment.vault, (given.id,))


async def shared_with_id(
    actor: Actor, group: Group, connection_id: str, *, reader: Reader | None = None
) -> SharedConnection:
    """The group's connection. Raises ChangeRefused."""
    for one in await shared_connections.of_group(reader or actor.deployment.database, group):
        if one.connection.id == connection_id:
            return one
    raise ChangeRefused("no_connection", _NO_CONNECTION, kind="not_found")


async def end(actor: Actor, group: Group, connection_id: str) -> None:
    """End a group's connection for all its members, and its grant at the provider."""
    deployment = actor.deployment
    shared = await shared_with_id(actor, group, connection_id)
    by = "" if actor.user is None else actor.user.name
    async with actor.change() as transaction:
        await connections.disconnect(
            transaction, deployment.keys, shared.connection, now=deployment.now(), by=by or actor.method, via=actor.via
        )
        event = actor.event(
            "connection.ended_for_group",
            provider=shared.connection.provider,
            account=shared.connection.label,
            group=group.name,
        )
        await audit.append(transaction, replace(event, connection_id=connection_id), now=deployment.now())
    await revocations.revoke_upstream(deployment.vault, shared.connection.id)
