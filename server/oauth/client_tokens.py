"""Tokens of agents that act for themselves, for the operator's own APIs only (RFC 6749 §4.4).

MCP OAuth Client Credentials extension (2026-07-28). An operator allows each agent. These tokens have no grant: without
a person they reach no account, and our own endpoints refuse them. The `sub` is the client (RFC 9068 §2.2).
"""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.oauth.resources import own_audiences
from server.oauth.rules import CLIENT_CREDENTIALS, OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import TokenGrant, TokenRequest
from server.oauth.tokens import NO_GRANT, AccessClaims
from vault import apis, clients, replay
from vault.audit import audit
from vault.records import Client, ClientKind, Event, Grant
from vault.storage.database import Reader

MEMBER: Final = "client_credentials"  # in these clients' metadata: {"scopes": [...]}, empty for all of its APIs
LONGEST: Final = 300  # seconds; an API that only checks the signature notices the agent's removal this late
_REVOKED: Final = "client-token"  # purpose of ids of revoked tokens


def acts_for_nobody(client: Client) -> bool:
    """Whether an operator allows this agent to get tokens for itself."""
    is_confidential = client.kind is ClientKind.MANUAL and not client.is_public
    return is_confidential and CLIENT_CREDENTIALS in client.grant_types and MEMBER in client.metadata


def scope_limit(client: Client) -> frozenset[str] | None:
    """The only scopes that it can get; None for all scopes of its APIs."""
    member = client.metadata.get(MEMBER)
    named = member.get("scopes") if isinstance(member, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- parsed JSON
    listed: list[object] = named if isinstance(named, list) else []  # pyright: ignore[reportUnknownVariableType] -- parsed JSON
    return frozenset(one for one in listed if isinstance(one, str)) or None


async def issue_token(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """The client credentials grant for an own API. Raises OAuthError."""
    resource = _chosen_resource(asked)
    offered = await reachable_scopes(deployment, deployment.database, asked.client, resource=resource)
    if offered is None:
        raise OAuthError("invalid_target", "agents that act for themselves get tokens only for their own APIs")
    scopes = offered if asked.scopes is None else offered & asked.scopes
    if asked.scopes and not scopes:
        raise OAuthError("invalid_scope", "this agent can't get any of the requested scopes")
    spend_request(deployment, user_id=None, client_id=asked.client.id)
    event = Event("token.issued", client_id=asked.client.id, details={"scopes": sorted(scopes), "resource": resource})
    async with deployment.transaction() as transaction:
        await clients.touch(transaction, asked.client.id, now=asked.now)
        await audit.append(transaction, event, now=asked.now)
    nobody = Grant(
        id=NO_GRANT,
        user_id=asked.client.id,
        client_id=asked.client.id,
        scopes=scopes,
        resource=resource,
        redirect_uri="",
        created_at=asked.now,
    )
    return TokenGrant(nobody, scopes, resource, asks_anew=True, expires_at=asked.now + LONGEST)


def _chosen_resource(asked: TokenRequest) -> str:
    """What was requested, or the only API of the client (RFC 8707 §2)."""
    if asked.resource is not None:
        return asked.resource
    match asked.client.resources:
        case [resource]:
            return resource
        case _:
            raise OAuthError("invalid_target", "name the API in resource: this agent is bound to several")


async def reachable_scopes(
    deployment: Deployment, reader: Reader, client: Client, *, resource: str
) -> frozenset[str] | None:
    """The scopes that this agent can have at this API now; None if it can't have a token for it."""
    if not acts_for_nobody(client) or resource not in client.resources or not is_own_api(deployment, resource):
        return None
    registered = await apis.find_api(reader, resource)
    limit = scope_limit(client)
    if registered is None:
        return None
    return registered.scopes if limit is None else registered.scopes & limit


def is_own_api(deployment: Deployment, resource: str) -> bool:
    """Whether the URI is neither an audience of the vault itself nor an API that needs a person's permission."""
    is_permitted_by_people = any(one.audience == resource for one in deployment.catalog)
    return resource not in own_audiences(deployment) and not is_permitted_by_people


async def is_live(deployment: Deployment, claims: AccessClaims) -> bool:
    """Whether a token without a grant is valid now: its client can still have it, and it isn't revoked."""
    client = await clients.get_client(deployment.database, claims.client_id)
    if client is None:
        return False
    offered = await reachable_scopes(deployment, deployment.database, client, resource=claims.audience)
    if offered is None or not claims.scopes <= offered:
        return False
    return not await replay.is_seen(deployment.database, _REVOKED, claims.token_id, now=deployment.now())


async def revoke(deployment: Deployment, claims: AccessClaims, *, client_id: str) -> None:
    """End one token without a grant (RFC 7009 §2.1), if this client holds it."""
    if claims.client_id != client_id:
        return
    now = deployment.now()
    async with deployment.transaction() as transaction:
        is_first = await replay.first_use(transaction, _REVOKED, claims.token_id, expires_at=claims.expires_at, now=now)
        if is_first:
            event = Event("token.revoked", client_id=client_id, details={"token": claims.token_id})
            await audit.append(transaction, event, now=now)
