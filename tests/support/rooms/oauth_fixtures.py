"""The `world` of the protocol tests, and one for each database; a plugin, so that no test module imports a fixture."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

import pytest

from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.oauth_world import GENEROUS, World, vault_with


@pytest.fixture(scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """A vault on loopback with open registration, and alice signed in."""
    async with (
        vault_with(tmp_path_factory.mktemp("oauth") / "data", **GENEROUS) as (vault, http),
        vault.person() as alice,
    ):
        await alice.sign_in("alice", PASSWORD)
        yield World(vault, alice, http)


@pytest.fixture
async def stored_world(store: Store) -> AsyncGenerator[World]:
    """The same on each database, for what only the database can decide, such as which request was first."""
    async with (
        vault_with(store.data, database={"url": store.url}, **GENEROUS) as (vault, http),
        vault.person() as alice,
    ):
        await alice.sign_in("alice", PASSWORD)
        yield World(vault, alice, http)


@pytest.fixture
async def stranger(world: World) -> AsyncGenerator[Person]:
    """Another person here, with a browser in which they are signed in."""
    name = secrets.token_hex(6)
    await world.vault.add_user(name)
    async with world.vault.person() as person:
        await person.sign_in(name, PASSWORD)
        yield person
