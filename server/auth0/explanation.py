"""Why the Auth0 interface refuses an application: the preconditions before the exchange itself. Changes nothing.

Auth0's clients show the same error for all of them; here, each step has its own sentence and fix.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from server.auth0.names import provider_of
from server.deployment import Deployment
from server.oauth.clients.auth0 import MEMBER
from server.oauth.exchange import release, workers
from server.oauth.rules import EXCHANGE_SCOPE, TOKEN_EXCHANGE
from vault import apis, grants
from vault.records import Client, ClientKind, User
from vault.upstream import Downscope


@dataclass(frozen=True, slots=True)
class WireStep:
    """One precondition; it fails if it has a `fix`."""

    step: str
    sentence: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class WireQuestion:
    """The application, the person, and the connection, by Auth0's name, our name, or its ID."""

    client: Client
    person: User | None
    connection: str
    provider: str | None = None  # the connection's provider, if found


Found = tuple[str, str] | None  # sentence and fix
Check = Callable[[Deployment, WireQuestion], Awaitable[Found]]


async def explain_wire(deployment: Deployment, question: WireQuestion) -> Sequence[WireStep]:
    """All steps, each checked independently."""
    found: list[WireStep] = []
    for name, check in _CHECKS.items():
        failure = await check(deployment, question)
        found.append(WireStep(name) if failure is None else WireStep(name, *failure))
    return found


def is_about_auth0(client: Client) -> bool:
    """Whether an operator registered this application for Auth0's interface, even if it is turned off."""
    return client.metadata.get(MEMBER) is True


async def _check_setting(deployment: Deployment, question: WireQuestion) -> Found:
    if deployment.settings.auth0.enabled:
        return None
    return "Auth0's interface is turned off, so /oauth/token and /me/v1 answer 404.", "set auth0.enabled = true"


async def _issuer(deployment: Deployment, question: WireQuestion) -> Found:
    if deployment.issuer.endswith("/"):
        return None
    sentence = "The issuer doesn't end with a slash, and most of Auth0's SDKs require one."
    return sentence, "set server.issuer_slash = true"


async def _registration(deployment: Deployment, question: WireQuestion) -> Found:
    client = question.client
    if client.kind is ClientKind.MANUAL and is_about_auth0(client):
        return None
    sentence = f"{client.name} isn't registered for this interface, so its sign-in includes no permission to exchange."
    return sentence, "register it with token-vault clients add NAME --auth0"


async def _secret(deployment: Deployment, question: WireQuestion) -> Found:
    if not question.client.is_public:
        return None
    sentence = f"{question.client.name} has no secret or key, and public clients get no provider tokens."
    return sentence, "register its back end with --confidential or --key"


async def _grant_type(deployment: Deployment, question: WireQuestion) -> Found:
    if TOKEN_EXCHANGE in question.client.grant_types:
        return None
    return f"{question.client.name} isn't allowed to exchange tokens.", "register it with --auth0 or --exchange"


async def _connection_name(deployment: Deployment, question: WireQuestion) -> Found:
    if question.provider is not None or provider_of(deployment, question.connection) is not None:
        return None
    sentence = f"The connection {question.connection} has no provider."
    return sentence, f'name it in auth0.connections: "{question.connection}" = "PROVIDER"'


async def _provider(deployment: Deployment, question: WireQuestion) -> Found:
    name = _provider_name(deployment, question)
    if name is None or ((held := deployment.vault.upstreams.get(name)) is not None and held.is_configured):
        return None
    return f"{name} isn't set up on this vault.", f"token-vault providers setup {name}"


async def _sign_in(deployment: Deployment, question: WireQuestion) -> Found:
    client, person = question.client, question.person
    if person is None or not client.redirect_uris:
        return None
    held = [one for one in await grants.list_grants(deployment.database, person.id) if one.client_id == client.id]
    if not held:
        return f"{person.name} isn't signed in at {client.name}.", "have the person sign in at the application"
    if not any(EXCHANGE_SCOPE in one.scopes for one in held):
        sentence = f"{person.name} signed in at {client.name} before it was allowed to exchange."
        return sentence, "have the person sign out of the application and sign in again"
    return None


async def _refresh_token(deployment: Deployment, question: WireQuestion) -> Found:
    if "refresh_token" in question.client.grant_types or not question.client.redirect_uris:
        return None
    return f"{question.client.name} gets no refresh tokens to exchange.", "register it with --auth0"


async def _api(deployment: Deployment, question: WireQuestion) -> Found:
    """Check an application without its own sign-in, which exchanges the access tokens that it receives as an API."""
    client, database = question.client, deployment.database
    if client.redirect_uris or workers.MEMBER in client.metadata:
        return None
    for one in await apis.list_apis(database):
        if await apis.is_linked(database, one.resource, client_id=client.id):
            return None
    sentence = f"{client.name} isn't linked to an API, so every access token that it presents has the wrong audience."
    return sentence, f"token-vault apis add URL --client {client.id}"


async def _release(deployment: Deployment, question: WireQuestion) -> Found:
    name = _provider_name(deployment, question)
    if name is None or (policy := deployment.vault.policies.get(name)) is None:
        return None
    if policy.is_remote:
        sentence = f"{name} is an MCP server: its tokens can't leave the vault."
        return sentence, f"have the application call its tools at {deployment.url('/mcp')}"
    chosen = release.policy_of(question.client, provider=name, connection_id=question.connection)
    narrows = policy.downscope is not Downscope.NONE
    if chosen is release.ReleasePolicy.FULL or (chosen is release.ReleasePolicy.NARROWED and narrows):
        return None
    sentence = f"{question.client.name} may not receive a token of {name} (release policy {chosen.value})."
    return sentence, f"token-vault clients release {question.client.id} {name} full"


def _provider_name(deployment: Deployment, question: WireQuestion) -> str | None:
    if question.provider is not None:
        return question.provider
    found = provider_of(deployment, question.connection)
    return None if found is None else found.name


_CHECKS: Final[dict[str, Check]] = {
    "wire": _check_setting,
    "issuer": _issuer,
    "registered": _registration,
    "secret": _secret,
    "grant type": _grant_type,
    "name": _connection_name,
    "set up": _provider,
    "sign-in": _sign_in,
    "refresh": _refresh_token,
    "api": _api,
    "release": _release,
}
