"""Receipts of ended agents, as admins, auditors, the Admin API, and the command line see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.administration.receipts import verify
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.rooms.admin_room import AdminRoom, problem
from vault import delegations, users
from vault.audit.released_tokens import ReleasedTokens, TokenRelease
from vault.records import Client, Connection, Role, User
from vault.upkeep import receipts

PAGE = "/administration/revocations"
CHAT = frozenset({"chat:write"})


@dataclass(frozen=True)
class EndedAgent:
    user: User
    agent: Client
    released: Connection
    shared: Connection


async def end_agent(admin: AdminRoom) -> EndedAgent:
    """Remove an agent with two accounts through the API; it had received a token of one of them that lasts an hour."""
    room = admin.room
    user, agent = await room.user(), await room.agent(name="Invoices")
    grant_id, now = await room.grant(user, agent), room.deployment.now()
    released, shared = [await room.account(user, "slack", label=label, scopes=CHAT) for label in ("one", "two")]
    async with room.deployment.transaction() as transaction:
        for connection in (released, shared):
            which = {"user_id": user.id, "client_id": agent.id, "connection_id": connection.id}
            await delegations.allow(transaction, **which, scopes=CHAT, now=now)
    given = TokenRelease(agent.id, grant_id, user.id, released.id, receipts.thumbprint("token"), now + 3600)
    await ReleasedTokens().note(room.deployment.database, given, now=now)
    assert (await admin.call("DELETE", f"/agents/{agent.id}")).status_code == 204
    return EndedAgent(user, agent, released, shared)


async def test_a_removed_agent_that_may_hold_a_token_is_outstanding_until_the_token_ends(admin: AdminRoom) -> None:
    room, operator = admin.room, await admin.room.signed_in()
    assert "Removed agents" not in (await operator.open(PAGE)).text
    ended = await end_agent(admin)
    page = await operator.open(PAGE)
    assert "Removed agents" in page.text
    assert page.text.count("Invoices") == 2, "its heading and its link; not the account of which it had no token"
    assert ended.user.name in page.text
    assert "The token works until" in page.text
    (listed,) = (await admin.call("GET", "/agent-receipts?outstanding=true")).json()["items"]
    assert (listed["connection_id"], listed["reason"]) == (ended.released.id, "token_released")
    assert listed["outstanding"] is True
    file = await operator.open(f"{PAGE}/agents/{listed['id']}/receipt")
    assert file.headers["content-type"] == "application/jwt"
    assert file.text == listed["receipt"]
    keys = (await admin.http.get("/.well-known/receipt-keys.json")).json()
    assert verify(file.text, keys)["client"] == ended.agent.id
    room.deployment.database.clock_offset += 3700
    operator = await room.signed_in()
    assert "Removed agents" not in (await operator.open(PAGE)).text


async def test_the_admin_api_lists_receipts_of_agents_and_shows_one(admin: AdminRoom) -> None:
    ended = await end_agent(admin)
    page = (await admin.call("GET", f"/agent-receipts?agent_id={ended.agent.id}&limit=1")).json()
    rest = (await admin.call("GET", f"/agent-receipts?limit=9&cursor={page['next_cursor']}")).json()
    found = {one["connection_id"]: one for one in [*page["items"], *rest["items"]]}
    assert found.keys() == {ended.released.id, ended.shared.id}
    shared = found[ended.shared.id]
    assert (shared["result"], shared["reason"], shared["token_expires_at"], shared["outstanding"]) == (
        "nothing_to_revoke", "shared_grant", None, False,
    )  # fmt: skip
    assert (await admin.call("GET", f"/agent-receipts/{shared['id']}")).json() == shared
    assert (await admin.call("GET", "/agent-receipts?agent_id=another")).json()["items"] == []
    problem(await admin.call("GET", "/agent-receipts/nothing"), 404, "no_receipt")
    problem(await admin.call("GET", "/agent-receipts?cursor=bent"), 400, "invalid_request")


async def test_auditors_read_receipts_of_agents_and_others_do_not(admin: AdminRoom) -> None:
    ended = await end_agent(admin)
    auditor, person = await admin.room.user(), await admin.room.signed_in(ended.user)
    async with admin.deployment.transaction() as transaction:
        await users.set_role(transaction, auditor.id, Role.AUDITOR)
    (listed,) = (await admin.call("GET", "/agent-receipts?outstanding=true")).json()["items"]
    path = f"{PAGE}/agents/{listed['id']}/receipt"
    reader = await admin.room.signed_in(auditor)
    assert "Removed agents" in (await reader.open(PAGE)).text
    assert (await reader.http.get(path)).status_code == 200
    assert (await reader.http.get(f"{PAGE}/agents/nothing/receipt")).status_code == 404
    assert (await person.http.get(path)).status_code in {403, 404}


async def test_the_command_lists_what_is_outstanding_and_what_is_not(admin: AdminRoom, tmp_path: Path) -> None:
    ended = await end_agent(admin)
    place = Store("sqlite:", tmp_path / "vault")
    every = await content(place, "receipts", "agents", ended.agent.id)
    assert isinstance(every, list)
    assert {one["connection_id"]: one["outstanding"] for one in every} == {
        ended.released.id: True,
        ended.shared.id: False,
    }
    (open_one,) = await content(place, "receipts", "agents", "--outstanding")  # pyright: ignore[reportGeneralTypeIssues] -- a list
    assert open_one["connection_id"] == ended.released.id
    nothing = await run(place, "receipts", "agents", "another", "--outstanding")
    assert (nothing.exit_code, "Nothing is outstanding" in nothing.output) == (0, True)
