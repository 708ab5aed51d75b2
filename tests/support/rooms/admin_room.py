"""A running vault with clients for its Admin API: service accounts, and a client that an admin signs in to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from server.administration import agents
from server.administration.actor import Actor
from server.administration.agents import NewAgent, RegisteredAgent, ServiceAccountSpec
from server.deployment import Deployment
from server.oauth.rules import ADMIN_SCOPES, admin_resource
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.records import User

REDIRECT = "http://127.0.0.1:33418/callback"


@dataclass
class AdminRoom:
    """The room, an HTTP client at the Admin API, and the token of a service account that may do everything."""

    room: Room
    http: httpx2.AsyncClient
    token: str = field(repr=False, default="")

    @property
    def deployment(self) -> Deployment:
        return self.room.deployment

    @property
    def resource(self) -> str:
        return admin_resource(self.room.url)

    @property
    def operator(self) -> Actor:
        """Whoever has the data directory."""
        return Actor(self.deployment, None, "command_line")

    async def person(self, name: str) -> User:
        found = await users.find_user(self.deployment.database, name)
        assert found is not None
        return found

    async def service_account(
        self, *scopes: str, name: str = "alice", jwks: Mapping[str, object] | None = None
    ) -> RegisteredAgent:
        service = ServiceAccountSpec(await self.person(name), frozenset(scopes) or ADMIN_SCOPES)
        return await agents.register(
            self.operator, NewAgent("Automation", has_secret=jwks is None, jwks=jwks, service=service)
        )

    async def request_token(self, account: RegisteredAgent, **form: str) -> httpx2.Response:
        credentials = {"client_id": account.client.id, "client_secret": account.secret or ""}
        return await self.http.post("/token", data={"grant_type": "client_credentials", **credentials, **form})

    async def token_with(self, *scopes: str, name: str = "alice") -> str:
        """A token of a service account with these scopes."""
        answer = await self.request_token(await self.service_account(*scopes, name=name))
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> httpx2.Response:
        sent = {"Authorization": f"Bearer {self.token if token is None else token}", **(headers or {})}
        return await self.http.request(method, f"/admin/v1{path}", headers=sent, **more)  # pyright: ignore[reportArgumentType]

    async def signed_in_token(self, *scopes: str, name: str = "alice") -> str:
        """A token of a public client that the person signs in to and allows."""
        made = await agents.register(
            self.operator, NewAgent("Console", redirect_uris=(REDIRECT,), resources=(self.resource,))
        )
        answer, verifier = await self.room.vault.authorize(
            await self.room.browser(), made.client.id, scope=" ".join(scopes), resource=self.resource, name=name
        )
        redeemed = await self.room.vault.redeem(made.client.id, answer["code"], verifier)
        assert redeemed.status_code == 200, redeemed.text
        return redeemed.json()["access_token"]


@asynccontextmanager
async def running_admin_room(data: Path, **overrides: object) -> AsyncGenerator[AdminRoom]:
    """Run vault, simulator, and client until the block ends."""
    async with (
        running_room(data, overrides=overrides) as room,
        httpx2.AsyncClient(base_url=room.url, timeout=20) as http,
    ):
        opened = AdminRoom(room, http)
        opened.token = await opened.token_with()
        yield opened


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, object]:
    """The problem document of a refusal; also checks its form (RFC 9457)."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    content = answer.json()
    assert content["status"] == status
    assert content["code"] == code, content
    assert content["type"] == "about:blank" or "/admin/v1#" in content["type"]
    assert content["detail"].endswith((".", "!", "?")), content
    return content
