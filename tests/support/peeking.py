"""What tests inspect or hurry, and the product never has to."""

from __future__ import annotations

from vault.audit.audit import Activity
from vault.grants import grant_from
from vault.records import TENANT, Grant
from vault.storage.database import Reader


async def get_grant(reader: Reader, grant_id: str) -> Grant | None:
    """The grant with this id, live or revoked."""
    row = await reader.fetch_one(
        "select id, user_id, client_id, scopes, resource, redirect_uri, created_at, revoked_at, revoked_reason"
        " from grants where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": grant_id},
    )
    return None if row is None else grant_from(row)


def note_repeats(activity: Activity) -> None:
    """Note what was counted so far, before its minute is over."""
    for event in activity._repeats.due(None):
        activity.note(event)
