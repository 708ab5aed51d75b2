"""Agents and APIs: saved, replaced, removed with everything they hold, and forgotten if they were never used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.seeded_grant import LIFETIMES, NOW, RESOURCE, SCOPES, agent, allow, issue_code, seed
from vault import apis, clients, grants, tickets, tool_choices
from vault.keys.key_ring import KeyRing
from vault.records import TENANT, Client, ClientKind, TicketPurpose
from vault.refusals import StorageUnavailable, TransitionRefused
from vault.storage.database import Database, Transaction
from vault.tokens import tokens

DAY = 86400


async def list_clients(database: Database) -> tuple[Client, ...]:
    return tuple([client async for page in clients.walk_clients(database) for client in page])


async def test_a_client_comes_back_as_it_was_saved_and_hides_its_secrets(database: Database) -> None:
    made = replace(
        agent(),
        kind=ClientKind.MANUAL,
        auth_method="client_secret_basic",
        secret_hash=b"s" * 32,
        redirect_uris=("https://b.example/cb", "https://a.example/cb?x=1"),
        grant_types=frozenset({"authorization_code", "urn:ietf:params:oauth:grant-type:token-exchange"}),
        resources=("https://api.example",),
        metadata={"contacts": ["a@b.example"], "jwks": {"keys": []}},
    )
    async with database.transaction() as transaction:
        await clients.save_client(transaction, made)
    assert await clients.get_client(database, made.id) == made
    assert await list_clients(database) == (made,)
    assert await clients.get_client(database, made.id.upper()) is None
    assert "ssss" not in repr(made)
    assert "rrrr" not in repr(made)


@pytest.mark.parametrize("kind", [ClientKind.DYNAMIC, ClientKind.MANUAL])
async def test_a_registered_client_is_not_replaced_by_another_with_its_id(database: Database, kind: ClientKind) -> None:
    first = agent(kind=kind)
    async with database.transaction() as transaction:
        await clients.save_client(transaction, first)
    for usurper in (replace(first, name="Usurper"), replace(first, kind=ClientKind.METADATA)):
        with pytest.raises(clients.ClientExists):
            async with database.transaction() as transaction:
                await clients.save_client(transaction, usurper)
    assert await clients.get_client(database, first.id) == first


@pytest.mark.parametrize("kind", [ClientKind.METADATA, ClientKind.LOCAL])
async def test_a_metadata_or_local_client_is_replaced_in_place(database: Database, kind: ClientKind) -> None:
    first = agent("https://agent.example/client", kind=kind)
    async with database.transaction() as transaction:
        await clients.save_client(transaction, first)
        await clients.touch(transaction, first.id, now=NOW)
        await clients.save_client(transaction, replace(first, name="Renamed", created_at=NOW + 99))
    found = await clients.get_client(database, first.id)
    assert found == replace(first, name="Renamed", last_used_at=NOW)


async def test_an_update_changes_the_registration_but_neither_kind_nor_age(database: Database) -> None:
    first = agent()
    changed = replace(first, name="New name", redirect_uris=("https://new.example/cb",), registration_hash=b"n" * 32)
    async with database.transaction() as transaction:
        await clients.save_client(transaction, first)
        assert await clients.update_client(
            transaction, replace(changed, kind=ClientKind.MANUAL, created_at=NOW + 5, last_used_at=NOW)
        )
        assert not await clients.update_client(transaction, agent("unknown"))
    assert await clients.get_client(database, first.id) == changed


@pytest.mark.requirement("S-030")
async def test_removal_kills_grants_tokens_and_codes_of_this_client_only(database: Database, key_ring: KeyRing) -> None:
    gone, kept = await seed(database), await seed(database, name="bob", client_id="agent-2")
    held: dict[str, tuple[str, str]] = {}
    for seeded in (gone, kept):
        async with database.transaction() as transaction:
            refresh = await tokens.issue_refresh_token(
                transaction, seeded.grant, scopes=SCOPES, resource=RESOURCE, now=NOW, lifetimes=LIFETIMES
            )
            code = await issue_code(transaction, key_ring, client_id=seeded.client.id)
        held[seeded.client.id] = (refresh, code)
    async with database.transaction() as transaction:
        ended = await clients.remove_client(transaction, gone.client.id, now=NOW)
        assert await clients.remove_client(transaction, gone.client.id, now=NOW) is None
        assert await clients.remove_client(transaction, "unknown", now=NOW) is None
        assert not await clients.update_client(transaction, gone.client)
    assert ended is not None
    assert [(grant.id, grant.revoked_reason) for grant in ended] == [(gone.grant.id, "client_removed")]

    assert await clients.get_client(database, gone.client.id) is None
    assert await list_clients(database) == (kept.client,)
    refresh, code = held[gone.client.id]
    assert await grants.live_principal_facts(database, gone.grant.id) is None
    with pytest.raises(tokens.RefreshTokenRefused):
        await tokens.rotate(
            database, refresh, request=tokens.RefreshRequest(gone.client.id), now=NOW, lifetimes=LIFETIMES
        )
    with pytest.raises(TransitionRefused):
        async with database.transaction() as transaction:
            await tickets.consume(transaction, key_ring, code, purpose=TicketPurpose.CODE, now=NOW)
    with pytest.raises(clients.ClientExists):
        async with database.transaction() as transaction:
            await clients.save_client(transaction, gone.client)

    refresh, code = held[kept.client.id]
    assert await grants.live_principal_facts(database, kept.grant.id) is not None
    await tokens.rotate(database, refresh, request=tokens.RefreshRequest(kept.client.id), now=NOW, lifetimes=LIFETIMES)
    async with database.transaction() as transaction:
        await tickets.consume(transaction, key_ring, code, purpose=TicketPurpose.CODE, now=NOW)


async def test_a_metadata_client_that_returns_after_removal_has_neither_grants_nor_delegations(
    database: Database,
) -> None:
    seeded = await seed(database)
    client = agent("https://agent.example/client", kind=ClientKind.METADATA)
    async with database.transaction() as transaction:
        await clients.save_client(transaction, client)
    grant = await allow(database, seeded.user, client)
    async with database.transaction() as transaction:
        for owner in (client.id, seeded.client.id):
            await transaction.execute(
                "insert into delegations (tenant, user_id, client_id, connection_id, scopes, created_at, changed_at)"
                " values (:tenant, :user_id, :client_id, :id, :scopes, :now, :now)",
                {
                    "tenant": TENANT,
                    "user_id": seeded.user.id,
                    "client_id": owner,
                    "id": "connection-1",
                    "scopes": "chat:write",
                    "now": NOW,
                },
            )
        await clients.remove_client(transaction, client.id, now=NOW)
        await clients.save_client(transaction, replace(client, created_at=NOW + 1))
    assert await clients.get_client(database, client.id) == replace(client, created_at=NOW + 1, registration_hash=None)
    assert await grants.live_principal_facts(database, grant.id) is None
    live = await database.fetch("select client_id from delegations where revoked_at is null")
    assert [row["client_id"] for row in live] == [seeded.client.id]


@pytest.mark.requirement("S-027")
async def test_a_client_of_strangers_that_nobody_used_is_forgotten_after_a_day(database: Database) -> None:
    seeded = await seed(database)  # agent-1 has a grant
    async with database.transaction() as transaction:
        for client in (
            agent("unused"),
            agent("used"),
            agent("young", created_at=NOW + 1),
            agent("manual", kind=ClientKind.MANUAL),
            agent("https://agent.example/client", kind=ClientKind.METADATA),
        ):
            await clients.save_client(transaction, client)
        await clients.touch(transaction, "used", now=NOW)
        assert await clients.reap_unused(transaction, before=NOW + DAY - 1 - DAY) == 0
        assert await clients.reap_unused(transaction, before=NOW + DAY - DAY) == 2
    left = {client.id for client in await list_clients(database)}
    assert left == {seeded.client.id, "used", "young", "manual"}


async def test_clients_are_walked_by_age_a_page_at_a_time_however_many_came_at_once(database: Database) -> None:
    count = 1003
    async with database.transaction() as transaction:
        await clients.save_client(transaction, replace(agent("zz"), created_at=NOW - 1))
        await transaction.execute_many(
            "insert into clients (tenant, id, kind, name, auth_method, redirect_uris, grant_types, resources, metadata,"
            " created_at) select tenant, :id, kind, name, auth_method, redirect_uris, grant_types, resources, metadata,"
            " created_at + :later from clients where id = :from",
            [{"id": f"agent-{one:05}", "from": "zz", "later": 1 + (one >= 498)} for one in range(count)],
        )
    pages = [[client.id for client in page] async for page in clients.walk_clients(database)]
    assert [len(page) for page in pages] == [500, 500, 4]
    assert [one for page in pages for one in page] == ["zz", *(f"agent-{number:05}" for number in range(count))]


async def test_a_search_examines_2000_clients_and_continues_after_them(database: Database) -> None:
    async with database.transaction() as transaction:
        await clients.save_client(transaction, replace(agent("needle"), name="Needle"))
        await _copy_client(transaction, "needle", [f"agent-{number:05}" for number in range(2000)])
    found, before = await clients.find_page(database, named="needle", limit=10)
    assert (found, before) == ((), (NOW + 1, "agent-00000"))
    found, before = await clients.find_page(database, named="needle", before=before, limit=10)
    assert ([one.id for one in found], before) == (["needle"], None)


async def test_a_page_of_clients_tells_whether_there_are_more(database: Database) -> None:
    async with database.transaction() as transaction:
        for client_id in ("one", "two"):
            await clients.save_client(transaction, agent(client_id))
    for limit, before in ((1, (NOW, "two")), (2, None), (3, None)):
        assert (await clients.find_page(database, limit=limit))[1] == before


async def test_of_a_persons_clients_with_one_name_50_are_listed(database: Database) -> None:
    seeded = await seed(database)
    ids = [f"agent-{number:05}" for number in range(60)]
    async with database.transaction() as transaction:
        await _copy_client(transaction, seeded.client.id, ids)
        await transaction.execute("update clients set name = :name", {"name": "Namesake"})
    for client_id in ids:
        grant = await allow(database, seeded.user, agent(client_id))
        async with database.transaction() as transaction:
            await tokens.issue_refresh_token(
                transaction, grant, scopes=SCOPES, resource=RESOURCE, now=NOW, lifetimes=LIFETIMES
            )
    user_id = seeded.user.id
    assert len(await clients.list_of_user(database, user_id, name="Namesake")) == 50
    assert len(await clients.list_former(database, user_id, name="Namesake", besides="", before=NOW)) == 50


async def _copy_client(transaction: Transaction, client_id: str, ids: list[str]) -> None:
    await transaction.execute_many(
        "insert into clients (tenant, id, kind, name, auth_method, redirect_uris, grant_types, resources, metadata,"
        " created_at) select tenant, :id, kind, :name, auth_method, redirect_uris, grant_types, resources,"
        " metadata, created_at + 1 from clients where id = :from",
        [{"id": one, "from": client_id, "name": "Another"} for one in ids],
    )


async def test_use_is_noted_at_most_once_an_hour(database: Database) -> None:
    async with database.transaction() as transaction:
        await clients.save_client(transaction, agent())
        for now in (NOW, NOW + 3599, NOW + 3600):
            await clients.touch(transaction, "agent-1", now=now)
            found = await clients.get_client(transaction, "agent-1")
            assert found is not None
            assert found.last_used_at == (NOW + 3600 if now == NOW + 3600 else NOW)
    for now, noted in ((NOW + 7199, NOW + 3600), (NOW + 7200, NOW + 7200)):
        client = await clients.get_client(database, "agent-1")
        assert client is not None
        await clients.note_use(database, client, now=now)
        found = await clients.get_client(database, "agent-1")
        assert found is not None
        assert found.last_used_at == noted


async def test_an_api_is_found_by_its_exact_resource_and_its_removal_ends_its_grants(database: Database) -> None:
    seeded = await seed(database)
    async with database.transaction() as transaction:
        first = await apis.add_api(transaction, "https://api.example", name="Mine", now=NOW)
        renamed = await apis.add_api(transaction, "https://api.example", name="Ours", now=NOW + 1)
        assert renamed == replace(first, name="Ours")
    other = await allow(database, seeded.user, seeded.client, resource="https://api.example")
    assert await apis.list_apis(database) == (renamed,)
    assert await apis.find_api(database, "https://api.example") == renamed
    assert await apis.find_api(database, "https://api.example/") is None
    async with database.transaction() as transaction:
        assert await apis.remove_api(transaction, "https://api.example", now=NOW)
        assert not await apis.remove_api(transaction, "https://api.example", now=NOW)
    assert await apis.list_apis(database) == ()
    assert await grants.live_principal_facts(database, other.id) is None
    assert await grants.live_principal_facts(database, seeded.grant.id) is not None


@pytest.mark.parametrize("column", ["metadata", "redirect_uris"])
async def test_a_damaged_row_is_refused_rather_than_guessed(database: Database, column: str) -> None:
    statements = {
        "metadata": "update clients set metadata = :value where id = :id",
        "redirect_uris": "update clients set redirect_uris = :value where id = :id",
    }
    async with database.transaction() as transaction:
        await clients.save_client(transaction, agent())
    assert await clients.get_client(database, "agent-1") == agent()
    async with database.transaction() as transaction:
        await transaction.execute(statements[column], {"value": "17", "id": "agent-1"})
    with pytest.raises(StorageUnavailable):
        await clients.get_client(database, "agent-1")


async def test_a_persons_choice_of_tools_is_theirs_and_for_one_agent(database: Database) -> None:
    mine, another = await seed(database), await seed(database, name="bob", client_id="agent-2")

    async def choose(user_id: str, client_id: str, tool_set: str | None) -> bool:
        async with database.transaction() as transaction:
            return await tool_choices.set_tool_set(
                transaction, user_id, client_id=client_id, tool_set=tool_set, now=NOW
            )

    assert await tool_choices.get_tool_set(database, mine.user.id, client_id=mine.client.id) is None
    chosen = [("read", True), ("read", False), ("all", True), (None, True), (None, False), ("read", True)]
    for tool_set, is_change in chosen:
        assert await choose(mine.user.id, mine.client.id, tool_set) is is_change
        assert await tool_choices.get_tool_set(database, mine.user.id, client_id=mine.client.id) == tool_set
    assert await choose(another.user.id, mine.client.id, "all")
    assert await tool_choices.get_tool_set(database, mine.user.id, client_id=another.client.id) is None
    everybody = frozenset({mine.user.id, another.user.id, *(f"nobody-{number}" for number in range(60))})
    assert await tool_choices.of_users(database, everybody) == {
        (mine.user.id, mine.client.id): "read",
        (another.user.id, mine.client.id): "all",
    }
    assert await tool_choices.of_users(database, frozenset({mine.user.id})) == {(mine.user.id, mine.client.id): "read"}
