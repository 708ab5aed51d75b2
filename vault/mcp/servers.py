"""Other MCP servers behind the vault: their addresses, and which of their tools an operator accepted in which form.

A tool is stored as it was seen and as it was accepted, both as canonical JSON. If the two differ, an operator must
review the tool, and accounts that see the other form can't call it. Writing functions record no event: the caller
appends it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Final

from vault.classes.immutable import immutable
from vault.records import HOUR, TENANT
from vault.storage.database import Reader, Row, Transaction, integer, integer_or_none, text, text_or_none

_SERVERS: Final = """
    select name, url, title, facts, added_at, is_disabled
    from mcp_servers where tenant = :tenant order by added_at, name
"""
_TOOLS: Final = """
    select server, name, seen, seen_by, seen_at, is_absent, accepted, effect, asks, accepted_at, shown, is_retired,
        is_left
    from mcp_tools
    where tenant = :tenant order by server, name
"""
_TOOLS_OF: Final = """
    select server, name, seen, seen_by, seen_at, is_absent, accepted, effect, asks, accepted_at, shown, is_retired,
        is_left
    from mcp_tools
    where tenant = :tenant and server = :server order by name
"""
# Leaves out tools that no one accepted: a server can list any number, and change them at any time.
_ACCEPTED: Final = """
    select server, name, accepted as seen, cast(:nothing as text) as seen_by, cast(0 as bigint) as seen_at, is_absent,
        accepted, effect, asks, accepted_at, shown, is_retired,
        is_left
    from mcp_tools
    where tenant = :tenant and accepted is not null order by server, name
"""
_IS_LIVE: Final = "select id from connections where tenant = :tenant and id = :id and ended_at is null"
_SETTLED: Final = HOUR  # seconds
_MOST_SEERS: Final = 50  # connections looked up for one list
MOST_HELD: Final = 500  # limit of a server's unaccepted tools, and of the tools in one list
_HOLD: Final = "update mcp_servers set name = name where tenant = :tenant and name = :server"
_ADD: Final = """
    insert into mcp_servers (tenant, name, url, title, facts, added_at, added_by)
    values (:tenant, :name, :url, :title, :facts, :now, :by)
    on conflict (tenant, name) do nothing returning name
"""
_SEE: Final = """
    insert into mcp_tools (tenant, server, name, seen, seen_at, seen_by)
    values (:tenant, :server, :name, :seen, :now, :by)
    on conflict (tenant, server, name) do update
    set seen = excluded.seen, seen_at = excluded.seen_at, seen_by = excluded.seen_by, is_absent = 0,
        is_left = case when mcp_tools.seen = excluded.seen then mcp_tools.is_left else 0 end
"""
_MISS: Final = """
    update mcp_tools set is_absent = 1 where tenant = :tenant and server = :server and name = :name
"""
_ACCEPT: Final = """
    update mcp_tools set accepted = seen, effect = :effect, asks = :asks, accepted_at = :now, accepted_by = :by,
        is_retired = 0, is_left = 0
    where tenant = :tenant and server = :server and name = :name and seen = :reviewed and is_absent = 0 returning name
"""
_FORGET: Final = """
    delete from mcp_tools where tenant = :tenant and server = :server and name = :name and accepted is null
"""
_RETIRE: Final = """
    update mcp_tools set is_retired = 1
    where tenant = :tenant and server = :server and name = :name and is_absent = 1 and accepted is not null
"""
_LEAVE: Final = """
    update mcp_tools set is_left = 1 where tenant = :tenant and server = :server and name = :name
"""
_FACTS: Final = "update mcp_servers set facts = :facts where tenant = :tenant and name = :name"
_DISABLE: Final = "update mcp_servers set is_disabled = :disabled where tenant = :tenant and name = :name"
_HELD: Final = """
    select s.name, s.title, count(*) as n
    from mcp_tools t join mcp_servers s on s.tenant = t.tenant and s.name = t.server
    where t.tenant = :tenant and t.is_left = 0 and t.is_absent = 0 and s.is_disabled = 0
        and (t.is_retired = 1 or t.accepted is null or t.accepted <> t.seen)
    group by s.name, s.title order by s.name
"""
_NAME: Final = """
    update mcp_tools set shown = :shown
    where tenant = :tenant and server = :server and name = :name and shown is null
