"""A proxy with small limits, and an upstream whose answers a test sets."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.doubles.proxied_api import Upstream
from tests.support.harness import free_socket, serve_app
from tests.support.rooms.proxy_room import ProxyRoom, post_reply, proxy_room


@pytest.fixture(scope="module")
async def upstream() -> AsyncGenerator[Upstream]:
    app, listening = Upstream(), free_socket()
    async with serve_app(app, listening):
        app.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield app


@pytest.fixture(scope="module")
async def room(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    limits = {"body_limit": 300_000, "answer_limit": 400_000}
    async with proxy_room(tmp_path_factory.mktemp("answers"), apis_at=upstream.url, proxy=limits) as opened:
        opened.provider.answer = post_reply
        yield opened
