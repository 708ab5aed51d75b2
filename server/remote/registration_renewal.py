"""Renews the vault's dynamic registrations at external MCP servers before their secrets expire (RFC 7592).

A renewed client stays the same, so accounts stay connected. If a server doesn't renew registrations, the vault
registers again when the secret expires: each account's next refresh is then refused, and its person is asked to
reconnect it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from providers.definitions.remote import RemoteAuthorization, authorization_of
from providers.remote.authorization import (
    AuthorizationUnknown,
    RemoteRegistration,
    end_registration,
    find_authorization,
    is_longer,
    read_client,
    register,
    update_client,
)
from server.connecting.provider_authorization import callback_url
from server.deployment import Deployment
from vault import registrations, replay
from vault.audit import audit
from vault.mcp import servers
from vault.mcp.servers import McpServer
from vault.notices.outbox import CLIENT_ENDING
from vault.records import Event
from vault.refusals import CiphertextRejected
from vault.registrations import ClientRenewal, EnteredRegistration, StoredRegistration

T = TypeVar("T")
_KEPT: Final = 30 * 86_400  # seconds after the end during which it isn't announced again
_LAST: Final = 3600  # seconds before the end at which the vault registers again if its client wasn't renewed
logger = logging.getLogger("token_vault.remote")


def entered_of(client: RemoteRegistration) -> EnteredRegistration:
    """Our client in the form in which the vault stores it."""
    renewal = ClientRenewal(client.ends_at, client.management_url, client.management_token)
    return EnteredRegistration(client.client_id, client.client_secret, renewal=renewal)


async def renew_due(deployment: Deployment, due: Sequence[StoredRegistration]) -> None:
    """Renew these registrations, one after the other; a server that can't be reached is asked again later."""
    now = deployment.now()
    for stored in due:
        server = await servers.get_server(deployment.database, stored.provider)
        if server is None:
            continue
        async with deployment.transaction() as transaction:
            if not await registrations.claim_renewal(transaction, stored, now=now):
                continue
        try:
            await _renew(deployment, server, stored)
        except (AuthorizationUnknown, CiphertextRejected) as error:
            logger.warning(
                "a registration at an MCP server wasn't renewed",
                extra={"provider": stored.provider, "cause": str(error), "ends_at": stored.secret_ends_at},
            )
        await _announce_end(deployment, stored.provider)


async def _announce_end(deployment: Deployment, name: str) -> None:
    """Record once that this registration ends and wasn't renewed, so that an admin is notified."""
    now = deployment.now()
    stored = await registrations.get_registration(deployment.database, name)
    if stored is None or stored.secret_ends_at is None or not stored.is_ending(now):
        return
    what, until = f"{name} {stored.client_id} {stored.secret_ends_at}", max(stored.secret_ends_at, now) + _KEPT
    details: dict[str, object] = {"provider": name, "client": stored.client_id, "ends_at": stored.secret_ends_at}
    async with deployment.transaction() as transaction:
        if await replay.first_use(transaction, CLIENT_ENDING, what, expires_at=until, now=now):
            await audit.append(transaction, Event(CLIENT_ENDING, details=details), now=now)


async def _renew(deployment: Deployment, server: McpServer, stored: StoredRegistration) -> None:
    facts = authorization_of(server.facts)
    if not isinstance(facts, RemoteAuthorization):
        return
    known = await _client_there(deployment, facts, stored)
    current = await _renew_there(deployment, server, stored, known, facts)
    if current.is_done or stored.secret_ends_at is None or deployment.now() < stored.secret_ends_at - _LAST:
        return
    policy = deployment.http.policy
    found = await find_authorization(server.url, deployment.http, policy=policy, issuer=facts.authorization_server)
    if found.registration_url is None:
        raise AuthorizationUnknown("its authorization server no longer lets clients register themselves")
    client = await register(found, callback_url(deployment, server.name), deployment.http, policy=policy)
    changed = replace(found.facts, client_auth=client.client_auth)
    kept = await _store(deployment, server, current.stored, client, changed, kind="mcp_server.client_replaced")
    await end_client(deployment, client if kept is None else current.client)


