"""A backend to try token exchange with: a client with a secret, and a token for it from the owner.

As over stdio, anyone who can read the data directory counts as its owner, so there is no sign-in. The person decides
what the client may use: in the sandbox, a script agrees; on any other vault, the first answer has a link.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import httpx2

from server.demo.person import DemoFailed, DemoPerson
from server.deployment import Deployment
from server.oauth import tokens
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import EXCHANGE_SCOPE, TOKEN_EXCHANGE
from server.sign_in.password import owner_link
from vault import apis, clients, grants
from vault.audit import audit
from vault.records import Client, ClientKind, Event, Grant, User, new_id
from vault.storage.database import Transaction

NAME: Final = "Try exchange"
API: Final = "https://api.example/v1"
BACK: Final = "https://back.example/"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
READONLY: Final = "https://www.googleapis.com/auth/calendar.events.readonly"
SCOPES: Final = frozenset({"tools", EXCHANGE_SCOPE})
_REDIRECT: Final = "https://invoices.example/callback"


async def make_backend(deployment: Deployment, user: User) -> dict[str, str]:
    """The shell variables for a new backend; the previous backend is removed."""
    secret = secrets.token_urlsafe(32)
    async with deployment.transaction() as transaction:
        client, grant = await _make_client(transaction, deployment, user, NAME, secret=secret)
    token, _ = tokens.mint(deployment, grant, scopes=SCOPES, audience=grant.resource, now=deployment.now())
    return {
        "VAULT": deployment.public_url,
        "CLIENT_ID": client.id,
        "CLIENT_SECRET": secret,
        "ACCESS_TOKEN": token,
    }


async def make_sandbox(deployment: Deployment, user: User) -> dict[str, str]:
    """The variables of a backend and of an API, both with a person's permissions, and a handle for the backend."""
    backend = await make_backend(deployment, user)
    secret = secrets.token_urlsafe(32)
    async with deployment.transaction() as transaction:
        now = deployment.now()
        api, _ = await _make_client(transaction, deployment, user, f"{NAME}: API", secret=secret, resources=(BACK,))
        _, grant = await _make_client(transaction, deployment, user, f"{NAME}: page", resource=API)
        for resource in (API, BACK):
            await apis.add_api(transaction, resource, name=resource, now=now)
            await apis.link_client(transaction, resource, client_id=api.id, now=now)
    token, _ = tokens.mint(deployment, grant, scopes=SCOPES, audience=API, now=now)
    made = {"API_ID": api.id, "API_SECRET": secret, "RECEIVED_TOKEN": token}
    async with (
        DemoPerson(deployment.public_url) as person,
        httpx2.AsyncClient(base_url=deployment.public_url, timeout=30, trust_env=False) as http,
    ):
        await person.open(await owner_link(deployment, user.id))
        exchanges = [
            ((backend["CLIENT_ID"], backend["CLIENT_SECRET"]), backend["ACCESS_TOKEN"], "google", READONLY),
            ((api.id, secret), token, "slack", "channels:read"),
            ((backend["CLIENT_ID"], backend["CLIENT_SECRET"]), backend["ACCESS_TOKEN"], "slack", "chat:write"),
        ]
        handle = ""
        for credentials, subject, audience, scope in exchanges:
            handle = await _exchange(http, person, credentials, _form(subject, audience, scope))
    slack = deployment.catalog.provider("slack").apis["web"]
    return {**backend, **made, "SLACK_API": slack, "HANDLE": handle}


def curl_line(variables: Mapping[str, str], *, audience: str = "slack", scope: str = "chat:write") -> str:
    """An exchange as one complete command line."""
    form = " ".join(f"-d {name}={value}" for name, value in _form(variables["ACCESS_TOKEN"], audience, scope).items())
    return f"curl -s {variables['VAULT']}/token -u {variables['CLIENT_ID']}:{variables['CLIENT_SECRET']} {form}"


def _form(subject: str, audience: str, scope: str) -> dict[str, str]:
    return {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token_type": ACCESS_TOKEN,
        "subject_token": subject,
        "audience": audience,
        "scope": scope,
    }


async def _exchange(
    http: httpx2.AsyncClient, person: DemoPerson, credentials: tuple[str, str], form: Mapping[str, str]
) -> str:
    """The token from an exchange; the person opens the link if the answer has one."""
    answer = (await http.post("/token", data=dict(form), auth=credentials)).json()
    if "connect_uri" in answer:
        await person.connect(str(answer["connect_uri"]), account="alice")
        answer = (await http.post("/token", data=dict(form), auth=credentials)).json()
    if "access_token" not in answer:
        raise DemoFailed(f"the exchange for {form['audience']} failed: {answer.get('error_description', answer)}")
    return str(answer["access_token"])


async def _make_client(
    transaction: Transaction,
    deployment: Deployment,
    user: User,
    name: str,
    *,
    secret: str | None = None,
    resource: str = "",
    resources: tuple[str, ...] = (),
) -> tuple[Client, Grant]:
    """The client, signed in as the user; earlier clients of the same name are removed."""
    now = deployment.now()
    for former in await clients.list_of_user(transaction, user.id, name=name):
        if former.kind is ClientKind.MANUAL:
            await clients.remove_client(transaction, former.id, now=now)
            await audit.append(transaction, Event(kind="client.removed", client_id=former.id), now=now)
    client = Client(
        id=new_id(),
        kind=ClientKind.MANUAL,
        name=name,
        auth_method="none" if secret is None else "client_secret_basic",
        redirect_uris=(_REDIRECT,),
        grant_types=frozenset({"authorization_code", "refresh_token", TOKEN_EXCHANGE}),
        resources=resources,
        secret_hash=None if secret is None else secret_hash(secret),
        created_at=now,
    )
    await clients.save_client(transaction, client)
    await audit.append(
        transaction, Event(kind="client.registered", client_id=client.id, details={"kind": client.kind.value}), now=now
    )
    grant = await grants.create_grant(
        transaction,
        user_id=user.id,
        client_id=client.id,
        scopes=SCOPES,
        resource=resource or deployment.url("/mcp"),
        redirect_uri=_REDIRECT,
        now=now,
    )
    details = {"method": "try-exchange", "grant": grant.id}
    event = Event(kind="grant.created", user_id=user.id, client_id=client.id, details=details)
    await audit.append(transaction, event, now=now)
    return client, grant
