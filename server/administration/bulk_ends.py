"""End access in bulk, as `token-vault panic` does: of a person, of an agent, at a provider, or of everyone.

The request is stored first. This process then works on it in the background, and the upkeep of any process does the
rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Final

from server.administration import agents, people, registrations
from server.administration.actor import Actor, ChangeRefused
from vault import users
from vault.records import Role
from vault.refresh.concurrency import Vault
from vault.storage.database import Transaction
from vault.upkeep import panics, revocations
from vault.upkeep.panics import EndedCounts, Kind

PATIENCE: Final = 10.0  # seconds until a caller is answered while the work continues


@dataclass(frozen=True, slots=True)
class BulkState:
    """What is connected, what ended, and whether a request has been carried out.

    `accounts` are connected now, by provider. `ended` counts all ended grants of the person, at the provider, or of
    everyone, however they ended; an agent's are those that it could use when its access was first ended.
    """

    accounts: Mapping[str, int]
    ended: EndedCounts
    is_done: bool

    @property
    def is_complete(self) -> bool:
        """Whether access was ended, nothing has been connected since, and nothing is left to do at providers."""
        return self.is_done and not self.accounts and self.ended.is_over


async def preview(actor: Actor, kind: Kind, subject: str) -> BulkState:
    """What a request would end, and what is known about what ended. Changes nothing. Raises ChangeRefused."""
    await _check_subject(actor, kind, subject)
    return await _state(actor, kind, subject)


async def start(actor: Actor, kind: Kind, subject: str, *, patience: float = PATIENCE) -> BulkState:
    """End sessions, agents' access, and accounts. Continues an unfinished request for the same first.

    Only an owner ends an owner's access, or everyone's. An administrator can end all accounts at a provider, since they
    can also disconnect each of them. Answers after `patience` seconds at the latest. Raises ChangeRefused.
    """
    deployment = actor.deployment
    await _check_subject(actor, kind, subject)
    by = "command_line" if actor.user is None else actor.user.name
    async with actor.change() as transaction:
        await _check_may_end(actor, transaction, kind, subject)
        unfinished = await panics.find_open(transaction, kind, subject)
        request = unfinished
        if request is None:
            request = await panics.start(transaction, kind, subject, by=by, via=actor.via, now=deployment.now())
    # Never canceled: an attempt at a provider that is under way must be able to record its result.
    tasks, name = deployment.vault.tasks, f"panic:{request.id}"
    if not tasks.is_finishing(name):
        vault = deployment.vault
        tasks.finish(
            name,
            _work(vault, panics.go_on(vault, request))
            if unfinished is None
            else _work(vault, panics.finish(vault, unfinished, by=by, via=actor.via)),
        )
    await tasks.wait_until_finished(name, patience=patience)
    return await _state(actor, kind, subject)


async def _work(vault: Vault, request: Awaitable[int]) -> None:
    await request
    await revocations.run_due(vault)


async def _state(actor: Actor, kind: Kind, subject: str) -> BulkState:
    database, now = actor.deployment.database, actor.deployment.now()
    open_since = await panics.first_asked(database, kind, subject, now=now, only_open=True)
    since = await panics.first_asked(database, kind, subject, now=now)
    return BulkState(
        await panics.reach(database, kind, subject, since=open_since),
        await panics.count_ended(database, kind, subject, since=since),
        is_done=await panics.was_requested(database, kind, subject)
        and await panics.find_open(database, kind, subject) is None,
    )


async def _check_subject(actor: Actor, kind: Kind, subject: str) -> None:
    database = actor.deployment.database
    match kind:
        case "user":
            await people.person_with_id(database, subject)
        case "client":
            if not await panics.was_requested(database, kind, subject):  # it may have removed the agent
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
