"""What floods from strangers leave in the database: `python -m tests.bench.floods SECONDS`.

Everything comes from one address. Bytes are those of the tables that grew (`dbstat`); "after" is after the sweep a
quarter of an hour later.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from server.lifecycle.periodic_steps import sweep
from tests.oauth.rfcs.test_rfc9449 import KEY, proof
from tests.support.harness import RunningVault, running_vault
from tests.support.rooms.oauth_world import World

Send = Callable[[], Awaitable[int]]
WORKERS = 8
PADDING = "x" * 30_000


def used_bytes(data: Path) -> int:
    """Bytes of all pages that tables and indexes use."""
    with sqlite3.connect(data / "vault.sqlite") as connection:
        return int(connection.execute("select sum(pgsize - unused) from dbstat").fetchone()[0])


async def flood(send: Send, *, seconds: float) -> tuple[int, int]:
    """Send requests; return how many were sent and accepted."""
    ends, sent, taken = time.monotonic() + seconds, 0, 0

    async def go_on() -> None:
        nonlocal sent, taken
        while time.monotonic() < ends:
            status = await send()
            sent += 1
            taken += status < 400

    await asyncio.gather(*(go_on() for _ in range(WORKERS)))
    return sent, taken


async def kinds(vault: RunningVault, http: httpx2.AsyncClient) -> dict[str, Send]:
    metadata = {"redirect_uris": ["http://127.0.0.1:33418/callback"], "client_name": "Flood"}
    made = (await http.post("/register", json=metadata)).json()
    pair = base64.b64encode(f"{made['client_id']}:{made['client_secret']}".encode()).decode()
    basic = {"Authorization": f"Basic {pair}"}
    request = {
        "response_type": "code",
        "redirect_uri": "http://127.0.0.1:33418/callback",
        "scope": "tools",
        "code_challenge": "A" * 43,
        "code_challenge_method": "S256",
    }
    exchange = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "scope": "x",
        "resource": "https://slack.com/api",
    }
    worker = metadata | {"grant_types": ["authorization_code", exchange["grant_type"]]}
    other = (await http.post("/register", json=worker)).json()
    other_pair = base64.b64encode(f"{other['client_id']}:{other['client_secret']}".encode()).decode()
    parts = ({"alg": "ES256", "typ": "JWT"}, {"iss": other["client_id"], "sub": "alice"}, {"no": "signature"})
    fake = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    managed = {"Authorization": f"Bearer {made['registration_access_token']}"}
    world, count = World(vault, vault.person(), http), 0

    async def push() -> int:
        return (await http.post("/par", data=request | {"padding": PADDING}, headers=basic)).status_code

    async def rewrite() -> int:
        nonlocal count
        count += 1
        changed = metadata | {"redirect_uris": [f"https://h.example/{count}/{n}{'x' * 300}" for n in range(10)]}
        return (await http.put(f"/register/{made['client_id']}", json=changed, headers=managed)).status_code

    async def call_back() -> int:
        return (await http.get("/sign-in/openid/nobody/callback?state=x&code=y")).status_code

    async def assert_worker() -> int:
        headers = {"Authorization": f"Basic {other_pair}"}
        return (await http.post("/token", data=exchange | {"subject_token": fake}, headers=headers)).status_code

    async def prove() -> int:
        form = {"grant_type": "refresh_token", "refresh_token": "x"}
        sent = proof(world, "POST", "/token", key=KEY)
        return (await http.post("/token", data=form, headers=basic | {"DPoP": sent})).status_code

    async def register() -> int:
        return (await http.post("/register", json=metadata)).status_code

    return {
        "pushed requests": push,
        "rewrites": rewrite,
        "callbacks": call_back,
        "worker assertions": assert_worker,
        "DPoP proofs": prove,
        "registrations": register,
    }


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        async with running_vault(data) as vault, httpx2.AsyncClient(base_url=vault.url, timeout=60) as http:
            print(f"{'flood':20}{'sent':>8}{'taken':>8}{'bytes':>12}{'after':>12}")
            for name, send in (await kinds(vault, http)).items():
                before = used_bytes(data)
                sent, taken = await flood(send, seconds=seconds)
                grown = used_bytes(data) - before
                vault.deployment.database.clock_offset += 900
                await sweep(vault.deployment)
                print(f"{name:20}{sent:8}{taken:8}{grown:12}{used_bytes(data) - before:12}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))
