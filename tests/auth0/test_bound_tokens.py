"""DPoP (RFC 9449) and acting on behalf of someone (RFC 8693) on Auth0's interface."""

from __future__ import annotations

from types import SimpleNamespace

import httpx2
import jwt
import pytest

from server.oauth.dpop import token_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.auth0.application import ME, Application
from tests.auth0.tenant import API
from tests.oauth.rfcs.test_rfc9449 import OTHER
from tests.oauth.rfcs.test_rfc9449 import proof as proof_for
from tests.support.rooms.portal_room import Room
from vault import apis

ACCESS = "urn:ietf:params:oauth:token-type:access_token"


def proof_header(room: Room, method: str, path: str, token: str = "", **options: object) -> dict[str, str]:
    """The header of a request that proves possession of the key."""
    claims = {"ath": token_hash(token)} if token else {}
    here = SimpleNamespace(url=room.url, now=room.deployment.now)
    return {"DPoP": proof_for(here, method, path, **claims, **options)}  # pyright: ignore[reportArgumentType]


async def bound_token(application: Application) -> str:
    asked = {"grant_type": "refresh_token", **application.credentials, "refresh_token": application.refresh_token}
    answer = await application.http.post(
        "/oauth/token",
        json={**asked, "audience": f"{application.room.url}/me/"},
        headers=proof_header(application.room, "POST", "/oauth/token"),
    )
    assert answer.json()["token_type"] == "DPoP", answer.text
    return str(answer.json()["access_token"])


async def accounts(application: Application, token: str, scheme: str, **headers: str) -> httpx2.Response:
    return await application.http.get(f"{ME}/accounts", headers={"Authorization": f"{scheme} {token}", **headers})


async def test_a_bound_token_works_with_its_key_and_as_nothing_else(room: Room, application: Application) -> None:
    token, path = await bound_token(application), f"{ME}/accounts"
    for headers in ({}, proof_header(room, "GET", path, token, key=OTHER), proof_header(room, "POST", path, token)):
        assert (await accounts(application, token, "DPoP", **headers)).status_code == 401
    assert (await accounts(application, token, "Bearer")).status_code == 401
    assert (await accounts(application, token, "Bearer", **proof_header(room, "GET", path, token))).status_code == 401
    honest = proof_header(room, "GET", path, token)
    assert (await accounts(application, token, "DPoP", **honest)).status_code == 200
    assert (await accounts(application, token, "DPoP", **honest)).status_code == 401, "a proof counts once"


async def test_an_account_is_connected_and_listed_with_bound_tokens(room: Room, application: Application) -> None:
    token = await bound_token(application)
    await application.connect()
    path = f"{ME}/accounts"
    listed = await accounts(application, token, "DPoP", **proof_header(room, "GET", path, token))
    (account,) = listed.json()["accounts"]
    gone = await application.http.delete(
        f"{path}/{account['id']}",
        headers={"Authorization": f"DPoP {token}", **proof_header(room, "DELETE", f"{path}/{account['id']}", token)},
    )
    assert gone.status_code == 204, gone.text


async def test_an_exchange_with_a_proof_gives_the_providers_own_token(room: Room, application: Application) -> None:
    await application.connect()
    body = {**exchange_form(application), "connection": "sign-in-with-slack"}
    for headers in ({}, proof_header(room, "POST", "/oauth/token")):
        answer = await application.http.post("/oauth/token", json=body, headers=headers)
        assert (answer.status_code, answer.json().get("token_type")) == (200, "Bearer"), answer.text
    wrong = await application.http.post("/oauth/token", json=body, headers=proof_header(room, "POST", "/token"))
    assert wrong.json()["error"] == "invalid_dpop_proof"


def exchange_form(application: Application) -> dict[str, str]:
    return {
        "grant_type": "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token",
        **application.credentials,
        "subject_token": application.refresh_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token",
    }


STOCK = "https://api.example/stock"


@pytest.fixture
async def caller(room: Room, application: Application) -> Application:
    """An application whose person signed in to it for the API."""
    await link(room)
    made = await Application.register(room, application.http, resources=(API,))
    await made.sign_in(audience=API)
    return made


async def link(room: Room, *names: str) -> None:
    """Register both APIs, and these clients as belonging to the first."""
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        for resource in (API, STOCK):
            await apis.add_api(transaction, resource, name="API", now=now, scopes=frozenset())
        for name in names:
            await apis.link_client(transaction, API, client_id=name, now=now)


async def api_client(room: Room, caller: Application) -> Application:
    """Make a custom API client: it is the API, and calls another API on the person's behalf."""
    made = await Application.register(room, caller.http, redirect_uris=(), resources=(API, STOCK))
    await link(room, made.client.id)
    return made


async def on_behalf(api: Application, token: str, audience: str) -> httpx2.Response:
    body = {"grant_type": TOKEN_EXCHANGE, **api.credentials, "subject_token": token, "subject_token_type": ACCESS}
    requested = {"requested_token_type": ACCESS, "audience": audience}
    return await api.http.post("/oauth/token", json={**body, **requested})


async def test_an_api_acts_for_the_person_and_its_token_says_so(room: Room, caller: Application) -> None:
    token, api = str(caller.tokens["access_token"]), await api_client(room, caller)
    answer = await on_behalf(api, token, STOCK)
    assert answer.status_code == 200, answer.text
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == (caller.user.id, STOCK)
    assert claims["act"] == {"sub": api.client.id, "act": {"sub": caller.client.id}}
    assert "refresh_token" not in answer.json()
    elsewhere = await on_behalf(api, token, "https://unknown.example")
    assert elsewhere.json()["error"] == "invalid_target"


async def test_a_fifth_actor_is_refused(room: Room, caller: Application) -> None:
    token, chain = str(caller.tokens["access_token"]), [await api_client(room, caller) for _ in range(4)]
    for one in chain[:3]:
        answer = await on_behalf(one, token, API)
        assert answer.status_code == 200, answer.text
        token = str(answer.json()["access_token"])
    refused = await on_behalf(chain[3], token, API)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert "passed on too often" in refused.json()["error_description"]
