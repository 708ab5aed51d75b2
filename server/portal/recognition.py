"""Software that registers again: the same agent of the same person with a new client ID, according to its own metadata.

Many clients register at each start or lose their registration. The consent page then offers the permissions of the
earlier registration. The client wrote everything that is compared here, so nothing is carried over without the person's
click, and the page states what is verified and what isn't.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.deployment import Deployment
from server.oauth.clients.rules import is_same_software
from server.portal.access import access, access_changes, tool_sets
from server.portal.access.access import AccessRow
from vault import clients, delegations, grants, tool_choices
from vault.audit import audit, released_tokens
from vault.records import Client, Event, User
from vault.storage.database import Transaction

FIELD: Final = "earlier"
END_FIELD: Final = "end"
AGAIN: Final = "again"  # the decision


@dataclass(frozen=True, slots=True)
class EarlierAgent:
    """What the person gave to earlier registrations of the same software; the newest with any permission counts."""

    client: Client
    others: tuple[Client, ...]
    accounts: tuple[AccessRow, ...]  # that it may use, with what
    tool_set: str | None

    @property
    def number(self) -> int:
        return 1 + len(self.others)

    @property
    def fingerprint(self) -> str:
        """What the page shows of it, in a form field: a click counts for exactly this."""
        ids = [self.client.id, *(one.id for one in self.others)]
        shown = " ".join([*ids, *(account.form_state for account in self.accounts), self.tool_set or ""])
        return hashlib.sha256(shown.encode()).hexdigest()[:32]


async def find_earlier(deployment: Deployment, user: User, *, client: Client) -> EarlierAgent | None:
    """The person's earlier agent that this client claims to be; None for a client that the person already allowed."""
    named = await clients.list_of_user(deployment.database, user.id, name=client.name)
    if any(one.id == client.id for one in named):
        return None
    found = [one for one in named if is_same_software(one, client)]
    if not found:
        return None
    held = {one.id: await _allowed_accounts(deployment, user, one) for one in found}
    chosen = next((one for one in found if held[one.id]), found[0])
    others = tuple(one for one in found if one.id != chosen.id)
    tool_set = await tool_choices.get_tool_set(deployment.database, user.id, client_id=chosen.id)
    return EarlierAgent(chosen, others, held[chosen.id], tool_set)


async def _allowed_accounts(deployment: Deployment, user: User, client: Client) -> tuple[AccessRow, ...]:
    rows = await access.rows_of_agent(deployment, user, client)
    return tuple(row for row in rows if row.setting.scopes)


async def carry_over(
    transaction: Transaction, user: User, *, earlier: EarlierAgent, client_id: str, ends_earlier: bool, now: int
) -> None:
    """Allow the new client what the earlier one may do now: scopes, tools, what is asked about, ends, defaults.

    With `ends_earlier` every earlier registration is disconnected, as on the page of agents.
    """
    shown = {account.connection.id for account in earlier.accounts}
    await tool_sets.store(transaction, user, client_id=client_id, tool_set=earlier.tool_set, now=now)
    events: list[Event] = []
    for held in await delegations.list_for_client(transaction, user.id, client_id=earlier.client.id):
        if not held.is_live(now) or held.connection_id not in shown:
            continue
        account = next(one for one in earlier.accounts if one.connection.id == held.connection_id)
        scopes = account.setting.scopes  # what the page showed
        which = {"user_id": user.id, "client_id": client_id, "connection_id": held.connection_id}
        await delegations.allow(transaction, **which, scopes=scopes, now=now, expires_at=held.expires_at)
        await delegations.set_ask(transaction, **which, ask=held.ask, now=now)
        provider = account.connection.provider
        if held.is_default:
            await delegations.set_default(transaction, **which, provider=provider, now=now)
        details: dict[str, object] = {
            "provider": provider,
            "account": account.connection.label,
            "scopes": sorted(scopes),
            "ask": sorted(held.ask),
            "carried_from": earlier.client.id,
        }
        events.append(
            Event(
                kind="delegation.changed",
                user_id=user.id,
                client_id=client_id,
                connection_id=held.connection_id,
                details=details,
            )
        )
    if ends_earlier:
        await access_changes.forget_ways_back(transaction, user, now=now)
        for one in (earlier.client, *earlier.others):
            await released_tokens.owe_receipts(transaction, one.id, user_id=user.id, now=now)
            ended = await grants.revoke_client_grants(
                transaction, user_id=user.id, client_id=one.id, reason="signed_in_again", now=now
            )
            taken = await delegations.revoke_for_client(transaction, user_id=user.id, client_id=one.id, now=now)
            cut: dict[str, object] = {
                "agent": one.name,
                "grants": len(ended),
                "accounts": taken,
                "reason": "signed_in_again",
            }
            events.append(Event(kind="agent.cut_off", user_id=user.id, client_id=one.id, details=cut))
    await audit.append(transaction, *events, now=now)


def summary(accounts: Sequence[AccessRow]) -> list[tuple[str, str, list[str]]]:
    """For the page: provider, account and the words of what the agent may do with it."""
    return [(account.provider, account.connection.label, list(account.words)) for account in accounts]
