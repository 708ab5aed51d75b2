"""Accounts that people connected earlier, and what they allow an agent to do with one."""

from __future__ import annotations

from collections.abc import Iterable

from server.deployment import Deployment
from vault import connections, delegations
from vault.records import Connection, Principal
from vault.storage.database import Transaction
from vault.upstream import Account, TokenAnswer


async def open_account(
    transaction: Transaction, deployment: Deployment, user_id: str, provider: str, answer: TokenAnswer
) -> Connection:
    """Store the account of this answer, with the requested scopes."""
    return await connections.open_connection(
        transaction,
        deployment.keys,
        user_id=user_id,
        provider=provider,
        answer=answer,
        asked=answer.scopes or frozenset(),
        policy=deployment.vault.policies[provider],
        now=deployment.now(),
    )


async def replace_token(deployment: Deployment, connection: Connection, token: str) -> None:
    """Store another token for the account, as if an earlier release had."""
    async with deployment.transaction() as transaction:
        account = Account(connection.account, connection.label)
        answer = TokenAnswer(token, None, connection.scopes, None, account)
        replaced = await open_account(transaction, deployment, connection.user_id, connection.provider, answer)
    assert replaced.id == connection.id


async def allow(deployment: Deployment, agent: Principal, connection: Connection, scopes: frozenset[str]) -> None:
    """Let the agent use these scopes of the account."""
    async with deployment.transaction() as transaction:
        await delegations.allow(transaction, **_ids(agent, connection), scopes=scopes, now=deployment.now())


async def set_ask(deployment: Deployment, agent: Principal, connection: Connection, ask: Iterable[str]) -> None:
    """Ask the person each time before calls that need these scopes, and before these tools."""
    which, wanted = _ids(agent, connection), frozenset(ask)
    async with deployment.transaction() as transaction:
        assert await delegations.set_ask(transaction, **which, ask=wanted, now=deployment.now())


async def revoke(deployment: Deployment, agent: Principal, connection: Connection) -> bool:
    """Revoke all permissions; False if there were none."""
    async with deployment.transaction() as transaction:
        return await delegations.revoke(transaction, **_ids(agent, connection), now=deployment.now())


def _ids(agent: Principal, connection: Connection) -> dict[str, str]:
    return {"user_id": agent.user_id, "client_id": agent.client_id, "connection_id": connection.id}
