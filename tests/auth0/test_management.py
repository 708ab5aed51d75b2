"""An administrator's program lists a person's connected accounts, as with Auth0's Management API."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from server.administration.actor import Actor
from server.administration.agents import NewAgent, ServiceAccountSpec, register
from server.oauth.rules import ADMIN_ACCESS, ADMIN_READ
from tests.auth0.application import Application
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.records import Role, User


async def service_token(
    room: Room,
    http: httpx2.AsyncClient,
    *,
    person: User | None = None,
    scopes: frozenset[str] = frozenset({ADMIN_ACCESS}),
    **changes: str,
) -> httpx2.Response:
    service = ServiceAccountSpec(person or await room.user("alice"), scopes)
    made = await register(
        Actor(room.deployment, None, "command_line"), NewAgent("Report", has_secret=True, service=service)
    )
    body = {"grant_type": "client_credentials", "client_id": made.client.id, "client_secret": made.secret}
    return await http.post("/oauth/token", json={**body, "audience": f"{room.url}/api/v2/", **changes})


async def test_a_service_account_lists_a_persons_accounts_without_tokens(room: Room, application: Application) -> None:
    connected = await application.connect()
    http = application.http
    token = (await service_token(room, http, scope="read:users")).json()["access_token"]
    path = f"/api/v2/users/{application.user.id}/connected-accounts"
    answer = await http.get(path, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    (account,) = answer.json()["connected_accounts"]
    assert (account["id"], account["strategy"]) == (connected["id"], "sign-in-with-slack")
    assert not {"access_token", "refresh_token"} & set(account)
    for take, status in ((1, 200), (100, 200), (101, 400)):  # node-auth0 asks for 50
        asked = await http.get(path, params={"take": take}, headers={"Authorization": f"Bearer {token}"})
        assert asked.status_code == status
    nobody = await http.get("/api/v2/users/nobody/connected-accounts", headers={"Authorization": f"Bearer {token}"})
    assert nobody.status_code == 404
    mine = await http.get(path, headers={"Authorization": f"Bearer {await application.me_token()}"})
    assert mine.status_code == 401


async def test_credentials_for_another_audience_get_nothing(room: Room, application: Application) -> None:
    refused = await service_token(room, application.http, audience="https://other.example/")
    assert refused.json()["error"] == "invalid_target"
    assert (await service_token(room, application.http)).status_code == 200


async def test_a_token_is_worth_nothing_once_its_person_is_no_admin(room: Room, application: Application) -> None:
    person = await room.vault.add_user(f"admin-{application.user.id}", is_admin=True)
    token = (await service_token(room, application.http, person=person)).json()["access_token"]
    path = f"/api/v2/users/{application.user.id}/connected-accounts"
    for is_admin, status in ((True, 200), (False, 403)):
        async with room.deployment.transaction() as transaction:
            await users.set_role(transaction, person.id, Role.OWNER if is_admin else Role.MEMBER)
        answer = await application.http.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status, answer.text


async def test_the_list_takes_the_scope_that_the_admin_api_takes_for_it(room: Room, application: Application) -> None:
    path, http = f"/api/v2/users/{application.user.id}/connected-accounts", application.http
    both = frozenset({ADMIN_READ, ADMIN_ACCESS})
    for scopes, asked, status in (
        (frozenset({ADMIN_READ}), "admin:read", 403),
        (both, "admin:read", 403),
        (both, "admin:read read:users", 200),
    ):
        issued = await service_token(room, http, scopes=scopes, scope=asked)
        headers = {"Authorization": f"Bearer {issued.json()['access_token']}"}
        assert (await http.get(path, headers=headers)).status_code == status, asked
    refused = await service_token(room, http, scopes=frozenset({ADMIN_READ}), scope="read:users")
    assert refused.json()["error"] == "invalid_scope"


@pytest.mark.parametrize(("api", "status"), [(False, 404), (True, 401)])
async def test_the_list_is_not_there_where_the_admin_api_is_switched_off(
    tmp_path: Path, api: bool, status: int
) -> None:
    overrides = {"auth0": {"enabled": True}, "admin": {"api": api}}
    async with running_room(tmp_path / "data", overrides=overrides) as room, httpx2.AsyncClient(timeout=30) as http:
        assert (await http.get(f"{room.url}/api/v2/users/x/connected-accounts")).status_code == status
