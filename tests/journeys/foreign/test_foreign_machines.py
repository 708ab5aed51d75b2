"""Agents that act for nobody, using the official SDKs, at the operator's own MCP server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from joserfc.jwk import ECKey
from mcp import Client
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from server.administration import agents, own_apis
from server.administration.actor import Actor
from server.administration.agents import NewAgent, OwnApisSpec, RegisteredAgent
from tests.journeys.foreign.test_foreign_enterprise import Memory
from tests.support.foreign.foreign import drive_program
from tests.support.harness import free_socket, serve_app
from tests.support.rooms.mcp_room import Room, room

KEY = ECKey.generate_key("P-256", auto_kid=True)
SCOPE = "reports.read"


@dataclass(frozen=True)
class Introspection:
    """How the server verifies tokens: it asks the vault (RFC 7662)."""

    vault: str
    api: RegisteredAgent

    async def verify_token(self, token: str) -> AccessToken | None:
        own = {"client_id": self.api.client.id, "client_secret": self.api.secret or ""}
        async with httpx2.AsyncClient(base_url=self.vault, trust_env=False, timeout=30) as http:
            facts: Mapping[str, object] = (await http.post("/introspect", data={**own, "token": token})).json()
        if not facts["active"]:
            return None
        return AccessToken(
            token=token,
            client_id=str(facts["client_id"]),
            scopes=str(facts["scope"]).split(),
            resource=str(facts["aud"]),
            subject=str(facts["sub"]),
        )


@dataclass(frozen=True)
class Plant:
    """The vault, the operator's MCP server, and an agent with a secret and one with a key."""

    room: Room
    server: str
    with_secret: RegisteredAgent
    with_key: RegisteredAgent

    def tells(self, made: RegisteredAgent) -> dict[str, object]:
        return {"vault": self.room.url, "server": self.server, "client_id": made.client.id, "scope": SCOPE}


@pytest_asyncio.fixture(scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Plant]:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(room(tmp_path_factory.mktemp("plant") / "data"))
        operator = Actor(opened.vault.deployment, None, "command_line")
        listening = stack.enter_context(free_socket())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        resource = f"{url}/mcp"
        api = await agents.register(operator, NewAgent("Reports", has_secret=True, exchanges=True))
        await own_apis.save(operator, resource, name="Reports", scopes=[SCOPE], linked=[api.client])
        common = {"resources": (resource,), "by_itself": OwnApisSpec(frozenset({SCOPE}))}
        with_secret = await agents.register(operator, NewAgent("Nightly", has_secret=True, **common))  # pyright: ignore[reportArgumentType]
        public = {"keys": [KEY.as_dict(private=False)]}
        with_key = await agents.register(operator, NewAgent("Signing", jwks=public, **common))  # pyright: ignore[reportArgumentType]
        server = MCPServer(
            "Reports",
            token_verifier=Introspection(opened.url, api),
            auth=AuthSettings.model_validate(
                {
                    "issuer_url": opened.url,
                    "resource_server_url": resource,
                    "required_scopes": [SCOPE],
                    "validate_token_resource": True,
                }
            ),
        )

        @server.tool()
        def report() -> str:
            """Say who asks."""
            token = get_access_token()
            assert token is not None
            return f"for {token.subject} through {token.client_id}"

        await stack.enter_async_context(serve_app(server.streamable_http_app(), listening))
        yield Plant(opened, resource, with_secret, with_key)


@pytest.mark.client("python", "/token", "client_credentials")
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
async def test_the_python_sdk_acts_for_nobody(plant: Plant, method: str) -> None:
    memory, made = Memory(), plant.with_key if method == "private_key_jwt" else plant.with_secret
    if method == "private_key_jwt":
        signing = SignedJWTParameters(
            issuer=made.client.id,
            subject=made.client.id,
            signing_key=KEY.as_pem(private=True).decode(),
            signing_algorithm="ES256",
        )
        provider = PrivateKeyJWTOAuthProvider(
            plant.server, memory, made.client.id, signing.create_assertion_provider(), issuer=plant.room.url
        )
    else:
        provider = ClientCredentialsOAuthProvider(
            plant.server,
            memory,
            made.client.id,
            made.secret or "",
            token_endpoint_auth_method=method,  # pyright: ignore[reportArgumentType] -- one of the two
            issuer=plant.room.url,
        )
    async with (
        httpx2.AsyncClient(auth=provider, timeout=20, trust_env=False, follow_redirects=True) as http,
        Client(streamable_http_client(plant.server, http_client=http)) as client,
    ):
        result = await client.call_tool("report", {})
    assert result.content[0].text == f"for {made.client.id} through {made.client.id}"  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] -- text
    assert memory.tokens is not None
    assert memory.tokens.refresh_token is None


@pytest.mark.group("node")
@pytest.mark.client("typescript-client", "/token", "client_credentials")
@pytest.mark.parametrize("method", ["client_secret", "private_key_jwt"])
async def test_the_typescript_sdk_acts_for_nobody(plant: Plant, method: str, tmp_path: Path) -> None:
    made = plant.with_key if method == "private_key_jwt" else plant.with_secret
    secret = {"private_key": KEY.as_pem(private=True).decode()} if made is plant.with_key else {}
    given = plant.tells(made) | {"client_secret": made.secret, **secret}
    async with drive_program("machine_agent.mjs", json.dumps(given), folder=tmp_path) as agent:
        told = await agent.answer()
    assert told["said"] == f"for {made.client.id} through {made.client.id}"
    assert not told["failed_call"]
    assert "refresh_token" not in told["tokens"]
