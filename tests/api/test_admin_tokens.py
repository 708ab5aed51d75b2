"""Who may use the Admin API: operators' clients with a live admin, the scope, and a recent sign-in."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from server.administration import people
from server.administration.agents import NewAgent, register
from server.oauth.rules import ADMIN_SCOPES
from tests.support.inspection import until_waiting
from tests.support.rooms.admin_room import REDIRECT, AdminRoom, problem, running_admin_room
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from vault import clients, grants, users
from vault.records import ClientKind, Role


@pytest.fixture
async def own_room(tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path / "vault", admin={"requests_per_minute": 10}) as opened:
        yield opened


async def test_a_service_account_gets_a_short_token_without_a_refresh_token(room: AdminRoom) -> None:
    answer = await room.request_token(await room.service_account("admin:read", "admin:people"))
    assert answer.json().keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (answer.json()["scope"], answer.json()["expires_in"]) == ("admin:people admin:read", 3600)
    claims = claims_of(answer.json()["access_token"])
    assert claims["aud"] == room.resource
    assert "auth_time" not in claims
    seen = await room.call("GET", "/me", token=answer.json()["access_token"])
    assert seen.json()["person"]["name"] == "alice"


async def test_a_service_account_asks_for_less_never_for_more_nor_for_another_audience(room: AdminRoom) -> None:
    account = await room.service_account("admin:read")
    assert (await room.request_token(account, scope="admin:read admin:keys")).json()["scope"] == "admin:read"
    assert (await room.request_token(account, scope="admin:keys")).json()["error"] == "invalid_scope"
    assert (await room.request_token(account, resource=room.resource)).status_code == 200
    assert (await room.request_token(account, resource=f"{room.room.url}/mcp")).json()["error"] == "invalid_target"
    wrong = replace(account, secret="wrong")
    assert (await room.request_token(wrong)).status_code == 401


async def test_only_a_service_account_has_the_grant_client_credentials(room: AdminRoom) -> None:
    made = await register(room.operator, NewAgent("Backend", redirect_uris=(REDIRECT,), has_secret=True))
    refused = await room.request_token(made)
    assert refused.json()["error"] == "unauthorized_client"
    own = await room.room.vault.register(grant_types=["authorization_code", "client_credentials"])
    assert own["grant_types"] == ["authorization_code"]


async def test_a_service_account_ends_with_its_grant_and_with_its_admin(room: AdminRoom) -> None:
    await room.room.vault.add_user("carol", is_admin=True)
    account = await room.service_account("admin:read", name="carol")
    token = (await room.request_token(account)).json()["access_token"]
    carol = await room.person("carol")
    await people.set_admin(room.operator, carol, is_admin=False)
    problem(await room.call("GET", "/people", token=token), 403, "forbidden")
    assert (await room.request_token(account)).json()["error"] == "invalid_grant"
    await people.set_admin(room.operator, carol, is_admin=True)
    assert (await room.call("GET", "/people", token=token)).status_code == 200
    async with room.deployment.transaction() as transaction:
        await grants.revoke_client_grants(
            transaction, user_id=carol.id, client_id=account.client.id, reason="cut_off", now=room.deployment.now()
        )
    problem(await room.call("GET", "/people", token=token), 401, "invalid_token")
    assert (await room.request_token(account)).json()["error"] == "invalid_grant"


async def test_a_service_account_rests_while_its_admins_agents_are_stopped(room: AdminRoom) -> None:
    """The stop ends no grant, so the person's state decides."""
    frank, issuer = await room.room.vault.add_user("frank", is_admin=True), "https://id.example"
    account, now = await room.service_account("admin:read", name="frank"), room.deployment.now()
    assert (await room.request_token(account)).status_code == 200
    async with room.deployment.transaction() as transaction:
        await users.stop_agents(transaction, frank.id, by=issuer, at=now, now=now)
    assert (await room.request_token(account)).json()["error"] == "invalid_grant"
    async with room.deployment.transaction() as transaction:
        await users.lift_stop(transaction, frank.id, by=issuer, signed_in_at=now + 1)
    assert (await room.request_token(account)).status_code == 200


async def test_a_stranger_who_registers_never_gets_a_token_for_the_admin_api(room: AdminRoom) -> None:
    own = await room.room.vault.register()
    answer, _ = await room.room.vault.authorize(
        await room.room.browser(), str(own["client_id"]), scope="admin:read", resource=room.resource
    )
    assert answer["error"] == "invalid_target"
    made = await register(room.operator, NewAgent("Web", redirect_uris=(REDIRECT,)))  # not for the Admin API
    answer, _ = await room.room.vault.authorize(
        await room.room.browser(), made.client.id, scope="admin:read", resource=room.resource
    )
    assert answer["error"] == "invalid_target"


