"""Schema files, their fingerprint, and releases that use one database at the same time."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

import vault.storage.database
import vault.storage.postgres
import vault.storage.postgres_schema
import vault.storage.schema_shape
import vault.storage.sqlite_files
import vault.upkeep.health
from tests.chaos.replicas.rolling_upgrade import open_with, release, upgrade_in_turn
from tests.chaos.world import ROOT, strict_provider
from tests.conftest import Store
from vault.refusals import StorageUnavailable
from vault.storage.database import Database, SchemaFile, schema_files
from vault.storage.schema_shape import check_shape, expected_shape, fingerprint, missing_indexes
from vault.upkeep.health import check_schema

SCHEMA = ROOT / "vault" / "schema"
# A published file never changes, because databases were made with it. When a new file is published, add its line.
PUBLISHED = {
    "0001_initial.sql": "00c4d2ddbae331fa4df6e9ab323aa97fc516a61e1dce30157ad08c8b88e935d6",
    "0002_consents.sql": "c4c2fed26f80930f5dede7caa9aca21236f51a534928fcd4882325704644aa11",
    "0003_activity.sql": "b30b41deb92e494c8d3a29ecddb7bfb7d1c111c41da7065cff6dc7f1bcbbba79",
    "0004_upkeep_indexes.sql": "495b07e7baf52285b2501293567ec8b25991f70cfa664260be0edd362ea4cf01",
    "0005_attempts.sql": "acde63b254c5eacfe3ef808824d516e5b7e61535ac506265a9525ec26b757f91",
    "0006_sweep_indexes.sql": "050be66980b8a92208b1ecdcf3513359727c46eb9acc8ce7b6f9e3f71a02d366",
    "0007_revoked_tokens.sql": "5d5762212af254e0349b19177e3d0ecfc691bfb8780d846906695eaa34625fd9",
    "0008_retention_indexes.sql": "5dce9d7073b64e224f762a6f9a1df4d7fb9144fc5bf5bc66bf78f71149d2d197",
    "0009_pages.sql": "ffe3454caf6b6c118f1830791c9c8dee3d037c04dd243a4bbfa1823ea7d535f9",
    "0010_repeated_tokens.sql": "6b1fac9695d9e681c5b1cc3fdb326d9ef5dfcb7fda5460bdbb79a39d803aaf9a",
    "0011_account_names.sql": "4c26956bf0524f2d94c1e48405b1d9e39673450a5e7b34aac6cf84277d2837f8",
    "0015_administration.sql": "4c4ef8a75098b6cb741ad74fbb563842a0b880e51b3c7539d918debb6279c96a",
    "0012_tool_choices.sql": "48f6b5d766300d076ce514bbf1e9426df537834dda41f2fc81a6f03847cc2f64",
    "0013_idle_ends.sql": "44aab7151333aca49f48976c34e02d146a87d0ab19f34b74f10c641b6b3b4b8b",
    "0014_activity_filters.sql": "06f931949301c5f0feb5cc297f205a43d10f04060e8058c7c17529816fd9b2c5",
    "0016_passkeys.sql": "c5d490b7826a3e7590014e45c06724cb56eede29f6aad1865b4a8728b84e08ee",
    "0017_notices.sql": "deb5dfa8bc00e170c6e8cadb9914cd7721540617b1c003ebf34c348d05cedd30",
    "0018_standing_approvals.sql": "ea7650840820ca1c163cbac99e8b9aea4acddbac61a07cd159773413f78707a3",
    "0019_backchannel_pings.sql": "5bf16c8c6a2114b67f3b5ce92d3cf1bd81cbfca55755a342495d6a2a9c087ea5",
    "0020_activity_index.sql": "adad3a10feb016e065a161c8e0e7e0b4baef8340a42e4f71fef715ed43db05f7",
    "0021_groups.sql": "5957d3b72677b7ab1c923ac6b2a32f69a911cb0c7fd463f5380611c7689b8dd0",
    "0022_signals.sql": "dc1dde5e1d98e6488470736e3b0a89b70be97d876c44124882348cd7f412cb2d",
    "0023_company_permissions.sql": "77e94e1ee1c74f8c392fcf2c711a653d2c6df1580dd71801c0fc7c7f276ec8e8",
    "0024_backchannel_push.sql": "91adbde792a4bf3fb2bb16d1992008e821e78fff5afb6114b9009fc8ed14d6e1",
    "0025_grant_ends.sql": "558a7c6ea7fc1119dd49b91103933924f2dbc9e53e5e804fc8fa662c9a2c0720",
    "0026_identity_assertions.sql": "df6719bec73c9eac8688381fd0666282651701f90d4b62c7a284746c93e562b8",
    "0027_master_keys.sql": "c1029ff12d8a925bb5d93454a0a70cbe0e4c242cda5aacda9bec635f385d6022",
    "0028_roles.sql": "1d243c1de77af48e3aaac72c95d02ee60d736eb350b5e6bbc5a91302e0ee69db",
    "0029_shared_connections.sql": "4640f1e17a403df51184125951a133caa66c02c2866cd49f719252f549edb191",
    "0030_ended_accounts.sql": "e690357906f880822fb1b4d542667a82607f5db693b2cf1673ad97b50fcc177e",
    "0031_notices_by_channel.sql": "65828a38e7052745f1de2bdaa38f951a41ef627f7adfe2ca2f10c612d2855198",
    "0032_signal_times.sql": "9e0d4c29ce8475fa2b860c3477eb53351c945c43c58e674ccb577d6980161a18",
    "0033_cut_off_agents.sql": "4483692685a5780445d1c461759dd19caaf1b21a8c876405e76def098cdcc763",
    "0034_access_requests.sql": "eb3d9084b65c050a3dcb54906f971856f7ef398caa74a9cf57f2f0c2acedbeaa",
    "0035_policy_digests.sql": "58c5310be7d8b18316fe7f609557b4f3ae167f7998356f6796118d4b7c3f572e",
    "0036_activity_tree.sql": "8159c7b8024521e6ba964470f20bbf70d9b8488f1c7ae1bc8e72c7d6fafcc764",
    "0037_receipts.sql": "bcc6ce1ac92fc04dbc64c9e3b0d5121e2984505a5eea156eced7855cd54696cd",
    "0038_confirmed_requests.sql": "d348c814268d616d38959792b9071b1895d4e477a0f2b9ec6647a36eee8d1afd",
    "0039_held_grants.sql": "6ef4d1e4dab100e91688d3dd858dadffd3de006fd772d17f84fb09f970dccd55",
    "0040_who_disabled.sql": "dcc560022635a0e76c3dab53ca764cd2593ecedcedb0c421592670489f87c50e",
    "0041_revocation_pauses.sql": "a781cc9a9674c1474e00ad0d573e7266c35252f77a2af673c1ad43efe1f10eb8",
    "0042_agent_receipts.sql": "8f5ae61a7182079e74a90c8b0f09e2cfaaa1d1156d47491738c3c642705efb8c",
    "0043_mcp_servers.sql": "31fc561b53636785a7ba7fba9e364bf69604fac5c1d91c56aaeaabb7278de355",
    "0044_mcp_tool_names.sql": "710ccaa032ec6eebccd7745ba9cdcd4c71fb608cfaf8e94352f7229d21d6ef51",
    "0045_mcp_decisions.sql": "a4137e853eee164326c48716c263978638a2fe39281b1ff26b18bab6d35c1cd4",
    "0046_imported_apis.sql": "3a1d40959972775dd35c9de021b4777f6c4ce3c75ee66af775f0a80925095800",
    "0047_import_decisions.sql": "e2afeaf649f01429f503f22338fb75da1e757668638d136f8587dfcc8cdf0312",
    "0048_client_renewals.sql": "9f9a815bc4ad0cdc55eeb89ea6b994ec4a42c193ed9631e35018caa832f70af2",
}
PREVIOUS = "0.1.0"
WAIT = 30.0  # seconds
# No program needs an index: one that knows it builds it again when it starts.
TAKES_AWAY = re.compile(r"\b(drop(?! index)|rename|alter column|set not null|add constraint)\b")


def test_no_published_schema_file_was_edited() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SCHEMA.glob("*.sql")}
    assert {name: found.get(name) for name in PUBLISHED} == PUBLISHED
    assert set(found) == set(PUBLISHED), "add the new file to PUBLISHED"


def test_a_schema_file_that_takes_something_away_says_from_which_schema_on_it_can_be_used() -> None:
    for before, file in zip(schema_files(), schema_files()[1:], strict=False):
        statements = ";".join((*file.vault, *file.keys)).lower()
        if TAKES_AWAY.search(statements):
            assert file.compatible_from > before.compatible_from, file.number
        assert before.compatible_from <= file.compatible_from <= file.number
        for added in re.findall(r"add column ([^;]*)", statements):
            assert "not null" not in added or "default" in added, f"{file.number}: the release before writes no {added}"


async def execute(store: Store, *statements: str) -> None:
    """Change the database without the program's knowledge."""
    if store.is_sqlite:
        with closing(sqlite3.connect(store.data / "vault.sqlite")) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return
    import asyncpg

    connection = await asyncpg.connect(store.url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_both_databases_have_the_fingerprint_of_the_schema_files(database: Database) -> None:
    wanted = expected_shape(len(schema_files()), keys=False) | expected_shape(len(schema_files()), keys=True)
    assert database.fingerprint == fingerprint(wanted)


@pytest.mark.parametrize(
    ("break_it", "fix", "named"),
    [
        ("alter table handles rename to lost", "alter table lost rename to handles", "table handles"),
        (
            "alter table connections rename column idle_expires_at to lost",
            "alter table connections rename column lost to idle_expires_at",
            "column connections.idle_expires_at bigint",
        ),
    ],
)
async def test_a_database_of_an_edited_schema_is_refused_with_what_it_lacks_and_the_fix(
    store: Store, break_it: str, fix: str, named: str
) -> None:
    await execute(store, break_it)
    with pytest.raises(StorageUnavailable, match="lacks parts of its schema") as refused:
        await store.open()
    assert named in refused.value.description
    assert "restore the backup into an empty database" in refused.value.description
    await execute(store, fix)
    database = await store.open()
    await check_schema(database)
    await database.close()


async def test_a_database_of_an_early_edit_of_the_first_file_is_refused(empty_store: Store) -> None:
    early = [
        statement.replace("derived_from text not null default '',", "")
        for statement in schema_files()[0].vault
        if "handles" not in statement and "grants_derived" not in statement and "api_clients" not in statement
    ]
    keys = schema_files()[0].keys
    if empty_store.is_sqlite:
        with closing(sqlite3.connect(empty_store.data / "keys.sqlite")) as connection, connection:
            for statement in keys:
                connection.execute(statement.replace("keys.", ""))
            connection.execute("create table schema_versions (number bigint not null primary key, applied_at bigint)")
            connection.execute("insert into schema_versions values (1, 1)")
    else:
        await execute(empty_store, "create schema keys", *keys)
    await execute(
        empty_store,
        *early,
        "create table schema_versions (number bigint not null primary key, applied_at bigint not null)",
        "insert into schema_versions values (1, 1)",
    )
    with pytest.raises(StorageUnavailable) as refused:
        await empty_store.open()
    assert "table api_clients, table handles, column grants.derived_from text not null default" in str(refused.value)


async def test_an_index_that_is_missing_is_made_again(store: Store) -> None:
    await execute(store, "drop index grants_client")
    database = await store.open()
    assert database.fingerprint == fingerprint(
        expected_shape(len(schema_files()), keys=False) | expected_shape(len(schema_files()), keys=True)
    )
    await database.close()


async def test_an_index_that_went_with_an_upgrade_goes_again_after_an_older_program_built_it(store: Store) -> None:
    await execute(store, "drop index events_person", "create index events_user on events (tenant, user_id, sequence)")
    database = await store.open()
    assert database.fingerprint == fingerprint(
        expected_shape(len(schema_files()), keys=False) | expected_shape(len(schema_files()), keys=True)
    )
    await database.close()


async def test_more_than_the_schema_is_no_reason_to_refuse(store: Store) -> None:
    await execute(
        store,
        "create index somebodys_own on users (created_at)",
        "alter table users add column later text",
        "create table later (id bigint not null primary key)",
    )
    database = await store.open()
    await check_schema(database)
    await database.close()


def test_a_description_says_the_table_and_not_each_of_its_columns() -> None:
    wanted = frozenset({"table a", "column a.x text", "primary key a (x)", "column b.y text", "index i on b (y)"})
    with pytest.raises(StorageUnavailable, match=r"schema: table a, column b\.y text\. A build"):
        check_shape(frozenset(), wanted)
    check_shape(wanted, wanted)
    assert missing_indexes(wanted, wanted) == ()


def later(compatible_from: int) -> SchemaFile:
    return SchemaFile(
        len(schema_files()) + 1,
        (
            "create table later (id bigint not null primary key, name text)",
            "create index later_name on later (name)",
            "alter table users add column later text",
            "create index users_later on users (tenant, later) where later is not null",
        ),
        ("alter table keys.ring add column later text",),
        compatible_from,
    )


def know(patch: pytest.MonkeyPatch, *files: SchemaFile) -> None:
    """Act as a program with these schema files."""
    for module in (
        vault.storage.database,
        vault.storage.schema_shape,
        vault.storage.sqlite_files,
        vault.storage.postgres_schema,
        vault.upkeep.health,
    ):
        patch.setattr(module, "schema_files", lambda: files)
    forget_shapes()


def forget_shapes() -> None:
    """Clear what was read from the schema files that a program had before."""
    vault.storage.schema_shape.expected_shape.cache_clear()
    vault.storage.schema_shape._index_statements.cache_clear()
    vault.storage.schema_shape._dropped_names.cache_clear()


@pytest.fixture(autouse=True)
def own_shapes() -> Generator[None]:
    """Leave to other tests nothing that was read from this test's schema files."""
    yield
    forget_shapes()


async def test_processes_that_upgrade_at_once_apply_each_file_once_and_an_older_program_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = schema_files()
    running = await store.open()
    know(monkeypatch, *known, later(1))
    opened = await asyncio.gather(*(store.open() for _ in range(4)))
    assert len({one.fingerprint for one in opened}) == 1
    rows = await opened[0].fetch("select number, compatible_from from schema_migrations order by number")
    assert [row["number"] for row in rows] == [*range(1, len(known) + 2)]
    await check_schema(opened[0])
    for one in opened:
        await one.close()
    monkeypatch.undo()
    know(monkeypatch, *known)
    await check_schema(running)
    again = await store.open()  # an older program starts with a schema that was only extended
    await check_schema(again)
    for one in (running, again):
        await one.close()
    monkeypatch.undo()


async def test_a_file_that_takes_something_away_ends_the_programs_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = schema_files()
    know(monkeypatch, *known, later(len(known) + 1))
    newer = await store.open()
    await check_schema(newer)
    monkeypatch.undo()
    know(monkeypatch, *known)
    with pytest.raises(StorageUnavailable, match="Start the newer Token Vault"):
        await store.open()
    with pytest.raises(StorageUnavailable, match="another schema version"):
        await check_schema(newer)
    await newer.close()
    async with release(PREVIOUS) as old:
        assert await open_with(old, store) != 0
    monkeypatch.undo()


async def test_an_upgrade_waits_briefly_for_a_table_in_use_and_tries_again(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    know(monkeypatch, *schema_files(), later(1))
    for name, value in (("BRIEF_LOCK", "100ms"), ("PAUSE", 0.01), ("BRIEF_TRIES", 1)):
        monkeypatch.setattr(vault.storage.postgres_schema, name, value)
    using = await asyncpg.connect(postgres_store.url)
    waits = """
        select count(*) from pg_locks where relation = to_regclass('users') and not granted
            and database = (select oid from pg_database where datname = current_database())
    """
    async with asyncio.timeout(WAIT):
        await using.execute("begin; lock table users in access share mode")
        with pytest.raises(StorageUnavailable) as refused:
            await postgres_store.open()
        assert isinstance(refused.value.__cause__, asyncpg.LockNotAvailableError)
        monkeypatch.setattr(vault.storage.postgres_schema, "BRIEF_TRIES", 1000)
        opening = asyncio.create_task(postgres_store.open())
        for is_waiting in (True, False, True):  # it waits, gives way to others, and waits again
            while not opening.done() and bool(await using.fetchval(waits)) is not is_waiting:
                await asyncio.sleep(0)
        await using.close()
        database = await opening
    await check_schema(database)
    await database.close()


async def test_an_index_whose_build_was_cut_short_is_built_again(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(
        postgres_store,
        "drop index grants_client",
        "create index grants_client on grants (tenant, user_id, client_id)",
        "update pg_index set indisvalid = false where indexrelid = to_regclass('grants_client')",
    )
    database = await postgres_store.open()
    row = await database.fetch_one(
        "select cast(indisvalid as int) as valid from pg_index where indexrelid = to_regclass(:name)",
        {"name": "grants_client"},
    )
    assert row == {"valid": 1}
    await database.close()


@pytest.mark.long
async def test_the_release_before_and_this_one_serve_one_database_side_by_side(empty_store: Store) -> None:
    async with strict_provider() as provider:
        figure = await upgrade_in_turn(empty_store, provider, version=PREVIOUS, rate=4.0)
    assert figure.holds, figure.measured


async def test_a_database_of_the_release_before_is_upgraded_and_that_release_still_opens_it(
    empty_store: Store, tmp_path: Path
) -> None:
    async with release(PREVIOUS) as old:
        assert await open_with(old, empty_store) == 0
        database = await empty_store.open()
        rows = await database.fetch("select number from schema_versions")
        assert [row["number"] for row in rows] == [1]
        await database.close()
        assert await open_with(old, empty_store) == 0


async def test_a_vault_that_is_up_to_date_waits_for_no_other_process_that_upgrades(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    for name, value in (("PATIENT_TIMEOUT", 0.5), ("PAUSE", 0.05)):
        monkeypatch.setattr(vault.storage.postgres_schema, name, value)
    other = await asyncpg.connect(postgres_store.url)
    try:
        await other.execute(f"begin; select pg_advisory_xact_lock({vault.storage.postgres_schema.SCHEMA_LOCK})")
        await (await postgres_store.open()).close()
        await execute(postgres_store, "drop index grants_client")
        with pytest.raises(StorageUnavailable, match="another process has been upgrading the schema"):
            await postgres_store.open()
        await other.execute("commit")
        monkeypatch.undo()
        await (await postgres_store.open()).close()
    finally:
        await other.close()


async def test_building_an_index_waits_for_a_transaction_longer_than_a_call_would(
    postgres_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    limit = "lock_timeout"
    monkeypatch.setitem(vault.storage.postgres.SESSION, limit, "100")
    await execute(postgres_store, "drop index grants_client")
    using, looking = await asyncpg.connect(postgres_store.url), await asyncpg.connect(postgres_store.url)
    waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    try:
        async with asyncio.timeout(WAIT):
            await using.execute("begin; lock table grants in row exclusive mode")
            opening = asyncio.create_task(postgres_store.open())
            while not await looking.fetchval(waits):  # a transaction would see the activity of its first look
                await asyncio.wait([opening], timeout=0.01)
                assert not opening.done()
            await asyncio.wait([opening], timeout=0.4)
            await using.execute("commit")
            database = await opening
        row = await database.fetch_one("select current_setting(:name) as value", {"name": limit})
        assert row == {"value": "100ms"}, "calls have their limit again"
        await database.close()
    finally:
        await using.close()
        await looking.close()
