"""Groups: who is a member from which source, and what a company's directory says about people."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import pytest

from tests.support.inspection import count_waiting
from tests.support.seeded_grant import NOW, seed
from vault import directory, groups, users
from vault.directory import ProvisionedPerson
from vault.exchange.acting_names import ActingNames, read_names
from vault.records import Role, User
from vault.refusals import TransitionRefused
from vault.storage.database import Database, Transaction

DAY = 86400


async def make_user(database: Database, name: str = "alice") -> User:
    async with database.transaction() as transaction:
        return await users.create_user(transaction, name, now=NOW)


async def bring(
    transaction: Transaction, user: User, *names: str, source: str = "openid:company", days: int = 30
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return await groups.set_groups(transaction, user.id, names, source=source, now=NOW, expires_at=NOW + days * DAY)


async def test_a_group_is_found_by_its_name_whatever_its_case_and_is_made_once(database: Database) -> None:
    async with database.transaction() as transaction:
        made = await groups.create_group(transaction, "  Straße 7 ", now=NOW)
        with pytest.raises(groups.GroupNameTaken):
            await groups.create_group(transaction, "STRASSE 7", now=NOW)
        other = await groups.create_group(transaction, "STRASSE 8", now=NOW)
        longest = await groups.create_group(transaction, "ä" * 200, now=NOW)
    assert await groups.find_group(database, "strasse 7") == made
    assert await groups.find_group(database, "A\N{COMBINING DIAERESIS}" * 200) == longest
    assert await groups.get_group(database, other.id) == other


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "ad\u202emins", "a\nb"])
async def test_a_group_name_that_cannot_be_seen_is_refused(database: Database, name: str) -> None:
    async with database.transaction() as transaction:
        with pytest.raises(groups.GroupNameRefused):
            await groups.create_group(transaction, name, now=NOW)
        for good in ("x", "x" * 200):
            await groups.create_group(transaction, good, now=NOW)


async def test_the_claims_of_a_sign_in_replace_those_of_the_one_before_and_no_others(database: Database) -> None:
    user = await make_user(database)
    async with database.transaction() as transaction:
        local = await groups.create_group(transaction, "On call", now=NOW)
        await groups.add_member(transaction, local.id, user.id, source=groups.LOCAL, now=NOW)
        assert await bring(transaction, user, "Sales", "on CALL", "bad\nname") == (("on CALL", "Sales"), ())
        assert await bring(transaction, user, "Sales", "Research", source="openid:other") == (("Research", "Sales"), ())
        assert await bring(transaction, user, "Legal") == (("Legal",), ("On call", "Sales"))
    found = {one.group.name: one.sources for one in await groups.of_person(database, user.id, now=NOW)}
    assert found == {
        "Legal": ("openid:company",),
        "On call": ("local",),
        "Research": ("openid:other",),
        "Sales": ("openid:other",),
    }


async def test_what_a_claim_says_counts_until_its_end_and_what_lasts_without_one_goes_on(database: Database) -> None:
    user = await make_user(database)
    async with database.transaction() as transaction:
        await bring(transaction, user, "Sales", "Legal")
        legal = await groups.find_group(transaction, "Legal")
        assert legal is not None
        await groups.add_member(transaction, legal.id, user.id, source=groups.LOCAL, now=NOW)
    end = NOW + 30 * DAY
    assert await groups.names_of_person(database, user.id, now=end - 1) == {"sales", "legal"}
    assert await groups.names_of_person(database, user.id, now=end) == {"legal"}
    by_name = {one.group.name: one.expires_at for one in await groups.of_person(database, user.id, now=NOW)}
    assert by_name == {"Sales": end, "Legal": None}
    assert await groups.is_member(database, legal.id, user.id, now=end)


async def test_a_directory_replaces_its_own_members_only(database: Database) -> None:
    alice, bob = await make_user(database), await make_user(database, "bob")
    async with database.transaction() as transaction:
        group = await groups.create_group(transaction, "Sales", is_provisioned=True, now=NOW)
        await bring(transaction, alice, "Sales")
        added = await groups.set_members(transaction, group.id, [alice.id, bob.id], source="scim", now=NOW)
        assert added == ({alice.id, bob.id}, frozenset())
        assert await groups.set_members(transaction, group.id, [], source="scim", now=NOW) == (
            frozenset(),
            {alice.id, bob.id},
        )
    assert [one.name for one in await groups.members(database, group.id, now=NOW)] == ["alice"]
    assert await groups.count_members(database, group.id, now=NOW) == 1


async def test_nothing_of_a_deleted_person_or_group_is_left(database: Database) -> None:
    alice, bob = await make_user(database), await make_user(database, "bob")
    async with database.transaction() as transaction:
        await bring(transaction, alice, "Sales")
        await bring(transaction, bob, "Sales", "Legal")
        await directory.store_person(transaction, ProvisionedPerson(alice.id, "alice@company.example", NOW, NOW))
        await users.delete_user(transaction, alice.id, now=NOW)
        group = await groups.find_group(transaction, "Sales")
        assert group is not None
        assert await groups.count_members(transaction, group.id, now=NOW) == 1
        assert await groups.delete_group(transaction, group.id)
        assert not await groups.delete_group(transaction, group.id)
    assert await directory.count_people(database) == 0
    assert await groups.names_of_person(database, bob.id, now=NOW) == {"legal"}
    assert await database.fetch("select user_id from memberships") == [{"user_id": bob.id}]


async def test_a_user_name_of_the_directory_is_unique_without_case(database: Database) -> None:
    alice, bob = await make_user(database), await make_user(database, "bob")
    told = ProvisionedPerson(alice.id, "A@company.example", NOW, NOW, external_id="00u1", attributes={"emails": [1]})
    async with database.transaction() as transaction:
        await directory.store_person(transaction, told)
        with pytest.raises(directory.UserNameTaken):
            await directory.store_person(transaction, replace(told, user_id=bob.id, user_name="a@COMPANY.example"))
        await directory.store_person(transaction, replace(told, user_id=bob.id, user_name="b@company.example"))
        longest = ProvisionedPerson((await users.create_user(transaction, "carol", now=NOW)).id, "ä" * 200, NOW, NOW)
        await directory.store_person(transaction, longest)
    found = await directory.find_person(database, "a@company.EXAMPLE")
    assert found == replace(told, name="alice")
    found = await directory.find_person(database, "A\N{COMBINING DIAERESIS}" * 200)
    assert found == replace(longest, name="carol")
    assert {one.user_id for one in await directory.with_external_id(database, "00u1")} == {alice.id, bob.id}


async def test_a_rotated_token_of_a_directory_works_until_its_grace_is_over(database: Database) -> None:
    async with database.transaction() as transaction:
        first = await directory.make_token(transaction, "okta", expires_at=NOW + 100, grace=0, now=NOW)
        second = await directory.make_token(transaction, "okta", expires_at=None, grace=600, now=NOW + 10)
    assert first != second
    assert await directory.find_token(database, first, now=NOW + 99) is not None
    assert await directory.find_token(database, first, now=NOW + 100) is None  # it expires before the grace ends
    assert await directory.find_token(database, second, now=NOW + 10**6) is not None
    async with database.transaction() as transaction:
        third = await directory.make_token(transaction, "okta", expires_at=None, grace=600, now=NOW + 200)
    assert await directory.find_token(database, second, now=NOW + 799) is not None
    assert await directory.find_token(database, second, now=NOW + 800) is None
    async with database.transaction() as transaction:
        for secret, at, works in (
            (second, 799, True),
            (second, 800, False),
            (third, 800, True),
            (first, 99, False),
            ("unknown", 0, False),
        ):
            assert await directory.hold_token(transaction, secret, now=NOW + at) is works
    stored = await database.fetch("select * from directory_tokens")
    assert third not in repr(stored)
    async with database.transaction() as transaction:
        assert await directory.remove_token(transaction, "okta")
        assert not await directory.remove_token(transaction, "okta")
    assert await directory.find_token(database, third, now=NOW + 200) is None


async def test_the_use_of_a_directorys_token_is_recorded_to_the_minute(database: Database) -> None:
    async with database.transaction() as transaction:
        secret = await directory.make_token(transaction, "okta", expires_at=None, grace=0, now=NOW)
    for passed, seen in ((0, 0), (60, 0), (61, 61)):
        async with database.transaction() as transaction:
            await directory.note_use(transaction, "okta", now=NOW + passed)
        found = await directory.find_token(database, secret, now=NOW)
        assert found is not None
        assert found.used_at == NOW + seen


@pytest.mark.parametrize("is_former", [False, True])
async def test_a_group_that_is_deleted_as_empty_during_a_sign_in_is_made_again(
    database: Database, *, is_former: bool
) -> None:
    user, is_postgres = await make_user(database), type(database).__name__ == "PostgresDatabase"

    async def sign_in() -> None:
        async with database.transaction() as transaction:
            await bring(transaction, user, "Sales")

    async with database.transaction() as pruning:
        group = await groups.create_group(pruning, "Sales", now=NOW)
        if is_former:
            await bring(pruning, user, "Sales", days=0)  # ends at once
    async with database.transaction() as pruning:
        await groups.hold_group(pruning, group.id)
        assert not await groups.count_members(pruning, group.id, now=NOW)
        joining = asyncio.create_task(sign_in())
        await until_waiting(pruning, joining, is_postgres=is_postgres)
        await groups.delete_group(pruning, group.id)
    await joining
    assert await groups.names_of_person(database, user.id, now=NOW) == {"sales"}


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_a_group_that_is_deleted_while_a_sign_in_renews_a_membership_is_made_again(
    database: Database, *, is_deleted: bool
) -> None:
    user, is_postgres = await make_user(database), type(database).__name__ == "PostgresDatabase"
    async with database.transaction() as transaction:
        await bring(transaction, user, "Legal", "Sales")
        sales = await groups.find_group(transaction, "Sales")
        assert sales is not None

    async def sign_in() -> tuple[tuple[str, ...], tuple[str, ...]]:
        async with database.transaction() as transaction:
            return await bring(transaction, user, "Legal", "Sales", "Research", days=60)

    async with database.transaction() as deleting:
        await groups.hold_group(deleting, sales.id)
        if is_deleted:
            await groups.delete_group(deleting, sales.id)
        renewing = asyncio.create_task(sign_in())
        await until_waiting(deleting, renewing, is_postgres=is_postgres)
    joined = ("Research", "Sales") if is_deleted else ("Research",)
    assert await renewing == (joined, ())
    assert await groups.names_of_person(database, user.id, now=NOW + 59 * DAY) == {"legal", "research", "sales"}
    assert (await groups.get_group(database, sales.id) is None) is is_deleted
    assert len(await database.fetch("select group_id from memberships")) == 3  # each is of a group


async def test_sign_ins_and_the_end_of_a_group_lock_nothing_up(database: Database) -> None:
    user, is_postgres = await make_user(database), type(database).__name__ == "PostgresDatabase"
    async with database.transaction() as transaction:
        first = await groups.create_group(transaction, "Legal", now=NOW)
        await bring(transaction, user, "Sales")
        last = await groups.find_group(transaction, "Sales")
        assert last is not None

    async def sign_in() -> None:  # leaves the last group, and waits for the first one
        async with database.transaction() as transaction:
            await bring(transaction, user, "Legal")

    async def delete() -> None:  # waits for those who are leaving
        async with database.transaction() as transaction:
            await groups.hold_group(transaction, last.id)
            await groups.delete_group(transaction, last.id)

    async with database.transaction() as other:  # another sign-in, which takes the first group and then the last
        await groups.hold_group(other, first.id)
        coming = asyncio.create_task(sign_in())
        await until_waiting(other, coming, is_postgres=is_postgres)
        deleting = asyncio.create_task(delete())
        await asyncio.wait({deleting}, timeout=1 if is_postgres else 0.1)
        with suppress(TransitionRefused):  # it is deleted
            await groups.hold_group(other, last.id)
    await asyncio.gather(coming, deleting)
    assert await groups.names_of_person(database, user.id, now=NOW) == {"legal"}
    assert await groups.find_group(database, "Sales") is None


async def test_two_first_sign_ins_of_a_group_make_it_once(database: Database) -> None:
    alice, bob = await make_user(database), await make_user(database, "bob")
    is_postgres = type(database).__name__ == "PostgresDatabase"

    async def sign_in() -> None:
        async with database.transaction() as transaction:
            await bring(transaction, bob, "Sales")

    async with database.transaction() as first:
        await bring(first, alice, "sales")
        second = asyncio.create_task(sign_in())
        await until_waiting(first, second, is_postgres=is_postgres)
    await second
    group = await groups.find_group(database, "Sales")
    assert group is not None
    assert [one.name for one in await groups.members(database, group.id, now=NOW)] == ["alice", "bob"]


async def test_the_end_of_a_membership_does_not_hold_up_a_sign_in_that_renews_it(database: Database) -> None:
    user, is_postgres = await make_user(database), type(database).__name__ == "PostgresDatabase"
    async with database.transaction() as transaction:
        await bring(transaction, user, "Sales", days=1)
        group = await groups.find_group(transaction, "Sales")
        assert group is not None
    async with AsyncExitStack() as stack:
        if is_postgres:  # SQLite allows only one writer at a time
            await groups.hold_group(await stack.enter_async_context(database.transaction()), group.id)
        async with asyncio.timeout(30), database.transaction() as transaction:
            await bring(transaction, user, "Sales", days=2)  # with this member, the group can't be deleted as empty
    (held,) = await groups.of_person(database, user.id, now=NOW)
    assert held.expires_at == NOW + 2 * DAY


async def until_waiting(transaction: Transaction, task: asyncio.Task[object], *, is_postgres: bool) -> None:
    """Wait until the task is blocked by the transaction, or done; on SQLite, every writer waits at once."""
    async with asyncio.timeout(30):
        while is_postgres and not task.done():
            if await count_waiting(transaction):
                return
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)


async def test_a_sign_in_puts_a_person_into_500_groups_at_most(database: Database) -> None:
    names = [f"group {number:03}" for number in range(502)]
    async with database.transaction() as transaction:
        user = await users.create_user(transaction, "alice", now=NOW)
        joined, left = await groups.set_groups(transaction, user.id, names, source="openid:x", now=NOW, expires_at=None)
    assert (sorted(joined), left) == (names[:500], ())


async def test_groups_are_listed_by_name_page_by_page(database: Database) -> None:
    async with database.transaction() as transaction:
        for name in ("delta", "Alpha", "charlie", "Bravo"):
            await groups.create_group(transaction, name, is_provisioned=name != "Alpha", now=NOW)
    first, after = await groups.list_page(database, limit=2)
    assert [one.name for one in first] == ["Alpha", "Bravo"]
    second, end = await groups.list_page(database, after=after, limit=2)
    assert ([one.name for one in second], end) == (["charlie", "delta"], "")
    third, after = await groups.list_page(database, limit=3)
    assert ([one.name for one in third], bool(after)) == (["Alpha", "Bravo", "charlie"], True)
    assert [one.name for one in await groups.list_provisioned(database, offset=1, limit=5)] == ["charlie", "delta"]
    assert await groups.count_provisioned(database) == 3


async def test_a_directory_id_names_the_groups_that_the_directory_made(database: Database) -> None:
    async with database.transaction() as transaction:
        await groups.create_group(transaction, "Two", external_id="7", is_provisioned=True, now=NOW)
        await groups.create_group(transaction, "One", external_id="7", is_provisioned=True, now=NOW)
        await groups.create_group(transaction, "Local", external_id="7", now=NOW)
    assert [one.name for one in await groups.find_provisioned(database, "7")] == ["One", "Two"]
    assert await groups.find_provisioned(database, "8") == ()


async def test_a_group_is_renamed_unless_another_one_has_the_name_or_it_is_gone(database: Database) -> None:
    async def rename(group: groups.Group, name: str) -> None:
        async with database.transaction() as transaction:
            await groups.change_group(transaction, group, name=name, external_id="7", is_provisioned=True, now=NOW + 1)

    async with database.transaction() as transaction:
        group = await groups.create_group(transaction, "Sales", now=NOW)
        await groups.create_group(transaction, "Legal", now=NOW)
    await rename(group, "SALES")
    with pytest.raises(groups.GroupNameTaken):
        await rename(group, "legal")
    with pytest.raises(groups.GroupNameRefused):
        await rename(group, "")
    found = await groups.find_group(database, "sales")
    assert found == replace(group, name="SALES", external_id="7", is_provisioned=True, changed_at=NOW + 1)
    async with database.transaction() as transaction:
        assert await groups.delete_group(transaction, group.id)
        assert not await groups.delete_group(transaction, group.id)
    for late in (rename(group, "Research"), _hold(database, group)):
        with pytest.raises(TransitionRefused):
            await late


async def _hold(database: Database, group: groups.Group) -> None:
    async with database.transaction() as transaction:
        await groups.hold_group(transaction, group.id)


async def test_rules_see_the_current_names_groups_and_kind(database: Database) -> None:
    seeded = await seed(database)

    async def names(*, now: int, client_id: str = "agent-1") -> ActingNames | None:
        return await read_names(database, user_id=seeded.user.id, client_id=client_id, now=now)

    alone = ActingNames("alice", "alice", Role.MEMBER, frozenset(), "An agent", "dynamic")
    assert await names(now=NOW) == alone
    async with database.transaction() as transaction:
        await bring(transaction, seeded.user, "Sales", "LEGAL", days=1)
        lasting = await groups.create_group(transaction, "On call", now=NOW)
        await groups.add_member(transaction, lasting.id, seeded.user.id, source=groups.LOCAL, now=NOW)
    assert await names(now=NOW + DAY - 1) == replace(alone, groups=frozenset({"sales", "legal", "on call"}))
    assert await names(now=NOW + DAY) == replace(alone, groups=frozenset({"on call"}))
    unknown = await names(now=NOW + DAY, client_id="unknown")
    assert unknown == replace(alone, groups=frozenset({"on call"}), client="", client_kind="")
    async with database.transaction() as transaction:
        await users.delete_user(transaction, seeded.user.id, now=NOW)
    assert await names(now=NOW) is None
