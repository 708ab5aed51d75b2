"""An application that asks its person in the background, with Auth0's published Python SDKs; run by `test_ciba.py`.

It prints a line whenever the person must answer, then reads a line. Its last line is the result as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from auth0_ai.authorizers.async_authorization import AsyncAuthorizerBase
from auth0_ai.authorizers.async_authorization.async_authorizer_base import get_async_authorization_credentials
from auth0_ai.interrupts.async_authorization_interrupts import AuthorizationPendingInterrupt
from auth0_ai_langchain.async_authorization import get_async_authorization_credentials as credentials_in_graph
from auth0_ai_langchain.auth0_ai import Auth0AI
from auth0_server_python.auth_server.server_client import ServerClient
from auth0_server_python.error import PollingApiError
from langchain_core.tools import StructuredTool
from langgraph.errors import GraphInterrupt
from sdk_store import Store

DOMAIN, SUBJECT = os.environ["DOMAIN"], os.environ["SUBJECT"]
CLIENT = {"client_id": os.environ["CLIENT_ID"], "client_secret": os.environ["CLIENT_SECRET"]}
DETAILS = [{"type": "payment", "amount": "12.50"}]


async def wait_for_answer() -> None:
    print("answer", flush=True)
    await asyncio.to_thread(input)


async def call_langchain() -> list[str]:
    """Call a LangChain tool: the graph raises the interrupt, and the same call continues after the answer."""

    async def buy(count: int) -> str:
        credentials = credentials_in_graph()
        assert credentials is not None
        return f"bought {count} with {' '.join(sorted(credentials['scope']))}"

    protect = Auth0AI({"domain": DOMAIN, **CLIENT}).with_async_authorization(
        scopes=["openid", "tools"],
        binding_message=lambda count: f"Buy {count} shares",
        user_id=lambda *_, **__: SUBJECT,
    )
    tool = protect(StructuredTool.from_function(coroutine=buy, name="buy", description="Buys"))
    call = {"name": "buy", "args": {"count": 4}, "id": "1", "type": "tool_call"}
    settings = {"configurable": {"thread_id": "1"}}
    try:
        await tool.ainvoke(call, settings)
        before = "no interrupt"
    except GraphInterrupt as interrupt:
        before = str(interrupt.args[0][0].value["code"])
    await wait_for_answer()
    return [before, str((await tool.ainvoke(call, settings)).content)]


async def call_llamaindex() -> list[object]:
    """Call a LlamaIndex tool, which needs other packages and waits for the answer."""
    program = (os.environ["LLAMAINDEX"], "-W", "ignore", str(Path(__file__).with_name("llamaindex_ciba.py")))
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    await wait_for_answer()
    said, _ = await process.communicate()
    found: list[object] = json.loads(said)
    return found


async def main() -> None:
    found: dict[str, object] = {}
    params = {
        "scopes": ["openid", "tools"],
        "binding_message": "Buy 3 shares",
        "user_id": SUBJECT,
        "authorization_details": DETAILS,
    }
    authorizer = AsyncAuthorizerBase(params, {"domain": DOMAIN, **CLIENT})

    async def tool(**_: object) -> list[object]:
        credentials = get_async_authorization_credentials()
        assert credentials is not None
        return [bool(credentials["access_token"]), sorted(credentials["scope"])]

    def context(*_: object, **__: object) -> dict[str, str]:
        return {"thread_id": "1", "tool_call_id": "1", "tool_name": "tool"}

    protected = authorizer.protect(context, tool)
    try:
        await protected()
    except AuthorizationPendingInterrupt as interrupt:
        found["before"] = type(interrupt).__name__
    await wait_for_answer()
    found["tool"] = await protected()

    server = ServerClient(
        domain=DOMAIN, **CLIENT, redirect_uri="", secret="x" * 32, transaction_store=Store(), state_store=Store()
    )
    started = await server.initiate_backchannel_authentication(
        {
            "login_hint": {"sub": SUBJECT},
            "binding_message": "Buy 3 shares",
            "authorization_params": {"authorization_details": json.dumps(DETAILS), "requested_expiry": 60},
        }
    )
    await wait_for_answer()
    found["details"] = (await server.backchannel_authentication_grant(started["auth_req_id"]))["authorization_details"]
    try:
        await server.backchannel_authentication_grant(started["auth_req_id"])
    except PollingApiError as error:
        found["again"] = error.code
    found["langchain"] = await call_langchain()
    found["llamaindex"] = await call_llamaindex()
    print(json.dumps(found), flush=True)


asyncio.run(main())
