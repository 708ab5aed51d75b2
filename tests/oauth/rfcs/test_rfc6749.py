"""RFC 6749, RFC 7636 and OAuth 2.1 at the token endpoint: codes, client authentication, the form of answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import statistics
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from tests.support.person import Person
from tests.support.rooms.oauth_world import REDIRECT, SCOPE, WEB, World, claims_of, error_of, pkce, vault_with
from vault import grants, users
from vault.keys import passwords

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


async def test_an_honest_client_gets_tokens(world: World) -> None:
    code = await world.code()
    answer = await world.token(code.form())
    content = answer.json()
    assert answer.status_code == 200
    assert content["token_type"] == "Bearer"
    assert content["expires_in"] == 3600
    assert content["scope"] == "connections openid tools"
    members = {"access_token", "token_type", "expires_in", "scope", "id_token"}
    assert content.keys() == members | {"refresh_token", "refresh_token_expires_in"}
    assert await world.probe(content["access_token"]) == 200


@pytest.mark.requirement("S-057")
async def test_codes_are_long_all_different_and_short_lived(world: World) -> None:
    client_id = await world.public_client()
    codes = [await world.code(client_id) for _ in range(5)]
    assert len({code.code for code in codes}) == 5
    assert all(len(code.code) >= 43 for code in codes)
    with world.clock_ahead(61):
        assert error_of(await world.token(codes[0].form())) == "invalid_grant"
    with world.clock_ahead(20):
        assert (await world.token(codes[1].form())).status_code == 200


@pytest.mark.requirement("S-070", "S-082")
async def test_only_the_verifier_fits_and_a_wrong_one_does_not_burn_the_code(world: World) -> None:
    code = await world.code()
    challenge = base64.urlsafe_b64encode(hashlib.sha256(code.verifier.encode()).digest()).decode().rstrip("=")
    wrong = [
        pkce()[0],
        None,
        "",
        challenge,
        code.verifier[:-1],
        code.verifier + "A",
        code.verifier + "\n",
        "\n" + code.verifier,
        code.verifier + "=",
        code.verifier.swapcase(),
    ]
    for verifier in wrong:
        assert error_of(await world.token(code.form(code_verifier=verifier))) == "invalid_grant"
    assert (await world.token(code.form())).status_code == 200


@pytest.mark.requirement("S-070")
async def test_a_confidential_client_needs_the_verifier_too(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    code = await world.code(str(client["client_id"]))
    secret = str(client["client_secret"])
    assert error_of(await world.token(code.form(client_secret=secret, code_verifier=None))) == "invalid_grant"
    assert (await world.token(code.form(client_secret=secret))).status_code == 200


@pytest.mark.requirement("S-071")
async def test_a_replayed_code_kills_the_tokens_of_its_first_redemption(stored_world: World) -> None:
    code = await stored_world.code()
    first = (await stored_world.token(code.form())).json()
    rotated = (await stored_world.refresh(code.client_id, first["refresh_token"])).json()
    bystander = await stored_world.tokens(code.client_id)
    assert await stored_world.probe(first["access_token"]) == 200
    assert error_of(await stored_world.token(code.form())) == "invalid_grant"
    assert await stored_world.probe(first["access_token"]) == 401
    assert await stored_world.probe(rotated["access_token"]) == 401
    assert error_of(await stored_world.refresh(code.client_id, rotated["refresh_token"])) == "invalid_grant"
    assert await stored_world.probe(bystander["access_token"]) == 200


@pytest.mark.requirement("S-071")
async def test_a_code_replayed_later_kills_them_too(world: World) -> None:
    code = await world.code()
    first = (await world.token(code.form())).json()
    with world.clock_ahead(400):
        assert error_of(await world.token(code.form())) == "invalid_grant"
    assert await world.probe(first["access_token"]) == 401


@pytest.mark.requirement("S-071")
@pytest.mark.parametrize(
    "change",
    [
        {"code_verifier": None},
        {"code_verifier": "x" * 43},
        {"redirect_uri": "http://127.0.0.1:1/callback"},
        {"client_id": "another"},
        {},
    ],
    ids=lambda change: next(iter(change), "honest"),
)
async def test_a_stranger_who_saw_a_used_code_cannot_end_what_it_made(
    stored_world: World, change: dict[str, str | None]
) -> None:
    """A code appears in addresses, logs and histories; the verifier does not."""
    world = stored_world
    code = await world.code()
    first = (await world.token(code.form())).json()
    if "client_id" in change:
        change = {"client_id": await world.public_client()}
    replayed = await world.token(code.form(**change))
    assert error_of(replayed) == "invalid_grant"
    assert (await world.probe(first["access_token"]) == 200) == bool(change)
    assert ((await world.refresh(code.client_id, first["refresh_token"])).status_code == 200) == bool(change)
    if change:  # the twin: with correct parameters, it is a replay
        assert error_of(await world.token(code.form())) == "invalid_grant"
        assert await world.probe(first["access_token"]) == 401


@pytest.mark.requirement("S-072")
@pytest.mark.parametrize("attempt", range(3))
async def test_of_many_parallel_redemptions_at_most_one_succeeds(stored_world: World, attempt: int) -> None:
    code = await stored_world.code()
    answers = await asyncio.gather(*(stored_world.token(code.form()) for _ in range(20)))
    assert sum(answer.status_code == 200 for answer in answers) <= 1
    assert {answer.status_code for answer in answers} <= {200, 400}


@pytest.mark.requirement("S-073")
async def test_a_code_is_bound_to_client_redirect_and_resource(world: World) -> None:
    other = await world.public_client()
    code = await world.code()
    for changes, error in (
        ({"client_id": other}, "invalid_grant"),
        ({"redirect_uri": "https://evil.example/cb"}, "invalid_grant"),
        ({"redirect_uri": REDIRECT + "/"}, "invalid_grant"),
        ({"redirect_uri": "http://127.0.0.1:1/callback"}, "invalid_grant"),
        ({"redirect_uri": None}, "invalid_grant"),
        ({"resource": f"{world.url}/sse"}, "invalid_target"),
        ({"resource": "https://other.example"}, "invalid_target"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"code": code.code[:-1]}, "invalid_grant"),
        ({"code": code.code + "A"}, "invalid_grant"),
    ):
        assert error_of(await world.token(code.form(**changes))) == error
    issued = await world.token(code.form(resource=f"{world.url}/mcp"))
    assert claims_of(issued.json()["access_token"])["aud"] == f"{world.url}/mcp"


@pytest.mark.parametrize(
    ("asked", "redeemed", "audience"),
    [
        (None, None, "/mcp"),
        (None, "/mcp", "/mcp"),
        (None, "/sse", "/sse"),
        (None, "/", ""),
        ("/mcp/", "/mcp", "/mcp"),
        ("/sse", None, "/sse"),
        ("", "/", ""),
        ("/", "", ""),
    ],
)
async def test_resources_as_clients_in_the_field_name_them(
    world: World, asked: str | None, redeemed: str | None, audience: str
) -> None:
    code = await world.code(resource=None if asked is None else world.url + asked)
    answer = await world.token(code.form(resource=None if redeemed is None else world.url + redeemed))
    assert answer.status_code == 200, answer.text
    assert claims_of(answer.json()["access_token"])["aud"] == world.url + audience
    assert await world.probe(answer.json()["access_token"]) == 200


@pytest.mark.requirement("S-074")
@pytest.mark.parametrize("registered", ["client_secret_basic", "client_secret_post"])
async def test_a_confidential_client_must_authenticate_with_its_whole_secret(world: World, registered: str) -> None:
    client = await world.register(token_endpoint_auth_method=registered)
    client_id, secret = str(client["client_id"]), str(client["client_secret"])
    other = await world.register(token_endpoint_auth_method=registered)
    code = await world.code(client_id)

    async def attempt(given: str | None, *, in_header: bool, named: str = client_id) -> httpx2.Response:
        if in_header:
            header = "Basic " + base64.b64encode(f"{quote(named)}:{quote(given or '')}".encode()).decode()
            return await world.token(code.form(client_id=None), headers={"Authorization": header})
        return await world.token(code.form(client_id=named, client_secret=given))

    forged = [None, "", "x", secret[:-1], secret + "A", secret.swapcase(), str(other["client_secret"]), secret[:20]]
    for in_header in (True, False):
        for given in forged:
            answer = await attempt(given, in_header=in_header)
            assert (answer.status_code, error_of(answer)) == (401, "invalid_client")
            assert ("www-authenticate" in answer.headers) == in_header
        crossed = await attempt(secret, in_header=in_header, named=str(other["client_id"]))
        assert error_of(crossed) == "invalid_client"
    assert (await attempt(secret, in_header=registered == "client_secret_basic")).status_code == 200


@pytest.mark.requirement("S-074")
async def test_only_one_method_of_authentication_at_once(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_basic")
    client_id, secret = str(client["client_id"]), str(client["client_secret"])
    code = await world.code(client_id)
    header = {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}
    both = await world.token(code.form(client_secret=secret), headers=header)
    assert (both.status_code, error_of(both)) == (400, "invalid_request")
    other = await world.token(code.form(client_id=await world.public_client()), headers=header)
    assert error_of(other) == "invalid_request"
    for broken in ("Basic", "Basic !!!", "Basic " + base64.b64encode(b"nocolon").decode(), "Bearer x", "Digest x"):
        answer = await world.token(code.form(), headers={"Authorization": broken})
        assert (answer.status_code, error_of(answer)) == (401, "invalid_client")
    assert (await world.token(code.form(), headers=header)).status_code == 200


async def test_a_public_client_may_name_itself_in_the_basic_header_or_send_an_empty_secret(world: World) -> None:
    code = await world.code()
    named = {"Authorization": "Basic " + base64.b64encode(f"{code.client_id}:".encode()).decode()}
    issued = await world.token(code.form(client_id=None), headers=named)
    assert issued.status_code == 200
    refreshed = await world.refresh(code.client_id, issued.json()["refresh_token"], client_secret="")
    assert refreshed.status_code == 200
    guessed = await world.refresh(code.client_id, refreshed.json()["refresh_token"], client_secret="guess")
    assert (guessed.status_code, error_of(guessed)) == (401, "invalid_client")


@pytest.mark.requirement("S-074")
async def test_the_time_of_a_refusal_does_not_tell_near_from_far_or_unknown(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    client_id, secret = str(client["client_id"]), str(client["client_secret"])
    tries = {"near": (client_id, secret[:-1] + "!"), "far": (client_id, "x"), "unknown": ("nobody", secret)}
    seconds: dict[str, list[float]] = {name: [] for name in tries}
    for _ in range(30):
        for name, (named, given) in tries.items():
            started = time.process_time()  # of client and server, so that other load on the machine doesn't count
            await world.token({"grant_type": "refresh_token", "client_id": named, "client_secret": given})
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    assert max(medians.values()) < 3 * min(medians.values())  # coarse, but a slow path for one of them would show


async def test_a_client_that_lost_its_registration_is_told_so(world: World) -> None:
    answer = await world.refresh("a-client-of-former-days", "anything")
    assert (answer.status_code, error_of(answer)) == (401, "invalid_client")


@pytest.mark.requirement("S-075")
async def test_parameters_come_in_the_body_as_a_form_and_once(world: World) -> None:
    code = await world.code()
    body = "&".join(f"{name}={quote(value)}" for name, value in code.form().items())
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = await world.http.request(method, f"/token?{body}")
        assert (answer.status_code, error_of(answer)) == (405, "invalid_request")
    assert error_of(await world.http.post(f"/token?{body}")) == "invalid_request"
    assert error_of(await world.http.post(f"/token?code={code.code}", content=body, headers=form)) == "invalid_request"
    for media in ("application/json", "application/xml", "text/plain", "multipart/form-data; boundary=x", ""):
        answer = await world.http.post("/token", content=body, headers={"Content-Type": media})
        assert error_of(answer) == "invalid_request"
    for name in code.form():
        answer = await world.http.post("/token", content=f"{body}&{name}=other", headers=form)
        assert error_of(answer) == "invalid_request"
        answer = await world.http.post("/token", content=f"{name}=other&{body}", headers=form)
        assert error_of(answer) == "invalid_request"
    assert (await world.http.post("/token/", content=body, headers=form)).status_code == 200


ODD_BODIES: list[bytes] = [
    b"",
    b"&",
    b"=",
    b"&&&===",
    b"grant_type",
    b"grant_type=",
    b"grant_type=%",
    b"grant_type=%ff%fe",
    b"grant_type=\xff\xfe",
    b"grant_type=authorization_code%00",
    b"grant_type=authorization_code&code=%00",
    b"grant_type=authorization_code&client_id=" + b"x" * 20_000,
    b"grant_type=" + b"x" * 40_000,
    b"&".join(b"p%d=1" % n for n in range(500)),
    b"grant_type[]=authorization_code",
    b"grant_type=__proto__",
    b"grant_type=authorization_code&code=' or 1=1 --",
    b"grant_type=authorization_code&code=../../etc/passwd&client_id=../..",
    b"grant_type=refresh_token&client_id=%F0%9F%92%A9&refresh_token=%F0%9F%92%A9",
    b"grant_type=refresh_token&client_id=%ED%A0%80",
    b'{"grant_type":"authorization_code"}',
    b"<xml/>",
    b"\x00" * 100,
    b"grant_type=authorization_code;code=x",
    b"client_id=https://127.0.0.1/x&grant_type=refresh_token&refresh_token=x",
    b"client_id=x&client_assertion=a.b.c&grant_type=refresh_token",
]


@pytest.mark.requirement("S-076")
@pytest.mark.parametrize("body", ODD_BODIES, ids=range(len(ODD_BODIES)))
async def test_odd_bodies_get_json_that_nobody_stores(world: World, body: bytes) -> None:
    for path in ("/token", "/revoke", "/introspect"):
        answer = await world.http.post(
            path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert 400 <= answer.status_code < 500
        assert error_of(answer) in {"invalid_request", "invalid_client", "unsupported_grant_type", "invalid_grant"}


@pytest.mark.requirement("S-076")
async def test_a_good_answer_is_not_stored_either(world: World) -> None:
    answer = await world.token((await world.code()).form())
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.requirement("S-077")
@pytest.mark.parametrize("path", ["/token", "/register", "/revoke", "/.well-known/oauth-authorization-server"])
async def test_pages_of_any_origin_may_call_without_credentials(world: World, path: str) -> None:
    origin = {"Origin": "https://web-agent.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = await world.http.options(path, headers=origin | asked)
    assert preflight.status_code == 204
    refused = await world.http.post(path, data={}, headers=origin)
    for answer in (preflight, refused):
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.requirement("S-077")
@pytest.mark.parametrize("path", ["/introspect", "/userinfo", "/authorize", "/consent", "/connections"])
async def test_other_endpoints_are_closed_to_pages_of_other_origins(world: World, path: str) -> None:
    for method in ("OPTIONS", "GET", "POST"):
        answer = await world.http.request(
            method, path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        )
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.requirement("S-076")
async def test_an_endless_body_is_cut(world: World) -> None:
    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(200):
            yield b"a=" + b"x" * 1000

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await world.http.post("/token", content=endless(), headers=headers)
    assert (answer.status_code, error_of(answer)) == (413, "invalid_request")


async def test_a_missing_or_foreign_grant_type_is_named(world: World) -> None:
    client_id = await world.public_client()
    assert error_of(await world.token({"client_id": client_id})) == "invalid_request"
    answer = await world.token({"client_id": client_id, "grant_type": "password"})
    assert (answer.status_code, error_of(answer)) == (400, "unsupported_grant_type")
    exchange = "urn:ietf:params:oauth:grant-type:token-exchange"
    answer = await world.token({"client_id": client_id, "grant_type": exchange})
    assert (answer.status_code, error_of(answer)) == (400, "unauthorized_client")


async def test_the_code_can_be_redeemed_for_less(world: World) -> None:
    code = await world.code(scope=SCOPE)
    issued = (await world.token(code.form(scope="tools"))).json()
    assert issued["scope"] == "tools"
    wider = await world.refresh(code.client_id, issued["refresh_token"])
    assert wider.json()["scope"] == "connections openid tools"  # RFC 6749 §6: the scopes that the person granted


@pytest.mark.requirement("S-074")
async def test_credentials_that_cannot_be_read_are_refused_with_a_challenge(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_basic")
    good = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()

    async def ask(*values: str) -> httpx2.Response:
        headers = [("Authorization", value) for value in values]
        return await world.http.post("/revoke", data={"token": "x"}, headers=headers)

    wrong = ["!" + good, good + "!", *(base64.b64encode(one).decode() for one in (b"no colon", b"\xff:x", b"a\0:x"))]
    for values in (
        ("Basic", "Basic"),
        (f"Basic {good}",) * 2,
        (f"Bearer {good}",),
        *((f"Basic {one}",) for one in wrong),
    ):
        refused = await ask(*values)
        assert (refused.status_code, error_of(refused)) == (401, "invalid_client"), values
        assert refused.headers["www-authenticate"].startswith("Basic "), values
    assert [(await ask(one)).status_code for one in (f"Basic {good}", f"basic  {good}")] == [200, 200]


async def test_a_redirect_uri_that_was_not_named_may_be_left_out_but_not_replaced(world: World) -> None:
    client_id = await world.public_client(redirect_uris=[WEB])
    codes = [await world.code(client_id, redirect_uri=None) for _ in range(2)]
    assert error_of(await world.token(codes[0].form(redirect_uri=f"{WEB}/other"))) == "invalid_grant"
    assert (await world.token(codes[0].form(redirect_uri=WEB))).status_code == 200
    assert (await world.token(codes[1].form(redirect_uri=None))).status_code == 200
    named = await world.code(client_id, redirect_uri=WEB)
    assert error_of(await world.token(named.form(redirect_uri=None))) == "invalid_grant"
    assert (await world.token(named.form())).status_code == 200


@pytest.mark.requirement("S-086")
@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_code_is_of_no_use_while_the_persons_agents_are_stopped(
    world: World, stranger: Person, *, is_stopped: bool
) -> None:
    theirs = World(world.vault, stranger, world.http)
    code, database = await theirs.code(), world.vault.deployment.database
    of_code = "select user_id from tickets where client_id = :id and user_id is not null"
    (row,) = await database.fetch(of_code, {"id": code.client_id})
    if is_stopped:  # from before the code was made, which therefore lasts
        now = world.now()
        async with database.transaction() as transaction:
            await users.stop_agents(transaction, str(row["user_id"]), by="issuer", at=now - 100, now=now)
    answer = await theirs.token(code.form())
    assert (answer.status_code, is_stopped and error_of(answer)) == (
        (400, "invalid_grant") if is_stopped else (200, False)
    )


@pytest.mark.requirement("S-086")
async def test_password_change_disabling_and_consent_withdrawal_kill_tokens_at_once(
    tmp_path: Path,
) -> None:
    async with vault_with(tmp_path / "data") as (vault, http):
        database = vault.deployment.database

        async def probe(token: str) -> int:
            return (await http.get("/userinfo", headers={"Authorization": f"Bearer {token}"})).status_code

        for act in ("password", "consent", "disabled"):
            async with vault.person() as alice:
                issued = await vault.agent(alice, scope="openid tools")
            subject = str(claims_of(issued.access_token)["sub"])
            assert await probe(issued.access_token) == 200
            now = vault.deployment.now()
            async with database.transaction() as transaction:
                match act:
                    case "password":
                        hashed = await passwords.hash_password("a long enough test password")
                        await users.set_password(transaction, subject, password_hash=hashed, now=now)
                    case "consent":
                        await grants.revoke_client_grants(
                            transaction, user_id=subject, client_id=issued.client_id, reason="cut_off", now=now
                        )
                    case _:
                        await users.disable_user(transaction, subject, now=now)
            assert await probe(issued.access_token) == 401
            form = {"grant_type": "refresh_token", "client_id": issued.client_id}
            refused = await http.post("/token", data=form | {"refresh_token": issued.refresh_token or ""})
            assert error_of(refused) == "invalid_grant"
