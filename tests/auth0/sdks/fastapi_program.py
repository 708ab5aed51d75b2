"""An application and an API that use Auth0's published SDKs for FastAPI; for `test_fastapi_sdks.py`.

It prints a URL for the person's browser and reads the URL to which the browser was redirected. Its last line is the
result as JSON. An HTTP client in this program keeps the application's cookies, as the browser would.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated

import httpx
from auth0_fastapi.auth import AuthClient
from auth0_fastapi.config import Auth0Config
from auth0_fastapi.server.routes import register_auth_routes, router
from auth0_server_python.error import AccessTokenForConnectionError
from fastapi import Depends, FastAPI, Request, Response
from fastapi_plugin import Auth0FastAPI

DOMAIN, API, APPLICATION = os.environ["DOMAIN"], os.environ["API"], "https://app.example"
SECRET = os.environ["CLIENT_SECRET"]
CONNECTION = "sign-in-with-slack"
GUARD = Auth0FastAPI(domain=DOMAIN, audience=API, client_id=os.environ["API_CLIENT_ID"], client_secret=SECRET)
Claims = Annotated[dict[str, object], Depends(GUARD.require_auth())]
CONNECT = {"connection": CONNECTION, "scopes": ["chat:write", "channels:read"], "returnTo": "/done"}


async def browse(url: str) -> str:
    print(url, flush=True)
    return (await asyncio.to_thread(input)).strip()


def application() -> FastAPI:
    """The application: the routes that the SDK mounts, and one of its own that returns an account's token."""
    config = Auth0Config(
        domain=DOMAIN,
        clientId=os.environ["CLIENT_ID"],
        clientSecret=SECRET,
        appBaseUrl=APPLICATION,
        secret="x" * 64,
        authorization_params={"scope": "openid profile email offline_access"},
        mount_connected_account_routes=True,
    )
    app, client = FastAPI(), AuthClient(config)
    app.state.config, app.state.auth_client = config, client
    register_auth_routes(router, config)
    app.include_router(router)

    @app.get("/me")
    async def me(request: Request, response: Response) -> object:
        return await client.client.get_user(store_options={"request": request, "response": response})

    @app.get("/token")
    async def token(request: Request, response: Response) -> object:
        sides = {"request": request, "response": response}
        try:
            return await client.client.get_access_token_for_connection({"connection": CONNECTION}, store_options=sides)
        except AccessTokenForConnectionError as error:
            return str(error)

    return app


def api() -> FastAPI:
    """The API: accepts its callers' tokens and gets their account's token."""
    app = FastAPI()

    @app.get("/post")
    async def post(request: Request, claims: Claims) -> object:
        token = request.headers["authorization"].removeprefix("Bearer ")
        asked = {"connection": CONNECTION, "access_token": token}
        exchanged = await GUARD.api_client.get_access_token_for_connection(asked)
        return {"subject": claims["sub"], "token": exchanged["access_token"]}

    @app.get("/admin", dependencies=[Depends(GUARD.require_auth(scopes="admin"))])
    async def admin() -> object:
        return "yes"

    return app


def within(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=APPLICATION, timeout=30)


async def main() -> None:
    found: dict[str, object] = {}
    async with within(application()) as visit, within(api()) as call:
        found["login"] = (
            await visit.get(await browse((await visit.get("/auth/login")).headers["location"]))
        ).status_code
        found["subject"] = (await visit.get("/me")).json()["sub"]
        found["before"] = (await visit.get("/token")).json()
        started = await visit.get("/auth/connect", params=CONNECT)
        found["connected"] = (await visit.get(await browse(started.headers["location"]))).headers["location"]
        found["token"] = (await visit.get("/token")).json()
        bearer = {"Authorization": f"Bearer {await browse(API)}"}
        found["api"] = (await call.get("/post", headers=bearer)).json()
        found["admin"] = (await call.get("/admin", headers=bearer)).status_code
        found["nobody"] = (await call.get("/post")).status_code
    print(json.dumps(found), flush=True)


asyncio.run(main())
