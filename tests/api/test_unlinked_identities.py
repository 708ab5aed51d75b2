"""Identities that a declaration removes: nobody loses their own last way to sign in, and the owner's mark stays."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from server.administration import people, reconciliation
from server.administration.declaration import parse_declaration
from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import users
from vault.records import Role, User
from vault.sign_in import passkeys

ISSUER = "https://id.example"


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path / "vault") as opened:
        yield opened


async def apply(room: AdminRoom, name: str, *subjects: str, role: str = "owner") -> httpx2.Response:
    identities = [{"issuer": ISSUER, "subject": one} for one in subjects]
    return await room.call("POST", "/apply", json={"people": {name: {"role": role, "identities": identities}}})


async def subjects_of(room: AdminRoom, person: User) -> set[str]:
    return {one.subject for one in await users.list_identities(room.deployment.database, person.id)}


async def lose_password(room: AdminRoom, person: User) -> None:
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update users set password_hash = null where id = :id", {"id": person.id})


async def test_admins_cannot_remove_their_own_last_way_to_sign_in(room: AdminRoom) -> None:
    alice = await room.person("alice")
    await people.link_identity(room.operator, alice, issuer=ISSUER, subject="41")
    await people.link_identity(room.operator, alice, issuer=OWNER_ISSUER, subject=OWNER_SUBJECT)
    await lose_password(room, alice)
    refused = problem(await apply(room, "alice"), 409, "not_yourself")
    assert refused["detail"] == "You couldn't sign in anymore: another admin can remove this identity."
    assert await subjects_of(room, alice) == {"41", OWNER_SUBJECT}
    assert (await apply(room, "alice", "42")).status_code == 200, "another identity takes its place"
    assert await subjects_of(room, alice) == {"42", OWNER_SUBJECT}
    bob = await room.room.vault.add_user("bob")  # another person's
    await people.set_role(room.operator, bob, Role.ADMINISTRATOR)
    await people.link_identity(room.operator, bob, issuer=ISSUER, subject="43")
    await lose_password(room, bob)
    assert (await apply(room, "bob", role="administrator")).status_code == 200
    assert await subjects_of(room, bob) == set()
    await people.unlink_identity(room.operator, alice, issuer=ISSUER, subject="42")  # an operator can make a link
    assert await subjects_of(room, alice) == {OWNER_SUBJECT}


@pytest.mark.parametrize("way", ["password", "passkey"])
async def test_admins_can_remove_their_own_identity_while_they_can_sign_in_another_way(
    room: AdminRoom, way: str
) -> None:
    alice = await room.person("alice")
    await people.link_identity(room.operator, alice, issuer=ISSUER, subject="41")
    if way == "passkey":
        await lose_password(room, alice)
        key = {"credential_id": b"key", "public_key": b"public", "sign_count": 0, "is_synced": False, "name": "Key"}
        async with room.deployment.transaction() as transaction:
            await passkeys.add(transaction, alice.id, now=room.deployment.now(), **key)  # pyright: ignore[reportArgumentType]
    assert (await apply(room, "alice")).status_code == 200
    assert await subjects_of(room, alice) == set()


async def test_a_declared_mark_of_the_owner_is_not_a_change_for_ever(room: AdminRoom) -> None:
    mark = {"issuer": OWNER_ISSUER, "subject": OWNER_SUBJECT}
    wanted = parse_declaration({"people": {"alice": {"admin": True, "identities": [mark]}}})
    alice = await room.person("alice")
    await people.link_identity(room.operator, alice, issuer=ISSUER, subject="41")
    (change,) = await reconciliation.plan(room.operator, wanted)
    await reconciliation.apply([change])
    assert await subjects_of(room, alice) == {OWNER_SUBJECT}
    assert await reconciliation.plan(room.operator, wanted) == ()
