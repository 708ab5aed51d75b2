"""A running vault with a token of a company's directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from server.administration import provisioning
from server.administration.actor import Actor
from server.deployment import Deployment
from tests.support.rooms.portal_room import Room, running_room

ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"


@dataclass
class ScimRoom:
    """The room, an HTTP client at SCIM, and the directory's token."""

    room: Room
    http: httpx2.AsyncClient
    token: str = field(repr=False, default="")

    @property
    def deployment(self) -> Deployment:
        return self.room.deployment

    @property
    def operator(self) -> Actor:
        return Actor(self.deployment, None, "command_line")

    async def call(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        sent = {"Authorization": f"Bearer {self.token if token is None else token}", **(headers or {})}
        if content is not None:
            sent |= {"Content-Type": "application/scim+json"} | dict(headers or {})
        return await self.http.request(method, f"/scim/v2{path}", headers=sent, json=content)

    async def add_user(self, user_name: str, **more: object) -> dict[str, object]:
        answer = await self.call("POST", "/Users", {"schemas": [USER], "userName": user_name, **more})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def add_group(self, name: str, *members: object) -> dict[str, object]:
        content = {"schemas": [GROUP], "displayName": name, "members": [{"value": one} for one in members]}
        answer = await self.call("POST", "/Groups", content)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def patch(self, path: str, *operations: object) -> httpx2.Response:
        return await self.call("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)})


@asynccontextmanager
async def running_scim_room(data: Path, **overrides: object) -> AsyncGenerator[ScimRoom]:
    """Vault and client until the block ends."""
    async with (
        running_room(data, overrides={"admin": {"requests_per_minute": 100_000}, **overrides}) as room,
        httpx2.AsyncClient(base_url=room.url, timeout=20) as http,
    ):
        opened = ScimRoom(room, http)
        opened.token, _ = await provisioning.make_token(opened.operator, "company", days=None, grace=0)
        yield opened


def refusal(answer: httpx2.Response, status: int, kind: str | None = None) -> str:
    """The text of a refusal's error; also checks its form (RFC 7644 §3.12)."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"] == "application/scim+json"
    content = answer.json()
    assert content["schemas"] == [ERROR]
    assert content["status"] == str(status)
    assert content.get("scimType") == kind, content
    return content["detail"]
