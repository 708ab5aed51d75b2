"""Tokens issued before the vault went back in time work nowhere: they may be for something that has ended since."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.oauth.rules import default_resource
from tests.conftest import KeySettings, Store
from tests.support.going_back import Past
from tests.support.rooms.exchange_room import ExchangeRoom, exchange_room
from tests.support.rooms.mcp_room import Agent, modern, modern_headers
from vault import delegations, grants
from vault.backup import backups, quarantine
from vault.backup.backups import Backup
from vault.keys.sources import key_source
from vault.storage.snapshots import snapshot

SCOPES = frozenset({"tools", "exchange", "openid"})
REDIRECT = "https://app.example/callback"  # for the clients in this room


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[ExchangeRoom]:
    async with exchange_room(store.data, database_url=store.url) as opened:
        yield opened


async def backed_up(place: ExchangeRoom, store: Store) -> Path:
    path = store.data.parent / "vault.backup"
    async with snapshot(store.url, data=store.data) as seen:
        await backups.write_backup(
            path,
            seen,
            ring=place.deployment.keys,
            with_keys=False,
            now=place.now(),
        )
    return path


async def restore_backup(place: ExchangeRoom, store: Store, path: Path) -> None:
    source, database = key_source(KeySettings(), data=store.data), place.deployment.database
    backup, policies = await Backup.open(path, source), place.deployment.vault.policies
    await backups.restore(backup, database, source=source, policies=policies, force=True)


async def cut_off(place: ExchangeRoom, agent: Agent) -> None:
    """Does what the portal's button does."""
    whose = {"user_id": agent.principal.user_id, "client_id": agent.principal.client_id, "now": place.now()}
    async with place.deployment.transaction() as transaction:
        await grants.revoke_client_grants(transaction, reason="cut_off", **whose)
        await delegations.revoke_for_client(transaction, **whose)


async def lists(place: ExchangeRoom, token: str) -> bool:
    """Whether the MCP endpoint accepts this token."""
    headers = modern_headers("tools/list", authorization=f"Bearer {token}")
    answer = await place.http.post("/mcp", json=modern("tools/list"), headers=headers)
    assert answer.status_code in {200, 401}, answer.text
    return answer.status_code == 200


async def remembers(place: ExchangeRoom, agent: Agent) -> bool:
    """Whether a person's earlier consent would be used again without asking."""
    found = await grants.find_consent(
        place.deployment.database,
        user_id=agent.principal.user_id,
        client_id=agent.principal.client_id,
        redirect_uri=REDIRECT,
        resource=agent.principal.audience,
        scopes=SCOPES,
    )
    return found is not None


@pytest.mark.requirement("V-14")
@pytest.mark.parametrize("way", ["restore", "quarantine"])
async def test_no_token_from_before_a_restore_works_for_an_agent_that_was_cut_off_since(
    place: ExchangeRoom, store: Store, way: str
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, scopes=SCOPES)
    await place.slack(agent)
    made = (await place.exchange(caller, agent.token, audience=default_resource(place.url))).json()["access_token"]
    bystander = await place.agent(await place.caller(), scopes=SCOPES)
    database = place.deployment.database
    path, past = await backed_up(place, store), await Past.of(database)
    assert [await lists(place, one) for one in (agent.token, made)] == [True, True]  # this caches their signatures
    await cut_off(place, agent)
    assert [await lists(place, one) for one in (agent.token, made)] == [False, False]

    if way == "restore":
        await restore_backup(place, store, path)
    else:
        await past.come_back(database)  # as with a copied file or a volume snapshot
        assert [await lists(place, agent.token), await remembers(place, agent)] == [True, True]
        async with place.deployment.transaction() as transaction:
            await quarantine.quarantine(transaction, place.deployment.vault.policies, now=place.now())
    for token in (agent.token, made, bystander.token):
        assert not await lists(place, token)
        answer = await place.exchange(caller, token, scope="chat:write")
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert not await remembers(place, agent)

    again = await place.agent(caller, scopes=SCOPES)  # the twin: the person allowed it once more
    assert await lists(place, again.token)
    assert (await place.exchange(caller, again.token, scope="chat:write")).status_code == 200