@dataclass(frozen=True, slots=True)
class RenewedClient:
    """Our client as its server knows it now, and as it is stored. `is_done`: its secret now expires later."""

    stored: StoredRegistration
    client: RemoteRegistration
    is_done: bool = False


async def _renew_there(
    deployment: Deployment,
    server: McpServer,
    stored: StoredRegistration,
    known: RemoteRegistration,
    facts: RemoteAuthorization,
) -> RenewedClient:
    """Renew the client at its server, and store each answer that changes it before the next request."""
    before, policy = RenewedClient(stored, known), deployment.http.policy
    if not known.management_url:
        return before
    shown = await _ask(deployment, stored, read_client(known, deployment.http, policy=policy))
    if shown is None:
        return before
    read = await _keep(deployment, server, before, shown.client, facts)
    if read is None or read.is_done:
        return read or replace(before, is_done=True)
    updated = await _ask(deployment, stored, update_client(shown, deployment.http, policy=policy))
    if updated is None:
        return read
    return await _keep(deployment, server, read, updated, facts) or replace(read, is_done=True)


async def _ask(deployment: Deployment, stored: StoredRegistration, answer: Awaitable[T | None]) -> T | None:
    """The answer; None if there is none and the secret has expired. Until it expires, raises AuthorizationUnknown."""
    try:
        return await answer
    except AuthorizationUnknown:
        if stored.secret_ends_at is None or deployment.now() < stored.secret_ends_at:
            raise
        return None


async def _keep(
    deployment: Deployment,
    server: McpServer,
    before: RenewedClient,
    client: RemoteRegistration,
    facts: RemoteAuthorization,
) -> RenewedClient | None:
    """Store the changes of an answer; None if an admin changed the registration meanwhile."""
    if client == before.client:
        return before
    is_done = is_longer(client, before.client)
    kind = "mcp_server.client_renewed" if is_done else None
    kept = await _store(deployment, server, before.stored, client, facts, kind=kind)
    return None if kept is None else RenewedClient(kept, client, is_done)


async def _client_there(
    deployment: Deployment, facts: RemoteAuthorization, stored: StoredRegistration
) -> RemoteRegistration:
    opened = await registrations.open_registration(deployment.database, deployment.keys, stored)
    place = await registrations.open_renewal(deployment.database, deployment.keys, stored)
    return RemoteRegistration(
        stored.client_id, opened.client_secret, facts.client_auth, place.ends_at, place.url, place.token
    )


async def _store(
    deployment: Deployment,
    server: McpServer,
    stored: StoredRegistration,
    client: RemoteRegistration,
    facts: RemoteAuthorization,
    *,
    kind: str | None,
) -> StoredRegistration | None:
    """Replace the stored client; None if an admin changed it meanwhile. Without `kind`, it must still be renewed."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        kept = await registrations.save_registration(
            transaction,
            deployment.keys,
            entered_of(client),
            provider=server.name,
            by=stored.changed_by,
            now=now if kind else stored.changed_at,
            known=stored,
        )
        if kept is None:
            return None
        await servers.set_facts(transaction, server.name, facts.facts())
        if kind is None:
            await registrations.claim_renewal(transaction, kept, now=now)
        else:
            details: dict[str, object] = {"provider": server.name, "client": client.client_id}
            await audit.append(transaction, Event(kind, details=details), now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)
    return kept


async def registration_there(
    deployment: Deployment, server: McpServer, stored: StoredRegistration
) -> RemoteRegistration | None:
    """Our client, if its secrets can be opened and the vault can end its registration; otherwise None."""
    facts = authorization_of(server.facts)
    if stored.sealed_renewal is None or not isinstance(facts, RemoteAuthorization):
        return None
    try:
        return await _client_there(deployment, facts, stored)
    except CiphertextRejected:
        return None


async def end_client(deployment: Deployment, client: RemoteRegistration) -> None:
    """Tell its authorization server that the vault's client is gone, if the server supports that."""
    try:
        await end_registration(client, deployment.http, policy=deployment.http.policy)
    except AuthorizationUnknown as error:
        logger.info("a registration wasn't ended", extra={"cause": str(error)})
