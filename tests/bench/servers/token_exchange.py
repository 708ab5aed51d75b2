"""Our contender for token exchange: the vault on SQLite, a confidential client, one account with a live upstream token.

It prints one line of JSON that names the client, a file of different access tokens, and a file of refresh tokens from
as many families; then it serves.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvloop

from server.app import build_app, open_deployment
from server.deployment import Deployment
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from server.oauth.tokens import mint
from server.runtime.garbage import tune
from server.runtime.uvicorn_server import Listener
from server.settings import load_settings
from vault import clients, connections, delegations, grants, users
from vault.records import Client, ClientKind
from vault.tokens.tokens import issue_refresh_token
from vault.upstream import Account, TokenAnswer

SECRET = "s" * 43
SCOPES = frozenset({"chat:write", "channels:read"})


async def seed(deployment: Deployment, file: Path, *, how_many: int) -> str:
    """Create everything that an exchange needs; return the client's id."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        user = await users.create_user(transaction, "bench", now=now)
        client = Client(
            "bench-backend",
            ClientKind.MANUAL,
            "Bench backend",
            "client_secret_post",
            ("https://app.example/callback",),
            now,
            grant_types=frozenset({"authorization_code", "refresh_token", TOKEN_EXCHANGE}),
            secret_hash=secret_hash(SECRET),
        )
        await clients.save_client(transaction, client)
        grant = await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=client.id,
            scopes=frozenset({"exchange"}),
            resource=deployment.url("/mcp"),
            redirect_uri=client.redirect_uris[0],
            now=now,
        )
        connection = await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=user.id,
            provider="slack",
            answer=TokenAnswer("xoxp-bench", "xoxe-bench", SCOPES, 43200, Account("T1:U1", "bench")),
            asked=SCOPES,
            policy=deployment.vault.policies["slack"],
            now=now,
        )
        await delegations.allow(
            transaction,
            user_id=user.id,
            client_id=client.id,
            connection_id=connection.id,
            scopes=SCOPES,
            now=now,
        )
        refreshing = [
            await issue_refresh_token(
                transaction,
                grant,
                scopes=grant.scopes,
                resource=grant.resource,
                now=now,
                lifetimes=deployment.refresh_lifetimes,
            )
            for _ in range(how_many)
        ]
    file.with_suffix(".refresh").write_text("\n".join(refreshing), encoding="ascii")
    with file.open("w", encoding="ascii") as out:
        for _ in range(how_many):
            token, _ = mint(deployment, grant, scopes=grant.scopes, audience=grant.resource, now=now)
            out.write(f"{token}\n")
    return client.id


async def main(port: int, data: Path, how_many: int) -> None:
    """Seed, print, and serve until told to stop."""
    settings = load_settings(
        overrides={
            "server": {"port": port, "public_url": f"http://127.0.0.1:{port}"},
            "tokens": {"access_lifetime": 3600, "per_agent_hourly": 100_000_000},
            "providers": {"slack": {"client_id": "bench", "client_secret": "bench"}},
        }
    )
    file = data.with_suffix(".tokens")
    async with open_deployment(settings, data=data) as deployment:
        client_id = await seed(deployment, file, how_many=how_many)
        print(json.dumps({"client_id": client_id, "client_secret": SECRET, "tokens": str(file)}), flush=True)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", port))
        tune()
        await Listener(build_app(deployment), [listening]).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
