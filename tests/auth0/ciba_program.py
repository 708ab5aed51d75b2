"""An application that asks its person in the background, with Auth0's Python SDKs as published: run by `test_ciba.py`.

It prints a line whenever the person is to answer, and then reads one; its last line is what it found, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os

from auth0_ai.authorizers.async_authorization import AsyncAuthorizerBase
from auth0_ai.authorizers.async_authorization.async_authorizer_base import get_async_authorization_credentials
from auth0_ai.interrupts.async_authorization_interrupts import AuthorizationPendingInterrupt
from auth0_server_python.auth_server.server_client import ServerClient
from auth0_server_python.error import PollingApiError
from sdk_store import Store

DOMAIN, SUBJECT = os.environ["DOMAIN"], os.environ["SUBJECT"]
CLIENT = {"client_id": os.environ["CLIENT_ID"], "client_secret": os.environ["CLIENT_SECRET"]}
DETAILS = [{"type": "payment", "amount": "12.50"}]


async def answered() -> None:
    print("answer", flush=True)
    await asyncio.to_thread(input)


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
    await answered()
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
    await answered()
    found["details"] = (await server.backchannel_authentication_grant(started["auth_req_id"]))["authorization_details"]
    try:
        await server.backchannel_authentication_grant(started["auth_req_id"])
    except PollingApiError as error:
        found["again"] = error.code
    print(json.dumps(found), flush=True)


asyncio.run(main())
