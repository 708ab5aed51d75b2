"""RFC 7662: who may ask about which token."""

from __future__ import annotations

import httpx2
import pytest

from server.oauth.clients.authentication import secret_hash
from tests.support.rooms.oauth_world import World, error_of
from vault import apis, clients
from vault.records import Client, ClientKind

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


async def confidential(world: World) -> tuple[str, str]:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    return str(client["client_id"]), str(client["client_secret"])


async def introspect(world: World, client: tuple[str, str], token: str) -> httpx2.Response:
    return await world.http.post(
        "/introspect", data={"client_id": client[0], "client_secret": client[1], "token": token}
    )


@pytest.mark.requirement("S-085")
async def test_a_client_learns_about_its_own_tokens(world: World) -> None:
    client = await confidential(world)
    code = await world.code(client[0])
    issued = (await world.token(code.form(client_secret=client[1]))).json()
    found = (await introspect(world, client, issued["access_token"])).json()
    assert found["active"] is True
    assert found["iss"] == world.url
    assert found["aud"] == f"{world.url}/mcp"
    assert found["client_id"] == client[0]
    assert found["scope"] == "connections openid tools"
    assert found["token_type"] == "Bearer"
    assert found["username"] == "alice"
    refresh = (await introspect(world, client, issued["refresh_token"])).json()
    assert refresh["active"] is True
    assert refresh["client_id"] == client[0]
    with world.clock_ahead(3601):
        assert (await introspect(world, client, issued["access_token"])).json() == {"active": False}
    await world.http.post(
        "/revoke", data={"client_id": client[0], "client_secret": client[1], "token": issued["refresh_token"]}
    )
    for name in ("access_token", "refresh_token"):
        assert (await introspect(world, client, issued[name])).json() == {"active": False}


@pytest.mark.requirement("S-085")
async def test_tokens_of_others_and_garbage_are_simply_not_active(world: World) -> None:
    client, issued = await confidential(world), await world.tokens()
    for token in (issued["access_token"], issued["refresh_token"], issued["id_token"], "garbage", "a.b.c"):
        answer = await introspect(world, client, token)
        assert (answer.status_code, answer.json()) == (200, {"active": False})
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.requirement("S-085")
async def test_nobody_anonymous_or_public_may_ask(world: World) -> None:
    issued = await world.tokens()
    client = await confidential(world)
    for form in (
        {"token": issued["access_token"]},
        {"token": issued["access_token"], "client_id": issued["client_id"]},
        {"token": issued["access_token"], "client_id": client[0], "client_secret": "wrong"},
    ):
        answer = await world.http.post("/introspect", data=form)
        assert (answer.status_code, error_of(answer)) == (401, "invalid_client")
    by_bearer = await world.http.post(
        "/introspect",
        data={"token": issued["access_token"]},
        headers={"Authorization": f"Bearer {issued['access_token']}"},
    )
    assert by_bearer.status_code == 401
    answer = await world.http.get(
        "/introspect", params={"token": "x", "client_id": client[0], "client_secret": client[1]}
    )
    assert answer.status_code == 405


@pytest.mark.requirement("S-085", "S-046")
async def test_a_resource_server_learns_about_tokens_for_its_own_api(world: World) -> None:
    """An operator registers an API and two clients of it: one requests tokens, one serves the API."""
    api, other = "https://api.example/v1", "https://other.example/v1"
    database, now = world.vault.deployment.database, world.now()
    async with database.transaction() as transaction:
        await apis.add_api(transaction, api, name="Example", now=now)
        for name, resource in (("server", api), ("stranger", other)):
            await clients.save_client(
                transaction,
                Client(
                    id=f"api-{name}",
                    kind=ClientKind.MANUAL,
                    name=name,
                    auth_method="client_secret_post",
                    redirect_uris=("http://127.0.0.1:33418/callback",),
                    created_at=now,
                    secret_hash=secret_hash("s" * 43),
                    resources=(resource,),
                ),
            )
        await apis.link_client(transaction, api, client_id="api-server", now=now)
        await clients.save_client(
            transaction,
            Client(
                id="api-app",
                kind=ClientKind.MANUAL,
                name="App",
                auth_method="none",
                redirect_uris=("http://127.0.0.1:33418/callback",),
                created_at=now,
                resources=(api,),
            ),
        )
    issued = await world.tokens("api-app", resource=api, scope="tools openid")
    assert issued["scope"] == "openid tools"
    assert await world.probe(issued["access_token"]) == 401  # the token isn't for this vault
    found = (await introspect(world, ("api-server", "s" * 43), issued["access_token"])).json()
    assert found["active"] is True
    assert found["aud"] == api
    assert (await introspect(world, ("api-stranger", "s" * 43), issued["access_token"])).json() == {"active": False}
    refused = await world.ask("api-app", resource=f"{world.url}/mcp")
    assert "error=invalid_target" in refused.headers["location"]
    # a client that may request tokens for the API isn't the API itself
    caller = ("api-caller", "s" * 43)
    async with database.transaction() as transaction:
        await clients.save_client(
            transaction,
            Client(
                id=caller[0],
                kind=ClientKind.MANUAL,
                name="Caller",
                auth_method="client_secret_post",
                redirect_uris=("http://127.0.0.1:33418/callback",),
                created_at=now,
                secret_hash=secret_hash(caller[1]),
                resources=(api,),
            ),
        )
    assert (await introspect(world, caller, issued["access_token"])).json() == {"active": False}
    unknown = await world.ask("api-stranger", resource=other)  # bound to an API that isn't registered
    assert "error=invalid_target" in unknown.headers["location"]
