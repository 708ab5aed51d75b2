"""CIBA as Auth0's SDKs use it: the issuer with a slash, `audience`, JSON at /oauth/token, and each SDK itself."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx2
import jwt
import pytest

from server.oauth.backchannel.clients import DETAILS_TYPES
from server.oauth.clients.rules import BACKCHANNEL_GRANT
from tests.auth0.application import SECRET, Application
from tests.auth0.sdks.sdk_talk import LLAMAINDEX, PATIENCE, PYTHON, talk
from tests.auth0.tenant import API, GRANTS, Tenant, tenant
from tests.conftest import unavailable
from tests.support.foreign.foreign import FOLDER, drive_program, node
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.portal_room import Room
from vault import apis, users
from vault.approvals import approvals
from vault.records import User

PROGRAM = Path(__file__).parent / "ciba_program.py"
REQUEST = r'href="(/approvals/r[\w-]+)"'


async def register_asker(room: Room, http: httpx2.AsyncClient) -> Application:
    grants = GRANTS | {BACKCHANNEL_GRANT}
    return await Application.register(
        room, http, grant_types=grants, resources=(API, f"{room.url}/mcp"), metadata={"auth0": True}
    )


async def ask(application: Application, **changes: str) -> httpx2.Response:
    hint = {"format": "iss_sub", "iss": f"{application.room.url}/", "sub": application.user.id}
    form = {
        **application.credentials,
        "scope": "openid",
        "login_hint": json.dumps(hint),
        "binding_message": "Buy 3 shares",
        "audience": "",
        **changes,
    }
    return await application.http.post("/bc-authorize", data=form)


async def decide(room: Room, person: Person, user: User, decision: str) -> None:
    deployment = room.deployment
    (asked,) = await approvals.list_pending(deployment.database, deployment.keys, user.id, now=deployment.now())
    page = await person.open(f"/approvals/{asked.id}")
    await person.submit(page, form="/approvals/", button=("decision", decision))


@pytest.mark.parametrize(("decision", "error"), [("allow", None), ("deny", "access_denied")])
async def test_the_wire_of_auth0_leads_to_the_approvals_page(
    room: Room, application: Application, decision: str, error: str | None
) -> None:
    client = await register_asker(room, application.http)
    async with room.deployment.transaction() as transaction:
        await apis.add_api(transaction, API, name="Orders", now=room.deployment.now(), scopes=frozenset({"buy:stock"}))
    asked = await ask(client, audience=API, scope="openid buy:stock unknown:scope")
    assert asked.status_code == 200, asked.text
    poll = {"grant_type": BACKCHANNEL_GRANT, **client.credentials, "auth_req_id": asked.json()["auth_req_id"]}
    waiting = await client.http.post("/oauth/token", json=poll)
    assert (waiting.status_code, waiting.json()["error"]) == (400, "authorization_pending")
    await decide(room, client.person, client.user, decision)
    answer = await client.http.post("/oauth/token", json=poll)
    assert answer.json().get("error") == error
    if error is None:
        claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
        assert (claims["aud"], claims["iss"]) == (API, f"{room.url}/")
        assert answer.json()["scope"] == "buy:stock openid"


async def test_an_empty_audience_counts_as_none(room: Room, application: Application) -> None:
    assert (await ask(await register_asker(room, application.http))).status_code == 200
    assert (await ask(application)).json()["error"] == "unauthorized_client"


async def answer(person: Person, decision: str = "allow") -> str:
    """Answer the person's one pending request; wait for it if necessary."""
    async with asyncio.timeout(PATIENCE):
        while not (paths := set(re.findall(REQUEST, (await person.open("/approvals")).text))):
            await asyncio.sleep(0.1)
    (path,) = paths
    await person.submit(await person.open(path), form="/approvals/", button=("decision", decision))
    return decision


async def asking_client(place: Tenant) -> str:
    made = await place.client(
        "asker",
        grant_types=GRANTS | {BACKCHANNEL_GRANT},
        metadata={"auth0": True, DETAILS_TYPES: ["payment"]},
    )
    return made.id


async def subject(place: Tenant) -> str:
    found = await users.find_user(place.vault.deployment.database, "alice")
    assert found is not None
    return found.id


@pytest.mark.long  # the wire is tested above, the SDKs' other grants in test_python_sdks.py
@pytest.mark.group("sdks")
async def test_the_python_sdks_ask_and_get_what_the_person_approved(tmp_path: Path) -> None:
    if not (PYTHON.exists() and LLAMAINDEX.exists()):
        unavailable("the SDKs need: make sdks")
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)
        settings = {
            "CLIENT_ID": await asking_client(place),
            "CLIENT_SECRET": SECRET,
            "SUBJECT": await subject(place),
            "LLAMAINDEX": str(LLAMAINDEX),
        }
        found = await talk(place, PROGRAM, settings, lambda _line: answer(person))
    assert found["before"] == "AuthorizationPendingInterrupt"
    assert found["tool"] == [True, ["openid", "tools"]]
    assert found["details"] == [{"type": "payment", "amount": "12.50"}]
    assert found["again"] == "invalid_grant"
    pending = "ASYNC_AUTHORIZATION_PENDING"
    assert found["langchain"] == [pending, "bought 4 with openid tools"]
    assert found["llamaindex"] == [5, True, ["openid", "tools"]]


@pytest.mark.group("node")
async def test_the_javascript_sdk_asks_and_gets_what_the_person_approved(tmp_path: Path) -> None:
    node()
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)

        async def go(url: str) -> str:
            return f"https://app.example/{await answer(person)}"

        alice = await subject(place)
        program = ("auth0_ciba.mjs", place.domain, await asking_client(place), SECRET, alice)
        trusting = {"NODE_EXTRA_CA_CERTS": str(place.authority.authority)}
        async with drive_program(*program, folder=tmp_path, authorize=go, env=trusting) as application:
            told = await application.answer()
    assert (told["subject"], told["again"]) == (alice, "invalid_grant")
    assert told["details"] == [{"type": "payment", "amount": "12.50"}]


@pytest.mark.group("node")
async def test_the_javascript_wrappers_of_tools_ask_and_go_on_after_the_answer(tmp_path: Path) -> None:
    node()
    if not (FOLDER / "auth0" / "node_modules" / ".package-lock.json").exists():
        unavailable("Auth0's SDKs need: make node")
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)

        async def go(url: str) -> str:
            return f"https://app.example/{await answer(person, url.rpartition('/')[2])}"

        program = ("auth0/ciba.mjs", place.domain, await asking_client(place), SECRET, await subject(place))
        trusting = {"NODE_EXTRA_CA_CERTS": str(place.authority.authority)}
        async with drive_program(*program, folder=tmp_path, authorize=go, env=trusting) as application:
            told = await application.answer()
    got = {"token": True, "scopes": ["openid", "tools"]}
    pending = "ASYNC_AUTHORIZATION_AUTHORIZATION_PENDING"
    assert told == {
        "vercel": [pending, got],
        "denied": [pending, "ASYNC_AUTHORIZATION_ACCESS_DENIED"],
        "langchain": ["CIBA_AUTHORIZATION_PENDING", got],
        "llamaindex": got,
    }
