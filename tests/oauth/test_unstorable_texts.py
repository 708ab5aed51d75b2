"""Texts that a database can't store, NUL and halves of surrogate pairs: refused everywhere as the sender's mistake.

On SQLite, which can search for NUL, an address that contains it is treated as unknown.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import httpx2
import pytest

from tests.auth0.application import CALLBACK, Application
from tests.conftest import Store
from tests.support.rooms.admin_room import AdminRoom
from tests.support.rooms.portal_room import Room, running_room

NUL, HALF = "\0", "\ud800"
REGISTERED = {"redirect_uris": ["http://127.0.0.1/callback"], "client_name": "Tool", "software_id": "tool"}


@dataclass
class Place:
    room: Room
    http: httpx2.AsyncClient
    admin: AdminRoom
    app: Application
    is_sqlite: bool

    def unknown(self, otherwise: int) -> int:
        """The status for an address that contains NUL."""
        return otherwise if self.is_sqlite else 400

    async def post(self, path: str, content: object, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """Post JSON in which odd texts are escaped, as a sender can do."""
        sent = {"content-type": "application/json", **(headers or {})}
        return await self.http.post(path, content=json.dumps(content).encode("ascii"), headers=sent)


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Place]:
    overrides: dict[str, object] = {"auth0": {"enabled": True}, "server": {"issuer_slash": True}}
    if not store.is_sqlite:
        overrides["database"] = {"url": store.url}
    async with (
        running_room(store.data, overrides=overrides) as room,
        httpx2.AsyncClient(base_url=room.url, timeout=30, trust_env=False) as http,
    ):
        admin = AdminRoom(room, http)
        admin.token = await admin.token_with()
        app = await Application.register(room, http)
        await app.sign_in()
        yield Place(room, http, admin, app, store.is_sqlite)


async def test_what_no_database_can_hold_is_refused_as_the_senders_mistake(place: Place) -> None:
    await check_addresses(place)
    await check_registration(place)
    for odd in (NUL, HALF):
        await check_account_calls(place, odd)


async def check_addresses(place: Place) -> None:
    made = (await place.post("/register", REGISTERED)).json()
    bearer = {"authorization": f"Bearer {made['registration_access_token']}"}
    for method, content in (("GET", None), ("PUT", REGISTERED), ("DELETE", None)):
        refused = await place.http.request(method, "/register/%00", headers=bearer, json=content)
        assert refused.status_code == place.unknown(401), refused.text
        assert refused.json()["error"] in {"invalid_token", "invalid_request"}
    assert (await place.http.get(f"/register/{made['client_id']}", headers=bearer)).status_code == 200
    alice, by_admin = await place.room.user("alice"), {"authorization": f"Bearer {place.admin.token}"}
    refused = await place.http.get("/api/v2/users/%00/connected-accounts", headers=by_admin)
    assert refused.status_code == place.unknown(404), refused.text
    known = await place.http.get(f"/api/v2/users/{alice.id}/connected-accounts", headers=by_admin)
    assert known.status_code == 200
    assert (await place.app.me("DELETE", "accounts/%00")).status_code == 404
    assert (await place.app.me("GET", "accounts?from=%00")).status_code == 400


async def check_registration(place: Place) -> None:
    for member in ("client_name", "software_id"):
        refused = await place.post("/register", {**REGISTERED, member: f"a{HALF}b"})
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_client_metadata"), member
        cleaned = await place.post("/register", {**REGISTERED, member: f"a{NUL}b"})
        assert (cleaned.status_code, cleaned.json()[member]) == (201, "ab")


async def check_account_calls(place: Place, odd: str) -> None:
    bearer = {"authorization": f"Bearer {await place.app.me_token()}"}
    connect = {"connection": "sign-in-with-slack", "redirect_uri": CALLBACK, "state": "s"}
    for member in connect:
        refused = await place.post("/me/v1/connected-accounts/connect", {**connect, member: f"a{odd}"}, bearer)
        assert refused.status_code == 400, refused.text
    for member in ("auth_session", "connect_code"):
        body = {"auth_session": "x", "connect_code": "x", "redirect_uri": CALLBACK, member: f"a{odd}"}
        assert (await place.post("/me/v1/connected-accounts/complete", body, bearer)).status_code == 400
    assert (await place.post("/me/v1/connected-accounts/connect", connect, bearer)).status_code == 201
    token = {"grant_type": "client_credentials", "client_id": f"a{odd}", "client_secret": f"b{odd}"}
    assert (await place.post("/oauth/token", token)).status_code == 400
