"""The stdio transport: the owner of the data directory uses a local client, without a token.

Clients give a server a second or two to start, then continue without its tools. Therefore the tools are listed as soon
as the settings are read, while the vault is still being opened; calls wait until it is open. `server.mcp.local_owner`
makes owner, client and grant; exchange, delegations and activity are the same as elsewhere. The loopback companion
(`server.lifecycle.loopback`) serves the pages that a person needs.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from server.mcp.duplex import DuplexCalls
from server.mcp.local_names import local_client_id
from server.mcp.offer.registry import load_offer, load_tools
from server.mcp.offer.tool_list import LiveToolList, ToolList
from server.mcp.sdk_server import KNOWN, PRINCIPAL, Backend, Known, OpenVault, make_server
from server.runtime.catalog import read_catalog
from server.runtime.late_names import LateName
from server.runtime.sdk_pipe import SdkLines, SdkOutput, sdk_streams
from server.runtime.stdio_streams import standard_lines, standard_streams

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from server.deployment import Deployment
    from server.settings import Settings
    from vault.records import Principal

_LOADED: Final = ("server.app", "server.local_vault", "server.mcp.sdk_calls")
_LISTING: Final = 0.5  # seconds to wait before loading the rest, so that the client that started us gets its list first
_PATIENCE: Final = 5.0  # seconds to finish opening the vault after the client left, perhaps because opening was slow
logger = logging.getLogger("token_vault.stdio")


@dataclass(frozen=True, slots=True)
class StdioOptions:
    """What a stdio process serves, and how it communicates with its owner."""

    settings: Settings
    data: Path
    client_name: str
    opener: Callable[[str], bool] | None  # opens the owner's browser
    greet: Callable[[Deployment], None]  # called when the vault is open
    complain: Callable[[BaseException], str | None]  # reports a refusal and returns its sentence; None for other errors


async def serve_stdio(options: StdioOptions) -> bool:
    """Speak MCP on stdin and stdout until the client closes stdin. False if the vault couldn't be opened.

    Raises ProviderFileRefused, ToolFileRefused or SettingsRefused before it reads anything.
    """
    opening = _VaultOpening(options)
    backing = Backend(opening.tools, opening.vault, lambda: local_client_id(options.client_name), opening.choice)
    server = make_server(backing)
    async with opening.run(), standard_lines() as own:
        if own is None:
            async with standard_streams() as (read, write):
                await server.run(read, write, server.create_initialization_options())
        else:
            lines, writer = own
            await serve_lines(server, opening.vault, lines.next, writer.write)
    return opening.refusal is None


async def serve_lines(
    server: Server[dict[str, object]],
    vault: Callable[[], Awaitable[OpenVault]],
    next_line: Callable[[], Awaitable[bytes | None]],
    write_line: Callable[[bytes], Awaitable[None]],
) -> None:
    """Answer plain calls directly and pass the other lines to the SDK, until stdin is closed."""
    to_sdk = SdkLines()

    async def pass_on(line: bytes, known: Known) -> None:
        await to_sdk.put(line, partial(_set_known, known))

    async def write(text: str) -> None:
        calls.watch(text)
        await write_line(text.encode())

    async def read(group: asyncio.TaskGroup) -> None:
        while (line := await next_line()) is not None:
            if not calls.take(line, group):
                await pass_on(line, None)
        await to_sdk.end()

    calls = DuplexCalls(vault, write=write_line, pass_on=pass_on, stamp=server.server_info_stamp, is_event=False)
    async with asyncio.TaskGroup() as group:
        group.create_task(read(group))
        async with sdk_streams(to_sdk, SdkOutput(write)) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
        calls.close()


def _set_known(known: Known) -> None:
    KNOWN.set(known)


class _VaultOpening:
    """The vault while it is being opened, and afterwards."""

    def __init__(self, options: StdioOptions) -> None:
        self._options = options
        self._tools = _tools_at_once(options.settings, options.data)
        self._live: LiveToolList | None = None
        self._wanted = asyncio.Event()
        self._decided = asyncio.Event()
        self._opened: tuple[OpenVault, Principal] | None = None
        self._choice: Callable[[], Awaitable[str | None]] | None = None
        self.refusal: str | None = None  # why it couldn't be opened

    async def tools(self) -> ToolList:
        """The tools that can be listed. Raises MCPError if they depend on a vault that can't be opened."""
        self._wanted.set()
        while (listed := self._tools if self._live is None else self._live.current) is None:
            await self._wait()
        return listed

    async def vault(self) -> OpenVault:
        """The open vault, with its owner's client as the principal. Raises MCPError if it can't be opened."""
        while self._opened is None:
            self._wanted.set()
            await self._wait()
        opened, principal = self._opened
        PRINCIPAL.set(principal)
        return opened

    async def choice(self) -> str | None:
        """The tool set that the owner chose for this client; None before the vault is open.

        The client then gets a notification of the change.
        """
        return None if self._choice is None else await self._choice()

    async def _wait(self) -> None:
        await self._decided.wait()
        if self.refusal is not None:
            raise MCPError(
                code=INTERNAL_ERROR,
                message=f"Token Vault couldn't start: {self.refusal} Then restart this MCP server.",
            )

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Open the vault while the block runs, and close it afterwards."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(self._hold(over))
            yield
            over.set()
            self._wanted.set()
            if not self._decided.is_set():
                deciding = group.create_task(self._decided.wait())
                await asyncio.wait({holding, deciding}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                deciding.cancel()
                if not self._decided.is_set():
                    holding.cancel()

    async def _hold(self, over: asyncio.Event) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LISTING):
                    await self._wanted.wait()
            for name in _LOADED:  # in a thread, so that the client gets answers during the import
                await asyncio.to_thread(importlib.import_module, name)
            await self._serve(over)
        except Exception as error:
            self.refusal = None if self._decided.is_set() else self._options.complain(error)
            if self.refusal is None:
                raise
            self._decided.set()

    async def _serve(self, over: asyncio.Event) -> None:
        from server.local_vault import open_local_vault
        from server.mcp.sdk_calls import open_vault, read_choice
        from server.runtime.garbage import tune

        options = self._options
        async with open_local_vault(
            options.settings,
            data=options.data,
            open_browser=options.opener,
            client_name=options.client_name,
            role="stdio",
            greet=options.greet,
        ) as local:
            self._live = LiveToolList(local.deployment.live)
            self._opened = open_vault(local.deployment, transport="stdio"), local.principal
            self._choice = partial(read_choice, local.deployment, local.principal)
            self._decided.set()
            await local.check_pages(logger)
            tune()
            await over.wait()


def _tools_at_once(settings: Settings, data: Path) -> ToolList | None:
    """The tools that can be listed before the vault is open; None if that needs the open vault or an issuer's
    metadata."""
    if any(one.issuer is not None for one in settings.providers.values()):
        return None
    catalog = read_catalog(settings, data=data, endpoints={})
    late: list[LateName] = []
    tools = load_tools(settings, catalog, late=late)
    offer = load_offer(settings, tools, catalog, late=late)
    return None if late else ToolList(tools, offer)
