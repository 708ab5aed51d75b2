"""A user, an agent and a grant in a real database, for tests of what depends on them."""

from __future__ import annotations

from dataclasses import dataclass

from vault import clients, grants, tickets, users
from vault.keys.key_ring import KeyRing
from vault.records import Client, ClientKind, Grant, User
from vault.storage.database import Database, Transaction
from vault.tickets import TicketPurpose
from vault.tokens.tokens import Lifetimes

NOW = 1_800_000_000
SESSION_IDLE, SESSION_LIFETIME = 12 * 3600, 7 * 86400
LIFETIMES = Lifetimes(absolute=365 * 86400, idle=90 * 86400, grace=600)
RESOURCE = "https://vault.example/mcp"
REDIRECT = "http://127.0.0.1/callback"
SCOPES = frozenset({"tools", "connections", "offline_access"})


@dataclass(frozen=True, slots=True)
class SeededGrant:
    user: User
    client: Client
    grant: Grant


def agent(client_id: str = "agent-1", *, kind: ClientKind = ClientKind.DYNAMIC, created_at: int = NOW) -> Client:
    return Client(
        id=client_id,
        kind=kind,
        name="An agent",
        auth_method="none",
        redirect_uris=(REDIRECT,),
        created_at=created_at,
        registration_hash=b"r" * 32,
        metadata={"client_uri": "https://agent.example"},
    )


async def allow(database: Database, user: User, client: Client, *, resource: str = RESOURCE) -> Grant:
    async with database.transaction() as transaction:
        return await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=client.id,
            scopes=SCOPES,
            resource=resource,
            redirect_uri=REDIRECT,
            now=NOW,
        )


async def seed(database: Database, *, name: str = "alice", client_id: str = "agent-1") -> SeededGrant:
    async with database.transaction() as transaction:
        user = await users.create_user(transaction, name, password_hash="$argon2id$stored", now=NOW)
        client = agent(client_id)
        await clients.save_client(transaction, client)
    return SeededGrant(user, client, await allow(database, user, client))


async def let_in_again(database: Database) -> None:
    """Every person signs in the agents that a restore signed out; for brevity, under the same grants."""
    async with database.transaction() as transaction:
        await transaction.execute(
            "update grants set revoked_at = null, revoked_reason = null where revoked_reason = :restored",
            {"restored": "restored"},
        )


async def issue_code(transaction: Transaction, ring: KeyRing, *, at: int = NOW, **whose: str) -> str:
    """An authorization code that hasn't been used."""
    return await tickets.issue(transaction, ring, purpose=TicketPurpose.CODE, payload={}, lifetime=600, now=at, **whose)
