"""Our contender: the whole vault on SQLite with one person, one agent, and one Slack connection, all made beforehand.

It prints the agent's token or tokens on the first line, the proxy's path and a handle on the second, and all callers'
tokens on the third; then it serves as `token-vault serve` does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvloop

from server.app import build_app, open_deployment
from server.deployment import Deployment
from server.mcp.local_owner import local_principal
from server.oauth.tokens import mint
from server.runtime.garbage import tune
from server.runtime.uvicorn_server import Listener
from server.settings import Settings, load_settings
from server.stdio import StdioOptions, serve_stdio
from tests.bench import crowd, where
from vault import clients, connections, delegations, grants, handles, users
from vault.records import Client, ClientKind, Connection, Principal
from vault.upstream import Account, TokenAnswer

DATABASE = "BENCH_DATABASE"  # the URL of a database other than SQLite
PEOPLE = "BENCH_PEOPLE"  # how many more people the vault has; none if unset
TOKENS = "BENCH_TOKENS"  # the number of different access tokens for the agent; one if unset
TOOLS = "BENCH_TOOLS"  # the only tool; all if unset
SCOPES = frozenset({"chat:write", "channels:read"})


async def seed(deployment: Deployment, name: str = "bench") -> tuple[str, str]:
    """Create everything that a call needs; return access tokens that outlive the run, and a path and its handle."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        user = await users.create_user(transaction, name, now=now)
        client = Client(f"{name}-agent", ClientKind.MANUAL, "Bench agent", "none", ("http://127.0.0.1/callback",), now)
        await clients.save_client(transaction, client)
        grant = await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=client.id,
            scopes=frozenset({"tools"}),
            resource=deployment.url("/mcp"),
            redirect_uri=client.redirect_uris[0],
            now=now,
        )
    connection = await allow_posting(deployment, user_id=user.id, client_id=client.id)
    async with deployment.transaction() as transaction:
        handle = await handles.issue(
            transaction,
            principal=Principal(user.id, client.id, grant.id, grant.scopes, grant.resource),
            connection_id=connection.id,
            provider="slack",
            scopes=SCOPES,
            key_thumbprint=None,
            expires_at=now + 3600,
            now=now,
        )
    many = range(int(os.environ.get(TOKENS, "1")))
    tokens = [mint(deployment, grant, scopes=grant.scopes, audience=grant.resource, now=now)[0] for _ in many]
    return " ".join(tokens), f"/proxy/{connection.id}/web {handle}"


async def allow_posting(deployment: Deployment, *, user_id: str, client_id: str) -> Connection:
    """Connect a Slack account that this client may use."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        connection = await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=user_id,
            provider="slack",
            answer=TokenAnswer("xoxp-bench", "xoxe-bench", SCOPES, 43200, Account("T1:U1", user_id)),
            asked=SCOPES,
            policy=deployment.vault.policies["slack"],
            now=now,
        )
        await delegations.allow(
            transaction,
            user_id=user_id,
            client_id=client_id,
            connection_id=connection.id,
            scopes=SCOPES,
            now=now,
        )
    return connection


async def main(port: int, upstream: int, data: Path) -> None:
    """Seed, print the token, and serve until told to stop."""
    settings, people = settings_of(port, upstream), int(os.environ.get(PEOPLE, "0"))
    if people:
        await crowd.fill(settings, data, people)
    async with open_deployment(settings, data=data) as deployment:
        token, proxied = await seed(deployment)
        calling = await crowd.callers(deployment, people, seed=seed) or token.split()[:1]
        print(token, proxied, " ".join(calling), sep="\n", flush=True)
        where.listen()
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", port))
        tune()
        await Listener(build_app(deployment), [listening]).run()


async def serve_pipes(port: int, upstream: int, data: Path) -> None:
    """Seed, then serve on standard input and output as `token-vault stdio` does."""
    settings = settings_of(port, upstream)
    async with open_deployment(settings, data=data) as deployment:
        principal = await local_principal(deployment, "bench")
        await allow_posting(deployment, user_id=principal.user_id, client_id=principal.client_id)
    options = StdioOptions(settings, data, "bench", None, greet=lambda _: None, complain=lambda _: None)
    await serve_stdio(options)


def settings_of(port: int, upstream: int) -> Settings:
    """The settings of `serve`, with limits that one person making all calls doesn't reach."""
    only = os.environ.get(TOOLS)
    return load_settings(
        overrides={
            "server": {"port": port, "public_url": f"http://127.0.0.1:{port}"},
            "tokens": {"access_lifetime": 3600},
            "tools": {"calls_per_minute": 1_000_000} | ({"enable": [only]} if only else {}),  # one calls for all
            "proxy": {"per_agent_hourly": 100_000_000},
            "sandbox": {"loopback_upstreams": True},
            "database": {"url": os.environ.get(DATABASE, "sqlite:")},
            "providers": {
                "slack": {
                    "client_id": "bench",
                    "client_secret": "bench",
                    "authorize_url": f"http://127.0.0.1:{upstream}/authorize",
                    "token_url": f"http://127.0.0.1:{upstream}/token",
                    "revoke_url": f"http://127.0.0.1:{upstream}/revoke",
                    "apis": {"web": f"http://127.0.0.1:{upstream}/api"},
                }
            },
        }
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = serve_pipes if sys.argv[4:] == ["stdio"] else main
        runner.run(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
