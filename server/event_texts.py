"""Activity events as text, for the command line and the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.records import Event

from collections.abc import Mapping, Sequence


def event_fields(event: Event, *, names: Mapping[str, str]) -> dict[str, object]:
    """An event as it is printed, with the names of the user and the agent if known."""
    return {
        "sequence": event.sequence,
        "at": when(event.at),
        "kind": event.kind,
        "outcome": event.outcome,
        "user": names.get(event.user_id or "", event.user_id),
        "agent": names.get(event.client_id or "", event.client_id),
        "connection_id": event.connection_id,
        "details": dict(event.details),
    }


def in_a_line(row: Mapping[str, object]) -> str:
    """An event as one line for a person."""
    from server.portal import texts

    details = row["details"]
    rest = texts.in_a_line(details) if isinstance(details, dict) else ""  # pyright: ignore[reportUnknownArgumentType] -- of `event_fields`
    who = " ".join(str(row[part]) for part in ("user", "agent") if row[part] is not None)
    line = f"{row['at']}  {row['kind']:24} {row['outcome']:8} {who}  {rest}".rstrip()
    # Names come from agents and providers: they must not start a new line or control the terminal.
    return texts.visible(line.replace("\n", " ").replace("\t", " "))


async def names_of(deployment: Deployment, events: Sequence[Event]) -> dict[str, str]:
    """Names by id of the users and agents in these events, if they still exist."""
    from vault import clients, users

    database, names = deployment.database, dict[str, str]()
    for user_id in {event.user_id for event in events if event.user_id is not None}:
        if (user := await users.get_user(database, user_id)) is not None:
            names[user_id] = user.name
    for client_id in {event.client_id for event in events if event.client_id is not None}:
        if (client := await clients.get_client(database, client_id)) is not None:
            names[client_id] = client.name
    return names


def when(at: int | None) -> str | None:
    """An instant for people and for JSON: ISO 8601, UTC."""
    from datetime import UTC, datetime

    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
