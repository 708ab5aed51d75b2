"""A second process of a running vault, and a client for each of the two."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import httpx2

from server.app import build_app, open_deployment
from tests.support.harness import RunningVault, free_socket, serve_app


async def open_doors(
    stack: AsyncExitStack, vault: RunningVault, data: Path
) -> tuple[httpx2.AsyncClient, httpx2.AsyncClient]:
    """A client for this process, and one for another, which it starts. Both end with the stack."""
    other, listening = await stack.enter_async_context(open_deployment(vault.settings, data=data)), free_socket()
    await stack.enter_async_context(serve_app(build_app(other), listening))
    host = {"host": vault.url.removeprefix("http://")}  # as a load balancer forwards it

    async def door(url: str) -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(base_url=url, headers=host, trust_env=False, timeout=30)
        return await stack.enter_async_context(client)

    return await door(vault.url), await door(f"http://127.0.0.1:{listening.getsockname()[1]}")
