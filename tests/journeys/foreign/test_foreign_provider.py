"""A certified third-party OpenID provider as connection provider: its pages, its rotation, its reuse detection.

The operator describes it in their own provider file. It ends the whole grant if a refresh token is used twice, so any
lost or repeated refresh of ours would be noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from server.app import open_deployment
from tests.chaos.processes.nursery import open_nursery
from tests.conftest import Store
from tests.support.foreign.foreign_place import BOTH, Place, Service, open_place
from tests.support.person import Person
from vault.records import Narrowing
from vault.refusals import ConnectionRequired

pytestmark = pytest.mark.group("node")

FILE = """
[hosts]
authorize_url = "{issuer}/auth"
token_url = "{issuer}/token"
revoke_url = "{issuer}/token/revocation"

[scope]
default = ["files:read"]
offline = ["offline_access"]
identity = ["openid", "email"]

[params.authorize]
prompt = "consent"

[rotation]
mode = "revokes"

[downscope]
mode = "refresh_scope"

"""


async def agree(there: Person, page: httpx2.Response) -> httpx2.Response:
    page = await there.submit(page, {"login": "carol", "password": "anything"})
    assert "files:write" in page.text
    return await there.submit(page)


OPENID = Service("openid_provider.mjs", FILE, agree)


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    async with open_place(tmp_path, OPENID) as opened:
        yield opened


async def test_an_account_lives_through_many_rotations_until_it_is_disconnected(place: Place) -> None:
    connection = await place.connect()
    await place.rotate(connection, 4)
    assert await place.books() == {"refresh tokens": 4, "refreshes": 3}  # nothing refused, no grant ended

    narrow = await place.exchange("files:read")
    assert narrow.narrowing is Narrowing.UPSTREAM
    assert set((await place.scope_of(narrow) or "").split()) == {"files:read", "offline_access"}
    full = await place.exchange()
    assert set((await place.scope_of(full) or "").split()) >= BOTH  # the grant did not shrink
    assert await place.books() == {"refresh tokens": 6, "refreshes": 5}

    await place.disconnect(connection)
    assert await place.scope_of(full) is None
    assert (await place.books())["ended grants"] == 1
    with pytest.raises(ConnectionRequired):
        await place.exchange()


async def test_two_processes_on_one_database_refresh_once(place: Place) -> None:
    await place.connect()
    async with open_deployment(place.vault.settings, data=place.deployment.data) as other:
        for round_number in (1, 2, 3):
            place.let_expire()
            other.database.clock_offset = place.deployment.database.clock_offset
            calls = [place.exchange(where=where) for where in (place.deployment, other) for _ in range(4)]
            found = await asyncio.gather(*calls)
            assert len({token.value for token in found}) == 1
            assert await place.scope_of(found[0]) is not None
            assert await place.books() == {"refresh tokens": 1 + round_number, "refreshes": round_number}


@pytest.mark.long
async def test_the_grant_survives_two_processes_of_which_one_is_killed_at_every_step_outside_the_gap(
    store: Store, tmp_path: Path
) -> None:
    async with open_place(tmp_path, OPENID, store) as place, open_nursery() as nursery:
        await place.connect()
        living = await nursery.start(place.order())
        assert (await living.answer())["ready"]
        refreshes = 0
        for step in ("claimed", "journalled", "committed"):
            dying = await nursery.start(place.order(dies_at=step))
            assert (await dying.answer())["ready"]
            await place.end_access_tokens()
            dying.tell(exchange=None)
            await dying.wait_until_gone()
            refreshes += 1
            assert (await living.ask(exchange=None))["calls"]["carol"][0] == "ok"
            assert await place.books() == {"refresh tokens": 1 + refreshes, "refreshes": refreshes}
        other = await nursery.start(place.order(takes_up=True))
        assert (await other.answer())["ready"]
        for _ in range(3):
            await place.end_access_tokens()
            refreshes += 1
            said = await asyncio.gather(*(process.ask(exchange=["carol"] * 4) for process in (living, other)))
            assert [one["calls"]["carol"][0] for one in said] == ["ok", "ok"]
            assert await place.books() == {"refresh tokens": 1 + refreshes, "refreshes": refreshes}


async def test_when_a_stolen_token_was_used_twice_the_person_is_asked_to_connect_again(place: Place) -> None:
    connection = await place.connect()
    place.let_expire()
    await place.exchange()
    assert (await place.provider.ask(ask="replay"))["error"] == "invalid_grant"
    assert (await place.books())["ended grants"] == 1
    await place.check_that_it_must_be_reconnected(connection)
