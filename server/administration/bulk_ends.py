"""End access in bulk, as `token-vault panic` does: of a person, of an agent, at a provider, or of everyone.

The request is stored first. This process then works on it for a while, and the upkeep of any process does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from server.administration import agents, people, registrations
from server.administration.actor import Actor, ChangeRefused
from vault import users
from vault.records import Role
from vault.storage.database import Transaction
from vault.upkeep import panics, revocations
from vault.upkeep.panics import EndedCounts, Kind

_AT_ONCE: Final = 10.0  # seconds until a caller is answered while accounts are left to end


@dataclass(frozen=True, slots=True)
class Reach:
    """`accounts` are still connected, by provider; `ended` counts the grants that earlier requests ended."""

    accounts: Mapping[str, int]
    ended: EndedCounts


async def look(actor: Actor, kind: Kind, subject: str) -> Reach:
    """What a request would end, and what is known about what ended. Changes nothing. Raises ChangeRefused."""
    await _check_subject(actor, kind, subject)
    return await _reach(actor, kind, subject)


async def end(actor: Actor, kind: Kind, subject: str) -> Reach:
    """End sessions, agents' access, and accounts. Raises ChangeRefused.

    Only an owner ends an owner's access, or everyone's.
    """
    deployment = actor.deployment
    await _check_subject(actor, kind, subject)
    by = "command_line" if actor.user is None else actor.user.name
    via = "" if actor.agent is None else actor.agent.name or actor.agent.id
    async with actor.change() as transaction:
        await _check_may_end(actor, transaction, kind, subject)
        started = await panics.start(transaction, kind, subject, by=by, via=via, now=deployment.now())
    with suppress(TimeoutError):
        async with asyncio.timeout(_AT_ONCE):
            await panics.go_on(deployment.vault, started)
            await revocations.run_due(deployment.vault)
    return await _reach(actor, kind, subject)


async def _reach(actor: Actor, kind: Kind, subject: str) -> Reach:
    database, now = actor.deployment.database, actor.deployment.now()
    open_since = await panics.first_asked(database, kind, subject, now=now, only_open=True)
    since = await panics.first_asked(database, kind, subject, now=now)
    return Reach(
        await panics.reach(database, kind, subject, since=open_since),
        await panics.count_ended(database, kind, subject, since=since),
    )


async def _check_subject(actor: Actor, kind: Kind, subject: str) -> None:
    database = actor.deployment.database
    match kind:
        case "user":
            await people.person_with_id(database, subject)
        case "client":
            if await panics.find_client(database, subject) != subject:  # one that an earlier request removed
                await agents.agent_with_id(actor, subject)
        case "provider":
            registrations.provider_named(actor.deployment, subject)
        case "all":
            pass


async def _check_may_end(actor: Actor, transaction: Transaction, kind: Kind, subject: str) -> None:
    if kind == "user":
        await people.check_may_touch(actor, transaction, await people.person_with_id(transaction, subject))
    elif kind == "all" and not actor.is_operator:
        current = None if actor.user is None else await users.get_user(transaction, actor.user.id)
        if current is None or current.role is not Role.OWNER:
            raise ChangeRefused("owner_only", "Only an owner can end everyone's access.", kind="forbidden")
