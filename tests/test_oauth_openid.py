"""OpenID Connect Core: ID token and UserInfo."""

from __future__ import annotations

import base64
import hashlib

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.oauth_world import World, claims_of

pytest_plugins = ["tests.oauth_fixtures"]


async def test_an_id_token_names_the_person_to_this_client(world: World) -> None:
    issued = await world.tokens(nonce="n-0S6_WzA2Mj")
    keys = KeySet.import_key_set((await world.http.get("/.well-known/jwks.json")).json())
    read = jwt.decode(issued["id_token"], keys, algorithms=["RS256"])
    claims = read.claims
    assert read.header["typ"] == "JWT"
    assert claims["iss"] == world.url
    assert claims["aud"] == claims["azp"] == issued["client_id"]
    assert claims["sub"] == claims_of(issued["access_token"])["sub"]
    assert claims["nonce"] == "n-0S6_WzA2Mj"
    assert claims["preferred_username"] == "alice"
    half = hashlib.sha256(issued["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
    assert claims["exp"] > claims["iat"]


async def test_without_openid_there_is_no_id_token_and_no_userinfo(world: World) -> None:
    issued = await world.tokens(scope="tools")
    assert "id_token" not in issued
    assert await world.probe(issued["access_token"]) == 403


async def test_a_refresh_brings_an_id_token_without_the_old_nonce(world: World) -> None:
    issued = await world.tokens(nonce="once")
    again = (await world.refresh(issued["client_id"], issued["refresh_token"])).json()
    claims = claims_of(again["id_token"])
    assert "nonce" not in claims
    assert claims["sub"] == claims_of(issued["id_token"])["sub"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_userinfo_tells_who_the_person_is(world: World, method: str) -> None:
    issued = await world.tokens()
    answer = await world.http.request(
        method, "/userinfo", headers={"Authorization": f"Bearer {issued['access_token']}"}
    )
    assert answer.json() == {"sub": claims_of(issued["id_token"])["sub"], "preferred_username": "alice"}
    assert answer.headers["cache-control"] == "no-store"
