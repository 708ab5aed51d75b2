"""Export accounts from this vault: a JSON document with their tokens, encrypted to the operator's age key.

The document, version 1: `format`, `version`, `exported_at`, `vault` (its address), and `accounts`, each with `user`,
`provider`, `account` (the provider's id), `label`, `nickname`, `scopes`, `client_id` (of the OAuth app that the tokens
belong to), `refresh_token`, or `access_token` if the provider gives no refresh token, `grant_expires_at` (Unix time, or
null), `metadata`, and `connected_at`. `import token-vault` reads it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from server.administration.actor import Actor
from server.administration.sealed_files import FORMAT, seal
from server.sign_in.identities import is_identity_name
from vault import connections, groups, users
from vault.audit import audit
from vault.backup.exports import HeldTokens, open_tokens
from vault.groups import Group
from vault.records import Connection, ConnectionState, User

BATCH = 500  # events per transaction
_GROUPS = 500  # per page
DEAD = "its owner must reconnect it first"
BUSY = "is being refreshed: export again in a minute"
SHUT = "its tokens can't be opened"
SHARED = "it belongs to a group: connect it again in the other vault, and give it to the group there"
VOUCHED = "an identity provider connects it: its owner must sign in with that provider in the other vault"
ENDING = "nothing renews its access token: its owner must connect it again in the other vault"


@dataclass(frozen=True, slots=True)
class ExportedAccount:
    """One account and its tokens; `obstacle` is the reason if it is left out."""

    owner: User | Group
    connection: Connection
    tokens: HeldTokens | None = field(repr=False, default=None)
    obstacle: str = ""


async def collect(
    actor: Actor, *, person: User | None = None, provider: str | None = None
) -> tuple[ExportedAccount, ...]:
    """The live accounts of everyone or one person, at all providers or one. Records nothing yet.

    Without a person, names the accounts of groups, too, which are left out.
    """
    found = [one async for one in _walk(actor, person=person, provider=provider)]
    if person is None:
        found += [one async for one in _walk_groups(actor, provider=provider)]
    return tuple(found)


async def _walk(actor: Actor, *, person: User | None, provider: str | None) -> AsyncGenerator[ExportedAccount]:
    deployment = actor.deployment
    pages = users.walk_users(deployment.database) if person is None else _only(person)
    async for page in pages:
        for owner in page:
            for one in await connections.list_connections(deployment.database, owner.id):
                if provider in {None, one.provider} and not _is_left_behind(actor, one):
                    yield await _read(actor, owner, one)


async def _walk_groups(actor: Actor, *, provider: str | None) -> AsyncGenerator[ExportedAccount]:
    reader, after = actor.deployment.database, ""
    while True:
        page, after = await groups.list_page(reader, after=after, limit=_GROUPS)
        for group in page:
            for one in await connections.list_connections(reader, group.id):
                if provider in {None, one.provider}:
                    yield ExportedAccount(group, one, obstacle=SHARED)
        if not after:
            return


def _is_left_behind(actor: Actor, connection: Connection) -> bool:
    """Whether there is nothing to move: your own APIs have no tokens, and a sign-in at the other vault gets others."""
    known = actor.deployment.catalog.get(connection.provider)
    return is_identity_name(connection.provider) if known is None else known.audience is not None


async def _only(person: User) -> AsyncGenerator[tuple[User, ...]]:
    yield (person,)


async def _read(actor: Actor, owner: User, connection: Connection) -> ExportedAccount:
    if connection.renewed_by is not None:
        return ExportedAccount(owner, connection, obstacle=VOUCHED)
    if connection.state is not ConnectionState.ACTIVE:
        return ExportedAccount(owner, connection, obstacle=DEAD)
    if connection.is_ambiguous:
        return ExportedAccount(owner, connection, obstacle=BUSY)
    tokens = await open_tokens(actor.deployment.database, actor.deployment.keys, connection)
    if tokens is None:
        return ExportedAccount(owner, connection, obstacle=SHUT)
    if tokens.refresh_token is None and connection.access_expires_at is not None:
        return ExportedAccount(owner, connection, obstacle=ENDING)
    return ExportedAccount(owner, connection, tokens)


async def export(actor: Actor, accounts: Sequence[ExportedAccount], *, recipients: tuple[str, ...]) -> bytes:
    """The encrypted document. The export is recorded in each person's activity before the document is returned.

    Raises SealRefused.
    """
    now = actor.deployment.now()
    sealed = seal(document(actor, accounts).encode(), recipients=recipients)
    for start in range(0, len(accounts), BATCH):
        async with actor.change() as transaction:
            for one in accounts[start : start + BATCH]:
                event = actor.event(
                    "connection.exported",
                    user_id=one.owner.id,
                    provider=one.connection.provider,
                    account=one.connection.label,
                    recipients=list(recipients),
                )
                await audit.append(transaction, replace(event, connection_id=one.connection.id), now=now)
    return sealed


def document(actor: Actor, accounts: Sequence[ExportedAccount]) -> str:
    """The accounts as JSON, with their tokens."""
    deployment = actor.deployment
    content = {
        "format": FORMAT,
        "version": 1,
        "exported_at": deployment.now(),
        "vault": deployment.public_url,
        "accounts": [_entry(actor, one, one.tokens) for one in accounts if one.tokens is not None],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def _entry(actor: Actor, one: ExportedAccount, tokens: HeldTokens) -> dict[str, object]:
    connection = one.connection
    provider = actor.deployment.catalog.get(connection.provider)
    token = {"access_token": tokens.access_token} if tokens.refresh_token is None else {}
    return {
        "user": one.owner.name,
        "provider": connection.provider,
        "account": connection.account,
        "label": connection.label,
        "nickname": connection.nickname,
        "scopes": sorted(connection.scopes),
        "client_id": None if provider is None else provider.registration.client_id,
        "refresh_token": tokens.refresh_token,
        **token,
        "grant_expires_at": connection.grant_expires_at,
        "metadata": dict(connection.metadata),
        "connected_at": connection.created_at,
    }
