"""`--sandbox`: the built-in simulated Slack and Google as upstreams, with a data directory of their own.

Beside them a brokerage, whose API takes the vault's own tokens: the example of tools that an operator declares.

They listen at one fixed address, the port after the vault's: the first sandbox process runs them, the others use them
and take over when it ends. Their state is in memory, so after that accounts must be connected again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import providers
from providers.definitions.catalog import read_provider
from providers.simulator.running import Simulator, running_simulator
from providers.simulator.sandbox import Sandbox
from server.settings import Settings

EXAMPLES: Final = Path(providers.__file__).parent / "examples"
BROKERAGE: Final = "brokerage"
RETRY: Final = 2.0  # seconds between two attempts to take the address over
logger = logging.getLogger("token_vault.sandbox")


@dataclass(frozen=True, slots=True)
class SandboxPlace:
    """The data directory of a sandbox, and the settings sections that point to its upstreams."""

    data: Path
    overrides: Mapping[str, object]


def place(directory: Path, settings: Settings, *, port: int) -> SandboxPlace:
    """Where a sandbox of this data directory lives; `port` is the one that the simulated providers listen at."""
    described = Sandbox()
    described.url = f"http://127.0.0.1:{port}"
    simulator = Simulator(described)
    sections = {
        "providers": {**simulator.settings(), BROKERAGE: simulator.brokerage_settings()},
        "provider_folders": [*settings.provider_folders, EXAMPLES / "providers"],
        "tools": {"folders": [*settings.tools.folders, EXAMPLES / "tools"]},
        "sandbox": {"loopback_upstreams": True},
    }
    return SandboxPlace(directory / "sandbox", sections)


@asynccontextmanager
async def standing_in(*, port: int, issuer: str) -> AsyncGenerator[None]:
    """Run the simulated providers, or wait to take over from the process that does. They trust the vault `issuer`."""
    decided = asyncio.Event()
    running = asyncio.create_task(_hold(port, decided, issuer=issuer))
    try:
        await decided.wait()
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _hold(port: int, decided: asyncio.Event, *, issuer: str) -> None:
    audience = read_provider(EXAMPLES / "providers" / f"{BROKERAGE}.toml").audience or ""
    while True:
        try:
            async with running_simulator(port=port) as simulator:
                simulator.trust(issuer, audience=audience)
                logger.debug("sandbox upstreams listen", extra={"port": port})
                decided.set()
                await asyncio.Event().wait()
        except OSError:
            decided.set()
        await asyncio.sleep(RETRY)
