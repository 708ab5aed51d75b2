"""`--sandbox`: built-in simulated Slack and Google as providers, with a separate data directory.

They include a brokerage with an API that accepts the vault's own tokens: an example of tools that an operator declares.

They listen at one fixed address, the port after the vault's: the first sandbox process runs them, the others use them
and take over when it ends. Their state is in memory, so accounts must then be connected again. A port that another
program holds is refused, since its answers would pass for a provider's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import providers
from providers.definitions.catalog import read_provider
from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.state.sandbox import Sandbox
from server.runtime import peers
from server.settings import Settings, SettingsRefused

EXAMPLES: Final = Path(providers.__file__).parent / "examples"
BROKERAGE: Final = "brokerage"
_FOLDER: Final = "sandbox"  # of the data directory
RETRY: Final = 2.0  # seconds between attempts to take over the address
_LOOKS: Final = 3  # at the first start, since an outgoing connection may briefly use the port
_LOOK_TIMEOUT: Final = 2.0  # seconds
_LOOK_LIMIT: Final = 16 * 1024 * 1024  # bytes of the simulator's books
_LENGTH: Final = re.compile(r"\r\ncontent-length: ([0-9]{1,9})\r\n", re.IGNORECASE)
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
    return SandboxPlace(directory / _FOLDER, sections)


def is_sandbox(data: Path) -> bool:
    """Whether this is where `--sandbox` keeps its data."""
    return data.name == _FOLDER


@asynccontextmanager
async def standing_in(*, port: int, issuer: str) -> AsyncGenerator[None]:
    """Run the simulated providers, or wait to take over from the process that does. They trust the vault `issuer`.

    Raises SettingsRefused if another program holds the port.
    """
    decided = asyncio.Event()
    running = asyncio.create_task(_hold(port, decided, issuer=issuer))
    deciding = asyncio.create_task(decided.wait())
    try:
        await asyncio.wait({deciding, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield
    finally:
        for task in (deciding, running):
            task.cancel()
        await asyncio.gather(deciding, running, return_exceptions=True)


async def _hold(port: int, decided: asyncio.Event, *, issuer: str) -> None:
    audience = read_provider(EXAMPLES / "providers" / f"{BROKERAGE}.toml").audience or ""
    looks = 0
    while True:
        try:
            async with running_simulator(port=port) as simulator:
                simulator.trust(issuer, audience=audience)
                logger.debug("sandbox upstreams listen", extra={"port": port})
                decided.set()
                await asyncio.Event().wait()
        except OSError as error:
            looks += 1
            if await _is_simulator(port):
                decided.set()
            elif looks == _LOOKS and not decided.is_set():
                raise SettingsRefused(await asyncio.to_thread(_describe_holder, port, error)) from error
        await asyncio.sleep(RETRY)


async def _is_simulator(port: int) -> bool:
    """Whether simulated providers of this user answer there in time."""
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /_control/books HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = _LENGTH.search(head)
                if length is None or int(length[1]) > _LOOK_LIMIT or not _is_this_users(writer):
                    return False
                content: object = json.loads(await reader.readexactly(int(length[1])))
            finally:
                writer.close()
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):  # a TimeoutError is an OSError
        return False
    return isinstance(content, dict) and "families" in content


def _is_this_users(writer: asyncio.StreamWriter) -> bool:
    """Whether the other end runs as this user, if the platform can tell. Another user's program could send anything."""
    if not peers.can_tell():
        return True
    ours, theirs = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
    return peers.is_ours(peers.peer_uid((ours[0], ours[1]), (theirs[0], theirs[1])))


def _describe_holder(port: int, error: OSError) -> str:
    holder = peers.describe_listener("127.0.0.1", port)
    return (
        f"the sandbox's providers can't listen on 127.0.0.1:{port}, the port after the vault's ({error.strerror}): "
        f"it is held by {holder}. Stop it, or set another server.port (serve: --port)"
    )
