"""Outstanding revocations, as admins, auditors, the Admin API, the command line, and the person see them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from server.administration.receipts import verify
from server.cli import app
from tests.support.accounts import open_account
from tests.support.rooms.admin_room import AdminRoom, problem
from tests.support.rooms.portal_room import Room
from vault import connections, users
from vault.records import Connection, Role, User
from vault.upkeep import receipts, revocations
from vault.upstream import Account, TokenAnswer

PAGE = "/administration/revocations"
AUTH = "https://www.googleapis.com/auth/"
SCOPES = frozenset({"openid", f"{AUTH}userinfo.email", f"{AUTH}calendar.events", f"{AUTH}calendar.events.readonly"})


async def connect(room: Room, user: User, *, lies: bool) -> Connection:
    """A Google account with tokens from the simulator, which can be made to lie about revocations."""
    room.simulator.control("rules", face="google", revoke="lies" if lies else "family")
    seeded = room.simulator.control("seed", face="google", count=1, scopes=sorted(SCOPES))["grants"]
    assert isinstance(seeded, list)
    answer = TokenAnswer(
        str(seeded[0]["access_token"]),
        str(seeded[0]["refresh_token"]),
        scopes=SCOPES,
        expires_in=3600,
        account=Account("1017", "alice@example.com"),
    )
    deployment = room.deployment
    async with deployment.transaction() as transaction:
        return await open_account(transaction, deployment, user.id, "google", answer)


async def test_a_lie_is_outstanding_until_the_provider_tells_the_truth(admin: AdminRoom) -> None:
    room = admin.room
    user = await room.user()
    person, operator = await room.signed_in(user), await room.signed_in()
    assert "Nothing is outstanding" in (await operator.open(PAGE)).text
    connection = await connect(room, user, lies=True)
    await person.submit(await person.open(f"/connections/{connection.id}/disconnect"), form="/disconnect")
    page = await room.see_end(person, connection.id)
    assert "the access still works" in page.text
    assert "myaccount.google.com" in page.text, "the page on which the person ends it"
    page = await operator.open(PAGE)
    assert "still alive" in page.text
    assert user.name in page.text
    assert "/settle" not in page.text, "the vault still tries"
    still = await operator.submit(page, form="/retry")
    assert "Tried again: still alive" in still.text
    room.simulator.control("rules", face="google", revoke="family")
    done = await operator.submit(await operator.open(PAGE), form="/retry")
    assert "Tried again: verified dead" in done.text
    assert "Nothing is outstanding" in done.text
    assert "the vault verified" in (await person.open("/connections")).text


async def test_only_admins_see_the_page_and_auditors_change_nothing(admin: AdminRoom) -> None:
    room = admin.room
    user, auditor = await room.user(), await room.user()
    async with room.deployment.transaction() as transaction:
        await users.set_role(transaction, auditor.id, Role.AUDITOR)
    connection = await connect(room, user, lies=True)
    person = await room.signed_in(user)
    await person.submit(await person.open(f"/connections/{connection.id}/disconnect"), form="/disconnect")
    await room.see_end(person, connection.id)
    assert (await person.http.get(PAGE)).status_code in {403, 404}
    reads = await (await room.signed_in(auditor)).open(PAGE)
    assert "still alive" in reads.text
    assert "/retry" not in reads.text
    assert "/retry" in (await (await room.signed_in()).open(PAGE)).text


async def test_what_can_only_be_ended_by_hand_is_noted_once(admin: AdminRoom) -> None:
    room = admin.room
    user, operator = await room.user(), await room.signed_in()
    connection = await connect(room, user, lies=False)
    async with room.deployment.transaction() as transaction:  # its tokens can no longer be opened
        await transaction.execute("update connections set refresh_sealed = access_sealed")
        await connections.disconnect(transaction, room.deployment.keys, connection, now=room.deployment.now())
    await revocations.run_due(room.deployment.vault)
    page = await operator.open(PAGE)
    assert "read the tokens" in page.text
    assert "/retry" not in page.text
    done = await operator.submit(page, form="/settle")
    assert "Noted that the access was ended" in done.text
    assert "Nothing is outstanding" in done.text
    again = await operator.submit(page, form="/settle")
    assert again.status_code == 409


async def test_the_admin_api_lists_retries_and_settles(admin: AdminRoom) -> None:
    room = admin.room
    user = await room.user()
    connection = await connect(room, user, lies=True)
    deleted = await admin.call("DELETE", f"/people/{user.id}/connections/{connection.id}")
    assert deleted.json()["at_provider"] == "alive"
    (one,) = (await admin.call("GET", "/revocations")).json()["items"]
    assert (one["connection_id"], one["result"], one["reason"]) == (connection.id, "still_alive", "revoked_but_works")
    assert one["pages"]
    refused = await admin.call("PUT", f"/revocations/{connection.id}/settled")
    problem(refused, 409, "nothing_to_settle")
    room.simulator.control("rules", face="google", revoke="family")
    tried = await admin.call("POST", f"/revocations/{connection.id}/attempts")
    assert (tried.status_code, tried.json()) == (201, {"outcome": "revoked"})
    again = await admin.call("POST", f"/revocations/{connection.id}/attempts")
    problem(again, 409, "nothing_to_retry")
    assert (await admin.call("GET", "/revocations")).json()["items"] == []
    page = (await admin.call("GET", "/receipts?limit=1")).json()
    assert [one["result"] for one in page["items"]] == ["verified_dead"]
    rest = await admin.call("GET", f"/receipts?cursor={page['next_cursor']}")
    assert rest.json()["items"] == []
    problem(await admin.call("GET", "/receipts/nothing"), 404, "no_receipt")
    keys = (await admin.http.get("/.well-known/receipt-keys.json")).json()
    shown = (await admin.call("GET", f"/receipts/{connection.id}")).json()
    claims = verify(shown["receipt"], keys)
    assert (claims["result"], claims["probed_by"]) == ("verified_dead", ["identity", "refresh"])


async def test_a_grant_that_a_live_connection_holds_is_shown_and_not_called_destroyed(admin: AdminRoom) -> None:
    room = admin.room
    user, operator = await room.user(), await room.signed_in()
    connection = await connect(room, user, lies=False)
    async with room.deployment.transaction() as transaction:
        await connections.disconnect(transaction, room.deployment.keys, connection, now=room.deployment.now())
    due = await operator.open(PAGE)
    await connect(room, user, lies=False)
    assert "Tried again: on hold" in (await operator.submit(due, form="/retry")).text, "due, and held by then"
    (one,) = (await admin.call("GET", "/revocations")).json()["items"]
    assert (one["connection_id"], one["result"], one["next_at"]) == (connection.id, "held", None)
    page = await operator.open(PAGE)
    assert "on hold" in page.text
    assert ("/retry" in page.text, "/settle" in page.text) == (False, False)
    refused = await admin.call("POST", f"/revocations/{connection.id}/attempts")
    problem(refused, 409, "grant_held")


async def test_commands_print_and_verify_receipts_without_the_vault(admin: AdminRoom, tmp_path: Path) -> None:
    room = admin.room
    user = await room.user()
    connection = await connect(room, user, lies=False)
    async with room.deployment.transaction() as transaction:
        await connections.disconnect(transaction, room.deployment.keys, connection, now=room.deployment.now())
    await revocations.run_due(room.deployment.vault)
    found = await receipts.get_receipt(room.deployment.database, connection.id)
    assert found is not None
    keys, good, bad = tmp_path / "keys.json", tmp_path / "receipt.jwt", tmp_path / "bad.jwt"
    keys.write_text(json.dumps(await receipts.public_keys(room.deployment.database)))
    good.write_text(json.dumps({"receipt": found.token}))
    bad.write_text(found.token[:-8] + "AAAAAAAA")

    def run(*command: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["receipts", "verify", *command, "--keys", str(keys)])
        return result.exit_code, result.output

    code, said = run(str(good))
    assert (code, "verified_dead" in said) == (0, True)
    code, said = run(str(bad))
    assert (code, "not a valid receipt" in said) == (1, True)
    keys.write_text(json.dumps({"keys": []}))
    code, said = run(str(good))
    assert (code, "none of these keys" in said) == (1, True)
