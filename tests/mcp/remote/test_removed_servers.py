"""What was meant for a removed server never reaches another one that gets its name."""

from __future__ import annotations

import secrets

import pytest

from server.administration.actor import ChangeRefused
from server.remote import servers
from tests.mcp.remote.remote_room import RemoteRoom, link_of
from tests.support.doubles.mcp_double import agree
from vault import connections, tickets
from vault.records import TicketPurpose
from vault.upkeep import revocations
from vault.upstream import Account, TokenAnswer, UpstreamPolicy

SILENT = {"authorization_response_iss_parameter_supported": False}  # then `iss` can't tell servers apart


async def begin(place: RemoteRoom, name: str) -> str:
    """Alice agrees at the server; returns the address that she is sent back to."""
    agent = await place.room.agent()
    async with place.room.client(agent, mode="auto") as client:
        link = link_of(await client.call_tool(f"{name}_tools", {}))
    assert link is not None
    page = await place.person.submit(await place.person.open(link), form="/connect/", button=("decision", "allow"))
    return await agree(page.headers["location"])


@pytest.mark.parametrize("answers", [False, True])
async def test_a_server_whose_grants_are_still_being_ended_stays(place: RemoteRoom, *, answers: bool) -> None:
    later = f"r{secrets.token_hex(4)}"  # fails at first
    changes = {} if answers else {"revocation_endpoint": f"{place.site.origin}/{later}/revoke"}
    name, first = await place.add(metadata=changes)
    await place.look(name, await place.room.agent())
    (kept,) = first.refreshing
    assert await servers.disconnect_all(place.operator, name) == 1
    if not answers:
        with pytest.raises(ChangeRefused, match="still being ended") as refused:
            await servers.remove(place.operator, name)
        assert refused.value.reason == "still_ending"
        page = await place.person.open(f"/administration/tools/servers/{name}/remove")
        page = await place.person.submit(page, form=f"{name}/remove")
        assert (page.status_code, "Grants are still being ended" in page.text) == (409, True)
        assert first.revoked == []
        place.site.servers[later] = first
        waiting = await revocations.list_waiting(place.deployment.database, limit=100, now=place.deployment.now())
        (owed,) = [one.connection_id for one in waiting if one.provider == name]
        assert await revocations.retry(place.deployment.vault, owed) == "revoked"
    assert kept in first.revoked
    await servers.remove(place.operator, name)
    other = place.site.add(f"{name}b")
    await servers.add(place.operator, servers.NewServer(name, other.url))
    await revocations.run_due(place.deployment.vault)
    assert kept not in other.revoked


async def test_a_server_stays_while_an_answer_of_its_own_is_on_its_way(place: RemoteRoom) -> None:
    name, _ = await place.add()
    deployment, now = place.deployment, place.deployment.now()
    agent = await place.room.agent()
    state = secrets.token_urlsafe(32)
    async with deployment.transaction() as transaction:
        await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.UPSTREAM_STATE,
            payload={"provider": name, "scopes": "", "delegated": ""},
            lifetime=60,
            now=now,
            user_id=agent.principal.user_id,
            secret=state,
        )
    async with deployment.transaction() as transaction:
        used = await tickets.consume(transaction, deployment.keys, state, purpose=TicketPurpose.UPSTREAM_STATE, now=now)
    with pytest.raises(ChangeRefused, match="being connected") as refused:
        await servers.remove(place.operator, name)
    assert refused.value.reason == "still_connecting"
    async with deployment.transaction() as transaction:
        assert await tickets.settle_state(transaction, used.ticket_hash, outcome="refused")
    await servers.remove(place.operator, name)


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_code_goes_only_to_the_server_that_made_it(place: RemoteRoom, *, is_replaced: bool) -> None:
    name, first = await place.add(metadata=SILENT)
    back = await begin(place, name)
    other = place.site.add(f"{name}b", metadata=SILENT)
    if is_replaced:
        await servers.remove(place.operator, name)
        await servers.add(place.operator, servers.NewServer(name, other.url))
    page = await place.person.open(back)
    assert (page.status_code, other.token_requests) == (400 if is_replaced else 200, [])
    assert len(first.token_requests) == (0 if is_replaced else 1)


@pytest.mark.parametrize("is_left", [True, False])
async def test_a_name_is_free_only_when_no_account_has_it(place: RemoteRoom, *, is_left: bool) -> None:
    """An account whose key was entered while its server was being removed."""
    name = f"s{secrets.token_hex(4)}"
    double, agent, now = place.site.add(name), await place.room.agent(), place.deployment.now()
    if is_left:
        async with place.deployment.transaction() as transaction:
            await connections.open_connection(
                transaction,
                place.deployment.keys,
                user_id=agent.principal.user_id,
                provider=name,
                answer=TokenAnswer("made-up", scopes=frozenset({"mcp"}), account=Account("a", "a")),
                asked=frozenset({"mcp"}),
                policy=UpstreamPolicy(name),
                now=now,
            )
        with pytest.raises(ChangeRefused, match="still connected"):
            await servers.add(place.operator, servers.NewServer(name, double.url))
    else:
        await servers.add(place.operator, servers.NewServer(name, double.url))