async def test_a_client_that_is_bound_to_the_admin_api_gets_no_token_for_another_api(room: AdminRoom) -> None:
    made = await register(room.operator, NewAgent("Console", redirect_uris=(REDIRECT,), resources=(room.resource,)))
    for resource, member in (
        ("https://other.example", "error"),
        (f"{room.room.url}/mcp", "error"),
        (room.resource, "code"),
    ):
        answer, _ = await room.room.vault.authorize(
            await room.room.browser(), made.client.id, scope="admin:read", resource=resource
        )
        assert answer.get("error") == ("invalid_target" if member == "error" else None)
        assert member in answer


async def test_an_admin_signs_in_to_a_client_that_the_operator_bound(room: AdminRoom) -> None:
    token = await room.signed_in_token("admin:read", "admin:people")
    assert (await room.call("GET", "/people", token=token)).status_code == 200
    made = await room.call("POST", "/people", token=token, json={"name": "dora"})
    assert made.status_code == 201
    problem(await room.call("POST", "/keys/signing", token=token), 403, "insufficient_scope")


@pytest.mark.parametrize("is_ended", [True, False])
async def test_whoever_loses_the_role_while_allowing_it_allows_nothing(room: AdminRoom, *, is_ended: bool) -> None:
    admin = await room.room.vault.add_user(f"judy-{is_ended}", is_admin=True)
    client = await room.room.agent(ClientKind.MANUAL, resources=(room.resource,))
    browser = await room.room.signed_in(admin)
    asked = await browser.open(room.room.authorize_path(client, scope="admin:read", resource=room.resource))
    async with room.deployment.transaction() as ending:
        answering = asyncio.ensure_future(browser.submit(asked, form="/consent", button=("decision", "allow")))
        await until_waiting(ending, number=1, is_sqlite=True, unless=answering)
        if is_ended:
            await users.set_role(ending, admin.id, Role.MEMBER)
    answer = await answering
    assert ("code=" in answer.headers.get("location", "")) is not is_ended
    assert answer.status_code == (409 if is_ended else 303)


async def test_a_person_who_is_no_admin_cannot_allow_it(room: AdminRoom) -> None:
    erin = await room.room.vault.add_user("erin")
    client = await room.room.agent(ClientKind.MANUAL, resources=(room.resource,))
    browser = await room.room.signed_in(erin)
    path = room.room.authorize_path(client, scope="admin:read", resource=room.resource)
    refused = await browser.open(path)
    assert refused.status_code == 403
    assert "aren't an administrator of this vault" in html.unescape(refused.text)
    await people.set_admin(room.operator, erin, is_admin=True)
    asked = await browser.open(path)
    assert "see people, agents, providers" in asked.text
    await people.set_admin(room.operator, erin, is_admin=False)  # after the page was shown
    late = await browser.submit(asked, form="/consent", button=("decision", "allow"))
    assert late.status_code == 403
    assert "code=" not in late.headers.get("location", "")


async def test_a_change_needs_a_recent_sign_in_and_reading_does_not(room: AdminRoom) -> None:
    token = await room.signed_in_token("admin:read", "admin:people")
    database = room.deployment.database
    database.clock_offset += 1900
    try:
        assert (await room.call("GET", "/people", token=token)).status_code == 200
        refused = await room.call("POST", "/people", token=token, json={"name": "too-late"})
        problem(refused, 401, "sign_in_again")
        challenge = refused.headers["www-authenticate"]
        assert 'error="insufficient_user_authentication"' in challenge  # RFC 9470 §3
        assert 'max_age="1800"' in challenge
        by_machine = await room.call("POST", "/people", token=await room.token_with(), json={"name": "in-time"})
        assert by_machine.status_code == 201
    finally:
        database.clock_offset -= 1900


async def test_what_is_missing_is_named_in_the_challenge(room: AdminRoom) -> None:
    none = await room.http.get("/admin/v1/people")
    problem(none, 401, "no_token")
    challenge = none.headers["www-authenticate"]
    assert challenge.startswith('Bearer scope="admin:read"')
    assert "error" not in challenge  # RFC 6750 §3.1
    metadata = challenge.partition('resource_metadata="')[2].partition('"')[0]
    document = (await room.http.get(metadata)).json()
    assert document["resource"] == room.resource
    assert set(document["scopes_supported"]) == ADMIN_SCOPES
    problem(await room.call("GET", "/people", token="not.a.token"), 401, "invalid_token")
    person = await room.room.signed_in("alice")
    agent = await room.room.vault.agent(person)
    problem(await room.call("GET", "/people", token=agent.access_token), 401, "invalid_token")  # for /mcp
    few = await room.call("GET", "/people", token=await room.token_with("admin:people"))
    problem(few, 403, "insufficient_scope")
    assert 'scope="admin:read"' in few.headers["www-authenticate"]


