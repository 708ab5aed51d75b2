"""What an exchange by one agent for one account would give at `/token`, for `explain` and the Admin API.

`vault.exchange.explain` checks the preconditions; this adds what the client's release policy hands out, and what
companies' rules say. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from server.administration.explanations.companies import CompanyStep, explain_companies
from server.deployment import Deployment
from server.oauth.exchange import release
from server.oauth.rules import TOKEN_EXCHANGE
from vault import shared_connections
from vault.exchange.explain import ExchangeQuestion, Explanation, explain
from vault.records import Client, Narrowing, User


@dataclass(frozen=True, slots=True)
class HandedOut:
    """How this client receives an upstream token over HTTP."""

    policy: str
    gives: Literal["nothing", "handle", "upstream token"]
    narrowing: str | None


@dataclass(frozen=True, slots=True)
class ExplainedExchange:
    """`handed_out` is None if the exchange would be refused."""

    explanation: Explanation
    handed_out: HandedOut | None
    companies: Sequence[CompanyStep]


async def explain_exchange(
    deployment: Deployment, question: ExchangeQuestion, *, client: Client | None, owner: User | None
) -> ExplainedExchange:
    """Every precondition, what the client would receive, and companies' rules for it. None: nobody has this name."""
    found = await explain(question, vault=deployment.vault, now=deployment.now())
    handed_out = None
    if found.first_failure is None and client is not None and owner is not None:
        handed_out = await _handed_out(deployment, question, found, client=client, owner=owner)
    companies = () if client is None else await explain_companies(deployment, client, owner)
    return ExplainedExchange(found, handed_out, companies)


async def _handed_out(
    deployment: Deployment, question: ExchangeQuestion, found: Explanation, *, client: Client, owner: User
) -> HandedOut | None:
    connection = await shared_connections.usable(
        deployment.database, question.connection_id, user_id=owner.id, now=deployment.now()
    )
    if connection is None:
        return None
    policy = release.policy_of(client, provider=connection.provider, connection_id=connection.id)
    expires = connection.access_expires_at is not None
    narrowing = release.released_narrowing(policy, Narrowing(found.narrowing), expires=expires)
    gives: Literal["nothing", "handle", "upstream token"] = "handle" if narrowing is None else "upstream token"
    provider = deployment.catalog.get(connection.provider)
    if TOKEN_EXCHANGE not in client.grant_types or found.asks or (provider is not None and provider.is_remote):
        gives = "nothing"
    return HandedOut(policy.value, gives, narrowing=None if narrowing is None else narrowing.value)