"""


@immutable
class McpTool:
    """One tool of a server. `effect` and `asks` are the operator's decision, not the server's own claim."""

    name: str
    seen: str
    seen_by: str  # the connection that saw it last
    is_absent: bool  # that connection no longer sees it
    accepted: str | None
    effect: str
    asks: bool
    accepted_at: int | None
    shown: str | None  # its name here, once it was accepted
    is_retired: bool  # an operator acknowledged that it is gone
    seen_at: int
    is_left: bool  # an operator reviewed this form and left it out until it changes

    @property
    def state(self) -> str:
        """`new`, `changed`, `absent`, `retired`, `returned`, or `accepted`."""
        if self.is_retired:
            return "retired" if self.is_absent else "returned"
        if self.is_absent:
            return "absent"
        if self.accepted is None:
            return "new"
        return "accepted" if self.accepted == self.seen else "changed"


@immutable
class McpServer:
    """One server; `facts` is how it authorizes, as found when it was added."""

    name: str
    url: str
    title: str
    facts: Mapping[str, object]
    added_at: int
    tools: tuple[McpTool, ...] = ()
    is_disabled: bool = False

    @property
    def digest(self) -> str:
        """Identifies what an operator reviewed; changes as soon as anything is seen or decided differently."""
        shown = [[one.name, one.seen, one.accepted, one.is_absent, one.effect, one.asks] for one in self.tools]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()

    def tool(self, name: str) -> McpTool | None:
        """The tool with that name on the server."""
        return next((one for one in self.tools if one.name == name), None)


@immutable
class OfferChange:
    """What one read of a server's list changed, by the tools' names."""

    held: tuple[str, ...] = ()  # new, or different from the accepted form
    gone: tuple[str, ...] = ()
    back: tuple[str, ...] = ()  # back, or back to the accepted form
    left: tuple[str, ...] = ()  # back in the form that an operator left out

    @property
    def is_nothing(self) -> bool:
        return not (self.held or self.gone or self.back or self.left)


@immutable
class HeldTools:
    """How many tools of a server wait for an operator's review."""

    server: str
    title: str
    count: int


@immutable
class Acceptance:
    """An operator's acceptance of one tool: its effect on data, and whether people approve each call."""

    effect: str
    asks: bool
    reviewed: str = field(repr=False)  # the definition that the operator saw


async def list_servers(reader: Reader) -> tuple[McpServer, ...]:
    """All servers with their tools, in the order in which they were added."""
    return await _with_tools(reader, await reader.fetch(_TOOLS, {"tenant": TENANT}))


async def list_accepted(reader: Reader) -> tuple[McpServer, ...]:
    """All servers with only their accepted tools, in the accepted form, whatever a server offers now."""
    return await _with_tools(reader, await reader.fetch(_ACCEPTED, {"tenant": TENANT, "nothing": ""}))


async def _with_tools(reader: Reader, found: Sequence[Row]) -> tuple[McpServer, ...]:
    tools: dict[str, list[McpTool]] = {}
    for row in found:
        tools.setdefault(text(row, "server"), []).append(_tool_of(row))
    rows = await reader.fetch(_SERVERS, {"tenant": TENANT})
    return tuple(_server_of(row, tools.get(text(row, "name"), ())) for row in rows)


async def get_server(reader: Reader, name: str) -> McpServer | None:
    """The server with that name."""
    for row in await reader.fetch(_SERVERS, {"tenant": TENANT}):
        if text(row, "name") == name:
            found = await reader.fetch(_TOOLS_OF, {"tenant": TENANT, "server": name})
            return _server_of(row, [_tool_of(one) for one in found])
    return None


async def add_server(
    transaction: Transaction, name: str, *, url: str, title: str, facts: Mapping[str, object], by: str, now: int
) -> bool:
    """Store a server. False if one with this name exists."""
    values = {"tenant": TENANT, "name": name, "url": url, "title": title, "by": by, "now": now}
    row = await transaction.fetch_one(_ADD, {**values, "facts": json.dumps(facts)})
    return row is not None


async def remove_server(transaction: Transaction, name: str) -> bool:
    """Delete a server and its stored tools. False if there is none."""
    which = {"tenant": TENANT, "name": name}
    await transaction.execute("delete from mcp_tools where tenant = :tenant and server = :name", which)
    return await transaction.execute("delete from mcp_servers where tenant = :tenant and name = :name", which) > 0


async def see(
    transaction: Transaction, server: McpServer, offered: Mapping[str, str], *, by: str, now: int
) -> OfferChange:
    """Store what the connection `by` was offered, as canonical JSON by name. A tool that only this connection had seen,
    and no longer sees, is gone.

    A tool that an operator left out is kept even then, so that it doesn't wait again when it returns in the same form.

    Accounts may be offered different tools, so for an hour only the connection that saw a form can replace it. `server`
    is the result of `hold`.
    """
    held: list[str] = []
    gone: list[str] = []
    back: list[str] = []
    left: list[str] = []
    ended = await _find_ended(transaction, {one.seen_by for one in server.tools} - {by})
    for name in sorted(offered):
        seen, known = offered[name], server.tool(name)
        if known is not None and not known.is_absent:
            is_settled = known.seen_by != by and known.seen_by not in ended and now - known.seen_at < _SETTLED
            if known.seen == seen or (is_settled and known.state != "accepted"):
                continue
        named = {"tenant": TENANT, "server": server.name, "name": name, "seen": seen, "by": by, "now": now}
        await transaction.execute(_SEE, named)
        is_back = known is not None and known.accepted == seen and not known.is_retired
        is_left = known is not None and known.is_left and known.seen == seen
        (left if is_left else back if is_back else held).append(name)
    unknown = [one.name for one in server.tools if one.name not in offered and one.accepted is None and not one.is_left]
    is_full = len(unknown) + len(offered) > MOST_HELD
    for known in server.tools:
        which = {"tenant": TENANT, "server": server.name, "name": known.name}
        is_missed = known.name not in offered and (known.seen_by == by or known.seen_by in ended)
        if known.name in unknown and (is_missed or is_full):
            await transaction.execute(_FORGET, which)
            gone.append(known.name)
        elif is_missed and not known.is_absent:
            await transaction.execute(_MISS, which)
            gone.append(known.name)
    return OfferChange(tuple(held), tuple(gone), tuple(back), tuple(left))


