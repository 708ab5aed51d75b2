"""The answer of `connections`: a person's connections and their state, what this agent may use, and where to change it.

It reads the vault and calls no provider. `wait_for_change` waits for the person behind a connect link.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel

from server.deployment import Deployment
from server.mcp.offer.connections_spec import ConnectionEntry, ConnectionsInput, ConnectionsOutput
from vault import delegations, grants, shared_connections
from vault.records import Connection, Principal
from vault.refusals import GrantEnded

SEES_ALL: Final = "connections"  # the scope of a token that shows accounts that its agent may not use
WAIT: Final = 8.0  # seconds that a retry waits for the person who has just opened the link
_STEP: Final = 0.25  # seconds between reads of the database; another process may serve the page


async def look(deployment: Deployment, principal: Principal, arguments: BaseModel) -> ConnectionsOutput:
    """The connections of this principal's user that its client may see.

    A token without the scope `connections` sees only the accounts that its agent may use. Raises GrantEnded: a local
    client has no token that was checked before.
    """
    await check_live(deployment, principal)
    wanted = arguments.provider if isinstance(arguments, ConnectionsInput) else None
    if wanted is not None:
        found = deployment.catalog.get(wanted)
        wanted = found.name if found is not None else wanted
    now = deployment.now()
    known = await shared_connections.usable_by(deployment.database, principal.user_id, now=deployment.now())
    allowed = {
        delegation.connection_id: delegation.scopes
        for delegation in await delegations.list_for_client(
            deployment.database, principal.user_id, client_id=principal.client_id
        )
        if delegation.is_live(now)
    }
    if SEES_ALL not in principal.scopes:
        known = tuple(connection for connection in known if allowed.get(connection.id))
    entries = [
        _entry(connection, allowed.get(connection.id, frozenset()), now=now)
        for connection in known
        if wanted in (None, connection.provider)
    ]
    connected = {connection.provider for connection in known}
    trouble = await deployment.pages.trouble()
    return ConnectionsOutput(
        connections=entries,
        not_connected=[name for name in deployment.catalog.names if name not in connected and wanted in (None, name)],
        manage_url=deployment.url("/connections") if trouble is None else None,
        problem=trouble,
    )


async def check_live(deployment: Deployment, principal: Principal) -> None:
    """Raise GrantEnded unless the principal's grant is alive."""
    live = await grants.live_principal_facts(deployment.database, principal.grant_id)
    if live is None or live.grant.user_id != principal.user_id or live.grant.client_id != principal.client_id:
        raise GrantEnded("This agent's access to the vault has ended. Sign in again.")


def _entry(connection: Connection, yours: frozenset[str], *, now: int) -> ConnectionEntry:
    ends = connection.ends_at
    return ConnectionEntry(
        provider=connection.provider,
        account=connection.label,
        status=connection.status(now),
        ends_at=None if ends is None else datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ends_unless_used=connection.ends_unless_used,
        granted_scopes=sorted(connection.scopes),
        your_scopes=sorted(yours),
    )


async def wait_for_change(deployment: Deployment, principal: Principal) -> bool:
    """Wait up to 8 s for a connection or delegation of this user to change. False if nothing changed."""
    before = await _fingerprint(deployment, principal)
    try:
        async with asyncio.timeout(WAIT):
            # another process may make the change, so there is no event to wait for
            while await _fingerprint(deployment, principal) == before:  # noqa: ASYNC110
                await asyncio.sleep(_STEP)
    except TimeoutError:
        return False
    return True


async def _fingerprint(deployment: Deployment, principal: Principal) -> frozenset[tuple[object, ...]]:
    known = await shared_connections.usable_by(deployment.database, principal.user_id, now=deployment.now())
    allowed = await delegations.list_for_client(deployment.database, principal.user_id, client_id=principal.client_id)
    return frozenset(
        [
            *((item.id, item.generation, item.state.value) for item in known),
            *((item.connection_id, item.scopes, item.revoked_at) for item in allowed),
        ]
    )
