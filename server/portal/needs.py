"""Items that wait for the person: approvals, others' requests, accounts with problems, and for admins tools to review
and expiring registrations.

Used for the badge, the title, and the start page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from server.administration import access_requests
from server.deployment import Deployment
from vault import connections, registrations
from vault.approvals import approvals
from vault.approvals.access_requests import AccessRequest
from vault.approvals.approvals import Approval
from vault.mcp import imported_apis
from vault.mcp.servers import HeldTools, count_held
from vault.records import Connection, User
from vault.registrations import StoredRegistration

_TROUBLE: Final = frozenset({"needs_reauth", "expiring"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What waits, oldest question first."""

    approvals: tuple[Approval, ...] = ()
    connections: tuple[Connection, ...] = ()  # to reconnect, now or soon
    requests: tuple[AccessRequest, ...] = ()  # of others, which the person may answer
    held: tuple[HeldTools, ...] = ()  # by server, for admins
    imports: tuple[str, ...] = ()  # names of APIs, for admins
    ending: tuple[StoredRegistration, ...] = ()  # of the vault at MCP servers, for admins
    owned: tuple[Connection, ...] = ()  # all accounts of the person, for pages that show them; they don't count

    @property
    def count(self) -> int:
        own = len(self.approvals) + len(self.connections) + len(self.requests)
        return own + len(self.held) + len(self.imports) + len(self.ending)


async def read_needs(deployment: Deployment, user: User) -> Needs:
    """What waits for this person now."""
    now = deployment.now()
    asked = await approvals.list_pending(deployment.database, deployment.keys, user.id, now=now)
    owned = await connections.list_connections(deployment.database, user.id)
    troubled = [one for one in owned if one.status(now) in _TROUBLE]
    requests = await access_requests.to_answer(deployment, user)
    troubled.sort(key=lambda one: one.status(now) != "needs_reauth")
    found = Needs(asked, tuple(troubled), requests, owned=owned)
    if not user.role.administers:
        return found
    reader = deployment.database
    return replace(
        found,
        held=await count_held(reader),
        imports=await imported_apis.list_waiting(reader),
        ending=await registrations.list_ending(reader, now=now),
    )
