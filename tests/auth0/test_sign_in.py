"""Sign-in as Auth0's SDKs do it: discovery and issuer with a slash, JSON, a refresh token for several APIs."""

from __future__ import annotations

from pathlib import Path

import httpx2
import jwt
import pytest

from tests.auth0.application import CALLBACK, Application
from tests.support.harness import running_vault
from tests.support.rooms.portal_room import Room, query_of
from vault.records import ClientKind


def audience_of(answer: httpx2.Response) -> str:
    return str(jwt.decode(answer.json()["access_token"], options={"verify_signature": False})["aud"])


async def test_the_issuer_ends_with_a_slash_everywhere(room: Room, application: Application) -> None:
    issuer = f"{room.url}/"
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        assert (await application.http.get(path)).json()["issuer"] == issuer
    resource = await application.http.get("/.well-known/oauth-protected-resource/mcp")
    assert resource.json()["authorization_servers"] == [issuer]
    for name in ("id_token", "access_token"):
        claims = jwt.decode(str(application.tokens[name]), options={"verify_signature": False})
        assert claims["iss"] == issuer


async def test_one_refresh_token_serves_two_audiences_and_is_not_used_up(room: Room, application: Application) -> None:
    for _ in range(2):
        claims = jwt.decode(await application.me_token(), options={"verify_signature": False})
        assert claims["aud"] == f"{room.url}/me/"
    issued = [one for one in await room.events(application.user) if one.kind == "token.issued"]
    assert [one.details["resource"] for one in issued] == [f"{room.url}/me/"] * 2
    again = await application.http.post(
        "/oauth/token",
        data={"grant_type": "refresh_token", **application.credentials, "refresh_token": application.refresh_token},
    )
    assert again.status_code == 200
    assert jwt.decode(again.json()["access_token"], options={"verify_signature": False})["aud"] == f"{room.url}/mcp"


async def test_the_older_account_linking_is_refused_and_does_not_look_done(
    room: Room, application: Application
) -> None:
    asked = {"scope": "openid offline_access", "resource": ""}
    for more, answered in (({"requested_connection": "google-oauth2"}, "error"), ({"connection": "google"}, "code")):
        sent = await application.person.http.get(room.authorize_path(application.client, **asked, **more))
        assert answered in query_of(sent.headers["location"])


async def test_a_token_that_was_just_rotated_away_breaks_no_exchange(room: Room, application: Application) -> None:
    await application.connect()
    rotated = await application.http.post(
        "/oauth/token",
        data={"grant_type": "refresh_token", **application.credentials, "refresh_token": application.refresh_token},
    )
    assert rotated.json()["refresh_token"] != application.refresh_token
    grace = room.deployment.refresh_lifetimes.grace
    for seconds, status in ((0, 200), (grace - 60, 200), (grace, 400)):
        room.deployment.database.clock_offset += seconds
        try:
            assert (await application.account_token()).status_code == status, seconds
            assert (await application.refresh()).status_code == status, seconds
        finally:
            room.deployment.database.clock_offset -= seconds
    newest = str(rotated.json()["refresh_token"])
    assert (await application.account_token({"subject_token": newest})).status_code == 200


@pytest.mark.parametrize("changes", [{"metadata": {}}, {"kind": ClientKind.DYNAMIC}], ids=["unmarked", "by itself"])
async def test_a_client_that_no_operator_marked_gets_no_token_of_my_account(
    room: Room, application: Application, changes: dict[str, object]
) -> None:
    other = await Application.register(room, application.http, **changes)
    await other.sign_in(scope="openid offline_access exchange")
    answer = await other.refresh()
    assert answer.status_code == 200  # `audience` isn't a parameter of its refresh (RFC 6749 §6)
    assert audience_of(answer) == f"{room.url}/mcp"
    assert audience_of(await application.refresh()) == f"{room.url}/me/"


async def test_a_public_clients_refresh_token_is_used_up_by_each_use(room: Room, application: Application) -> None:
    page = await Application.register(room, application.http, auth_method="none", secret_hash=None)
    await page.sign_in()
    answer = await page.refresh()
    assert audience_of(answer) == f"{room.url}/me/"
    assert answer.json()["refresh_token"] != page.refresh_token
    assert "refresh_token" not in (await application.refresh()).json()


async def test_another_clients_refresh_token_gets_no_token_of_my_account(room: Room, application: Application) -> None:
    other = await Application.register(room, application.http)
    refused = await other.refresh(refresh_token=application.refresh_token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await application.refresh()).status_code == 200


async def test_a_refresh_token_that_is_bound_to_a_key_needs_it(room: Room, application: Application) -> None:
    bound = "update refresh_tokens set key_thumbprint = :key where client_id = :client"
    for key, code in (("k" * 43, "invalid_grant"), (None, None)):
        async with room.deployment.transaction() as transaction:
            await transaction.execute(bound, {"key": key, "client": application.client.id})
        assert (await application.refresh()).json().get("error") == code


async def test_an_unknown_scope_of_my_account_is_refused(application: Application) -> None:
    assert (await application.refresh(scope="tools")).json()["error"] == "invalid_scope"
    assert await application.me_token("read:me:connected_accounts")


@pytest.mark.parametrize("path", ["/oauth/token", "/me/v1/connected-accounts/accounts", "/oidc/register"])
async def test_without_the_setting_there_is_no_such_path(tmp_path: Path, path: str) -> None:
    async with running_vault(tmp_path / "data") as vault, httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        assert (await http.post(path, json={})).status_code == 404


async def test_a_client_registers_at_auth0s_address(application: Application) -> None:
    metadata = {"client_name": "By itself", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
    made = await application.http.post("/oidc/register", json=metadata)
    assert made.status_code == 201, made.text
    assert (made.json()["client_name"], made.json()["redirect_uris"]) == ("By itself", [CALLBACK])
    found = (await application.http.get("/.well-known/openid-configuration")).json()
    assert found["registration_endpoint"].endswith("/register")
    refused = await application.http.post("/oidc/register", json={"client_name": "Nowhere"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_redirect_uri")
