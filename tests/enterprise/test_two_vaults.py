"""Identity chaining between two vaults (draft-ietf-oauth-identity-chaining §2.3, §2.4; ID-JAG -03 §4).

A person signs in to the first vault through their company. The company vouches for them at the second vault, so an
agent of the first can call the second's own APIs as them: the second vault is a provider like any other.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from providers.simulator.local_server import running_simulator
from providers.simulator.state.directory import Enrolment
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.harness import RunningVault, running_vault
from tests.support.rooms.company_room import CompanyRoom
from tests.support.rooms.oauth_world import claims_of
from tests.support.rooms.portal_room import Room
from vault import clients
from vault.records import Client as VaultClient
from vault.records import ClientKind, ConnectionState, Narrowing, new_id
from vault.refusals import ConnectionRequired

FIRST_AT_SECOND = "First vault"
SECRET = "s" * 43
FILE = """
name = "second"
title = "Second vault"
client_auth = "client_secret_post"

[hosts]
authorize_url = "{url}/authorize"
token_url = "{url}/token"
revoke_url = "{url}/revoke"

[scope]
default = ["tools"]

[identity]
source = "none"

[enterprise.id_jag]
audience = "{url}"
resource = "{url}/mcp"
scopes = ["tools", "connections"]

[apis]
main = "{url}"

[scopes]
tools = {{ title = "Use tools" }}
connections = {{ title = "See connections", reads = true }}

[overrides]
parameters = []
sources = ["own"]

[sources]
own = {{ name = "This project", date = 2026-11-27 }}

[[rules]]
api = "main"
method = "POST"
path = "/mcp"
scopes = ["tools"]
"""


@dataclass
class TwoVaults:
    first: CompanyRoom
    second: RunningVault
    agent_of_first: str  # the first vault's client id at the second

    def enroll(self, *, denied: frozenset[str] = frozenset()) -> None:
        """Have the company vouch for its people at the second vault, on behalf of the first."""
        clients = {"sandbox-client": self.agent_of_first}
        self.first.simulator.sandbox.directory.services[self.second.url] = Enrolment(clients=clients, denied=denied)

    async def call(self, token: str, name: str = "connections") -> CallToolResult:
        """Call a tool at the second vault with this token."""
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(timeout=20, trust_env=False, headers=headers) as http,
            Client(streamable_http_client(f"{self.second.url}/mcp", http_client=http)) as client,
        ):
            return await client.call_tool(name, {})


@asynccontextmanager
async def running_two(data: Path) -> AsyncGenerator[TwoVaults]:
    for name in ("one", "two", "files"):
        (data / name).mkdir()
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        issuer = f"{simulator.url}/company"
        rule = {"agents": [FIRST_AT_SECOND], "scopes": ["tools", "connections"]}
        company: Mapping[str, object] = {"issuer": issuer, "create_people": True, "allow": {"first": rule}}
        second = await stack.enter_async_context(
            running_vault(
                data / "two",
                overrides={"enterprise": {"company": company}, "sandbox": {"loopback_openid": True}},
            )
        )
        agent = VaultClient(
            id=new_id(),
            kind=ClientKind.MANUAL,
            name=FIRST_AT_SECOND,
            auth_method="client_secret_post",
            redirect_uris=(),
            grant_types=frozenset({"authorization_code", TOKEN_EXCHANGE}),
            secret_hash=secret_hash(SECRET),
            created_at=second.deployment.now(),
        )
        async with second.deployment.transaction() as transaction:
            await clients.save_client(transaction, agent)
        (data / "files" / "second.toml").write_text(FILE.format(url=second.url), encoding="utf-8")
        first = await stack.enter_async_context(
            running_vault(
                data / "one",
                providers={"second": {"client_id": agent.id, "client_secret": SECRET}},
                overrides={
                    "provider_folders": [str(data / "files")],
                    "sign_in": {"openid": {"company": simulator.company_settings()}},
                    "sandbox": {"loopback_openid": True, "loopback_upstreams": True},
                },
            )
        )
        made = TwoVaults(CompanyRoom(Room(first, simulator, stack)), second, agent.id)
        made.enroll()
        yield made


@pytest.fixture(scope="module")
async def shared_vaults(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[TwoVaults]:
    async with running_two(tmp_path_factory.mktemp("vaults")) as vaults:
        yield vaults


@pytest.fixture
def vaults(shared_vaults: TwoVaults) -> TwoVaults:
    shared_vaults.first.simulator.sandbox.directory.prefix = secrets.token_hex(4)
    shared_vaults.enroll()
    return shared_vaults


async def test_a_person_of_one_vault_is_the_same_person_at_another(vaults: TwoVaults) -> None:
    user, _ = await vaults.first.sign_in("alice")
    account = (await vaults.first.accounts(user))["second"]
    assert account.scopes == {"tools", "connections"}
    agent = await vaults.first.agent(user, allows={"second": frozenset({"tools", "connections"})})
    token = await vaults.first.exchange(agent, "second")
    answer = await vaults.call(token.value)
    assert not answer.is_error
    there = claims_of(token.value)
    assert (there["iss"], there["aud"]) == (vaults.second.url, f"{vaults.second.url}/mcp")
    assert there["client_id"] == vaults.agent_of_first
    books = vaults.first.simulator.books()
    assert [one["outcome"] for one in books["assertions"]] == ["issued"]
    assert (books["authorizations"], books["consents"]) == ([], [])


async def test_the_other_vault_sees_a_new_assertion_each_time(vaults: TwoVaults) -> None:
    """The second vault never issues a refresh token."""
    user, _ = await vaults.first.sign_in("bob")
    agent = await vaults.first.agent(user, allows={"second": frozenset({"tools", "connections"})})
    before = await vaults.first.exchange(agent, "second")
    after = await vaults.first.exchange(agent, "second", spoiled=before.generation)
    assert before.value != after.value
    assert not (await vaults.call(after.value)).is_error
    narrow = await vaults.first.exchange(agent, "second", frozenset({"connections"}))
    assert narrow.narrowing is Narrowing.UPSTREAM
    assert claims_of(narrow.value)["scope"] == "connections"


async def test_a_company_that_stops_vouching_ends_the_chain(vaults: TwoVaults) -> None:
    user, _ = await vaults.first.sign_in("carol")
    agent = await vaults.first.agent(user, allows={"second": frozenset({"tools", "connections"})})
    token = await vaults.first.exchange(agent, "second")
    vaults.enroll(denied=frozenset({"carol"}))
    with pytest.raises(ConnectionRequired, match="no longer vouches"):
        await vaults.first.exchange(agent, "second", spoiled=token.generation)
    found = (await vaults.first.accounts(user))["second"]
    assert found.state is ConnectionState.NEEDS_REAUTH
