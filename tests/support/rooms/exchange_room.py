"""A running vault with Slack and Google at the simulator, clients of every kind, and token exchange over plain HTTP."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from joserfc.jwk import ECKey

from server.oauth import tokens
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.inspection import get_grant, read_events
from tests.support.rooms.mcp_room import SLACK, Agent, Room, room
from tests.support.rooms.oauth_world import sign_jwt
from vault import apis, clients, grants, users
from vault.records import Client, ClientKind, Connection, Event, Principal, User, new_id
from vault.tokens import tokens as refresh_tokens

ACCESS = "urn:ietf:params:oauth:token-type:access_token"
REFRESH = "urn:ietf:params:oauth:token-type:refresh_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
API = "https://api.example/v1"
EVENTS = "https://www.googleapis.com/auth/calendar.events"
READONLY = "https://www.googleapis.com/auth/calendar.events.readonly"
GOOGLE = frozenset({EVENTS, READONLY})
SECRET = "s" * 43
SCOPES = frozenset({"tools", "exchange"})


@dataclass(frozen=True)
class Caller:
    """A client that can exchange, and how it authenticates."""

    client: Client
    credentials: Mapping[str, str] = field(repr=False)


@dataclass
class ExchangeRoom:
    """The room, with what an exchange needs."""

    room: Room
    http: httpx2.AsyncClient

    @property
    def url(self) -> str:
        return self.room.url

    @property
    def deployment(self):
        return self.room.vault.deployment

    def now(self) -> int:
        return self.deployment.now()

    async def caller(
        self,
        *,
        kind: ClientKind = ClientKind.MANUAL,
        public: bool = False,
        grant_types: tuple[str, ...] = ("authorization_code", "refresh_token", TOKEN_EXCHANGE),
        resources: tuple[str, ...] = (),
        auth_method: str | None = None,
        redirect_uris: tuple[str, ...] = ("https://app.example/callback",),
        **metadata: object,
    ) -> Caller:
        client = Client(
            id=new_id(),
            kind=kind,
            name="Invoices",
            auth_method=auth_method or ("none" if public else "client_secret_post"),
            redirect_uris=redirect_uris,
            created_at=self.now(),
            grant_types=frozenset(grant_types),
            secret_hash=None if public else secret_hash(SECRET),
            resources=resources,
            metadata=metadata,
        )
        async with self.deployment.transaction() as transaction:
            await clients.save_client(transaction, client)
        credentials = {"client_id": client.id} | ({} if public else {"client_secret": SECRET})
        return Caller(client, credentials)

    async def user(self, name: str = "alice") -> User:
        found = await users.find_user(self.deployment.database, name)
        if found is not None:
            return found
        async with self.deployment.transaction() as transaction:
            return await users.create_user(transaction, name, now=self.now())

    async def agent(
        self,
        caller: Caller,
        name: str = "alice",
        *,
        scopes: frozenset[str] = SCOPES,
        audience: str | None = None,
        key_thumbprint: str | None = None,
        **minting: object,
    ) -> Agent:
        """The caller with a grant and an access token of this user."""
        user, resource = await self.user(name), audience or f"{self.url}/mcp"
        async with self.deployment.transaction() as transaction:
            grant = await grants.create_grant(
                transaction,
                user_id=user.id,
                client_id=caller.client.id,
                scopes=scopes,
                resource=resource,
                redirect_uri="https://app.example/callback",
                now=self.now(),
            )
        token, _ = tokens.mint(
            self.deployment,
            grant,
            scopes=scopes,
            audience=resource,
            now=self.now(),
            key_thumbprint=key_thumbprint,
            **minting,
        )
        return Agent(Principal(user.id, caller.client.id, grant.id, scopes, resource), token)

    async def refresh_token(self, agent: Agent, *, scopes: frozenset[str] = SCOPES) -> str:
        grant = await get_grant(self.deployment.database, agent.principal.grant_id)
        assert grant is not None
        async with self.deployment.transaction() as transaction:
            return await refresh_tokens.issue_refresh_token(
                transaction,
                grant,
                scopes=scopes,
                resource=grant.resource,
                now=self.now(),
                lifetimes=self.deployment.refresh_lifetimes,
            )

    async def link(self, caller: Caller, api: str = API, *, scopes: frozenset[str] = frozenset()) -> None:
        """Register the API, and make the caller its client."""
        async with self.deployment.transaction() as transaction:
            await apis.add_api(transaction, api, name="API", now=self.now(), scopes=scopes)
            await apis.link_client(transaction, api, client_id=caller.client.id, now=self.now())

    async def slack(self, agent: Agent, *, account: str = "alice", **options: object) -> Connection:
        return await self.room.connect(agent, "slack", scopes=SLACK, account=account, **options)

    async def google(self, agent: Agent, *, account: str = "alice", **options: object) -> Connection:
        return await self.room.connect(agent, "google", scopes=GOOGLE, account=account, **options)

    def form(self, caller: Caller, subject: str, /, *, kind: str = ACCESS, **more: str | None) -> dict[str, str]:
        """An honest exchange for Slack with changes; None omits a parameter."""
        form: dict[str, str | None] = {
            "grant_type": TOKEN_EXCHANGE,
            **caller.credentials,
            "subject_token": subject,
            "subject_token_type": kind,
            "audience": "slack",
        }
        return {name: value for name, value in (form | more).items() if value is not None}

    async def exchange(
        self,
        caller: Caller,
        subject: str,
        /,
        *,
        kind: str = ACCESS,
        headers: Mapping[str, str] | None = None,
        **more: str | None,
    ) -> httpx2.Response:
        form = self.form(caller, subject, kind=kind, **more)
        return await self.http.post("/token", data=form, headers=dict(headers or {}))

    async def events(self, kind: str) -> list[Event]:
        """The events of a kind, oldest first."""
        found = await read_events(self.deployment)
        return sorted((one for one in found if one.kind == kind), key=lambda one: one.sequence)

    def worker_token(self, caller: Caller, user: User, *, key: ECKey, header: object = None, **claims: object) -> str:
        """A worker's signed request; None omits a claim."""
        now = self.now()
        body: dict[str, object] = {
            "iss": caller.client.id,
            "sub": user.id,
            "aud": self.url,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_urlsafe(12),
            "reason": "nightly report",
        }
        head: dict[str, object] = {"alg": "ES256", "kid": key.kid, "typ": "JWT"}
        if isinstance(header, dict):
            head |= header
        return sign_jwt(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in (body | claims).items() if value is not None},
            key,
        )


def refusal_code(answer: httpx2.Response) -> str:
    """The code of a refusal; also checks its form, and that it contains nothing that was issued."""
    assert answer.status_code >= 400, answer.text
    assert answer.headers["cache-control"] == "no-store"
    content = answer.json()
    assert "access_token" not in content
    return str(content["error"])


@asynccontextmanager
async def exchange_room(
    data: Path, *, database_url: str | None = None, **overrides: object
) -> AsyncGenerator[ExchangeRoom]:
    """The room over a new vault."""
    async with (
        room(data, database_url=database_url, **overrides) as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=30, trust_env=False) as http,
    ):
        yield ExchangeRoom(opened, http)
