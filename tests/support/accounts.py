"""Accounts that people connected earlier: stored as an answer of their provider would be."""

from __future__ import annotations

from server.deployment import Deployment
from vault import connections
from vault.records import Connection
from vault.storage.database import Transaction
from vault.upstream import TokenAnswer


async def open_account(
    transaction: Transaction, deployment: Deployment, user_id: str, provider: str, answer: TokenAnswer
) -> Connection:
    """Store the account of this answer, which has the scopes that were asked for."""
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
