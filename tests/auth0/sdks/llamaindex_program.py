"""A LlamaIndex tool with the published auth0-ai-llamaindex; `sdk_program.py` runs it in its own environment.

It prints as JSON the token that the tool got, and what it says if the account lacks a scope.
"""

from __future__ import annotations

import asyncio
import json
import os

from auth0_ai.interrupts.token_vault_interrupt import TokenVaultInterrupt
from auth0_ai_llamaindex.auth0_ai import Auth0AI, set_ai_context
from auth0_ai_llamaindex.token_vault import get_access_token_from_token_vault
from llama_index.core.tools import FunctionTool


def post() -> str:
    return str(get_access_token_from_token_vault())


async def call(*scopes: str) -> str:
    auth0 = Auth0AI({name: os.environ[name.upper()] for name in ("domain", "client_id", "client_secret")})
    protect = auth0.with_token_vault(
        connection="sign-in-with-slack", scopes=list(scopes), refresh_token=lambda *_, **__: os.environ["REFRESH_TOKEN"]
    )
    try:
        return str((await protect(FunctionTool.from_defaults(fn=post)).acall()).raw_output)
    except TokenVaultInterrupt as interrupt:
        return f"interrupt: {sorted(interrupt.required_scopes)}"


async def main() -> None:
    set_ai_context("1")
    print(json.dumps({"token": await call("chat:write"), "more": await call("chat:write", "users:read")}))


asyncio.run(main())
