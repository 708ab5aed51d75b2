"""A declaration moves an identity from one person to another at once: its owner gives it up in the same file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import pytest

from server.administration import people
from tests.conftest import Store
from tests.support.inspection import read_events, unstorable, until_waiting
from tests.support.rooms.admin_room import AdminRoom, problem, running_admin_room
from vault import users
from vault.records import Role

ISSUER = "https://id.example"


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[AdminRoom]:
    overrides: dict[str, object] = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with running_admin_room(store.data, **overrides) as opened:
        yield opened


def declare(**subjects: str) -> dict[str, dict[str, dict[str, object]]]:
    """People with these identities, each given as the subjects with spaces."""
    linked = {name: [{"issuer": ISSUER, "subject": one} for one in some.split()] for name, some in subjects.items()}
    return {"people": {name: {"identities": one} for name, one in linked.items()}}


async def apply(
    room: AdminRoom, declared: Mapping[str, object], query: str = ""
) -> list[tuple[str, str, object, object]]:
    """The changes, as the plan and the answer say them; applying again has nothing to change."""
    planned = await room.call("POST", f"/apply?plan=true{query}", json=declared)
    made = await room.call("POST", f"/apply?{query}", json=declared)
    assert made.status_code == 200, made.text
    for path in ("/apply?plan=true", "/apply?"):
        assert (await room.call("POST", path + query, json=declared)).json()["changes"] == []
    told, changes = ([one | {"secret": None} for one in answer.json()["changes"]] for answer in (planned, made))
    assert told == changes
    differences = [(one, {found["name"]: found for found in one["differences"]}) for one in changes]
    return [
        (one["change"], one["name"], found.get("before"), found.get("after"))
        for one, found in ((one, named.get("identities", {})) for one, named in differences)
    ]


async def owner_of(room: AdminRoom, subject: str) -> str | None:
    found = await users.find_by_identity(room.deployment.database, issuer=ISSUER, subject=subject)
    return None if found is None else found.name


async def kinds(room: AdminRoom, name: str) -> list[str]:
    found = await read_events(room.deployment, user_id=(await room.person(name)).id)
    return [one.kind for one in found if one.kind in ("user.linked", "user.unlinked")]


@pytest.mark.parametrize("order", [("grace", "heidi"), ("heidi", "grace")])
@pytest.mark.parametrize("is_new", [True, False])
async def test_an_identity_moves_whoever_comes_first_in_the_file(
    room: AdminRoom, order: tuple[str, str], *, is_new: bool
) -> None:
    await apply(room, declare(grace="41 42") if is_new else declare(heidi="", grace="41 42"))
    wanted = {"grace": "41", "heidi": "42"}
    to, since = ("create", None) if is_new else ("update", list[str]())
    assert await apply(room, declare(**{name: wanted[name] for name in order})) == [
        (to, "heidi", since, [f"42 at {ISSUER}"]),
        ("update", "grace", [f"41 at {ISSUER}", f"42 at {ISSUER}"], [f"41 at {ISSUER}"]),
    ]
    assert [await owner_of(room, one) for one in ("41", "42")] == ["grace", "heidi"]
    assert await kinds(room, "grace") == ["user.linked", "user.linked", "user.unlinked"]
    assert await kinds(room, "heidi") == ["user.linked"]


async def test_whoever_loses_an_identity_to_another_is_signed_out(room: AdminRoom) -> None:
    await room.room.vault.add_user("grace")
    await room.room.vault.add_user("heidi")
    await apply(room, declare(grace="41", heidi="42"))
    browsers = [await room.room.signed_in(name) for name in ("grace", "heidi")]
    assert [(await one.http.get("/account")).status_code for one in browsers] == [200, 200]
    await apply(room, declare(grace="", heidi="42 41"))
    assert [(await one.http.get("/account")).status_code for one in browsers] == [303, 200]


@pytest.mark.parametrize("names", [("grace", "heidi"), ("grace", "heidi", "ivan")])
async def test_identities_that_go_around_move_at_once(room: AdminRoom, names: tuple[str, ...]) -> None:
    subjects = [str(41 + number) for number in range(len(names))]
    await apply(room, declare(**dict(zip(names, subjects, strict=True))))
    moved = [*subjects[1:], subjects[0]]
    assert len(await apply(room, declare(**dict(zip(names, moved, strict=True))))) == len(names)
    assert [await owner_of(room, one) for one in moved] == list(names)


async def test_an_identity_of_a_person_whom_pruning_removes_moves_first(room: AdminRoom) -> None:
    await apply(room, declare(grace="41"))
    wanted = declare(heidi="41")
    refused = problem(await room.call("POST", "/apply", json=wanted), 409, "person_refused")  # grace stays
    assert "41 at https://id.example belongs to someone else" in str(refused["detail"])
    kept = {"people": {**wanted["people"], "grace": {}}}
    problem(await room.call("POST", "/apply?prune=true", json=kept), 409, "person_refused")  # her list isn't managed
    changes = await apply(room, wanted, "&prune=true")
    assert changes[0] == ("create", "heidi", None, [f"41 at {ISSUER}"])
    assert ("remove", "grace", None, None) in changes
    assert await owner_of(room, "41") == "heidi"


@pytest.mark.parametrize("has_another", [True, False])
async def test_admins_give_their_last_identity_away_only_for_another_one(room: AdminRoom, *, has_another: bool) -> None:
    alice = await room.person("alice")
    await people.link_identity(room.operator, alice, issuer=ISSUER, subject="41")
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update users set password_hash = null where id = :id", {"id": alice.id})
    wanted = declare(heidi="41", alice="42" if has_another else "")
    wanted["people"]["alice"]["role"] = "owner"
    answer = await room.call("POST", "/apply", json=wanted)
    if has_another:
        assert answer.status_code == 200, answer.text
        assert [await owner_of(room, one) for one in ("41", "42")] == ["heidi", "alice"]
    else:
        assert problem(answer, 409, "not_yourself")["changes"] == []
        assert await owner_of(room, "41") == "alice"


@pytest.mark.parametrize("issuer", [ISSUER, "unrelated"])
async def test_an_identity_is_never_nobodys_while_it_moves(room: AdminRoom, store: Store, issuer: str) -> None:
    await apply(room, declare(grace="41", heidi=""))
    async with unstorable(room.deployment.database, "identities", "issuer", issuer, is_sqlite=store.is_sqlite):
        answer = await room.call("POST", "/apply", json=declare(grace="", heidi="41"))
    assert (answer.status_code >= 500) is (issuer == ISSUER)
    assert await owner_of(room, "41") == ("grace" if issuer == ISSUER else "heidi")
    await apply(room, declare(grace="", heidi="41"))
    assert await owner_of(room, "41") == "heidi"


@pytest.mark.parametrize("is_taken", [True, False])
async def test_an_identity_that_became_a_third_persons_meanwhile_stays_theirs(
    room: AdminRoom, store: Store, *, is_taken: bool
) -> None:
    await apply(room, declare(grace="41", heidi="", ivan=""))
    ivan, grace = await room.person("ivan"), await room.person("grace")
    wanted = declare(grace="", heidi="41")
    wanted["people"]["heidi"]["role"] = "auditor"
    async with room.deployment.transaction() as holding:
        await users.hold_admins(holding)
        applying = asyncio.ensure_future(room.call("POST", "/apply", json=wanted))
        await until_waiting(holding, number=1, is_sqlite=store.is_sqlite, unless=applying)
        which = {"issuer": ISSUER, "subject": "41"}
        assert await users.unlink_identity(holding, **which, user_id=grace.id)
        if is_taken:
            await users.link_identity(holding, **which, user_id=ivan.id, now=room.deployment.now())
    answer = await applying
    if is_taken:
        problem(answer, 409, "identity_taken")
    else:
        assert answer.status_code == 200, answer.text
    assert await owner_of(room, "41") == ("ivan" if is_taken else "heidi")
    heidi = await room.person("heidi")
    assert heidi.role is (Role.MEMBER if is_taken else Role.AUDITOR), "all of her change or nothing"
