"""RFC 9449 §11.1 with several instances on one database: a proof is valid once, whichever instance gets it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.oauth.dpop import token_hash
from tests.conftest import Store
from tests.support.harness import PASSWORD, RunningVault, running_vault
from tests.support.rooms.mcp_room import modern, modern_headers
from tests.support.rooms.oauth_world import sign_jwt
from tests.support.rooms.two_processes import open_doors

KEY = ECKey.generate_key("P-256")
CALLBACK = "http://127.0.0.1:33418/callback"


@dataclass
class Two:
    """One vault, served by two instances."""

    vault: RunningVault
    doors: tuple[httpx2.AsyncClient, httpx2.AsyncClient]

    def proof(self, path: str, *, token: str | None = None) -> str:
        body: dict[str, object] = {"jti": secrets.token_urlsafe(12), "htm": "POST", "htu": self.vault.url + path}
        body |= {"iat": self.vault.deployment.now()} | ({} if token is None else {"ath": token_hash(token)})
        return sign_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.as_dict(private=False)}, body, KEY)

    async def code(self) -> dict[str, str]:
        """Parameters that redeem a new code of alice's."""
        client_id = str((await self.vault.register())["client_id"])
        async with self.vault.person() as alice:
            await alice.sign_in("alice", PASSWORD)
            answer, verifier = await self.vault.authorize(alice, client_id)
        form = {"grant_type": "authorization_code", "client_id": client_id, "redirect_uri": CALLBACK}
        return form | {"code": answer["code"], "code_verifier": verifier}

    async def both(
        self, path: str, *, headers: dict[str, str], **bodies: tuple[object, object]
    ) -> list[httpx2.Response]:
        """Send one request to each instance at the same time."""
        asked = (
            door.post(path, headers=headers, **{name: body[number] for name, body in bodies.items()})
            for number, door in enumerate(self.doors)
        )
        return await asyncio.gather(*asked)


@pytest.fixture
async def two(store: Store) -> AsyncGenerator[Two]:
    async with AsyncExitStack() as stack:
        vault = await stack.enter_async_context(running_vault(store.data, database_url=store.url))
        doors = await open_doors(stack, vault, store.data)
        yield Two(vault, doors)


async def test_a_proof_counts_once_among_all_processes_of_a_vault(two: Two) -> None:
    forms = (await two.code(), await two.code())
    answers = await two.both("/token", headers={"dpop": two.proof("/token")}, data=forms)
    assert sorted(answer.status_code for answer in answers) == [200, 400], [answer.text for answer in answers]
    good, bad = sorted(answers, key=lambda one: one.status_code)
    assert bad.json()["error"] == "invalid_dpop_proof"
    token = good.json()["access_token"]
    message = modern("tools/list")
    for _ in range(5):
        held = {"authorization": f"DPoP {token}", "dpop": two.proof("/mcp", token=token)}
        answers = await two.both("/mcp", headers=modern_headers("tools/list") | held, json=(message, message))
        assert sorted(answer.status_code for answer in answers) == [200, 401]
    for door in two.doors:
        held = {"authorization": f"DPoP {token}", "dpop": two.proof("/mcp", token=token)}
        once = await door.post("/mcp", headers=modern_headers("tools/list") | held, json=message)
        assert once.status_code == 200, "each door takes a proof that is new"
