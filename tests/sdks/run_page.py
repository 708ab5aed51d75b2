"""Runs the Python blocks of the client's README in order, with unmodified LangChain and FastAPI; prints what each gave.

Run by `.venv/sdks/clients` with the facts in PLACE (JSON): the blocks, with this vault's values in them, and the
person's token.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated, Any

import httpx2
from fastapi import Depends, FastAPI
from langchain_core.tools import tool
from token_vault_client import UpstreamToken, acting_for

PLACE = json.loads(os.environ["PLACE"])
said: dict[str, Any] = {}


class Agent:
    """Calls the page's tool once; the framework's tool runs the page's function, whose body is `...`."""

    def invoke(self, _: object) -> None:
        said["tool arguments"] = sorted(names["post"].args)
        said["tool"] = names["post"].invoke({"channel": "#general", "text": "hi"})


app = FastAPI()
names: dict[str, Any] = {
    "Annotated": Annotated,
    "Depends": Depends,
    "UpstreamToken": UpstreamToken,
    "acting_for": acting_for,
    "agent": Agent(),
    "app": app,
    "tool": tool,
    "users_access_token": PLACE["subject"],
}
for block in PLACE["blocks"]:
    exec(compile(block, "README", "exec", dont_inherit=True), names)
said["token"] = sorted(names["token"].scopes)


async def call() -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://app", timeout=30) as http:
        said["without a token"] = (await http.get("/events")).status_code
        caller = {"Authorization": f"Bearer {PLACE['subject']}"}
        said["events"] = (await http.get("/events", headers=caller)).status_code


asyncio.run(call())
print(json.dumps(said))
