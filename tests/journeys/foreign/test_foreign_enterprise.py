"""Enterprise-managed authorization: the official SDKs, a third-party identity provider, and no pages of the vault."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from server.oauth.clients.authentication import secret_hash
from tests.support.foreign.foreign import Message, drive_program, node
from tests.support.rooms.mcp_room import SLACK, Room, room
from vault import clients, users
from vault.records import Client as OAuthClient
from vault.records import ClientKind

pytestmark = pytest.mark.group("node")

AGENT, SECRET = "company-agent", "a secret of the agent at the vault!!"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass(frozen=True)
class Office:
    """The vault, and the identity provider's message."""

    room: Room
    idp: Message


@pytest_asyncio.fixture(scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Office]:
    """oidc-provider issues the assertions; alice has a Slack account and never allowed any agent."""
    node()
    folder: Path = tmp_path_factory.mktemp("office")
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(drive_program("enterprise_idp.mjs", AGENT, folder=folder))
        idp = await provider.answer()
        rule = {"agents": [AGENT], "groups": ["staff"], "accounts": {"slack": ["read"]}}
        opened = await stack.enter_async_context(
            room(
                folder / "data",
                enterprise={"acme": {"issuer": idp["issuer"], "allow": {"staff": rule}}},
                sandbox={"loopback_openid": True},
            )
        )
        deployment = opened.vault.deployment
        other = await opened.agent("alice")
        await opened.connect(other, "slack", scopes=SLACK)
        async with deployment.transaction() as transaction:
            now = deployment.now()
            agent = OAuthClient(
                id=AGENT,
                kind=ClientKind.MANUAL,
                name="Company agent",
                auth_method="client_secret_basic",
                redirect_uris=(),
                created_at=now,
                secret_hash=secret_hash(SECRET),
            )
            await clients.save_client(transaction, agent)
            await users.link_identity(
                transaction,
                issuer=idp["issuer"],
                subject="employee-1",
                user_id=other.principal.user_id,
                now=now,
            )
        yield Office(opened, idp)


class Memory:
    """The storage that the SDK requires from an application."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError("it registers nowhere")


@pytest.mark.client("typescript-client", "/token", "ID-JAG")
async def test_the_typescript_sdk_gets_in_by_an_assertion(office: Office, tmp_path: Path) -> None:
    given = {"vault": office.room.url, "idp": office.idp, "client_id": AGENT, "client_secret": SECRET}
    async with drive_program("enterprise_agent.mjs", json.dumps(given), folder=tmp_path) as agent:
        told = await agent.answer()
    assert "slack_channels" in told["tools"]
    assert not told["failed_call"]
    assert "refresh_token" not in told["tokens"]


@pytest.mark.client("python", "/token", "ID-JAG")
@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
async def test_the_python_sdk_gets_in_by_an_assertion(office: Office, method: str) -> None:
    idp, memory = office.idp, Memory()

    async def assertion(audience: str, resource: str) -> str:
        form = {
            "grant_type": EXCHANGE,
            "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
            "audience": audience,
            "resource": resource,
            "scope": "tools",
            "subject_token": idp["id_token"],
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "client_id": idp["client_id"],
            "client_secret": idp["client_secret"],
        }
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            answer = await http.post(f"{idp['issuer']}/token", data=form)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    provider = IdentityAssertionOAuthProvider(
        server_url=f"{office.room.url}/mcp",
        storage=memory,
        client_id=AGENT,
        client_secret=SECRET,
        issuer=office.room.url,
        assertion_provider=assertion,
        token_endpoint_auth_method=method,  # pyright: ignore[reportArgumentType] -- one of the two
    )
    async with (
        httpx2.AsyncClient(auth=provider, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(f"{office.room.url}/mcp", http_client=http)) as client,
    ):
        listed = await client.call_tool("slack_channels", {})
        assert not listed.is_error, listed
        written = await client.call_tool("slack_post", {"channel": "#general", "text": "hello"})
        assert written.is_error, "the company lets it read only"
    assert memory.tokens is not None
    assert (memory.tokens.scope, memory.tokens.refresh_token) == ("tools", None)
