"""Registered APIs, the clients that act as them, and grants that are derived from others and end with them."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.inspection import get_grant, until_waiting
from tests.support.seeded_grant import NOW, SeededGrant, agent, seed
from vault import apis, clients, grants, revoked_tokens
from vault.audit import audit
from vault.records import ClientKind, Grant
from vault.refusals import GrantEnded
from vault.storage.database import Database, Transaction

API = "https://api.example/v1"


async def server(database: Database, client_id: str = "server") -> str:
    async with database.transaction() as transaction:
        await clients.save_client(transaction, agent(client_id, kind=ClientKind.MANUAL))
    return client_id


async def derive_grant(database: Database, seeded: SeededGrant, client_id: str, *, by: str | None = None) -> Grant:
    return await grants.derived_grant(
        database,
        user_id=seeded.user.id,
        client_id=client_id,
        derived_from=seeded.grant.id if by is None else by,
        scopes=frozenset({"exchange"}),
        resource=API,
        hold=holds,
        now=NOW,
    )


async def holds(transaction: Transaction) -> bool:
    """The condition of a grant that nothing can end."""
    return True


async def is_live(database: Database, grant: Grant) -> bool:
    return await grants.live_principal_facts(database, grant.id) is not None


async def test_an_api_keeps_its_scopes_and_clients_when_its_name_changes(database: Database) -> None:
    one, other = await server(database, "one"), await server(database, "other")
    async with database.transaction() as transaction:
        await apis.add_api(transaction, API, name="First", scopes=frozenset({"read", "write"}), now=NOW)
        await apis.link_client(transaction, API, client_id=one, now=NOW)
        await apis.link_client(transaction, API, client_id=one, now=NOW)
        again = await apis.add_api(transaction, API, name="Second", now=NOW + 1)
    assert (again.name, again.scopes, again.created_at) == ("Second", {"read", "write"}, NOW)
    assert await apis.find_api(database, API) == again
    assert await apis.list_apis(database) == (again,)
    assert await apis.is_linked(database, API, client_id=one)
    assert not await apis.is_linked(database, API, client_id=other)
    assert not await apis.is_linked(database, "https://other.example", client_id=one)
    assert await apis.linked_clients(database, API) == (one,)
    async with database.transaction() as transaction:
        assert await apis.hold_api(transaction, API)
        assert not await apis.hold_api(transaction, "https://other.example")
        assert await apis.hold_link(transaction, API, client_id=one)
        assert not await apis.hold_link(transaction, API, client_id=other)
        emptied = await apis.add_api(transaction, API, name="Third", scopes=frozenset(), now=NOW)
        assert emptied.scopes == frozenset()
        await clients.remove_client(transaction, one, now=NOW)
    assert await apis.linked_clients(database, API) == ()


async def test_a_derived_grant_is_made_once_and_ends_with_what_it_is_derived_from(database: Database) -> None:
    seeded, client_id = await seed(database), await server(database)
    first = await derive_grant(database, seeded, client_id)
    assert await derive_grant(database, seeded, client_id) == first
    further = await grants.derived_grant(
        database,
        user_id=seeded.user.id,
        client_id=await server(database, "behind"),
        derived_from=first.id,
        scopes=frozenset({"exchange"}),
        resource="https://back.example/",
        hold=holds,
        now=NOW,
    )
    standing = await derive_grant(database, seeded, client_id, by=f"worker:{client_id}")
    assert len({seeded.grant.id, first.id, further.id, standing.id}) == 4
    async with database.transaction() as transaction:
        await grants.revoke_grant(transaction, seeded.grant.id, reason="test", now=NOW)
    assert [await is_live(database, one) for one in (first, further, standing)] == [False, False, True]
    ended = await get_grant(database, further.id)
    assert ended is not None
    assert ended.revoked_reason == "derived_from_ended"
    fresh = await derive_grant(database, seeded, client_id, by=f"worker:{client_id}")
    assert fresh == standing
    events = [one for one in await audit.list_events(database) if one.kind == "grant.derived"]
    assert len(events) == 3


async def test_only_an_api_that_is_removed_ends_its_grants_and_links(database: Database) -> None:
    seeded, client_id = await seed(database), await server(database)
    async with database.transaction() as transaction:
        await apis.add_api(transaction, API, name="Api", scopes=frozenset({"read"}), now=NOW)
        await apis.link_client(transaction, API, client_id=client_id, now=NOW)
    derived = await derive_grant(database, seeded, client_id)
    async with database.transaction() as transaction:
        assert not await apis.remove_api(transaction, seeded.grant.resource, now=NOW)
    assert [await is_live(database, one) for one in (seeded.grant, derived)] == [True, True]
    async with database.transaction() as transaction:
        assert await apis.remove_api(transaction, API, now=NOW)
    assert [await is_live(database, one) for one in (seeded.grant, derived)] == [True, False]
    assert await apis.linked_clients(database, API) == ()


async def test_many_first_exchanges_at_once_derive_one_grant(database: Database) -> None:
    seeded, client_id = await seed(database), await server(database)
    found = await asyncio.gather(*(derive_grant(database, seeded, client_id) for _ in range(8)))
    live = await grants.list_grants(database, seeded.user.id)
    mine = {one.id for one in live if one.client_id == client_id}
    assert {one.id for one in found} <= mine
    assert all([await is_live(database, one) for one in found])
    events = [one.kind for one in await audit.list_events(database)]
    assert events.count("grant.derived") == 1


@pytest.mark.parametrize("first", ["exchange", "removal"])
async def test_a_client_that_is_removed_meanwhile_derives_nothing(database: Database, first: str) -> None:
    seeded, client_id, other = await seed(database), await server(database), await server(database, "other")
    is_sqlite = type(database).__name__ != "PostgresDatabase"

    async def remove() -> None:
        async with database.transaction() as transaction:
            await clients.remove_client(transaction, client_id, now=NOW)

    if first == "removal":
        await remove()
        with pytest.raises(GrantEnded):
            await derive_grant(database, seeded, client_id)
    else:
        async with database.transaction() as holding:
            await revoked_tokens.lock_grant(holding, seeded.grant.id)
            deriving = asyncio.create_task(derive_grant(database, seeded, client_id))
            await until_waiting(holding, number=1, is_sqlite=is_sqlite)
            removing = asyncio.create_task(remove())
            await until_waiting(holding, number=2, is_sqlite=is_sqlite, unless=removing)
        await asyncio.gather(deriving, removing)
    live = await grants.list_grants(database, seeded.user.id)
    assert [one.id for one in live if one.client_id == client_id] == []
    assert await is_live(database, await derive_grant(database, seeded, other))


async def test_what_a_client_derived_ends_when_it_is_the_api_no_more(database: Database) -> None:
    seeded, client_id = await seed(database), await server(database)
    async with database.transaction() as transaction:
        await apis.add_api(transaction, API, name="API", now=NOW)
        await apis.link_client(transaction, API, client_id=client_id, now=NOW)
    held = await derive_grant(database, seeded, client_id)
    async with database.transaction() as transaction:
        assert not await apis.unlink_client(transaction, API, client_id="another", now=NOW)
    assert await is_live(database, held)
    async with database.transaction() as transaction:
        assert await apis.unlink_client(transaction, API, client_id=client_id, now=NOW)
    assert not await is_live(database, held)
    assert await is_live(database, seeded.grant)
    again = await derive_grant(database, seeded, client_id)
    async with database.transaction() as transaction:
        assert await apis.remove_api(transaction, API, now=NOW)
        assert not await apis.remove_api(transaction, API, now=NOW)
    assert not await is_live(database, again)
    assert await apis.linked_clients(database, API) == ()
