"""Auth0's own Python SDKs, unmodified, over TLS: only the domain, the client and its secret are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.sdks.sdk_talk import LLAMAINDEX, PYTHON, talk
from tests.auth0.tenant import API, single_page_token, tenant
from tests.conftest import unavailable
from tests.support.harness import PASSWORD
from tests.support.person import Person
from vault import apis

PROGRAM = Path(__file__).parent / "sdk_program.py"

pytestmark = pytest.mark.group("sdks")


async def test_the_sdks_sign_in_connect_exchange_and_disconnect(tmp_path: Path) -> None:
    if not (PYTHON.exists() and LLAMAINDEX.exists()):
        unavailable("the SDKs need: make sdks")
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)
        client = await place.client("app", resources=(API,))
        api_client = await place.client("orders-api", redirect_uris=())
        async with place.vault.deployment.transaction() as transaction:
            now = place.vault.deployment.now()
            await apis.add_api(transaction, API, name="Orders", now=now, scopes=frozenset())
            await apis.link_client(transaction, API, client_id=api_client.id, now=now)
        settings = {
            "CLIENT_ID": client.id,
            "CLIENT_SECRET": SECRET,
            "API_CLIENT_ID": api_client.id,
            "REDIRECT": CALLBACK,
            "API": API,
            "LLAMAINDEX": str(LLAMAINDEX),
        }

        async def answer(line: str) -> str:
            return await single_page_token(place, person) if line == API else await place.allow(person, line)

        found = await talk(place, PROGRAM, settings, answer)
    assert found["interrupt before"] == found["langchain before"] == "interrupt: ['chat:write']"
    assert found["connected"]["connection"] == "sign-in-with-slack"
    assert found["listed"] == [found["connected"]["id"]]
    assert "google-oauth2" in found["connections"]
    assert found["members"] == ["access_token", "expires_in", "issued_token_type", "scope", "token_type"]
    assert found["tool"].startswith("xoxp-") or found["tool"] == found["server"]
    assert found["tool that needs more"].startswith("interrupt: ")
    assert found["langchain"] == found["llamaindex"]["token"] == found["tool"]
    assert found["llamaindex"]["more"] == found["tool that needs more"]
    assert found["verified"] == f"{place.vault.url}/"
    assert found["api"]
    assert found["after"] == "interrupt: ['chat:write']"