async def test_a_token_of_the_admin_api_opens_nothing_else(room: AdminRoom) -> None:
    for path in ("/mcp", "/userinfo"):
        answer = await room.http.post(path, headers={"Authorization": f"Bearer {room.token}"}, json={})
        assert answer.status_code == 401, path


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("admin:read", {"read"}),
        ("admin:write", {"people", "keys"}),
        ("admin:people", {"people"}),
        ("admin:keys", {"keys"}),
        ("admin:access", {"access"}),
    ],
)
async def test_each_scope_opens_its_part_only(room: AdminRoom, scope: str, allowed: set[str]) -> None:
    token, alice = await room.token_with(scope), await room.person("alice")
    calls = {
        "read": ("GET", "/settings"),
        "people": ("PATCH", f"/people/{alice.id}"),
        "keys": ("POST", "/keys/signing"),
        "access": ("GET", f"/people/{alice.id}/connections"),
    }
    opened = set[str]()
    for part, (method, path) in calls.items():
        answer = await room.call(method, path, token=token, **({"json": {}} if method == "PATCH" else {}))
        if answer.status_code != 403:
            assert answer.status_code < 300, answer.text
            opened.add(part)
    assert opened == allowed


async def test_a_bound_token_needs_its_key(room: AdminRoom) -> None:
    account = await room.service_account("admin:read")
    key = ECKey.generate_key("P-256")

    def proof(method: str, path: str, token: str = "") -> str:
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
        claims: dict[str, object] = {
            "jti": f"{time.monotonic_ns()}", "htm": method, "htu": room.room.url + path, "iat": room.deployment.now()
        }  # fmt: skip
        if token:
            digest = hashlib.sha256(token.encode()).digest()
            claims["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return sign_jwt(header, claims, key)

    form = {"grant_type": "client_credentials", "client_id": account.client.id, "client_secret": account.secret or ""}
    answer = await room.http.post("/token", data=form, headers={"DPoP": proof("POST", "/token")})
    token = answer.json()["access_token"]
    assert answer.json()["token_type"] == "DPoP"
    bare = await room.http.get("/admin/v1/people", headers={"Authorization": f"Bearer {token}"})
    problem(bare, 401, "invalid_token")
    unproved = await room.http.get("/admin/v1/people", headers={"Authorization": f"DPoP {token}"})
    problem(unproved, 401, "key_not_proved")
    challenge = unproved.headers["www-authenticate"]
    assert challenge.startswith("DPoP ")
    assert "ES256" in challenge.partition('algs="')[2].partition('"')[0].split()
    unbound = await room.http.get("/admin/v1/people", headers={"Authorization": "Bearer nobody"})
    assert "algs" not in unbound.headers["www-authenticate"]  # the twin
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof("GET", "/admin/v1/people", token)}
    assert (await room.http.get("/admin/v1/people", headers=headers)).status_code == 200
    problem(await room.http.get("/admin/v1/people", headers=headers), 401, "key_not_proved")  # replayed


async def test_a_flood_is_held_back_and_told_for_how_long(own_room: AdminRoom) -> None:
    answers = [await own_room.call("GET", "/me") for _ in range(12)]
    assert [one.status_code for one in answers[:10]] == [200] * 10
    refused = answers[-1]
    problem(refused, 429, "too_many_requests")
    assert int(refused.headers["retry-after"]) >= 1
    other = await own_room.token_with("admin:read")
    assert (await own_room.call("GET", "/me", token=other)).status_code == 200  # of another client


async def test_the_api_can_be_switched_off(tmp_path: Path) -> None:
    async with running_admin_room(tmp_path / "vault", admin={"api": False}) as off:
        assert (await off.call("GET", "/me")).status_code == 404
        assert (await off.http.get("/admin/v1/openapi.json")).status_code == 404


async def test_service_accounts_are_made_for_admins_only(room: AdminRoom) -> None:
    erin = await users.find_user(room.deployment.database, "erin") or await room.room.vault.add_user("erin")
    with pytest.raises(Exception, match="isn't an admin"):
        await room.service_account("admin:read", name=erin.name)
    made = await room.service_account("admin:read")
    assert await clients.get_client(room.deployment.database, made.client.id) is not None
