"""An application with Auth0's published Python SDKs; `test_python_sdks.py` runs it in its own environment.

It prints a URL for the person's browser and reads the URL to which the browser was redirected. Its last line is the
result as JSON. Its only settings are a domain, a client, and its own API.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

from auth0.authentication.get_token import GetToken
from auth0_ai.authorizers.token_vault_authorizer import (
    TokenVaultAuthorizerBase,
    TokenVaultAuthorizerParams,
    get_access_token_from_token_vault,
)
from auth0_ai.interrupts.token_vault_interrupt import TokenVaultInterrupt
from auth0_ai_langchain.auth0_ai import Auth0AI
from auth0_api_python import ApiClient, ApiClientOptions
from auth0_server_python.auth_server.server_client import ServerClient
from auth0_server_python.auth_types import ConnectAccountOptions, StartInteractiveLoginOptions
from langchain_core.tools import StructuredTool
from langgraph.errors import GraphInterrupt
from sdk_store import Store

DOMAIN, REDIRECT, API = os.environ["DOMAIN"], os.environ["REDIRECT"], os.environ["API"]
CLIENT = {"client_id": os.environ["CLIENT_ID"], "client_secret": os.environ["CLIENT_SECRET"]}
API_CLIENT = {"client_id": os.environ["API_CLIENT_ID"], "client_secret": os.environ["CLIENT_SECRET"]}
CONNECTION = "sign-in-with-slack"


async def browse(url: str) -> str:
    print(url, flush=True)
    return (await asyncio.to_thread(input)).strip()


async def call_tool(refresh_token: str, *scopes: str) -> str:
    """Call an auth0-ai tool; return the token, or the interrupt that asks for the account."""
    authorizer = TokenVaultAuthorizerBase(
        TokenVaultAuthorizerParams(scopes=list(scopes), connection=CONNECTION, refresh_token=refresh_token),
        {"domain": DOMAIN, **CLIENT},
    )

    async def tool(**_: object) -> str:
        return str(get_access_token_from_token_vault())

    def context(*_: object, **__: object) -> dict[str, str]:
        return {"thread_id": "1", "tool_call_id": "1", "tool_name": "tool"}

    try:
        return str(await authorizer.protect(context, tool)())
    except TokenVaultInterrupt as interrupt:
        return f"interrupt: {sorted(interrupt.required_scopes)}"


async def call_langchain(refresh_token: str, *scopes: str) -> str:
    """Do the same with a LangChain tool: the graph raises the interrupt."""

    async def post() -> str:
        return str(get_access_token_from_token_vault())

    protect = Auth0AI({"domain": DOMAIN, **CLIENT}).with_token_vault(connection=CONNECTION, scopes=list(scopes))
    tool = protect(StructuredTool.from_function(coroutine=post, name="post", description="Posts"))
    settings = {"thread_id": "1", "_credentials": {"refresh_token": refresh_token}}
    try:
        answer = await tool.ainvoke({"name": "post", "args": {}, "id": "1", "type": "tool_call"},
                                    {"configurable": settings})  # fmt: skip
        return str(answer.content)
    except GraphInterrupt as interrupt:
        return f"interrupt: {sorted(interrupt.args[0][0].value['required_scopes'])}"


def call_llamaindex(refresh_token: str) -> dict[str, str]:
    """Do the same with a LlamaIndex tool, which needs other packages."""
    environment = {**os.environ, "REFRESH_TOKEN": refresh_token}
    program = (os.environ["LLAMAINDEX"], "-W", "ignore", str(Path(__file__).with_name("llamaindex_program.py")))
    return json.loads(subprocess.run(program, env=environment, check=True, capture_output=True).stdout)


async def main() -> None:
    states = Store()
    server = ServerClient(
        domain=DOMAIN, **CLIENT, redirect_uri=REDIRECT, secret="x" * 32, transaction_store=Store(), state_store=states
    )
    found: dict[str, object] = {}
    await server.complete_interactive_login(
        await browse(
            await server.start_interactive_login(
                StartInteractiveLoginOptions(authorization_params={"scope": "openid profile email offline_access"})
            )
        )
    )
    refresh_token = next(
        str(kept["refresh_token"] if isinstance(kept, dict) else kept.refresh_token) for kept in states.kept.values()
    )
    found["interrupt before"] = await call_tool(refresh_token, "chat:write")
    found["langchain before"] = await call_langchain(refresh_token, "chat:write")
    started = await server.start_connect_account(
        ConnectAccountOptions(connection=CONNECTION, scopes=["chat:write", "channels:read"], redirect_uri=REDIRECT)
    )
    completed = await server.complete_connect_account(await browse(started))
    found["connected"] = completed.model_dump(mode="json")
    listed = await server.list_connected_accounts()
    found["listed"] = [one.id for one in listed.accounts]
    names = await server.list_connected_account_connections(take=20)
    found["connections"] = [one.name for one in names.connections]
    found["server"] = await server.get_access_token_for_connection({"connection": CONNECTION})
    raw = GetToken(DOMAIN, **CLIENT).access_token_for_connection(
        subject_token_type="urn:ietf:params:oauth:token-type:refresh_token",
        subject_token=refresh_token,
        requested_token_type="http://auth0.com/oauth/token-type/federated-connection-access-token",
        connection=CONNECTION,
    )
    found["members"] = sorted(raw)
    found["tool"] = await call_tool(refresh_token, "chat:write")
    found["tool that needs more"] = await call_tool(refresh_token, "chat:write", "users:read")
    found["langchain"] = await call_langchain(refresh_token, "chat:write")
    found["llamaindex"] = await asyncio.to_thread(call_llamaindex, refresh_token)
    api_token = await browse(API)
    api = ApiClient(ApiClientOptions(domain=DOMAIN, audience=API, **API_CLIENT))
    found["verified"] = (await api.verify_access_token(api_token))["iss"]
    exchanged = await api.get_access_token_for_connection({"connection": CONNECTION, "access_token": api_token})
    found["api"] = exchanged["access_token"]
    await server.delete_connected_account(completed.id)
    found["after"] = await call_tool(refresh_token, "chat:write")
    print(json.dumps(found), flush=True)


asyncio.run(main())