async def _find_ended(reader: Reader, connection_ids: Iterable[str]) -> frozenset[str]:
    """The connections among these that have ended."""
    found: set[str] = set()
    for one in sorted(connection_ids)[:_MOST_SEERS]:
        if await reader.fetch_one(_IS_LIVE, {"tenant": TENANT, "id": one}) is None:
            found.add(one)
    return frozenset(found)


async def accept(
    transaction: Transaction, server: McpServer, wanted: Mapping[str, Acceptance], *, by: str, now: int
) -> tuple[str, ...]:
    """Let these tools be called in the form that was reviewed; returns the names of those that have changed since."""
    changed: list[str] = []
    for name, one in wanted.items():
        values = {"tenant": TENANT, "server": server.name, "name": name, "by": by, "now": now}
        values |= {"effect": one.effect, "asks": int(one.asks), "reviewed": one.reviewed}
        if await transaction.fetch_one(_ACCEPT, values) is None:
            changed.append(name)
    return tuple(changed)


async def hold(transaction: Transaction, name: str) -> McpServer | None:
    """The server, locked against other changes until the end of the transaction."""
    await transaction.execute(_HOLD, {"tenant": TENANT, "server": name})
    return await get_server(transaction, name)


async def forget(transaction: Transaction, server: McpServer, names: Iterable[str]) -> None:
    """Delete tools that the server no longer offers. The name of an accepted one stays taken."""
    for name in names:
        which = {"tenant": TENANT, "server": server.name, "name": name}
        await transaction.execute(_RETIRE, which)
        await transaction.execute(_FORGET, which)


async def leave(transaction: Transaction, server: McpServer, names: Iterable[str]) -> None:
    """Record that an operator leaves these tools out, in the form that `server` has."""
    for name in names:
        await transaction.execute(_LEAVE, {"tenant": TENANT, "server": server.name, "name": name})


async def set_facts(transaction: Transaction, name: str, facts: Mapping[str, object]) -> None:
    """Store how the server now authorizes."""
    await transaction.execute(_FACTS, {"tenant": TENANT, "name": name, "facts": json.dumps(facts)})


async def set_disabled(transaction: Transaction, name: str, *, is_disabled: bool) -> bool:
    """Stop offering a server's tools, or offer the accepted ones again. False if there is no such server."""
    return await transaction.execute(_DISABLE, {"tenant": TENANT, "name": name, "disabled": int(is_disabled)}) > 0


async def count_held(reader: Reader) -> tuple[HeldTools, ...]:
    """The servers with tools that wait for an operator's review, by name."""
    rows = await reader.fetch(_HELD, {"tenant": TENANT})
    return tuple(HeldTools(text(row, "name"), text(row, "title"), integer(row, "n")) for row in rows)


async def give_names(transaction: Transaction, server: McpServer, shown: Mapping[str, str]) -> None:
    """Give these tools names for agents; a tool that has a name keeps it."""
    for name, wanted in shown.items():
        await transaction.execute(_NAME, {"tenant": TENANT, "server": server.name, "name": name, "shown": wanted})


def _server_of(row: Row, tools: Sequence[McpTool]) -> McpServer:
    facts: object = json.loads(text(row, "facts"))
    return McpServer(
        text(row, "name"),
        text(row, "url"),
        text(row, "title"),
        {str(name): value for name, value in facts.items()} if isinstance(facts, dict) else {},  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- written above
        integer(row, "added_at"),
        tuple(tools),
        bool(integer(row, "is_disabled")),
    )


def _tool_of(row: Row) -> McpTool:
    return McpTool(
        text(row, "name"),
        text(row, "seen"),
        text(row, "seen_by"),
        bool(integer(row, "is_absent")),
        text_or_none(row, "accepted"),
        text(row, "effect"),
        bool(integer(row, "asks")),
        integer_or_none(row, "accepted_at"),
        text_or_none(row, "shown"),
        bool(integer(row, "is_retired")),
        integer(row, "seen_at"),
        bool(integer(row, "is_left")),
    )
