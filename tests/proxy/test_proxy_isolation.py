"""Random calls of many agents through the proxy: what reaches the provider decides, not what the vault reports."""

from __future__ import annotations

import os
import random
import secrets
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.support.rooms.proxy_room import ProxyHandle, ProxyRoom, proxy_room
from vault import clients, delegations, grants
from vault.records import Client, ClientKind, Connection, Principal

CALLS = int(os.environ.get("PROXY_CALLS", "500"))  # 10,000 for the published figure
SCOPES = ("channels:read", "chat:write", "channels:history")
NEEDS = {  # method and path -> the scope that allows it; None: no scope does
    ("GET", "/conversations.list"): "channels:read",
    ("POST", "/conversations.list"): "channels:read",
    ("POST", "/chat.postMessage"): "chat:write",
    ("GET", "/conversations.history?channel=C1"): "channels:history",
    ("GET", "/conversations.list?types=im"): None,
    ("POST", "/users.setPhoto"): None,
    ("DELETE", "/chat.postMessage"): None,
}


@dataclass
class HeldHandle:
    """A handle, and the current permission behind it."""

    proxied: ProxyHandle
    user: str
    agent: str
    account: str
    scopes: frozenset[str]


def some(chance: random.Random) -> frozenset[str]:
    return frozenset(scope for scope in SCOPES if chance.random() < 0.7)


async def crowd(
    room: ProxyRoom, chance: random.Random
) -> tuple[list[HeldHandle], dict[tuple[str, str], frozenset[str]]]:
    """2 users with 3 accounts each, 4 agents that both have allowed; handles, and permissions by agent and account."""
    deployment, held, allowed = room.vault.deployment, list[HeldHandle](), dict[tuple[str, str], frozenset[str]]()
    agents = [
        Client(secrets.token_urlsafe(8), ClientKind.MANUAL, f"Agent {n}", "none", ("http://127.0.0.1/",), 0)
        for n in range(4)
    ]
    async with deployment.transaction() as transaction:
        for client in agents:
            await clients.save_client(transaction, client)
    for name in ("alice", "bob"):
        first = await room.agent(name)
        accounts = [
            await room.account(first, name=f"{name}-{n}", token=f"xoxp-{name}-{n}", delegated=frozenset())
            for n in range(3)
        ]
        for client in agents:
            async with deployment.transaction() as transaction:
                grant = await grants.create_grant(
                    transaction,
                    user_id=first.principal.user_id,
                    client_id=client.id,
                    scopes=frozenset({"exchange"}),
                    resource=f"{room.url}/mcp",
                    redirect_uri="http://127.0.0.1/",
                    now=deployment.now(),
                )
            principal = Principal(first.principal.user_id, client.id, grant.id, grant.scopes, grant.resource)
            for connection in accounts:
                allowed[client.id, connection.id] = await allow(room, principal, connection, some(chance))
                scopes = allowed[client.id, connection.id] & some(chance)
                if scopes:
                    agent = type(first)(principal, "")
                    proxied = await room.handle(agent, connection, scopes=scopes)
                    held.append(HeldHandle(proxied, name, client.id, connection.account, scopes))
    return held, allowed


async def allow(
    room: ProxyRoom, principal: Principal, connection: Connection, scopes: frozenset[str]
) -> frozenset[str]:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        if scopes:
            await delegations.allow(
                transaction,
                user_id=principal.user_id,
                client_id=principal.client_id,
                connection_id=connection.id,
                scopes=scopes,
                now=deployment.now(),
            )
        else:
            await delegations.revoke(
                transaction,
                user_id=principal.user_id,
                client_id=principal.client_id,
                connection_id=connection.id,
                now=deployment.now(),
            )
    return scopes


@pytest.mark.requirement("S-116")
@pytest.mark.timeout(600)
async def test_no_call_reaches_the_wrong_account_or_leaves_its_scopes(tmp_path: Path) -> None:
    chance = random.Random(20260728)
    async with (
        proxy_room(tmp_path) as room,
        httpx2.AsyncClient(trust_env=False, timeout=30) as http,
    ):
        held, allowed = await crowd(room, chance)
        passed = 0
        for _ in range(CALLS):
            one = chance.choice(held)
            connection = one.proxied.connection
            if chance.random() < 0.05:  # the person changes a permission
                principal = one.proxied.agent.principal
                allowed[one.agent, connection.id] = await allow(room, principal, connection, some(chance))
            target = one if chance.random() < 0.9 else chance.choice(held)
            (method, path), scope = chance.choice(list(NEEDS.items()))
            may = (
                target.proxied.connection.id == connection.id
                and scope in one.scopes
                and one.scopes <= allowed[one.agent, connection.id]
            )
            before = len(room.provider.arrivals)
            headers = {"authorization": f"Bearer {one.proxied.value}"}
            answer = await http.request(method, target.proxied.base() + path, headers=headers)
            arrived = room.provider.arrivals[before:]
            assert len(arrived) == may, (method, path, answer.text)
            assert (answer.status_code == 200) == may
            passed += may
            for arrival in arrived:
                assert arrival.headers["authorization"] == f"Bearer xoxp-{one.account}"
        assert CALLS * 0.1 < passed < CALLS * 0.9
