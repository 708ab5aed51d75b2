"""What is kept for seconds between two calls with one handle, and that nothing survives after a person ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from server.runtime.recent import KEPT
from tests.conftest import Store
from tests.support.accounts import open_account
from tests.support.inspection import read_events
from tests.support.rooms.proxy_room import ALL, UPSTREAM_TOKEN, ProxyHandle, ProxyRoom, post_reply, proxy_room
from vault import delegations, grants, users
from vault.storage.database import text
from vault.upstream import Account, TokenAnswer


@pytest.fixture
async def proxy_room_of_store(store: Store) -> AsyncGenerator[ProxyRoom]:
    """The room, on each database."""
    async with proxy_room(store.data, database_url=store.url) as opened:
        opened.provider.answer = post_reply
        yield opened


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[ProxyRoom]:
    async with proxy_room(tmp_path) as opened:
        opened.provider.answer = post_reply
        yield opened


async def exchanges(room: ProxyRoom) -> int:
    deployment = room.vault.deployment
    return sum(one.kind == "token.exchanged" for one in await read_events(deployment))


async def reconnect(room: ProxyRoom, handle: ProxyHandle, *, token: str, lifetime: int | None) -> None:
    """The same account with another token."""
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        await open_account(
            transaction,
            deployment,
            handle.agent.principal.user_id,
            "slack",
            TokenAnswer(token, "refresh-2", ALL, lifetime, Account("T1:U1", "again")),
        )


async def test_an_opened_token_serves_the_calls_of_the_next_seconds_each_with_an_event_of_its_own(
    proxy_room_of_store: ProxyRoom,
) -> None:
    handle = await proxy_room_of_store.ready()
    for _ in range(3):
        assert (await handle.call(json={})).status_code == 200
    assert await exchanges(proxy_room_of_store) == 1
    proxy_room_of_store.vault.deployment.database.clock_offset += KEPT
    assert (await handle.call(json={})).status_code == 200
    assert await exchanges(proxy_room_of_store) == 2
    assert len(await proxy_room_of_store.events(handle)) == 4


async def test_handles_do_not_share_what_was_opened(room: ProxyRoom) -> None:
    agent = await room.agent()
    connection = await room.account(agent)
    for _ in range(2):
        handle = await room.handle(agent, connection)
        assert (await handle.call(json={})).status_code == 200
    assert await exchanges(room) == 2


async def test_another_token_of_the_account_is_used_at_once(room: ProxyRoom) -> None:
    handle = await room.ready()
    for token in (UPSTREAM_TOKEN, "xoxp-another"):
        if token != UPSTREAM_TOKEN:
            await reconnect(room, handle, token=token, lifetime=43200)
        assert (await handle.call(json={})).status_code == 200
        assert room.provider.arrivals[-1].headers["authorization"] == f"Bearer {token}"


@pytest.mark.parametrize(("lifetime", "exchanged"), [(100, 2), (43200, 1), (None, 1)])
async def test_a_token_that_ends_soon_is_exchanged_each_time_so_that_it_is_renewed(
    room: ProxyRoom, lifetime: int | None, exchanged: int
) -> None:
    handle = await room.ready()
    await reconnect(room, handle, token="xoxp-short", lifetime=lifetime)
    for _ in range(2):
        assert (await handle.call(json={})).status_code == 200
    assert await exchanges(room) == exchanged


async def test_a_handle_that_ends_is_not_outlived(room: ProxyRoom) -> None:
    agent = await room.agent()
    handle = await room.handle(agent, await room.account(agent), lifetime=5)
    assert (await handle.call(json={})).status_code == 200
    room.vault.deployment.database.clock_offset += 5
    assert (await handle.call(json={})).status_code == 401


# What ends or changes between two calls; `tests/oauth/exchange/test_exchange_repeats.py` has the same for exchanges.

Change = Callable[[ProxyRoom, ProxyHandle], Awaitable[object]]


async def revoke_grant(room: ProxyRoom, handle: ProxyHandle) -> object:
    deployment, grant_id = room.vault.deployment, handle.agent.principal.grant_id
    async with deployment.transaction() as transaction:
        return await grants.revoke_grant(transaction, grant_id, reason="test", now=deployment.now())


async def cut_off(room: ProxyRoom, handle: ProxyHandle) -> object:
    deployment, principal = room.vault.deployment, handle.agent.principal
    async with deployment.transaction() as transaction:
        return await grants.revoke_client_grants(
            transaction,
            user_id=principal.user_id,
            client_id=principal.client_id,
            reason="cut_off",
            now=deployment.now(),
        )


async def disable_user(room: ProxyRoom, handle: ProxyHandle) -> object:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        return await users.disable_user(transaction, handle.agent.principal.user_id, now=deployment.now())


async def stop_agents(room: ProxyRoom, handle: ProxyHandle) -> object:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        user_id = handle.agent.principal.user_id
        now = deployment.now()
        return await users.stop_agents(transaction, user_id, by="https://id.example", at=now, now=now)


async def narrow_permission(room: ProxyRoom, handle: ProxyHandle) -> object:
    deployment, principal = room.vault.deployment, handle.agent.principal
    found = await deployment.database.fetch_one("select connection_id from handles")
    assert found is not None
    async with deployment.transaction() as transaction:
        return await delegations.revoke(
            transaction,
            user_id=principal.user_id,
            client_id=principal.client_id,
            connection_id=text(found, "connection_id"),
            now=deployment.now(),
        )


@pytest.mark.parametrize(
    "change", [revoke_grant, cut_off, disable_user, stop_agents, narrow_permission], ids=lambda change: change.__name__
)
async def test_what_ended_between_two_calls_is_not_outlived(proxy_room_of_store: ProxyRoom, change: Change) -> None:
    handle = await proxy_room_of_store.ready()
    for _ in range(2):
        assert (await handle.call(json={})).status_code == 200
    assert await exchanges(proxy_room_of_store) == 1  # where nothing has changed, the same call succeeds
    arrived = len(proxy_room_of_store.provider.arrivals)
    await change(proxy_room_of_store, handle)
    assert (await handle.call(json={})).status_code in {401, 403}
    assert len(proxy_room_of_store.provider.arrivals) == arrived


async def test_a_new_token_of_the_account_replaces_the_kept_one_on_each_database(
    proxy_room_of_store: ProxyRoom,
) -> None:
    handle = await proxy_room_of_store.ready()
    assert (await handle.call(json={})).status_code == 200
    await reconnect(proxy_room_of_store, handle, token="xoxp-rotated", lifetime=43200)
    assert (await handle.call(json={})).status_code == 200
    assert proxy_room_of_store.provider.arrivals[-1].headers["authorization"] == "Bearer xoxp-rotated"
    assert await exchanges(proxy_room_of_store) == 2
