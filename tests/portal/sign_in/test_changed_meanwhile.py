"""A sign-in begins no session if what it proved has changed in the meantime: the change ended only what it saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from argon2 import PasswordHasher
from starlette.requests import Request
from starlette.responses import Response

from server.administration import people
from server.administration.actor import Actor
from server.sign_in import password, proofs
from server.sign_in.callers import SessionCaller
from server.sign_in.password import Attempt, SignInRefused
from server.sign_in.proofs import Proof
from tests.conftest import Store
from tests.support.doubles.openid_double import running_openid
from tests.support.harness import PASSWORD
from tests.support.inspection import session_of, until_waiting
from tests.support.rooms.openid_room import begin as begin_at_provider
from tests.support.rooms.openid_room import callback_of
from tests.support.rooms.portal_room import Room, running_room
from vault import groups, limits, users
from vault.keys import passwords
from vault.records import User
from vault.sign_in import passkeys, sessions

NEW = "another password that is long enough"
ISSUER = "https://issuer.example"


@pytest.fixture
async def room(store: Store) -> AsyncGenerator[Room]:
    overrides = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=overrides) as opened:
        yield opened


async def begin(room: Room, user: User, proof: Proof) -> None:
    request = Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1)})
    await password.begin_session(room.deployment, request, Response(), user=user, method="password", proof=proof)


async def count_sessions(room: Room, user: User) -> int:
    deployment = room.deployment
    return len(await sessions.list_sessions(deployment.database, user.id, now=deployment.now(), idle_lifetime=3600))


def attempt(user: User) -> Attempt:
    return Attempt(name=user.name, address="192.0.2.1", password=PASSWORD)


async def change(room: Room, user: User) -> None:
    await password.change_password(room.deployment, user, current=PASSWORD, new=NEW, address="127.0.0.1")


async def disable(room: Room, user: User) -> None:
    await people.set_disabled(Actor(room.deployment, None, "command_line"), user, is_disabled=True)


async def delete(room: Room, user: User) -> None:
    await people.delete(Actor(room.deployment, None, "command_line"), user)


async def remove_proofs(room: Room, user: User) -> None:
    async with room.deployment.transaction() as transaction:
        for one in await passkeys.list_passkeys(transaction, user.id):
            await passkeys.remove(transaction, user.id, one.id)
        await transaction.execute("delete from identities where user_id = :id", {"id": user.id})


async def keep_all(_room: Room, _user: User) -> None:
    pass


async def by_password(room: Room, user: User) -> tuple[User, Proof]:
    user = await password.check_sign_in(room.deployment, attempt(user))
    return user, proofs.password_of(user)


async def by_passkey(room: Room, user: User) -> tuple[User, Proof]:
    async with room.deployment.transaction() as transaction:
        used = await passkeys.add(
            transaction, user.id, credential_id=b"c", public_key=b"k", sign_count=0, is_synced=False, name="", now=1
        )
    return user, proofs.passkey(used)


async def by_identity(room: Room, user: User) -> tuple[User, Proof]:
    async with room.deployment.transaction() as transaction:
        await users.link_identity(transaction, issuer=ISSUER, subject="s", user_id=user.id, now=1)
    return user, proofs.identity(ISSUER, "s")


Prove = Callable[[Room, User], Awaitable[tuple[User, Proof]]]
Change = Callable[[Room, User], Awaitable[None]]


@pytest.mark.parametrize(
    ("prove", "alter", "may_begin"),
    [
        (by_password, change, False),
        (by_password, disable, False),
        (by_password, delete, False),
        (by_password, remove_proofs, True),
        (by_password, keep_all, True),
        (by_passkey, remove_proofs, False),
        (by_passkey, disable, False),
        (by_passkey, change, True),
        (by_passkey, keep_all, True),
        (by_identity, remove_proofs, False),
        (by_identity, disable, False),
        (by_identity, change, True),
        (by_identity, keep_all, True),
    ],
)
async def test_a_session_begins_only_if_what_was_proved_still_holds(
    room: Room, prove: Prove, alter: Change, may_begin: bool
) -> None:
    user = await room.user()
    proved, proof = await prove(room, user)
    await alter(room, user)
    if may_begin:
        await begin(room, proved, proof)
    else:
        with pytest.raises(SignInRefused):
            await begin(room, proved, proof)
        refused = [one for one in await room.events() if one.kind == "session.refused"]
        assert [one.details["reason"] for one in refused] == ["changed"]
    assert await count_sessions(room, user) == int(may_begin)


@pytest.mark.parametrize("is_unlinked", [True, False])
async def test_a_sign_in_with_an_identity_that_is_being_unlinked_gives_no_groups(
    store: Store, *, is_unlinked: bool
) -> None:
    async with running_openid(lambda: int(time.time())) as provider:
        company = provider.settings(create_users=False) | {"groups_claim": "groups"}
        provider.change_claims = lambda claims: claims | {"groups": ["Sales"]}
        overrides = {"sign_in": {"openid": {"company": company}}, "sandbox": {"loopback_openid": True}}
        database = {} if store.is_sqlite else {"database": {"url": store.url}}
        async with running_room(store.data, overrides=overrides | database) as room:
            user, person, now = await room.user(), await room.browser(), room.deployment.now()
            mine = {"issuer": provider.url, "subject": provider.subject, "user_id": user.id}
            async with room.deployment.transaction() as transaction:
                await users.link_identity(transaction, **mine, now=now)
            back = await callback_of(await begin_at_provider(person))
            async with room.deployment.transaction() as transaction:
                await users.hold_user(transaction, user.id)
                coming = asyncio.ensure_future(person.open(back))
                await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite, unless=coming)
                if is_unlinked:
                    assert await users.unlink_identity(transaction, **mine)
            page = await coming
            found = await groups.names_of_person(room.deployment.database, user.id, now=now)
            assert found == (frozenset() if is_unlinked else {"sales"})
            assert page.status_code == (403 if is_unlinked else 200)
            assert await count_sessions(room, user) == int(not is_unlinked)


async def test_a_sign_in_with_the_old_password_waits_for_the_change_and_is_refused(room: Room, store: Store) -> None:
    user = await room.user()
    person, now = await room.browser(), room.deployment.now()
    new = await passwords.hash_password(NEW)
    proved, proof = await by_password(room, user)
    async with room.deployment.transaction() as transaction:
        await users.set_password(transaction, user.id, password_hash=new, now=now)
        beginning = asyncio.ensure_future(begin(room, proved, proof))
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite, unless=beginning)
    with pytest.raises(SignInRefused):
        await beginning
    assert await count_sessions(room, user) == 0
    assert (await person.sign_in(user.name, PASSWORD)).status_code == 401
    assert (await person.sign_in(user.name, NEW)).status_code == 200


async def test_a_session_that_is_just_beginning_ends_with_the_change(room: Room, store: Store) -> None:
    user = await room.user()
    proved, proof = await by_password(room, user)
    async with room.deployment.transaction() as transaction:
        assert await proofs.hold_person(transaction, proved, proof)
        changing = asyncio.ensure_future(change(room, user))
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite, unless=changing)
        token, _ = await sessions.start_session(transaction, user.id, now=room.deployment.now(), lifetime=3600)
    await changing
    assert await count_sessions(room, user) == 0, token


async def test_of_two_changes_with_the_same_old_password_one_is_made(room: Room) -> None:
    user = await room.user()

    async def change_to(new: str) -> str:
        try:
            await password.change_password(room.deployment, user, current=PASSWORD, new=new, address="127.0.0.1")
        except SignInRefused:
            return ""
        return new

    made = [one for one in await asyncio.gather(*(change_to(f"{NEW} {number}") for number in range(3))) if one]
    assert len(made) == 1
    person = await room.browser()
    assert (await person.sign_in(user.name, made[0])).status_code == 200


async def test_a_first_password_that_someone_else_set_is_not_replaced(room: Room) -> None:
    deployment = room.deployment
    async with deployment.transaction() as transaction:
        user = await users.create_user(transaction, "newcomer", now=deployment.now())
    changed = await password.change_password(deployment, user, current="", new=NEW, address="127.0.0.1")
    with pytest.raises(SignInRefused):
        await password.change_password(deployment, user, current="", new=f"{NEW} 2", address="127.0.0.1")
    again = await password.change_password(deployment, changed, current=NEW, new=f"{NEW} 3", address="127.0.0.1")
    assert again.password_hash != changed.password_hash


async def test_a_hash_under_old_parameters_is_replaced_and_all_simultaneous_sign_ins_succeed(room: Room) -> None:
    user, deployment = await room.user(), room.deployment
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(passwords._prepare(PASSWORD))
    async with deployment.transaction() as transaction:
        await users.set_password(transaction, user.id, password_hash=old, now=deployment.now())
    found = await asyncio.gather(*(password.check_sign_in(deployment, attempt(user)) for _ in range(3)))
    assert len({one.password_hash for one in found}) == 1
    assert found[0].password_hash != old
    for one in found:
        await begin(room, one, proofs.password_of(one))
    assert await count_sessions(room, user) == 3


async def test_a_sign_in_and_a_session_that_checks_the_password_lock_in_the_same_order(
    room: Room, store: Store
) -> None:
    user, deployment = await room.user(), room.deployment
    own = deployment.for_caller(SessionCaller(deployment, await session_of(deployment, await room.signed_in(user))))
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(passwords._prepare(PASSWORD))

    async def make_old() -> None:
        async with deployment.transaction() as transaction:
            await transaction.execute("update users set password_hash = :h where id = :id", {"h": old, "id": user.id})

    await make_old()
    async with own.transaction() as transaction:  # locks the person
        signing_in = asyncio.ensure_future(password.check_sign_in(deployment, attempt(user)))
        await until_waiting(transaction, number=1, is_sqlite=store.is_sqlite, unless=signing_in)
        for name, limit in password._buckets(deployment, attempt(user), user):
            await limits.spend(transaction, name, limit=limit, window=900, now=deployment.now(), cost=0)
    assert (await signing_in).password_hash != old
    await make_old()
    mixed = (deployment, own, deployment, own, deployment, own)
    found = await asyncio.gather(*(password.check_sign_in(one, attempt(user)) for one in mixed))
    assert len({one.password_hash for one in found}) == 1
    assert old not in {one.password_hash for one in found}
