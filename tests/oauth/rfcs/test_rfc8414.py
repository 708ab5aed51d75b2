"""RFC 8414, RFC 9728, RFC 7517, OpenID Connect Discovery: what the vault publishes about itself to any caller."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from server.oauth import tokens
from server.oauth.clients.rules import BACKCHANNEL_GRANT, DEVICE_GRANT
from server.oauth.enterprise.assertions import JWT_BEARER, JWT_DPOP
from server.oauth.rules import TOKEN_EXCHANGE
from server.signatures import jose
from tests.support.rooms.oauth_world import World, b64, claims_of, header_of, vault_with
from vault.keys.key_ring import KeyRing
from vault.keys.sources import key_source

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

DOCUMENTS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


async def document(world: World, path: str = DOCUMENTS[0], **headers: str) -> dict[str, object]:
    answer = await world.http.get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


@pytest.mark.requirement("S-001")
@pytest.mark.parametrize("path", DOCUMENTS)
async def test_the_issuer_is_the_address_under_which_it_is_found(world: World, path: str) -> None:
    assert (await document(world, path))["issuer"] == world.url


async def test_no_metadata_is_found_under_the_address_of_an_issuer_that_does_not_exist(world: World) -> None:
    assert (await world.http.get("/.well-known/oauth-authorization-server/mcp")).status_code == 404


@pytest.mark.requirement("S-002")
@pytest.mark.parametrize("path", ["", "/mcp", "/sse"])
async def test_each_resource_has_a_document_that_names_exactly_it(world: World, path: str) -> None:
    found = await document(world, f"/.well-known/oauth-protected-resource{path}")
    assert found["resource"] == world.url + path
    assert found["authorization_servers"] == [world.url]
    assert found["scopes_supported"] == ["connections", "tools"]
    assert found["bearer_methods_supported"] == ["header"]


@pytest.mark.requirement("S-004")
async def test_the_only_challenge_method_is_s256(world: World) -> None:
    assert (await document(world))["code_challenge_methods_supported"] == ["S256"]


@pytest.mark.requirement("S-005")
async def test_no_implicit_and_no_password_grant_is_offered_or_served(world: World) -> None:
    found = await document(world)
    assert found["response_types_supported"] == ["code"]
    assert found["response_modes_supported"] == ["query"]
    assert set(found["grant_types_supported"]) == {
        "authorization_code", "refresh_token", "client_credentials",
        BACKCHANNEL_GRANT, DEVICE_GRANT, JWT_BEARER, JWT_DPOP, TOKEN_EXCHANGE,
    }  # fmt: skip
    client_id = await world.public_client()
    for grant_type in ("password", "urn:ietf:params:oauth:grant-type:saml2-bearer", "implicit"):
        answer = await world.token({"grant_type": grant_type, "client_id": client_id, "username": "alice"})
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")
    by_itself = await world.token({"grant_type": "client_credentials", "client_id": client_id})
    assert by_itself.json()["error"] == "unauthorized_client"  # only service accounts may use this
    for response_type in ("token", "id_token", "code token", "code id_token", "none"):
        answer = await world.ask(client_id, response_type=response_type)
        assert "error=unsupported_response_type" in answer.headers["location"]
        assert "access_token" not in answer.headers["location"]


@pytest.mark.requirement("S-006")
async def test_the_issuer_parameter_is_advertised(world: World) -> None:
    assert (await document(world))["authorization_response_iss_parameter_supported"] is True


@pytest.mark.requirement("S-007")
async def test_no_unsigned_and_no_symmetric_algorithm_is_offered(world: World) -> None:
    named = [
        name
        for member, names in (await document(world)).items()
        if member.endswith("_alg_values_supported")
        for name in names  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
    ]
    assert set(named) == {"ES256", "RS256", "PS256"}


@pytest.mark.requirement("S-009")
async def test_every_endpoint_is_on_the_origin_of_the_issuer(world: World) -> None:
    endpoints = {
        name: str(value)
        for name, value in (await document(world)).items()
        if name.endswith("_endpoint") or name == "jwks_uri"
    }
    assert len(endpoints) == 10
    for url in endpoints.values():
        assert urlsplit(url).netloc == urlsplit(world.url).netloc
        assert (await world.http.get(url)).status_code in {200, 400, 401, 405}


@pytest.mark.requirement("S-010")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "localhost:1"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "host=evil.example;proto=https"),
        ("X-Original-Host", "evil.example"),
        ("X-Forwarded-Port", "1"),
    ],
)
async def test_no_header_steers_what_the_vault_says_of_itself(world: World, name: str, value: str) -> None:
    for path in (*DOCUMENTS, "/.well-known/oauth-protected-resource/mcp"):
        assert await document(world, path, **{name: value}) == await document(world, path)
    registered = await world.http.post(
        "/register", json={"redirect_uris": ["https://a.example/cb"]}, headers={name: value}
    )
    assert str(registered.json()["registration_client_uri"]).startswith(f"{world.url}/register/")
    challenge = (await world.http.post("/mcp", headers={name: value}, content=b"{}")).headers["www-authenticate"]
    assert f'resource_metadata="{world.url}/' in challenge


async def test_metadata_names_what_clients_look_for(world: World) -> None:
    found = await document(world)
    assert "none" in str(found["token_endpoint_auth_methods_supported"])
    assert found["client_id_metadata_document_supported"] is True
    assert found["registration_endpoint"] == f"{world.url}/register"
    assert found["request_uri_parameter_supported"] is found["request_parameter_supported"] is False
    assert "none" not in str(found["introspection_endpoint_auth_methods_supported"])


@pytest.mark.requirement("S-008")
async def test_published_keys_are_public_strong_and_distinct(world: World) -> None:
    keys = (await world.http.get("/.well-known/jwks.json")).json()["keys"]
    assert keys
    assert len({key["kid"] for key in keys}) == len(keys)
    for key in keys:
        assert key["kty"] == "RSA"
        assert len(key["n"]) >= 341
        assert not key.keys() & {"d", "p", "q", "dp", "dq", "qi", "k"}


@pytest.mark.requirement("S-011")
async def test_keys_roll_over_while_tokens_are_used_and_none_fails(world: World) -> None:
    issued = await world.tokens()
    signing, database = world.vault.deployment.keys.signing, world.vault.deployment.database
    old = header_of(issued["access_token"])["kid"]
    new = await signing.rotate(database, now=world.now())
    published = [key["kid"] for key in (await world.http.get("/.well-known/jwks.json")).json()["keys"]]
    assert {old, new} <= set(published)
    during = await world.refresh(issued["client_id"], issued["refresh_token"])
    assert header_of(during.json()["access_token"])["kid"] == old  # published an hour before its first use
    with world.clock_ahead(3700):
        after = await world.refresh(issued["client_id"], during.json()["refresh_token"])
        assert header_of(after.json()["access_token"])["kid"] == new
        answers = await asyncio.gather(*(world.probe(after.json()["access_token"]) for _ in range(20)))
        assert set(answers) == {200}
        assert (await world.http.get("/.well-known/jwks.json")).json()["keys"]
    assert await world.probe(issued["access_token"]) == 200


@pytest.mark.requirement("S-011")
async def test_random_key_ids_are_refused_without_a_look_at_the_ring_each_time(world: World) -> None:
    issued = await world.tokens()
    claims = b64(claims_of(issued["access_token"]))
    signature = issued["access_token"].split(".")[2]
    async with asyncio.timeout(30):
        for _ in range(200):
            forged = f"{b64({'alg': 'RS256', 'typ': 'at+jwt', 'kid': secrets.token_hex(8)})}.{claims}.{signature}"
            assert await world.probe(forged) == 401
    assert await world.probe(issued["access_token"]) == 200


async def test_a_key_of_another_process_is_found_at_once(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data") as (vault, http), vault.person() as alice:
        deployment = vault.deployment
        issued = await vault.agent(alice, scope="openid tools")
        keys = key_source(deployment.settings.keys, data=deployment.data)
        other = await KeyRing.open(deployment.database, keys)
        await other.signing.rotate(deployment.database, now=deployment.now())
        deployment.database.clock_offset += 3700
        now = deployment.now()
        claims = claims_of(issued.access_token) | {"iat": now, "exp": now + 600}
        fresh = jose.sign(claims, other.signing.current(now), typ=tokens.TYPE)
        answer = await http.get("/userinfo", headers={"Authorization": f"Bearer {fresh}"})
        assert answer.status_code == 200


async def test_documents_may_be_read_by_any_page_and_kept_for_minutes(world: World) -> None:
    for path in (*DOCUMENTS, "/.well-known/oauth-protected-resource/mcp", "/.well-known/jwks.json"):
        answer = await world.http.get(path)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["cache-control"] == "public, max-age=300"
        assert (await world.http.head(path)).status_code == 200
        assert (await world.http.post(path)).status_code == 405


async def test_a_client_of_another_library_reads_the_metadata(world: World) -> None:
    from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

    AuthorizationServerMetadata(await document(world)).validate_issuer()
    async with httpx2.AsyncClient(timeout=30) as http:
        assert (await http.get(f"{world.url}{DOCUMENTS[1]}")).json()["userinfo_endpoint"]
