"""A stranger's request with an invented secret only reads: it gets an answer even while nobody can write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import pytest

from server.errors import status_of
from server.sign_in import password
from tests.support.harness import Tokens
from tests.support.rooms.openid_room import begin, callback_of, provider, room, shared_openid_room
from tests.support.rooms.portal_room import Room, query_of
from vault.handles import PREFIX

__all__ = ["provider", "room", "shared_openid_room"]  # fixtures

INVENTED = "x" * 43
SECONDS = 5.0  # an answer that needs no lock comes much sooner; one that needs it never comes


@asynccontextmanager
async def nobody_writes(room: Room) -> AsyncGenerator[None]:
    """Hold SQLite's only write transaction."""
    async with room.deployment.transaction(), asyncio.timeout(SECONDS):
        yield


@dataclass(frozen=True, slots=True)
class TokenClient:
    """A public client, which any stranger can be."""

    room: Room
    tokens: Tokens

    async def post(self, path: str, **form: str) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=30) as http:
            return await http.post(self.room.url + path, data={"client_id": self.tokens.client_id, **form})


@pytest.fixture
async def client(room: Room) -> TokenClient:
    user = await room.user()
    return TokenClient(room, await room.vault.agent(await room.browser(), name=user.name))  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("provider")
async def test_an_invented_state_of_a_sign_in_is_refused_without_a_write(room: Room) -> None:
    person = await room.browser()
    back = await callback_of(await begin(person))
    real = query_of(back)["state"]
    for changed in (back.replace(real, INVENTED), back.replace("/company/", "/other/")):
        async with nobody_writes(room):
            answer = await person.http.get(changed)
        assert answer.status_code == status_of("forbidden")
    stranger = await room.browser()
    async with nobody_writes(room):
        assert (await stranger.http.get(back)).status_code == status_of("forbidden")
    assert (await person.http.get(back)).status_code == 303
    async with nobody_writes(room):
        assert (await person.http.get(back)).status_code == status_of("forbidden")


@pytest.mark.usefixtures("provider")
async def test_of_many_returns_of_one_sign_in_at_once_one_is_let_in(room: Room) -> None:
    person = await room.browser()
    back = await callback_of(await begin(person))
    answers = await asyncio.gather(*(person.http.get(back) for _ in range(4)))
    assert sorted(one.status_code for one in answers) == [303, *[status_of("forbidden")] * 3]


async def test_an_invented_owners_link_is_refused_without_a_write(room: Room) -> None:
    user = await room.user()
    link = await password.owner_link(room.deployment, user.id)
    secret = link.partition("ticket=")[2].partition("&")[0]
    async with nobody_writes(room):
        with pytest.raises(password.SignInRefused):
            await password.owner_of_link(room.deployment, INVENTED)
    assert await password.owner_of_link(room.deployment, secret) == user


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "authorization_code", "code": INVENTED, "code_verifier": INVENTED},
        {"grant_type": "refresh_token", "refresh_token": INVENTED},
    ],
    ids=["code", "refresh-token"],
)
async def test_an_invented_code_or_token_is_refused_without_a_write(
    client: TokenClient, form: Mapping[str, str]
) -> None:
    async with nobody_writes(client.room):
        answer = await client.post("/token", **form)
    assert answer.json()["error"] == "invalid_grant"
    real = await client.post("/token", grant_type="refresh_token", refresh_token=client.tokens.refresh_token or "")
    assert real.status_code == 200


async def test_revoking_an_invented_token_succeeds_without_a_write(client: TokenClient) -> None:
    for invented in (INVENTED, PREFIX + INVENTED):
        async with nobody_writes(client.room):
            assert (await client.post("/revoke", token=invented)).status_code == 200
    real = client.tokens.refresh_token or ""
    assert (await client.post("/revoke", token=real)).status_code == 200
    refused = await client.post("/token", grant_type="refresh_token", refresh_token=real)
    assert refused.json()["error"] == "invalid_grant"
