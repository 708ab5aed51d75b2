"""RFC 7591: what a client may register, what it gets, and how floods and oversized requests are refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import RSAKey

from server.oauth.clients.rules import shown_redirects
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.doubles.canary import running_canary
from tests.support.rooms.oauth_world import GENEROUS, REDIRECT, World, b64, error_of, vault_with
from tests.support.seeded_grant import agent

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

GOOD: dict[str, object] = {"client_name": "Agent", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}


async def post(world: World, **changes: object) -> httpx2.Response:
    body = {name: value for name, value in (GOOD | changes).items() if value != "left out"}
    return await world.http.post("/register", json=body)


@pytest.mark.requirement("S-020")
@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)//https://a.example",
        "data:text/html,x",
        "file:///etc/passwd",
        "vbscript:x",
        "http://client.example/cb",
        "http://192.168.0.1/cb",
        "https://client.example/cb#fragment",
        "https://client.example/cb#",
        "/callback",
        "//client.example/cb",
        "client.example/cb",
        "http://127.0.0.1@evil.example/cb",
        "http://localhost.evil.example/cb",
        "http://127.0.0.1.evil.example/cb",
        "http://[::1].evil.example/cb",
        "http://0.0.0.0/cb",
        "ftp://client.example/cb",
        "unknownapp://callback",
        "https://",
        "https:///cb",
        "https:client.example/cb",
        "",
    ],
)
async def test_a_dangerous_redirect_cannot_be_registered(world: World, uri: str) -> None:
    answer = await post(world, redirect_uris=[REDIRECT, uri])
    assert answer.status_code == 400
    assert error_of(answer) == "invalid_redirect_uri"
    assert (await post(world, redirect_uris=[REDIRECT])).status_code == 201


@pytest.mark.requirement("S-021")
@pytest.mark.parametrize(
    "uri",
    [
        "https://user@client.example/cb",
        "https://user:secret@client.example/cb",
        "https://client.example/c\nb",
        "https://client.example/c\x00b",
        "https://client.example\\@evil.example/cb",
        "https://client.example/a b",
        " https://client.example/cb",
        "https://client.example/cb%0d%0aX: y",
        "https://client.example/cb%5c",
        "https://cliént.example/cb",
        "https://client.example/../cb",
        "https://client.example:99999/cb",
        "https://client.example/%zz",
    ],
)
async def test_a_redirect_that_could_be_read_in_two_ways_is_refused(world: World, uri: str) -> None:
    assert error_of(await post(world, redirect_uris=[uri])) == "invalid_redirect_uri"


@pytest.mark.parametrize("method", ["none", "client_secret_post", "client_secret_basic", "private_key_jwt"])
async def test_an_empty_set_of_keys_is_no_set_unless_keys_are_needed(world: World, method: str) -> None:
    answer = await post(world, token_endpoint_auth_method=method, jwks={"keys": []})
    if method == "private_key_jwt":
        assert error_of(answer) == "invalid_client_metadata"
        return
    assert answer.status_code == 201
    assert "jwks" not in answer.json()
    unusable = await post(world, token_endpoint_auth_method=method, jwks={"keys": [{"kty": "oct", "k": "AAAA"}]})
    assert error_of(unusable) == "invalid_client_metadata"


ENCRYPTION = {**RSAKey.generate_key(2048).as_dict(private=False), "use": "enc", "alg": "RSA-OAEP"}


@pytest.mark.parametrize("method", ["none", "client_secret_post", "client_secret_basic", "private_key_jwt"])
async def test_a_key_for_encryption_is_ignored_unless_a_key_to_sign_is_needed(world: World, method: str) -> None:
    answer = await post(world, token_endpoint_auth_method=method, jwks={"keys": [ENCRYPTION]})
    if method == "private_key_jwt":
        assert error_of(answer) == "invalid_client_metadata"
        return
    assert answer.status_code == 201, answer.text
    assert "jwks" not in answer.json()
    for key in (ENCRYPTION | {"d": "AQAB"}, {**ENCRYPTION, "use": "sig"}):
        refused = await post(world, token_endpoint_auth_method=method, jwks={"keys": [key]})
        assert error_of(refused) == "invalid_client_metadata"


@pytest.mark.requirement("S-022")
async def test_a_wildcard_is_refused_in_the_host_and_literal_in_the_path(world: World) -> None:
    assert error_of(await post(world, redirect_uris=["https://*.client.example/cb"])) == "invalid_redirect_uri"
    client_id = await world.public_client(redirect_uris=["https://client.example/*"])
    for asked in ("https://client.example/evil", "https://client.example/*/", "https://client.example/%2A"):
        answer = await world.ask(client_id, redirect_uri=asked)
        assert answer.status_code == 400
        assert "location" not in answer.headers
    assert (await world.ask(client_id, redirect_uri="https://client.example/*")).status_code == 303


@pytest.mark.requirement("S-023")
async def test_members_that_would_give_power_are_dropped(world: World) -> None:
    wanted: dict[str, object] = {
        "client_id": "admin",
        "client_secret": "chosen",
        "trusted": True,
        "skip_consent": True,
        "kind": "manual",
        "resources": ["https://api.example"],
        "registration_access_token": "chosen",
        "client_id_issued_at": 1,
        "redirects_changed_at": 1,
        "fresh_until": 99999999999,
    }
    answer = (await post(world, **wanted)).json()
    assert answer["client_id"] != "admin"
    assert answer["registration_access_token"] != "chosen"
    assert answer["client_id_issued_at"] > 1
    assert not answer.keys() & (wanted.keys() - {"client_id", "registration_access_token", "client_id_issued_at"})
    page = await world.alice.open(world.authorize_url(answer["client_id"], "A" * 43))
    assert page.status_code == 200  # the consent page is shown, not skipped


def test_of_a_clients_redirects_the_first_five_are_told_and_200_characters_of_each() -> None:
    client = replace(agent(), redirect_uris=("x" * 200, "y" * 201, "a", "b", "c", "d"))
    assert shown_redirects(client) == ["x" * 200, "y" * 200 + "…", "a", "b", "c", "1 more"]


@pytest.mark.requirement("S-024")
async def test_a_self_registered_client_gets_no_grant_that_needs_trust(world: World) -> None:
    unsupported, assertions = ["password", "implicit"], "urn:ietf:params:oauth:grant-type:jwt-bearer"
    wanted = ["authorization_code", "client_credentials", assertions, *unsupported]
    answer = (await post(world, grant_types=wanted)).json()
    assert answer["grant_types"] == ["authorization_code"]
    for grant_type in ("client_credentials", *unsupported):
        refused = await world.token({"grant_type": grant_type, "client_id": answer["client_id"], "assertion": "x"})
        expected = "unsupported_grant_type" if grant_type in unsupported else "unauthorized_client"
        assert error_of(refused) == expected
    refused = await world.token({"grant_type": assertions, "client_id": answer["client_id"], "assertion": "x"})
    assert error_of(refused) == "invalid_grant"
    assert error_of(await post(world, grant_types=["client_credentials"])) == "invalid_client_metadata"
    code = await world.code(answer["client_id"])
    assert "refresh_token" not in (await world.token(code.form())).json()
    refused = await world.refresh(answer["client_id"], "anything")
    assert error_of(refused) == "unauthorized_client"


@pytest.mark.requirement("S-025")
async def test_privileged_scopes_are_not_had_by_registering_them(world: World) -> None:
    answer = (await post(world, scope="admin * exchange tools")).json()
    assert answer["scope"] == "tools"
    issued = await world.tokens(answer["client_id"], scope="tools exchange admin")
    assert issued["scope"] == "tools"
    exchanging = {"grant_types": ["authorization_code", TOKEN_EXCHANGE], "scope": "admin exchange tools"}
    assert (await post(world, **exchanging)).json()["scope"] == "exchange tools"


@pytest.mark.requirement("S-026")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"client_name":"' + b"x" * 2_000_000 + b'"}', 413),
        (b'{"redirect_uris":[' + b",".join([b'"https://a.example/cb"'] * 20_000) + b"]}", 413),
        (b'{"redirect_uris":["https://a.example/cb"],"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400),
        (b'{"redirect_uris":["https://a.example/cb"],"a":' + b"[" * 31 + b"]" * 31 + b"}", 400),
        (b"{", 400),
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b'{"redirect_uris":"https://a.example/cb"}', 400),
        (b'{"redirect_uris":{"a":1}}', 400),
        (b'{"redirect_uris":[1]}', 400),
        (b'{"redirect_uris":[]}', 400),
        (b"{}", 400),
        (b'{"redirect_uris":["https://a.example/cb"],"client_name":{"a":1}}', 400),
        (b'{"redirect_uris":["https://a.example/cb"],"contacts":"me"}', 400),
        (b'{"redirect_uris":["https://a.example/cb"],"client_name":"' + b"x" * 3000 + b'"}', 400),
        (b"\xff\xfe{}", 400),
        (b'{"redirect_uris":["https://a.example/cb"],"redirect_uris":["https://b.example/cb"]}', 400),
    ],
)
async def test_oversized_and_malformed_registrations_end_quickly(world: World, body: bytes, status: int) -> None:
    async with asyncio.timeout(30):
        answer = await world.http.post("/register", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert error_of(answer) in {"invalid_client_metadata", "invalid_redirect_uri", "invalid_request"}


@pytest.mark.requirement("S-026")
async def test_a_registration_just_under_the_limits_is_accepted(world: World) -> None:
    padding: object = "x"
    for _ in range(28):
        padding = [padding]
    assert (await post(world, padding=padding, more="x" * 60_000)).status_code == 201


@pytest.mark.requirement("S-027")
async def test_a_flood_is_throttled_per_address_and_in_total(tmp_path: Path) -> None:
    limits = {"registration": {"per_address_hourly": 12, "total_hourly": 16}}
    async with vault_with(tmp_path / "data", **limits) as (vault, http):
        answers = [(await http.post("/register", json=GOOD)) for _ in range(20)]
        assert [answer.status_code for answer in answers] == [201] * 12 + [429] * 8
        assert error_of(answers[-1]) == "temporarily_unavailable"
        assert answers[-1].headers["retry-after"]
        other = httpx2.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{vault.settings.server.port}",
            transport=other,
            timeout=30,
        ) as second:
            answers = [(await second.post("/register", json=GOOD)) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [201] * 4 + [429] * 4
        vault.deployment.database.clock_offset += 7300
        assert (await http.post("/register", json=GOOD)).status_code == 201


@pytest.mark.requirement("S-027")
async def test_a_client_that_nobody_used_for_a_day_is_forgotten_and_a_used_one_stays(world: World) -> None:
    unused = await world.register()
    used = await world.tokens()
    place = f"/register/{unused['client_id']}"
    headers = {"Authorization": f"Bearer {unused['registration_access_token']}"}
    with world.clock_ahead(86_300):
        await world.register()
        assert (await world.http.get(place, headers=headers)).status_code == 200
    with world.clock_ahead(86_500):
        await world.register()
    assert (await world.http.get(place, headers=headers)).status_code == 401
    assert (await world.refresh(used["client_id"], used["refresh_token"])).status_code == 200


@pytest.mark.requirement("S-028")
async def test_registration_fetches_nothing(world: World) -> None:
    async with running_canary() as canary:
        address = canary.url
        links = {name: f"{address}/{name}" for name in ("client_uri", "logo_uri", "tos_uri", "policy_uri")}
        others = {"sector_identifier_uri": address, "software_statement": address, "initiate_login_uri": address}
        answer = await post(world, **links, **others, request_uris=[address], redirect_uris=[f"{address}/cb"])
        assert answer.status_code == 201
        keys = await post(
            world, jwks_uri=f"https://127.0.0.1:{address[-5:]}/k", token_endpoint_auth_method="private_key_jwt"
        )
        assert keys.status_code in {201, 400}
    assert canary.arrivals == 0


@pytest.mark.requirement("S-031")
async def test_secrets_are_long_shown_once_and_absent_for_public_clients(world: World) -> None:
    confidential = await post(world, token_endpoint_auth_method="client_secret_post")
    assert confidential.headers["cache-control"] == "no-store"
    content = confidential.json()
    assert len(content["client_secret"]) >= 43
    assert content["client_secret_expires_at"] == 0
    management = {"Authorization": f"Bearer {content['registration_access_token']}"}
    again = (await world.http.get(f"/register/{content['client_id']}", headers=management)).json()
    assert "client_secret" not in again
    public = (await post(world)).json()
    assert "client_secret" not in public
    assert "client_secret_expires_at" not in public
    assert None not in public.values()


@pytest.mark.requirement("S-032")
async def test_a_forged_software_statement_gives_nothing(world: World) -> None:
    statement = f"{b64({'alg': 'none'})}.{b64({'client_name': 'Trusted', 'redirect_uris': ['https://evil.example/']})}."
    answer = (await post(world, software_statement=statement)).json()
    assert answer["client_name"] == "Agent"
    assert answer["redirect_uris"] == [REDIRECT]
    assert "software_statement" not in answer


@pytest.mark.requirement("S-033")
async def test_names_lose_characters_that_could_disguise_them(world: World) -> None:
    assert (await post(world, client_name="Sla\u202eck\u200b\x1b[31m")).json()["client_name"] == "Slack[31m"
    assert (await post(world, client_name="\u202e\u200b")).json()["client_name"] == "Unnamed agent"


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "left out", "client_name": "left out", "token_endpoint_auth_method": "left out"},
        {"client_uri": None, "logo_uri": "", "contacts": [], "scope": "", "jwks": None},
        {"response_types": [], "grant_types": [], "token_endpoint_auth_method": "", "software_id": ""},
        {"grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]},
        {
            "redirect_uris": [
                "cursor://anysphere.cursor-mcp/oauth/callback",
                "https://www.cursor.com/agents/mcp/oauth/callback",
                "http://localhost:8787/callback",
            ]
        },
        {"application_type": "native", "software_id": "x", "unknown_member": {"a": [1]}},
        {"response_types": ["code", "id_token"]},
        {"contacts": ["me@agent.example"], "client_uri": "https://agent.example/about?x=1"},
    ],
)
async def test_registrations_as_clients_in_the_field_send_them_are_accepted(
    world: World, changes: dict[str, object]
) -> None:
    answer = await post(world, **changes)
    assert answer.status_code == 201, answer.text
    content = answer.json()
    assert not [name for name, value in content.items() if value in (None, "", [])]
    assert "authorization_code" in content["grant_types"]
    assert content["response_types"] == ["code"]
    assert (await world.ask(content["client_id"], redirect_uri=content["redirect_uris"][0])).status_code == 303


@pytest.mark.parametrize(
    "changes",
    [
        {"token_endpoint_auth_method": "client_secret_jwt"},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://a.example/k"},
        {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://127.0.0.1:8000/k"},
        {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}},
        {"jwks": {"keys": []}, "jwks_uri": "https://a.example/k"},
        {"response_types": ["token"]},
        {"client_uri": "javascript:alert(1)"},
        {"logo_uri": "data:image/png;base64,AAAA"},
    ],
)
async def test_metadata_that_cannot_be_kept_is_refused(world: World, changes: dict[str, object]) -> None:
    assert error_of(await post(world, **changes)) == "invalid_client_metadata"


async def test_other_media_types_and_methods_are_refused_as_json(world: World) -> None:
    plain = await world.http.post("/register", content=b"{}", headers={"Content-Type": "text/plain"})
    assert error_of(plain) == "invalid_client_metadata"
    listed = await world.http.get("/register")
    assert (listed.status_code, error_of(listed)) == (405, "invalid_request")
    assert listed.headers["allow"] == "OPTIONS, POST"
    assert (await world.http.post("/register/", json=GOOD)).status_code == 201


async def test_policy_decides_who_may_register(tmp_path: Path) -> None:
    closed = {"registration": {"mode": "closed"}}
    async with vault_with(tmp_path / "a", **closed) as (_, http):
        refused = await http.post("/register", json=GOOD)
        assert (refused.status_code, error_of(refused)) == (403, "access_denied")
        found = (await http.get("/.well-known/oauth-authorization-server")).json()
        assert "registration_endpoint" not in found
        assert found["client_id_metadata_document_supported"] is False
    listed = {"registration": {"mode": "allow_list", "allowed_hosts": ["good.example"], **GENEROUS["registration"]}}
    async with vault_with(tmp_path / "b", **listed) as (_, http):
        for uri, status in (
            ("https://good.example/cb", 201),
            ("https://evil.example/cb", 400),
            ("https://good.example.evil.example/cb", 400),
            (REDIRECT, 201),
        ):
            assert (await http.post("/register", json=GOOD | {"redirect_uris": [uri]})).status_code == status
        signing = GOOD | {"token_endpoint_auth_method": "private_key_jwt"}
        for host, status in (("good.example", 201), ("evil.example", 400)):
            answer = await http.post("/register", json=signing | {"jwks_uri": f"https://{host}/keys"})
            assert answer.status_code == status
