"""Fixtures of the CIBA tests: a vault for each file, and a client with its own person for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

import pytest

from tests.support.doubles.mailbox import Receiver, running_receiver
from tests.support.harness import PASSWORD
from tests.support.rooms.ciba_room import Asker, Vault, asker_client
from tests.support.rooms.oauth_world import GENEROUS, World, vault_with


@pytest.fixture(scope="module")
async def ciba_vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Vault]:
    sandbox = {"loopback_upstreams": True}  # the receiver of pings is there
    async with vault_with(tmp_path_factory.mktemp("ciba"), sandbox=sandbox, **GENEROUS) as opened:
        yield opened


@pytest.fixture
async def asker(ciba_vault: Vault) -> AsyncGenerator[Asker]:
    """Has its own person, because requests are counted per person."""
    running, http = ciba_vault
    user = await running.add_user(secrets.token_hex(6))
    async with running.person() as person:
        await person.sign_in(user.name, PASSWORD)
        world = World(running, person, http)
        yield Asker(world, await asker_client(world), user)


@pytest.fixture(scope="module")
async def receiver() -> AsyncGenerator[Receiver]:
    async with running_receiver() as running:
        yield running
