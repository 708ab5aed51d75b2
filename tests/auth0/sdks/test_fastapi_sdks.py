"""Auth0's SDKs for FastAPI, unmodified, over TLS: the routes that it mounts, and a linked API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.sdks.sdk_talk import PYTHON, talk
from tests.auth0.tenant import API, single_page_token, tenant
from tests.conftest import unavailable
from tests.support.harness import PASSWORD
from tests.support.person import Person
from vault import apis, users

PROGRAM = Path(__file__).parent / "fastapi_program.py"


@pytest.mark.group("sdks")
async def test_the_mounted_routes_and_an_api_get_an_accounts_token(tmp_path: Path) -> None:
    if not PYTHON.exists():
        unavailable("the SDKs need: make sdks")
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)
        deployment, now = place.vault.deployment, place.vault.deployment.now()
        alice = await users.find_user(deployment.database, "alice")
        assert alice is not None
        client = await place.client("app", resources=(API,))
        api_client = await place.client("orders-api", redirect_uris=())
        async with deployment.transaction() as transaction:
            await apis.add_api(transaction, API, name="Orders", now=now, scopes=frozenset())
            await apis.link_client(transaction, API, client_id=api_client.id, now=now)
        settings = {"CLIENT_ID": client.id, "CLIENT_SECRET": SECRET, "API_CLIENT_ID": api_client.id, "API": API}

        async def answer(line: str) -> str:
            return await single_page_token(place, person) if line == API else await place.allow(person, line)

        found = await talk(place, PROGRAM, settings, answer)
    assert found["login"] == 307
    assert found["before"].startswith("Federated connection Refresh Token not found.")
    assert found["connected"] == CALLBACK.replace("/auth/callback", "/done")
    assert found["token"].startswith("xox")
    assert found["api"] == {"subject": alice.id, "token": found["token"]}
    assert found["subject"] == alice.id
    assert (found["admin"], found["nobody"]) == (403, 400)
