"""Service accounts: programs that use the Admin API without a person present (RFC 6749 §4.4).

An operator creates one in the name of an admin, with the grant behind all its tokens. A token request only looks up
that grant: if it ends, on the admin's Agents page or with the admin's account, an operator must create another service
account.
"""

from __future__ import annotations

from server.deployment import Deployment
from server.oauth import client_tokens
from server.oauth.rules import CLIENT_CREDENTIALS, OAuthError, admin_resource
from server.oauth.token_rate import spend_request
from server.oauth.token_request import TokenGrant, TokenRequest
from server.sign_in import roles
from vault import clients, grants, users
from vault.audit import audit
from vault.records import Client, Event


def is_service_account(client: Client) -> bool:
    """Whether the client uses the Admin API without a sign-in."""
    return CLIENT_CREDENTIALS in client.grant_types and not client_tokens.acts_for_nobody(client)


async def issue_token(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """The client credentials grant, also of agents that act for themselves. Raises OAuthError."""
    if client_tokens.acts_for_nobody(asked.client):
        return await client_tokens.issue_token(deployment, asked)
    resource = admin_resource(deployment.public_url)
    if asked.resource not in {None, resource}:
        raise OAuthError("invalid_target", f"service accounts get tokens for {resource} only")
    held = await grants.find_of_client(deployment.database, asked.client.id, resource=resource)
    person = None if held is None else await users.get_user(deployment.database, held.user_id)
    if person is not None:
        person = await roles.with_groups(deployment, person)
    if held is None or person is None or not person.has_agents or not person.role.administers:
        raise OAuthError("invalid_grant", "this service account has ended: ask an operator for a new one")
    scopes = held.scopes if asked.scopes is None else held.scopes & asked.scopes
    if not scopes:
        raise OAuthError("invalid_scope", "this service account has none of the requested scopes")
    spend_request(deployment, user_id=held.user_id, client_id=asked.client.id)
    event = Event(
        "token.issued",
        user_id=held.user_id,
        client_id=asked.client.id,
        details={"grant": held.id, "scopes": sorted(scopes), "resource": resource},
    )
    async with deployment.transaction() as transaction:
        await clients.touch(transaction, asked.client.id, now=asked.now)
        await audit.append(transaction, event, now=asked.now)
    return TokenGrant(held, scopes, resource)
