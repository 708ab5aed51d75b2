"""The tool set that a person chose for an agent: the agent is offered no other tools. The choice gives no permission.

The vault knows sets only by name; `vault.refresh.accounts` reads the choice together with everything else that a call
depends on. Writing functions record no event: the caller appends it last.
"""

from __future__ import annotations

from typing import Final

from vault.records import TENANT
from vault.refusals import ToolNotOffered
from vault.storage.database import Reader, Transaction, page_names, page_values, text

_GET: Final = """
    select tool_set from tool_choices where tenant = :tenant and user_id = :user_id and client_id = :client_id
"""
_SET: Final = """
    insert into tool_choices (tenant, user_id, client_id, tool_set, changed_at)
    values (:tenant, :user_id, :client_id, :tool_set, :now)
    on conflict (tenant, user_id, client_id) do update
    set tool_set = excluded.tool_set, changed_at = excluded.changed_at
    where tool_choices.tool_set <> excluded.tool_set
"""
_CLEAR: Final = """
    delete from tool_choices where tenant = :tenant and user_id = :user_id and client_id = :client_id
"""
_AT_ONCE: Final = 50
_OF_USERS: Final = f"""
    select user_id, client_id, tool_set from tool_choices
    where tenant = :tenant and user_id in ({page_names("user", _AT_ONCE)})
"""  # noqa: S608 -- names of parameters


async def get_tool_set(reader: Reader, user_id: str, *, client_id: str) -> str | None:
    """The name of the set; None where the person made no choice."""
    rows = await reader.look_up(_GET, {"tenant": TENANT, "user_id": user_id, "client_id": client_id})
    return next((text(row, "tool_set") for row in rows), None)


async def set_tool_set(
    transaction: Transaction, user_id: str, *, client_id: str, tool_set: str | None, now: int
) -> bool:
    """Store the choice; None removes it. Returns whether that changed anything."""
    which = {"tenant": TENANT, "user_id": user_id, "client_id": client_id}
    if tool_set is None:
        return await transaction.execute(_CLEAR, which) > 0
    return await transaction.execute(_SET, {**which, "tool_set": tool_set, "now": now}) > 0


async def of_users(reader: Reader, user_ids: frozenset[str]) -> dict[tuple[str, str], str]:
    """All choices of these people: (user, client) to the name of the set."""
    wanted, found = sorted(user_ids), dict[tuple[str, str], str]()
    for at in range(0, len(wanted), _AT_ONCE):
        some = wanted[at : at + _AT_ONCE]
        rows = await reader.fetch(_OF_USERS, {"tenant": TENANT, **page_values("user", some, _AT_ONCE)})
        found |= {(text(row, "user_id"), text(row, "client_id")): text(row, "tool_set") for row in rows}
    return found


def refusal(tool_set: str) -> ToolNotOffered:
    """The refusal for a tool that isn't in the set that the person chose."""
    return ToolNotOffered(
        f"The person chose the tool set {tool_set} for this agent, and this tool isn't in it. They can choose another "
        "one on the Agents page.",
        tool_set=tool_set,
    )
