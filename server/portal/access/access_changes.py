"""Store a person's changes to access rows, describe them in a sentence, and undo them.

Each change is an event. An undo is a ticket of the person, so it works once, for a limited time, and only until they
change something else or cut off an agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Final, TypeGuard

from server.deployment import Deployment
from server.http.page_texts import text
from server.portal.access.access import AccessRow, Change, Level, Setting, end_of, is_as_shown
from server.portal.forms import PageRefused
from vault import company_permissions, delegations, grants, tickets
from vault.audit import audit, released_tokens
from vault.records import Client, Event, Ticket, TicketPurpose, User
from vault.storage.database import Transaction

UNDO_LIFETIME: Final = 900  # seconds
_MOST_SENTENCES: Final = 3


@dataclass(frozen=True, slots=True)
class LastSave:
    """The last saved change, and the secret that undoes it. `undo_at`: where, if not on the page that shows it."""

    message: str
    handle: str = field(repr=False)
    undo_at: str = ""


async def save(
    deployment: Deployment,
    user: User,
    changes: Sequence[Change],
    *,
    says: str = "saved.saved",
    spent: str = "",
    inside: Transaction | None = None,
) -> str:
    """Store the changes in one transaction; returns the secret of the undo, empty if nothing changed.

    `spent`: the secret of the undo that these changes carry out; it works only once, and not after a cut-off. `inside`:
    the transaction, if it is part of a larger one. Raises PageRefused if a row has changed since it was read, so that a
    permission that was just ended stays so.
    """
    if not changes:
        return ""
    now = deployment.now()
    message = text(says, what=" ".join(_sentences(changes)))
    payload: dict[str, object] = {
        "message": message,
        "rows": [
            {
                "client": one.row.client.id,
                "connection": one.row.connection.id,
                "before": _plain(one.row.setting),
                "after": one.wanted.revision,
            }
            for one in changes
        ],
    }
    async with deployment.transaction() if inside is None else nullcontext(inside) as transaction:
        if spent:
            await tickets.consume(transaction, deployment.keys, spent, purpose=TicketPurpose.UNDO, now=now)
        events: list[Event] = []
        for client_id in sorted({one.row.client.id for one in changes}):
            await company_permissions.wait_for_renewals(transaction, user_id=user.id, client_id=client_id)
        for one in changes:
            await _check_row(transaction, user, one.row, now=now)
            events += await _store(transaction, user, one, now=now)
        events += await _store_defaults(transaction, user, changes, now=now)
        await forget_ways_back(transaction, user, now=now)
        handle = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.UNDO,
            payload=payload,
            lifetime=UNDO_LIFETIME,
            now=now,
            user_id=user.id,
        )
        await audit.append(transaction, *events, now=now)
    return handle


async def forget_ways_back(transaction: Transaction, user: User, *, now: int) -> None:
    """Only the last change can be undone: an old page must not restore permissions that were removed since."""
    await tickets.expire_purpose(transaction, user.id, purpose=TicketPurpose.UNDO, now=now)


async def _check_row(transaction: Transaction, user: User, row: AccessRow, *, now: int) -> None:
    which = {"user_id": user.id, "client_id": row.client.id, "connection_id": row.connection.id}
    await delegations.hold(transaction, **which)
    if not is_as_shown(row, await delegations.get(transaction, **which), now=now):
        raise PageRefused("permissions_changed", kind="conflict")


async def _store(transaction: Transaction, user: User, change: Change, *, now: int) -> list[Event]:
    row, wanted, before = change.row, change.wanted, change.row.setting
    which = {"user_id": user.id, "client_id": row.client.id, "connection_id": row.connection.id}
    about: dict[str, object] = {"provider": row.connection.provider, "account": row.connection.label}
    events: list[Event] = []
    if (wanted.scopes, wanted.until) != (before.scopes, before.until):
        details = about | {"scopes": sorted(wanted.scopes)} | ({"until": wanted.until} if wanted.until else {})
        if wanted.scopes:
            await delegations.allow(transaction, **which, scopes=wanted.scopes, now=now, expires_at=end_of(wanted, row))
        else:
            await delegations.revoke(transaction, **which, now=now)
        kind = "delegation.changed" if wanted.scopes else "delegation.revoked"
        events.append(
            Event(kind, user_id=user.id, client_id=row.client.id, connection_id=row.connection.id, details=details)
        )
    ask = row.ask_entries(wanted)
    if wanted.scopes and await delegations.set_ask(transaction, **which, ask=ask, now=now):
        details = about | {"ask": sorted(ask)}
        events.append(
            Event(
                "delegation.asks",
                user_id=user.id,
                client_id=row.client.id,
                connection_id=row.connection.id,
                details=details,
            )
        )
    return events


async def _store_defaults(transaction: Transaction, user: User, changes: Sequence[Change], *, now: int) -> list[Event]:
    """One default for each agent and provider: the one chosen now, or none."""
    chosen: dict[tuple[str, str], AccessRow | None] = {}
    for one in changes:
        if one.wanted.is_default != one.row.setting.is_default:
            key = (one.row.client.id, one.row.connection.provider)
            chosen[key] = one.row if one.wanted.is_default else chosen.get(key)
    events: list[Event] = []
    for (client_id, provider), row in chosen.items():
        connection_id = None if row is None else row.connection.id
        if await delegations.set_default(
            transaction,
            user_id=user.id,
            client_id=client_id,
            provider=provider,
            connection_id=connection_id,
            now=now,
        ):
            details: dict[str, object] = {"provider": provider, "account": "" if row is None else row.connection.label}
            events.append(
                Event(
                    kind="delegation.default",
                    user_id=user.id,
                    client_id=client_id,
                    connection_id=connection_id,
                    details=details,
                )
            )
    return events


async def last_saved(deployment: Deployment, user: User, handle: str) -> LastSave | None:
    """The message of the page after a save, while the save can be undone."""
    if not handle:
        return None
    found = await tickets.peek(
        deployment.database, deployment.keys, handle, purpose=TicketPurpose.UNDO, now=deployment.now()
    )
    if found is None or found.user_id != user.id:
        return None
    return LastSave(str(found.payload["message"]), handle, "/approvals/undo" if "standing" in found.payload else "")


async def undo(deployment: Deployment, user: User, handle: str, rows: Sequence[AccessRow]) -> str:
    """Restore the previous settings of the rows; returns the secret that undoes this undo.

    Raises PageRefused if the secret is no longer valid or a row has changed since.
    """
    now = deployment.now()
    found = await tickets.peek(deployment.database, deployment.keys, handle, purpose=TicketPurpose.UNDO, now=now)
    if found is None or found.user_id != user.id or "standing" in found.payload:
        raise PageRefused("undo_over", kind="gone")
    changes = _back(found, rows)
    return await save(deployment, user, changes, says="saved.undone", spent=handle)


def _back(ticket: Ticket, rows: Sequence[AccessRow]) -> list[Change]:
    known = {(row.client.id, row.connection.id): row for row in rows}
    saved, changes = ticket.payload["rows"], list[Change]()
    for one in saved if _is_list(saved) else []:
        before = one["before"] if _is_object(one) else None
        if not _is_object(one) or not _is_object(before):
            continue
        row = known.get((str(one["client"]), str(one["connection"])))
        if row is None or row.setting.revision != one["after"]:
            raise PageRefused("permissions_changed", kind="conflict")
        changes.append(Change(row, _within(_read_setting(before), row)))
    return changes


def _within(setting: Setting, row: AccessRow) -> Setting:
    """The setting without scopes that the account has lost since."""
    kept = setting.scopes & row.all_scopes
    return replace(setting, scopes=kept) if kept else replace(row.setting, scopes=kept, until="", is_default=False)


def _plain(setting: Setting) -> dict[str, object]:
    return {
        "scopes": sorted(setting.scopes),
        "asks_writes": setting.asks_writes,
        "asks": sorted(setting.asks),
        "until": setting.until,
        "is_default": setting.is_default,
    }


def _read_setting(stored: Mapping[str, object]) -> Setting:
    return Setting(
        scopes=_texts(stored["scopes"]),
        asks_writes=stored["asks_writes"] is True,
        asks=_texts(stored["asks"]),
        until=str(stored["until"]),
        is_default=stored["is_default"] is True,
    )


def _texts(value: object) -> frozenset[str]:
    return frozenset(str(one) for one in value) if _is_list(value) else frozenset()


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _sentences(changes: Sequence[Change]) -> list[str]:
    if len(changes) > _MOST_SENTENCES:
        return [text("saved.many", number=len(changes))]
    return [_sentence(one) for one in changes]


def _sentence(change: Change) -> str:
    """The effect of the change as a sentence, such as "Cursor can no longer use Slack"."""
    row, wanted, before = change.row, change.wanted, change.row.setting
    values = {"agent": row.client.name or row.client.id, "account": _account(row)}
    if wanted.scopes != before.scopes:
        added, removed = wanted.scopes - before.scopes, before.scopes - wanted.scopes
        now_level = replace(row, setting=wanted).level
        if not wanted.scopes:
            return text("saved.off", **values)
        if len(removed) == 1 and not added:
            return text("saved.less", what=_what(row, removed), **values)
        if len(added) == 1 and before.scopes and not removed:
            return text("saved.more", what=_what(row, added), **values)
        if now_level is Level.READ:
            return text("saved.only_read" if removed else "saved.read", **values)
        if now_level is Level.WRITE:
            return text("saved.write", **values)
        return text("saved.custom", **values)
    if wanted.asks_writes != before.asks_writes:
        return text("saved.asks" if wanted.asks_writes else "saved.asks_no_more", **values)
    if wanted.until != before.until:
        return text("saved.until" if wanted.until else "saved.no_end", day=wanted.until, **values)
    if wanted.is_default != before.is_default:
        return text("saved.default" if wanted.is_default else "saved.no_default", **values)
    return text("saved.asks_other", **values)


def _account(row: AccessRow) -> str:
    return f"{row.provider} ({row.connection.label})" if row.is_one_of_several else row.provider


def _what(row: AccessRow, scopes: frozenset[str]) -> str:
    """The only scope in words, for use within a sentence."""
    title = next(one.title for one in row.offers if one.scope in scopes)
    return title[:1].lower() + title[1:]


async def end_agent(deployment: Deployment, user: User, client: Client) -> None:
    """End the agent's grants, tokens and permissions in one transaction: its next call fails."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await released_tokens.owe_receipts(transaction, client.id, user_id=user.id, now=now)
        ended = await grants.revoke_client_grants(
            transaction, user_id=user.id, client_id=client.id, reason="cut_off", now=now
        )
        taken = await delegations.revoke_for_client(transaction, user_id=user.id, client_id=client.id, now=now)
        await forget_ways_back(transaction, user, now=now)
        details: Mapping[str, object] = {
            "agent": client.name,
            "grants": len(ended),
            "accounts": taken,
            "reason": "cut_off",
        }
        await audit.append(
            transaction, Event(kind="agent.cut_off", user_id=user.id, client_id=client.id, details=details), now=now
        )
