"""An API whose link or registration ends while it exchanges a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from tests.conftest import Store
from tests.support.inspection import until_waiting
from tests.support.rooms.exchange_room import API, ExchangeRoom, exchange_room
from vault import apis, grants


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(store.data, database_url=None if store.is_sqlite else store.url) as opened:
        yield opened


@pytest.mark.parametrize("ended", ["", "link", "API"])
async def test_an_api_that_ends_during_its_first_exchange_derives_no_grant(
    place: ExchangeRoom, store: Store, ended: str
) -> None:
    database, now = place.deployment.database, place.now()
    spa, api = await place.caller(public=True), await place.caller()
    await place.link(api)
    received, as_api = await place.agent(spa, audience=API), await place.agent(api)
    await place.slack(as_api)
    async with database.transaction() as ending:
        if ended == "link":
            assert await apis.unlink_client(ending, API, client_id=api.client.id, now=now)
        elif ended == "API":
            assert await apis.remove_api(ending, API, now=now)
        asking = asyncio.create_task(place.exchange(api, received.token, scope="chat:write"))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=asking)
    answer = await asking
    assert (answer.status_code == 200) is not ended, answer.text
    live = await grants.list_grants(database, received.principal.user_id)
    held = {one.id for one in live if one.client_id == api.client.id} - {as_api.principal.grant_id}
    assert len(held) == (not ended)
