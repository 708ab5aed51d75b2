"""A LlamaIndex tool that asks its person in the background, with the published auth0-ai-llamaindex.

`ciba_program.py` runs it in its own environment. It prints what the tool got as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os

from auth0_ai_llamaindex.async_authorization import get_async_authorization_credentials
from auth0_ai_llamaindex.auth0_ai import Auth0AI, set_ai_context
from llama_index.core.tools import FunctionTool


def buy(count: int) -> list[object]:
    credentials = get_async_authorization_credentials()
    assert credentials is not None
    return [count, bool(credentials["access_token"]), sorted(credentials["scope"])]


async def main() -> None:
    set_ai_context("1")
    auth0 = Auth0AI({name: os.environ[name.upper()] for name in ("domain", "client_id", "client_secret")})
    protect = auth0.with_async_authorization(
        scopes=["openid", "tools"],
        binding_message=lambda count: f"Buy {count} shares",
        user_id=lambda *_, **__: os.environ["SUBJECT"],
        on_authorization_request="block",
    )
    answer = await protect(FunctionTool.from_defaults(fn=buy)).acall(count=5)
    print(json.dumps(getattr(answer.raw_output, "raw_output", answer.raw_output)))


asyncio.run(main())
