"""A vault that starts from scratch, with nothing prepared; and how tests prepare the others."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from server.settings import Settings
from tests.conftest import Store
from tests.support.harness import FIRST_RUNS, first_run_in, running_vault
from vault import users


async def test_a_vault_makes_its_keys_and_tables_where_nothing_is_and_finds_them_again(empty_store: Store) -> None:
    empty_store.data.mkdir(mode=0o700, exist_ok=True)
    assert list(empty_store.data.iterdir()) == []
    async with running_vault(empty_store.data, database_url=empty_store.url) as vault:
        assert [one.name for one in await users.list_users(vault.deployment.database)] == ["alice"]
        key = vault.deployment.vault.keys.signing.current(vault.deployment.now()).kid
    database = await empty_store.open()
    try:
        keys = await empty_store.open_keys(database)
        assert keys.signing.current(database.now()).kid == key
    finally:
        await database.close()


async def test_vaults_that_run_beside_each_other_have_different_keys(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first_run_in(tmp_path / "shared", Settings()))
        shared = (tmp_path / "shared" / "master.key").read_bytes()
        for number in range(FIRST_RUNS + 1):  # one after another
            async with first_run_in(tmp_path / f"own-{number}", Settings()):
                assert (tmp_path / f"own-{number}" / "master.key").read_bytes() != shared
        for number in range(FIRST_RUNS):  # all at once
            await stack.enter_async_context(first_run_in(tmp_path / f"beside-{number}", Settings()))
        assert (
            len({(one / "master.key").read_bytes() for one in tmp_path.glob("beside-*")} | {shared}) == FIRST_RUNS + 1
        )
