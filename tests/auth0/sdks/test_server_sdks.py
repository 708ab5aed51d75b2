"""Auth0's SDKs for JavaScript servers, unmodified, over TLS: server-js alone, in Hono, and in h3 under Nuxt's routes.

The SDK for Hono accepts only a domain without a port, so a tunnel forwards to the vault.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.tenant import tenant
from tests.conftest import unavailable
from tests.support.foreign.foreign import FOLDER, drive_program, node
from tests.support.harness import PASSWORD
from tests.support.network.tls import tunnel_to
from tests.support.person import Person
from vault import users

pytestmark = pytest.mark.group("node")


async def test_server_js_hono_and_nuxt_sign_in_and_get_an_accounts_token(tmp_path: Path) -> None:
    node()
    if not (FOLDER / "auth0" / "node_modules" / "@auth0" / "auth0-hono").exists():
        unavailable("Auth0's SDKs need: make node")
    async with (
        tenant(tmp_path, tells_port=False) as place,
        tunnel_to(place.port) as tunnel,
        Person(place.vault.url, transport=place.way()) as person,
    ):
        await person.sign_in("alice", PASSWORD)
        client = await place.client("app")
        alice = await users.find_user(place.vault.deployment.database, "alice")
        assert alice is not None

        async def go(url: str) -> str:
            return await place.allow(person, url)

        application = CALLBACK.removesuffix("/auth/callback")
        program = ("auth0/servers.mjs", place.domain, client.id, SECRET, application)
        trusting = {
            "NODE_EXTRA_CA_CERTS": str(place.authority.authority),
            "NODE_USE_ENV_PROXY": "1",
            "HTTPS_PROXY": tunnel,
        }
        async with drive_program(*program, folder=tmp_path, authorize=go, env=trusting) as running:
            told = await running.answer()
        asked = await person.open(told["nuxt"]["loggedOut"])
        answer = await person.submit(asked, form="/v2/logout")
    alone, hono, nuxt = told["alone"], told["hono"], told["nuxt"]
    assert alone["subject"] == nuxt["subject"] == alice.id
    assert alone["before"] == "federated_connection_refresh_token_not_found"
    assert alone["connected"]["scopes"] == ["channels:read", "chat:write"]
    assert alone["token"]["accessToken"].startswith("xox")
    assert alone["revoked"] == "invalid_grant"
    assert hono["token"] == nuxt["token"] == alone["token"]["accessToken"]
    assert hono["landed"] == f"{application}/done"
    assert nuxt["login"] == "/authorize"
    assert nuxt["landed"].rstrip("/") == application
    assert answer.headers["location"].rstrip("/") == application
    assert hono["before"] == hono["after"] == "localhost", "signed out, it sends the person to sign in"
