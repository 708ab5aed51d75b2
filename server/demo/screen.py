"""Shared parts of the demos: steps on the screen, a free port, the served vault, and an agent's stored state."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from rich.console import Console
from rich.text import Text

from server.app import build_app
from server.demo.person import DemoFailed
from server.deployment import Deployment
from server.event_texts import event_fields, in_a_line, names_of
from server.runtime.uvicorn_server import Listener
from server.settings import DEFAULT_PORT
from vault.audit import audit


async def show_activity(
    console: Console, deployment: Deployment, heading: str, *, without: frozenset[str] = frozenset()
) -> None:
    """Print every recorded event on a line, except those of the kinds `without`."""
    console.print(Text(f"\n{heading}", "bold"))
    await deployment.activity.settle()
    events = await audit.list_events(deployment.database, limit=200)
    names = await names_of(deployment, events)
    for event in events:
        if event.kind not in without:
            console.print(Text("  " + in_a_line(event_fields(event, names=names))), soft_wrap=True)


@dataclass
class Wallet:
    """The state that the agent keeps between runs: its registration and its tokens for the vault."""

    tokens: OAuthToken | None = field(default=None, repr=False)
    client: OAuthClientInformationFull | None = field(default=None, repr=False)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@asynccontextmanager
async def show_step(console: Console, title: str) -> AsyncGenerator[list[str]]:
    """Print a step with its findings and duration."""
    facts: list[str] = []
    started = time.monotonic()
    yield facts
    line = Text.assemble(("✓ ", "green"), (title, "bold"), (f"  {1000 * (time.monotonic() - started):.0f} ms", "dim"))
    console.print(line, soft_wrap=True)
    for fact in facts:
        console.print(Text("    " + fact), soft_wrap=True)


async def play_all(console: Console, play: Callable[[], Awaitable[None]]) -> bool:
    """Play a story; False, with the reason on the screen, if a step failed."""
    failures: list[str] = []
    try:
        await play()
    except* DemoFailed as group:
        failures.append(str(_innermost(group)))
    if failures:
        console.print(Text(f"✗ {failures[0]}", "bold red"))
    return not failures


def _innermost(error: BaseException) -> BaseException:
    """The first real error of a group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group: BaseExceptionGroup[BaseException] = error  # pyright: ignore[reportUnknownVariableType] -- of any kind
    return _innermost(group.exceptions[0])


def insist(is_so: bool, otherwise: str) -> None:
    """Raises DemoFailed unless the condition holds."""
    if not is_so:
        raise DemoFailed(otherwise)


def listen() -> socket.socket:
    """The usual port if it is free, so that a demo with --keep has the usual address; otherwise any other port."""
    for port in (DEFAULT_PORT, 0):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise DemoFailed("no loopback port is free")


@asynccontextmanager
async def serve_vault(deployment: Deployment, listening: socket.socket) -> AsyncGenerator[None]:
    """Serve the vault until the block ends."""
    listener = Listener(build_app(deployment), [listening])
    running = asyncio.create_task(listener.run())
    try:
        await listener.started.wait()
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
