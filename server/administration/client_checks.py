"""Checks of agents that act for themselves: whether their APIs and scopes exist."""

from __future__ import annotations

from collections.abc import Iterator

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from server.oauth import client_tokens
from server.oauth.rules import CLIENT_CREDENTIALS
from vault import apis, clients
from vault.apis import Api
from vault.records import Client

CHECK = "own APIs"


async def check_client_tokens(deployment: Deployment) -> list[Finding]:
    """No findings if no agent acts for itself."""
    registered = await clients.list_with_grants(deployment.database, frozenset({CLIENT_CREDENTIALS}))
    agents = [one for one in registered if client_tokens.acts_for_nobody(one)]
    known = {one.resource: one for one in await apis.list_apis(deployment.database)}
    found = [finding for one in agents for finding in _check_agent(deployment, one, known)]
    return found or ([ok(CHECK, f"{len(agents)} agents act for themselves, at registered APIs")] if agents else [])


def _check_agent(deployment: Deployment, client: Client, known: dict[str, Api]) -> Iterator[Finding]:
    limit = client_tokens.scope_limit(client)
    for resource in client.resources:
        if not client_tokens.is_own_api(deployment, resource):
            sentence = f"{client.name} gets no tokens for {resource}: the vault or a provider file has this audience"
            fix = "give the provider file another audience, or register the agent again without this --resource"
            yield problem(CHECK, sentence, fix=fix)
        elif resource not in known:
            sentence = f"{client.name} gets no tokens for {resource}, which was removed"
            yield problem(CHECK, sentence, fix=f"token-vault apis add {resource}")
        elif limit is not None and not limit & known[resource].scopes:
            sentence = f"{client.name} gets only tokens without scopes for {resource}: the API has none of its scopes"
            fix = f"token-vault apis add {resource}, with --scope for each of its scopes"
            yield note(CHECK, sentence, fix=fix)
