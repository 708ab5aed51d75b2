"""An identity that an admin unlinks vouches for nothing anymore."""

from __future__ import annotations

import httpx2
import pytest

from server.administration import people
from server.administration.actor import Actor
from tests.conftest import Store
from tests.support.inspection import unstorable
from tests.support.person import Person
from tests.support.rooms.company_room import IDENTITY, LINEAR, CompanyRoom, running_company
from vault import users
from vault.records import User
from vault.refusals import ConnectionRequired
from vault.upkeep import revocations

FAULT = "delete from identities where subject = new.subject;"
# Unlink an identity as soon as its sign-in is recorded, and stop doing so.
UNLINKING = {
    True: (
        [f"create trigger vault.unlinking after update of signed_in_at on identities begin {FAULT} end"],
        ["drop trigger vault.unlinking"],
    ),
    False: (
        [
            f"create function unlink() returns trigger language plpgsql as $$ begin {FAULT} return new; end $$",
            "create trigger unlinking after update on identities for each row execute function unlink()",
        ],
        ["drop trigger unlinking on identities", "drop function unlink"],
    ),
}


@pytest.mark.parametrize("is_unlinked", [True, False])
async def test_an_unlinked_identity_connects_and_renews_nothing_anymore(
    company: CompanyRoom, *, is_unlinked: bool
) -> None:
    user, _ = await company.sign_in("alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    actor, issuer = Actor(company.room.deployment, None, "command_line"), f"{company.simulator.url}/company"
    (mine,) = [one for one in await users.list_identities(company.vault.database, user.id) if one.issuer == issuer]
    # `sub` is unique at its issuer only
    for which in ({"issuer": "https://id.example", "subject": mine.subject}, {"issuer": issuer, "subject": "other"}):
        await people.link_identity(actor, user, **which)
        assert await people.unlink_identity(actor, user, **which)
    assert (await company.exchange(agent, "linear")).value
    if is_unlinked:
        assert await people.unlink_identity(actor, user, issuer=issuer, subject=mine.subject)
    company.pass_time(2 * 86400)
    if not is_unlinked:
        assert (await company.exchange(agent, "linear")).value
        assert IDENTITY in await company.accounts(user)
        return
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    assert IDENTITY not in await company.accounts(user)
    ended = company.simulator.books()["revocations"][-1]
    assert (ended["face"], ended["outcome"]) == ("company", "ok")


async def answer_at_company(company: CompanyRoom, person: Person, name: str) -> httpx2.Response:
    """The page after a sign-in at the company, which may be refused here."""
    begun = await person.http.get("/sign-in/openid/company", params={"return_to": "/connections"})
    company.simulator.sandbox.directory.signed_in = name
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        back = await http.get(begun.headers["location"])
    return await person.open(back.headers["location"])


async def execute(company: CompanyRoom, statements: list[str]) -> None:
    async with company.vault.database.transaction() as transaction:
        for one in statements:
            await transaction.execute(one)


async def ends_at_company(company: CompanyRoom, user: User) -> list[object]:
    """What became of the grants that the company was told to end."""
    await company.vault.tasks.wait_until_finished(f"identity:{user.id}", patience=60)
    await revocations.run_due(company.vault)
    return [one["outcome"] for one in company.simulator.books()["revocations"] if one["face"] == "company"]


@pytest.mark.parametrize("is_unlinked", [True, False])
async def test_a_sign_in_with_an_identity_that_was_just_unlinked_leaves_no_connection(
    store: Store, *, is_unlinked: bool
) -> None:
    async with running_company(store.data, database_url=store.url, services=["linear"]) as company:
        person, (start, end) = await company.room.browser(), UNLINKING[store.is_sqlite]
        await execute(company, start if is_unlinked else [])
        page = await answer_at_company(company, person, "alice")
        await execute(company, end if is_unlinked else [])
        (user,) = [one for one in await users.list_users(company.vault.database) if not one.is_admin]
        assert await ends_at_company(company, user) == (["ok"] if is_unlinked else [])
        await company.vault.tasks.wait_until_finished(f"company:{user.id}", patience=60)
        assert page.status_code == (409 if is_unlinked else 200)
        assert (IDENTITY in await company.accounts(user)) is not is_unlinked
        assert ("linear" in await company.accounts(user)) is not is_unlinked


@pytest.mark.parametrize("is_unlinked", [True, False])
async def test_an_identity_that_could_not_be_stored_and_was_unlinked_is_not_stored_later(
    store: Store, *, is_unlinked: bool
) -> None:
    async with running_company(store.data, database_url=store.url, services=["linear"]) as company:
        actor, issuer = Actor(company.room.deployment, None, "command_line"), f"{company.simulator.url}/company"
        async with unstorable(company.vault.database, "connections", "provider", IDENTITY, is_sqlite=store.is_sqlite):
            user, _ = await company.sign_in("alice", waits=False)
            (mine,) = await users.list_identities(company.vault.database, user.id)
            if is_unlinked:
                assert await people.unlink_identity(actor, user, issuer=issuer, subject=mine.subject)
            assert await company.accounts(user) == {}
        assert await ends_at_company(company, user) == (["ok"] if is_unlinked else [])
        assert (IDENTITY in await company.accounts(user)) is not is_unlinked
