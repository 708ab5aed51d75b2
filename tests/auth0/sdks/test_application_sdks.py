"""Auth0's SDKs for Next.js, agents, and administrators, unmodified, over TLS: one application from start to finish."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.administration.actor import Actor
from server.administration.agents import NewAgent, ServiceAccountSpec, register
from server.deployment import Deployment
from server.oauth.rules import ADMIN_ACCESS
from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.tenant import tenant
from tests.conftest import unavailable
from tests.support.accounts import open_account
from tests.support.foreign.foreign import FOLDER, drive_program, node
from tests.support.harness import PASSWORD
from tests.support.person import Person
from vault import connections, delegations, users
from vault.records import User
from vault.upstream import Account, TokenAnswer

pytestmark = pytest.mark.group("node")
MORE, OPENID = 15, frozenset({"openid"})
NOT_CONNECTED = "federated_connection_refresh_token_not_found"


async def more_accounts(deployment: Deployment, person: User, client_id: str) -> None:
    """Add accounts that the person also lets the application use."""
    for number in range(MORE):
        async with deployment.transaction() as transaction:
            opened = await open_account(
                transaction,
                deployment,
                person.id,
                "google",
                TokenAnswer("access", "refresh", OPENID, 3600, Account(f"id-{number}", f"account {number}")),
            )
            which = {"user_id": person.id, "client_id": client_id, "connection_id": opened.id}
            await delegations.allow(transaction, **which, scopes=OPENID, now=deployment.now())


async def fewer_accounts(deployment: Deployment, person: User, client_id: str) -> None:
    """Withdraw the application's permission for these accounts."""
    for one in await connections.find(deployment.database, person.id, provider="google"):
        async with deployment.transaction() as transaction:
            which = {"user_id": person.id, "client_id": client_id, "connection_id": one.id}
            await delegations.revoke(transaction, **which, now=deployment.now())


async def test_nextjs_a_tool_of_an_agent_and_an_administrators_program(tmp_path: Path) -> None:
    node()
    if not (FOLDER / "auth0" / "node_modules" / ".package-lock.json").exists():
        unavailable("Auth0's SDKs need: make node")
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)
        client = await place.client("app")
        alice = await users.find_user(place.vault.deployment.database, "alice")
        assert alice is not None
        service = await register(
            Actor(place.vault.deployment, None, "command_line"),
            NewAgent("Report", has_secret=True, service=ServiceAccountSpec(alice, frozenset({ADMIN_ACCESS}))),
        )

        application = CALLBACK.removesuffix("/auth/callback")

        async def go(url: str) -> str:
            if url in {f"{application}/fill", f"{application}/empty"}:
                change = more_accounts if url.endswith("/fill") else fewer_accounts
                await change(place.vault.deployment, alice, client.id)
                return url
            return await place.allow(person, url)

        program = (
            "auth0/sdks.mjs",
            place.domain,
            client.id,
            SECRET,
            application,
            service.client.id,
            str(service.secret),
        )
        trusting = {"NODE_EXTRA_CA_CERTS": str(place.authority.authority)}
        async with drive_program(*program, folder=tmp_path, authorize=go, env=trusting) as running:
            told = await running.answer()
    assert told["subject"] == alice.id
    assert told["before"] == told["after"] == NOT_CONNECTED
    assert told["interrupt"] == {"interrupt": "TOKEN_VAULT_ERROR", "required": ["chat:write"]}
    assert told["interruptInGraph"]["required"] == ["chat:write"]
    assert told["connected"] == f"{application}/done"
    (account,) = told["listed"]
    assert account["scopes"] == ["channels:read", "chat:write"]
    assert told["many"] == 1 + MORE, "its pages are walked to the end"
    assert (
        told["token"]["token"]
        == told["tool"]["token"]
        == told["toolInGraph"]["token"]
        == told["legacy"]["access_token"]
    )
    assert "users:read" in told["more"]["required"]
    assert told["wrong"] == "invalid_grant"
    administered = {one["id"] for one in told["administered"]}
    assert (len(administered), account["id"] in administered) == (1 + MORE, True)
