"""Prints the answers of a FastAPI endpoint that needs its caller's upstream token, as [status, Retry-After].

Run by `.venv/sdks/clients` with the facts in PLACE (JSON).
"""

from __future__ import annotations

import asyncio
import json
import os

import httpx2
from fastapi import Depends, FastAPI
from token_vault_client import AsyncVault, UpstreamToken
from token_vault_client.fastapi import UpstreamTokenOf

PLACE = json.loads(os.environ["PLACE"])
BEARER = f"Bearer {PLACE['subject']}"


async def answer(url: str, scope: str, authorization: str | None) -> list[object]:
    vault = AsyncVault(url, client_id=PLACE["client_id"], client_secret=PLACE["client_secret"])
    app = FastAPI()
    needed = UpstreamTokenOf(vault, "slack", scopes=[scope])

    async def show(token: UpstreamToken = Depends(needed)) -> int:  # noqa: B008 -- FastAPI's way
        return len(token.scopes)

    app.get("/")(show)
    headers = {} if authorization is None else {"Authorization": authorization}
    transport = httpx2.ASGITransport(app=app)
    async with vault, httpx2.AsyncClient(transport=transport, base_url="http://app", timeout=30) as http:
        said = await http.get("/", headers=headers)
    return [said.status_code, said.headers.get("retry-after")]


async def main() -> None:
    url, scope = PLACE["url"], "channels:history"
    found = {
        "fine": await answer(url, scope, BEARER),
        "lower case": await answer(url, scope, BEARER.replace("Bearer", "bearer")),
        "none": await answer(url, scope, None),
        "another scheme": await answer(url, scope, "Basic eDp4"),
        "no token": await answer(url, scope, "Bearer "),
        "a token of nobody": await answer(url, scope, "Bearer nobody"),
        "a scope that is not allowed": await answer(url, "admin", BEARER),
        "later": await answer(PLACE["busy"], scope, BEARER),
        "broken": await answer(PLACE["broken"], scope, BEARER),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
