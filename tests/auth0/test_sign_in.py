"""Signing in as Auth0's SDKs do it: discovery and issuer with a slash, JSON, a refresh token for several APIs."""

from __future__ import annotations

from pathlib import Path

import httpx2
import jwt
import pytest

from tests.auth0.application import Application
from tests.support.harness import running_vault
from tests.support.rooms.portal_room import Room


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


async def test_a_client_that_was_not_registered_for_this_wire_gets_no_token_of_my_account(
    room: Room, application: Application
) -> None:
    other = await Application.registered(room, application.http, metadata={})
    await other.sign_in(scope="openid offline_access exchange")
    refused = await other.http.post(
        "/oauth/token",
        json={
            "grant_type": "refresh_token",
            **other.credentials,
            "refresh_token": other.refresh_token,
            "audience": f"{room.url}/me/",
        },
    )
    assert refused.status_code == 200  # `audience` isn't a parameter of its refresh (RFC 6749 §6)
    assert jwt.decode(refused.json()["access_token"], options={"verify_signature": False})["aud"] == f"{room.url}/mcp"


async def test_an_unknown_scope_of_my_account_is_refused(room: Room, application: Application) -> None:
    refused = await application.http.post(
        "/oauth/token",
        json={
            "grant_type": "refresh_token",
            **application.credentials,
            "refresh_token": application.refresh_token,
            "audience": f"{room.url}/me/",
            "scope": "tools",
        },
    )
    assert refused.json()["error"] == "invalid_scope"
    assert await application.me_token("read:me:connected_accounts")


@pytest.mark.parametrize("path", ["/oauth/token", "/me/v1/connected-accounts/accounts", "/oidc/register"])
async def test_without_the_setting_there_is_no_such_path(tmp_path: Path, path: str) -> None:
    async with running_vault(tmp_path / "data") as vault, httpx2.AsyncClient(base_url=vault.url) as http:
        assert (await http.post(path, json={})).status_code == 404
