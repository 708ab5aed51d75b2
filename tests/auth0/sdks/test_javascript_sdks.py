"""Auth0's own JavaScript SDKs, unmodified, over TLS: @auth0/auth0-auth-js and express-oauth2-jwt-bearer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.tenant import API, single_page_token, tenant
from tests.support.foreign.foreign import drive_program, node
from tests.support.harness import PASSWORD
from tests.support.person import Person
from vault import apis, users

pytestmark = pytest.mark.group("node")


async def test_the_sdks_sign_in_connect_exchange_and_check_tokens(tmp_path: Path) -> None:
    node()
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)
        client = await place.client("app")
        async with place.vault.deployment.transaction() as transaction:
            await apis.add_api(transaction, API, name="Orders", now=place.vault.deployment.now(), scopes=frozenset())
        token = await single_page_token(place, person)

        async def go(url: str) -> str:
            return await place.allow(person, url)

        program = ("auth0_app.mjs", place.domain, client.id, SECRET, CALLBACK, token, API)
        trusting = {"NODE_EXTRA_CA_CERTS": str(place.authority.authority)}
        async with drive_program(*program, folder=tmp_path, authorize=go, env=trusting) as application:
            told = await application.answer()
        alice = await users.find_user(place.vault.deployment.database, "alice")
    assert alice is not None
    assert told["subject"] == alice.id
    assert told["before"] == "federated_connection_refresh_token_not_found"
    assert told["completed"]["connection"] == "sign-in-with-slack"
    assert told["token"]
    assert told["lasts"] > 0
    assert "chat:write" in told["scope"].split()
    assert told["narrower"] == "invalid_scope"  # Slack can't narrow a token: refuse rather than return a wider one
    assert told["whole"] == "accepted"
    assert told["wrong"] == "invalid_grant"
    assert told["checked"] == f"{place.vault.url}/"
    assert told["foreign"] != told["checked"]
